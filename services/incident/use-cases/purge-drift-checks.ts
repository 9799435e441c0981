import { crashPoint } from '#libs/saga/crash-point.ts';
import type { AgePurge, AgePurgeOrder, AgePurgeRepository, ExpiredCounts } from './ports.ts';

/** How much one call may do. */
export interface PurgeLimits {
  /** Checks this call may remove. */
  readonly limit: number;
  readonly budgetMs: number;
}

/** Removes a tenant's expired drift checks in small committed batches. */
export interface PurgeDriftChecks {
  /** Goes on until nothing is expired, the limit or the budget is reached, or the signal is aborted. */
  purge(
    order: AgePurgeOrder,
    limits: PurgeLimits,
    signal: AbortSignal,
  ): Promise<AgePurge & { readonly progress: 'PARTIAL' | 'COMPLETE' }>;
  /** Counts by the same predicate and changes nothing. */
  preview(order: Pick<AgePurgeOrder, 'tenantId' | 'operationId' | 'retentionDays'>): Promise<ExpiredCounts>;
}

/** Told when a call found nothing left to remove. */
export type OnPurged = (order: AgePurgeOrder, purge: AgePurge) => void;

// So many checks with their workflows are gone well within a second.
const CHECKS_PER_BATCH = 1_000;

/** Makes PurgeDriftChecks. */
export const makePurgeDriftChecks = (purges: AgePurgeRepository, onPurged: OnPurged): PurgeDriftChecks => ({
  async purge(order, { limit, budgetMs }, signal) {
    const startedAt = performance.now();
    let purge = await purges.begin(order);
    crashPoint('incident.purge.after-intent');
    for (let left = limit; left > 0; ) {
      const batch = await purges.purgeBatch(order, Math.min(left, CHECKS_PER_BATCH));
      crashPoint('incident.purge.after-batch');
      purge = batch.purge;
      left -= batch.deleted;
      if (batch.isDone) {
        onPurged(order, purge);
        return { ...purge, progress: 'COMPLETE' };
      }
      if (signal.aborted || performance.now() - startedAt > budgetMs) break;
    }
    return { ...purge, progress: 'PARTIAL' };
  },
  preview: purges.countExpired,
});
