import { backoffMs, type RetryPolicy } from '#libs/durable/backoff.ts';
import { crashPoint } from '#libs/durable/crash-point.ts';
import { giveUpClaim } from '#libs/durable/give-up-claim.ts';
import { makeTakeDue, type TakeDue } from '#libs/durable/take-due.ts';
import { DomainError, hasReason } from '#libs/kernel/domain-error.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { jobPrefix } from '../domain/artifact.ts';
import {
  addCounts,
  type FailedKey,
  type JobDeletion,
  needsPerson,
  type RemovalCounts,
  settleUnsure,
} from '../domain/deletion.ts';
import type { CheckStore } from './check-store.ts';
import type { DeletionClaim, DeletionWork } from './deletion-ports.ts';
import { makePace } from './pace.ts';
import type { ArtifactIndex } from './ports.ts';

/** Drives a due removal of a job. */
export type RunDeletions = TakeDue;

/** How removals are driven. */
export interface DeletionSettings {
  readonly workerId: string;
  /** Longer than the removal of one batch may take, in milliseconds. */
  readonly leaseMs: number;
  /** At most so many objects between two saved counts. */
  readonly objectsPerBatch: number;
  /** After so long another deletion gets its turn, in milliseconds. */
  readonly turnMs: number;
  readonly retry: RetryPolicy;
}

/** Told when a deletion came to its end, or to a stop. */
export type OnDeletionSettled = (
  deletion: JobDeletion,
  outcome: 'COMPLETE' | 'STUCK' | 'RETRY',
  error?: unknown,
) => void;

const WAIT_FOR_UPLOAD_MS = 500;
const WAIT_FOR_STORE_MS = 10_000;
const MAX_FAILED_KEYS = 10;
const CANDIDATES = 32;

