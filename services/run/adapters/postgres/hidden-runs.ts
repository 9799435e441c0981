import { operationInProgress } from '#libs/kernel/domain-error.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import { goneCount } from '#libs/participant/counts.ts';
import type { HiddenRows } from '#libs/participant/hide-run.ts';
import type { RunScope } from '#libs/participant/participant.ts';
import type { TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import { auditOutcome, type DeletionRow, toDeletion } from './deletion-rows.ts';

/** How a run and its steps are hidden and shown. */
export const HIDDEN_RUNS: HiddenRows = {
  async hide(trx, { tenantId, runId }, { operationId, caller: { actor }, reason = null }) {
    const row = firstOf<{ runs: number; steps: number }>(
      await trx.raw(
        `with hidden as (
           update workflow_runs
           set deleted_at = now(), deleted_by = :actor, deleted_reason = :reason, deletion_id = :operationId
           where tenant_id = :tenantId and id = :runId and deleted_at is null returning 1),
         steps as (
           update workflow_run_steps
           set deleted_at = now(), deleted_by = :actor, deleted_reason = :reason, deletion_id = :operationId
           where tenant_id = :tenantId and run_id = :runId and deleted_at is null and exists (select from hidden)
           returning 1)
         select (select count(*) from hidden) as runs, (select count(*) from steps) as steps`,
        { tenantId, runId, operationId, actor, reason },
      ),
    );
    return toChanged(row);
  },

  async show(trx, { tenantId, runId }, softDeleteId) {
    const row = firstOf<{ runs: number; steps: number }>(
      await trx.raw(
        `with shown as (
           update workflow_runs set deleted_at = null, deleted_by = null, deleted_reason = null, deletion_id = null
           where tenant_id = :tenantId and id = :runId and deletion_id = :softDeleteId returning 1),
         steps as (
           update workflow_run_steps set deleted_at = null, deleted_by = null, deleted_reason = null, deletion_id = null
           where tenant_id = :tenantId and run_id = :runId and deletion_id = :softDeleteId returning 1)
         select (select count(*) from shown) as runs, (select count(*) from steps) as steps`,
        { tenantId, runId, softDeleteId },
      ),
    );
    return toChanged(row);
  },

  assertNoPurge,
};

/** Throws OPERATION_IN_PROGRESS while a purge of the run is not over: it may not have come to RunService's own rows yet. */
export async function assertNoPurge(
  trx: TenantTransaction,
  { tenantId, runId }: Pick<RunScope, 'tenantId' | 'runId'>,
): Promise<void> {
  const purge = firstOf<{ id: string }>(
    await trx.raw(
      `select id from deletions
       where tenant_id = :tenantId and run_id = :runId and mode = 'PURGE' and state not in ('COMPLETE', 'CANCELLED')
       limit 1`,
      { tenantId, runId },
    ),
  );
  if (purge) throw operationInProgress(purge.id);
}

/** Gives up a soft delete that is taken back while it is under way; the new token ends whoever works on it. */
export async function cancelHiding(trx: TenantTransaction, row: DeletionRow): Promise<void> {
  await trx.raw(
    `with cancelled as (
       update deletions
       set state = 'CANCELLED', next_attempt_at = null, lease_owner = null, lease_expires_at = null,
           lease_token = lease_token + 1, updated_at = clock_timestamp(), finished_at = clock_timestamp()
       where tenant_id = :tenantId and id = :deletionId returning tenant_id, id)
     update deletion_steps s set state = 'CANCELLED', next_attempt_at = null
     from cancelled c where s.tenant_id = c.tenant_id and s.deletion_id = c.id and s.state <> 'COMPLETE'`,
    { tenantId: row.tenant_id, deletionId: row.id },
  );
  await auditOutcome(trx, toDeletion(row), 'CANCELLED');
}

const toChanged = (row: { readonly runs: number; readonly steps: number } | undefined): readonly ResourceCount[] =>
  [goneCount('run_step', row?.steps ?? 0), goneCount('run', row?.runs ?? 0)].filter(({ found }) => found > 0);
