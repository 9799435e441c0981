import { DomainError, hasReason } from '#libs/kernel/domain-error.ts';
import { backoffMs, type RetryPolicy } from '#libs/saga/backoff.ts';
import { crashPoint } from '#libs/saga/crash-point.ts';
import type { ResourceCount, RetentionPurgeItem } from '../domain/purge.ts';
import type { KeepPlans } from './keep-plans.ts';
import type { DataOwner, ItemClaim, ItemProgress, PurgeRepository } from './ports.ts';

/** Purges one due tenant; answers how many it took up, 0 or 1. Many run side by side. */
export type RunPurges = (signal: AbortSignal) => Promise<number>;

/** How purges are driven. */
export interface PurgeSettings {
  readonly workerId: string;
  /** Longer than one call to an owner of data may take, in milliseconds. */
  readonly leaseMs: number;
  readonly retry: RetryPolicy;
}

/** Told when a tenant's part has ended. */
export type OnItemFinished = (item: RetentionPurgeItem, progress: ItemProgress, error?: unknown) => void;

const CANDIDATES = 32;

/** Makes RunPurges. */
export function makeRunPurges(
  purges: PurgeRepository,
  plans: KeepPlans,
  owner: DataOwner,
  { workerId, leaseMs, retry }: PurgeSettings,
  onFinished: OnItemFinished,
): RunPurges {
  const drive = async (claim: ItemClaim, signal: AbortSignal): Promise<void> => {
    const { purgeId, tenantId, actor, validateOnly, attempts } = claim.item;
    let progress: ItemProgress = { ...claim.item, state: 'RUNNING', error: undefined };
    try {
      // The windows are read when the work is done, not when it was ordered: a plan may have changed since.
      const { current, windows } = await plans.resolve(tenantId, undefined);
      progress = { ...progress, plan: current?.plan, planVersion: current?.version };
      for (const { subject, window } of windows) {
        if (subject !== 'DRIFT_CHECKS' || window.kind !== 'DAYS') continue;
        for (let isDone = false; !isDone; ) {
          if (signal.aborted) {
            await purges.postpone(claim, 'The service is stopping.', 0);
            return;
          }
          const answer = await owner.purge({
            tenantId,
            actor,
            operationId: purgeId,
            subject,
            retentionDays: window.days,
            validateOnly,
          });
          isDone = answer.progress === 'COMPLETE';
          const cutoffs = [
            ...progress.cutoffs.filter((other) => other.subject !== subject),
            { subject, cutoff: answer.cutoff },
          ];
          progress = { ...progress, cutoffs, counts: mergeCounts(progress.counts, answer.counts) };
          await purges.save(claim, progress, leaseMs);
          crashPoint('retention.purge.after-batch');
        }
      }
      progress = { ...progress, state: 'COMPLETE' };
      await purges.save(claim, progress, leaseMs);
      crashPoint('retention.purge.after-tenant');
      onFinished(claim.item, progress);
    } catch (error) {
      if (hasReason(error, 'LEASE_LOST')) return;
      const sentence = error instanceof DomainError ? `${error.reason}: ${error.message}` : 'INTERNAL: see the log.';
      if (attempts < retry.maxAttempts) {
        await purges.postpone(claim, sentence, backoffMs(attempts, retry));
        return;
      }
      progress = { ...progress, state: progress.counts.length > 0 ? 'PARTIAL' : 'FAILED', error: sentence };
      await purges.save(claim, progress, leaseMs);
      onFinished(claim.item, progress, error);
    }
  };

  return async (signal) => {
    for (const { tenantId, purgeId } of await purges.findDue(CANDIDATES)) {
      const claim = await purges.claim(tenantId, purgeId, workerId, leaseMs);
      if (!claim) continue;
      await drive(claim, signal);
      return 1;
    }
    return 0;
  };
}

/** The newest count of each type: an answer sums over all calls of the operation already. */
function mergeCounts(known: readonly ResourceCount[], told: readonly ResourceCount[]): readonly ResourceCount[] {
  const types = new Set(told.map(({ resourceType }) => resourceType));
  return [...known.filter(({ resourceType }) => !types.has(resourceType)), ...told];
}