/** Makes RunDeletions. */
export function makeRunDeletions(
  deletions: DeletionWork,
  artifacts: ArtifactIndex,
  store: ObjectStore,
  checkStore: CheckStore,
  settings: DeletionSettings,
  onSettled: OnDeletionSettled,
): RunDeletions {
  const { workerId, leaseMs, objectsPerBatch, turnMs, retry } = settings;
  // As fast as the store was for the last batch of any deletion.
  const pace = makePace(objectsPerBatch);

  /** Removes objects, reads the listing back, and then the rows; the claim is given up in every case. */
  const drive = async (claim: DeletionClaim, isStoreChecked: boolean, stopping: AbortSignal): Promise<void> => {
    const { tenantId, jobId, attempts, acceptsMissing } = claim.deletion;
    const prefix = jobPrefix(tenantId, jobId);
    let counts = claim.deletion.counts;
    const failedKeys: FailedKey[] = [];
    let areRefused = false;
    let hasProgressed = false;
    const turnEndsAt = performance.now() + turnMs;
    const lost = new AbortController();
    // A batch may take longer than the lease: a slow store must not make two workers take turns on one job.
    const heartbeat = setInterval(() => {
      deletions.renew(claim, leaseMs).catch((error: unknown) => hasReason(error, 'LEASE_LOST') && lost.abort(error));
    }, leaseMs / 3);
    const signal = AbortSignal.any([stopping, lost.signal]);
    crashPoint('job.delete.after-claim');
    try {
      // Processes that die at it count as attempts too, or it would take one replica after another with it.
      if (attempts > retry.maxAttempts) throw new UnfinishedRemoval('CRASHED: Every attempt ended without a word.', 0);
      if (!isStoreChecked) await checkStore();
      const known = await artifacts.countObjects(tenantId, jobId);
      if (known.liveUploads > 0) {
        const error = 'UPLOAD_IN_PROGRESS: An upload to this job is still under way.';
        const wait = { counts, left: 0, error, failedKeys: [], retryMs: WAIT_FOR_UPLOAD_MS, counted: false };
        await deletions.postpone(claim, wait);
        return;
      }
      if (counts.unsure) {
        const { versions: objects, ...there } = await store.count(prefix);
        counts = settleUnsure(counts, { objects, ...there });
      }
      // Keys that fail do not end the loop: it goes on as long as others go, and a retry comes back for the rest.
      for (let goesOn = true; goesOn; ) {
        const startedAt = performance.now();
        const removal = await store.removePrefix(prefix, { limit: pace.limit(), signal });
        const { objects, markers, uploads } = removal;
        pace.took(objects + markers + uploads, performance.now() - startedAt);
        crashPoint('job.delete.after-batch');
        counts = addCounts(counts, removal);
        if (removal.unsure) {
          counts = { ...counts, unsure: removal.unsure };
          throw new UnfinishedRemoval(ANSWERS_LOST, removal.unsure.objects);
        }
        failedKeys.splice(0, MAX_FAILED_KEYS, ...removal.failures.slice(0, MAX_FAILED_KEYS));
        areRefused = removal.failures.length > 0 && removal.failures.every(({ isPermanent }) => isPermanent);
        const hasRemoved = removal.objects + removal.markers + removal.uploads > 0;
        hasProgressed ||= hasRemoved;
        goesOn = removal.progress === 'PARTIAL' && hasRemoved;
        // The last batch's count is saved with the state that follows.
        if (!goesOn) break;
        if (performance.now() >= turnEndsAt && failedKeys.length === 0 && !signal.aborted) {
          await deletions.release(claim, counts);
          crashPoint('job.delete.between-batches');
          return;
        }
        await deletions.saveProgress(claim, 'CASCADING', counts, leaseMs);
        crashPoint('job.delete.between-batches');
      }
      crashPoint('job.delete.after-objects');
      await deletions.saveProgress(claim, 'VERIFYING', counts, leaseMs);
      const left = await store.count(prefix);
      const remaining = left.versions + left.markers + left.uploads;
      if (remaining > 0) {
        const [first] = failedKeys;
        if (first && areRefused) {
          const refusal = `STORE_REFUSED: The object store refuses to remove ${first.key} (${first.code}).`;
          throw new UnfinishedRemoval(refusal, remaining, { needsPerson: true });
        }
        // A store that says it has removed what it goes on listing has made none.
        hasProgressed = remaining < claim.deletion.left;
        const sentence = first
          ? `${first.key} could not be removed (${first.code}).`
          : `${remaining} objects were there when the listing was read back.`;
        throw new UnfinishedRemoval(`OBJECTS_LEFT: ${sentence}`, remaining);
      }
      if (known.stored > 0 && counts.objects === 0 && !counts.atLeast && !acceptsMissing)
        throw new UnfinishedRemoval(`${OBJECTS_MISSING}: ${missingSentence(known.stored)}`, 0, { needsPerson: true });
      crashPoint('job.delete.after-read-back');
      const deletion = await deletions.complete(claim, counts);
      crashPoint('job.delete.after-rows');
      onSettled(deletion, 'COMPLETE');
    } catch (error) {
      // Another worker has it: whatever this one knew is stale.
      if (lost.signal.aborted || hasReason(error, 'LEASE_LOST')) return;
      await giveUp(claim, { counts, failedKeys, hasProgressed }, error, stopping);
    } finally {
      clearInterval(heartbeat);
    }
  };

  /**
   * Postpones the deletion or parks it. A process that is asked to stop leaves it to the next at once, and an attempt
   * that came forward is none that failed.
   */
  const giveUp = async (
    claim: DeletionClaim,
    { counts, failedKeys, hasProgressed }: Attempt,
    cause: unknown,
    stopping: AbortSignal,
  ): Promise<void> => {
    const { attempts } = claim.deletion;
    const left = cause instanceof UnfinishedRemoval ? cause.left : 0;
    const error = toSentence(cause);
    const isOver = attempts >= retry.maxAttempts && !hasProgressed;
    const isLast =
      isOver ||
      (cause instanceof DomainError
        ? needsPerson(cause.reason)
        : cause instanceof UnfinishedRemoval && cause.needsPerson);
    const retryMs = stopping.aborted ? 0 : isLast ? undefined : backoffMs(attempts, retry);
    try {
      const counted = !stopping.aborted && (isLast || !hasProgressed);
      const write = () => deletions.postpone(claim, { counts, left, error, failedKeys, retryMs, counted });
      await giveUpClaim(write, leaseMs, stopping);
    } catch (failure) {
      if (hasReason(failure, 'LEASE_LOST')) return;
      throw failure;
    }
    if (stopping.aborted) return;
    const deletion = { ...claim.deletion, counts, left, lastError: error, failedKeys };
    onSettled(deletion, retryMs === undefined ? 'STUCK' : 'RETRY', cause);
  };

  return makeTakeDue({
    findDue: () => deletions.findDue(CANDIDATES),
    async claim({ tenantId, deletionId }) {
      let isStoreChecked = true;
      try {
        await checkStore();
      } catch (error) {
        if (hasReason(error, 'STORE_NOT_OURS')) {
          // Nothing that this store lacks is gone: it is not asked at all.
          await deletions.defer(tenantId, deletionId, toSentence(error), WAIT_FOR_STORE_MS);
          throw error;
        }
        isStoreChecked = false;
      }
      const claim = await deletions.claim(tenantId, deletionId, workerId, leaseMs);
      return claim && { claim, isStoreChecked };
    },
    drive: ({ claim, isStoreChecked }, signal) => drive(claim, isStoreChecked, signal),
  });
}

const ANSWERS_LOST =
  'ANSWERS_LOST: The object store did not answer; what it removed is counted when it can be listed again.';
const OBJECTS_MISSING = 'OBJECTS_MISSING';

const missingSentence = (stored: number): string =>
  `The database knows ${stored} objects of this job and the store listed none of them. Check that it is the right store; redrive the deletion to accept that they are gone.`;

/** What an attempt has done by its end. */
interface Attempt {
  readonly counts: RemovalCounts;
  readonly failedKeys: readonly FailedKey[];
  readonly hasProgressed: boolean;
}

/** The attempt came to its end, and something is left. */
class UnfinishedRemoval extends Error {
  readonly left: number;
  /** Whether another attempt would come to the same. */
  readonly needsPerson: boolean;
  constructor(message: string, left: number, { needsPerson = false } = {}) {
    super(message);
    this.left = left;
    this.needsPerson = needsPerson;
  }
}

/** What a deletion says of its last attempt, as `REASON: sentence`; nothing of a driver's or a store's own text. */
function toSentence(cause: unknown): string {
  if (cause instanceof UnfinishedRemoval) return cause.message;
  if (cause instanceof DomainError) return `${cause.reason}: ${cause.message}`;
  return 'INTERNAL: Something went wrong inside; it was logged.';
}
