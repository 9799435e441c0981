import { DomainError, hasReason } from '#libs/kernel/domain-error.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { backoffMs, type RetryPolicy } from '#libs/saga/backoff.ts';
import { crashPoint } from '#libs/saga/crash-point.ts';
import { jobPrefix } from '../domain/artifact.ts';
import { addCounts, type FailedKey, type JobDeletion, type RemovalCounts } from '../domain/deletion.ts';
import type { ArtifactIndex, DeletionClaim, DeletionRepository } from './ports.ts';

/** The persisted points of a job's removal, for the tests that kill the process there. */
export const DELETION_CRASH_POINTS = [
  'job.delete.after-intent',
  'job.delete.after-claim',
  'job.delete.between-batches',
  'job.delete.after-objects',
  'job.delete.after-read-back',
  'job.delete.after-rows',
] as const;

/** Drives one due deletion as far as it goes; answers how many it took up, 0 or 1. Many of these run side by side. */
export type RunDeletions = (signal: AbortSignal) => Promise<number>;

/** How removals are driven. */
export interface DeletionSettings {
  readonly workerId: string;
  /** Longer than the removal of one batch may take, in milliseconds. */
  readonly leaseMs: number;
  /** Objects between two saved counts. */
  readonly objectsPerBatch: number;
  readonly retry: RetryPolicy;
}

/** Told when a deletion came to its end, or to a stop. */
export type OnDeletionSettled = (
  deletion: JobDeletion,
  outcome: 'COMPLETE' | 'STUCK' | 'RETRY',
  error?: unknown,
) => void;

const WAIT_FOR_UPLOAD_MS = 500;
const MAX_FAILED_KEYS = 10;
// More than run side by side, so that losing the race for one claim leaves others to take.
const CANDIDATES = 32;

/** Makes RunDeletions. */
export function makeRunDeletions(
  deletions: DeletionRepository,
  artifacts: ArtifactIndex,
  store: ObjectStore,
  settings: DeletionSettings,
  onSettled: OnDeletionSettled,
): RunDeletions {
  const { workerId, leaseMs, objectsPerBatch, retry } = settings;

  /** Removes objects, reads the listing back, and then the rows; the claim is given up in every case. */
  const drive = async (claim: DeletionClaim, signal: AbortSignal): Promise<void> => {
    const { tenantId, jobId, attempts } = claim.deletion;
    const prefix = jobPrefix(tenantId, jobId);
    let counts = claim.deletion.counts;
    crashPoint('job.delete.after-claim');
    try {
      if ((await artifacts.countLiveUploads(tenantId, jobId)) > 0) {
        const error = 'An upload to this job is still under way.';
        const wait = { counts, left: 0, error, failedKeys: [], retryMs: WAIT_FOR_UPLOAD_MS, counted: false };
        await deletions.postpone(claim, wait);
        return;
      }
      const failedKeys: FailedKey[] = [];
      // Keys that fail do not end the loop: it goes on as long as others go, and a retry comes back for the rest.
      for (let goesOn = true; goesOn; ) {
        const removal = await store.removePrefix(prefix, { limit: objectsPerBatch, signal });
        counts = addCounts(counts, removal);
        failedKeys.splice(0, MAX_FAILED_KEYS, ...removal.failures.slice(0, MAX_FAILED_KEYS));
        goesOn = removal.progress === 'PARTIAL' && removal.objects + removal.markers + removal.uploads > 0;
        await deletions.saveProgress(claim, 'CASCADING', counts, leaseMs);
        crashPoint('job.delete.between-batches');
      }
      crashPoint('job.delete.after-objects');
      await deletions.saveProgress(claim, 'VERIFYING', counts, leaseMs);
      const left = await store.count(prefix);
      const remaining = left.versions + left.markers + left.uploads;
      if (remaining > 0) {
        const first = failedKeys[0];
        const error = first
          ? `${first.key} could not be removed: ${first.code}`
          : `${remaining} objects are still there.`;
        await fail(claim, counts, remaining, error, failedKeys, attempts);
        return;
      }
      crashPoint('job.delete.after-read-back');
      const deletion = await deletions.complete(claim, counts);
      crashPoint('job.delete.after-rows');
      onSettled(deletion, 'COMPLETE');
    } catch (error) {
      // Another worker has it: whatever this one knew is stale.
      if (hasReason(error, 'LEASE_LOST')) return;
      const sentence = error instanceof DomainError ? error.message : 'Something went wrong inside; it was logged.';
      await fail(claim, counts, 0, sentence, [], attempts, error);
    }
  };

  const fail = async (
    claim: DeletionClaim,
    counts: RemovalCounts,
    left: number,
    error: string,
    failedKeys: readonly FailedKey[],
    attempts: number,
    cause?: unknown,
  ): Promise<void> => {
    const retryMs = attempts >= retry.maxAttempts ? undefined : backoffMs(attempts, retry);
    await deletions.postpone(claim, { counts, left, error, failedKeys, retryMs, counted: true });
    const deletion = { ...claim.deletion, counts, left, lastError: error, failedKeys };
    onSettled(deletion, retryMs === undefined ? 'STUCK' : 'RETRY', cause ?? error);
  };

  return async (signal) => {
    for (const { tenantId, deletionId } of await deletions.findDue(CANDIDATES)) {
      const claim = await deletions.claim(tenantId, deletionId, workerId, leaseMs);
      if (!claim) continue;
      await drive(claim, signal);
      return 1;
    }
    return 0;
  };
}
