import { crashPoint } from '#libs/saga/crash-point.ts';
import type { AgePurge, AgePurgeRepository, ExpiredCounts } from './ports.ts';

/** What to purge of one tenant. */
export interface PurgeDriftChecksCommand {
  readonly tenantId: string;
  readonly operationId: string;
  readonly retentionDays: number;
  /** Checks this call may remove. */
  readonly limit: number;
  readonly budgetMs: number;
}

/** Removes a tenant's expired drift checks in small committed batches. */
export interface PurgeDriftChecks {
  /** Goes on until nothing is expired, the limit or the budget is reached, or the signal is aborted. */
  purge(
    command: PurgeDriftChecksCommand,
    signal: AbortSignal,
  ): Promise<AgePurge & { progress: 'PARTIAL' | 'COMPLETE' }>;
  /** Counts by the same predicate and changes nothing. */
  preview(command: Pick<PurgeDriftChecksCommand, 'tenantId' | 'operationId' | 'retentionDays'>): Promise<ExpiredCounts>;
}

// So many checks with their workflows are gone well within a second.
const CHECKS_PER_BATCH = 1_000;

/** Makes PurgeDriftChecks. */
export const makePurgeDriftChecks = (purges: AgePurgeRepository): PurgeDriftChecks => ({
  async purge({ tenantId, operationId, retentionDays, limit, budgetMs }, signal) {
    const startedAt = performance.now();
    let purge = await purges.begin(tenantId, operationId, retentionDays);
    crashPoint('incident.purge.after-intent');
    for (let left = limit; left > 0; ) {
      const size = Math.min(left, CHECKS_PER_BATCH);
      const batch = await purges.purgeBatch(tenantId, operationId, size);
      crashPoint('incident.purge.after-batch');
      purge = batch.purge;
      left -= batch.deleted;
      if (batch.deleted < size) return { ...purge, progress: 'COMPLETE' };
      if (signal.aborted || performance.now() - startedAt > budgetMs) break;
    }
    return { ...purge, progress: 'PARTIAL' };
  },
  preview: ({ tenantId, operationId, retentionDays }) => purges.countExpired(tenantId, operationId, retentionDays),
});
