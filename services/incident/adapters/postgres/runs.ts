import { runDeleted } from '#libs/kernel/domain-error.ts';
import type { TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import { stepCompensated } from '../../domain/incident.ts';

/**
 * Orders what happens to a run's incidents: whoever opens one shares the lock, whoever ends them has it alone, until
 * the transaction is over.
 */
export async function lockRun(
  trx: TenantTransaction,
  tenantId: string,
  runId: string,
  kind: 'shared' | 'exclusive',
): Promise<void> {
  const lock = kind === 'shared' ? 'pg_advisory_xact_lock_shared' : 'pg_advisory_xact_lock';
  await trx.raw(`select ${lock}(hashtextextended(:run, 0))`, { run: `incident-run/${tenantId}/${runId}` });
}

/**
 * Passes unless the run was purged or its step compensated; STEP_COMPENSATED otherwise, or RUN_DELETED while the run is
 * hidden. Needs the run's lock.
 */
export async function assertTakesEffects(
  trx: TenantTransaction,
  tenantId: string,
  runId: string,
  step: string,
): Promise<void> {
  const tombstone = firstOf<{ operation: string }>(
    await trx.raw(
      `select operation from step_tombstones
       where tenant_id = :tenantId and run_id = :runId and step in (:step, '')
         and (operation = 'compensate' or operation like 'purge:%' or operation like 'hidden:%')
       order by operation like 'hidden:%' limit 1`,
      { tenantId, runId, step },
    ),
  );
  if (tombstone) throw tombstone.operation.startsWith('hidden:') ? runDeleted(runId) : stepCompensated(runId, step);
}
