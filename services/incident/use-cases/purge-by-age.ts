import { crashPoint } from '#libs/saga/crash-point.ts';
import type { Turns } from '#libs/saga/turns.ts';
import type { AgePurge, AgePurgeOrder, AgePurgeRepository, ExpiredCounts } from './ports.ts';

/** How much one call may do. */
export interface PurgeLimits {
  /** Rows this call may remove, those that go with them not counted. */
  readonly limit: number;
  readonly budgetMs: number;
}

/** Removes what a tenant's windows no longer keep, in small committed batches. */
export interface PurgeByAge {
  /** Goes on until nothing is expired, the limit or the budget is reached, or the signal is aborted. */
  purge(
    order: AgePurgeOrder,
    limits: PurgeLimits,
    signal: AbortSignal,
  ): Promise<AgePurge & { readonly progress: 'PARTIAL' | 'COMPLETE' }>;
  /** Counts by the same predicate and changes nothing. */
  preview(order: AgePurgeOrder): Promise<ExpiredCounts>;
}

/** Told when a call found nothing left to remove. */
export type OnPurged = (order: AgePurgeOrder, purge: AgePurge) => void;

// So many rows with what hangs on them are gone well within a second.
const ROWS_PER_BATCH = 1_000;

/** Makes PurgeByAge. Its batches take turns, so that a purge gives way to the calls that somebody waits for. */
export const makePurgeByAge = (purges: AgePurgeRepository, turns: Turns, onPurged: OnPurged): PurgeByAge => ({
  async purge(order, { limit, budgetMs }, signal) {
    const startedAt = performance.now();
    let purge = await purges.begin(order);
    crashPoint('incident.purge.after-intent');
    for (let left = limit; left > 0; ) {
      const most = left;
      const batch = await turns.take((share) =>
        purges.purgeBatch(order, Math.min(most, Math.ceil(ROWS_PER_BATCH * share))),
      );
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
  preview: (order) => turns.take(() => purges.countExpired(order)),
});
