import { goneCount } from '#libs/participant/counts.ts';
import type { HiddenRows } from '#libs/participant/hide-run.ts';
import { firstOf } from '#libs/postgres/rows.ts';

/** How the jobs of a run are hidden and shown. */
export const HIDDEN_JOBS: HiddenRows = {
  async hide(trx, { tenantId, runId }, { operationId, caller, reason }) {
    const bindings = { tenantId, runId, operationId, actor: caller.actor, reason: reason ?? null };
    await trx.raw(
      `update jobs set deleted_at = now(), deleted_by = :actor, deleted_reason = :reason, hidden_by = :operationId,
              version = version + 1
       where tenant_id = :tenantId and run_id = :runId and deleted_at is null and deletion_id is null`,
      bindings,
    );
    const hidden = await trx.raw(
      `select count(*) as count from jobs
       where tenant_id = :tenantId and run_id = :runId and hidden_by = :operationId and deleted_at is not null`,
      bindings,
    );
    return [goneCount('job', firstOf<{ count: number }>(hidden)?.count ?? 0)];
  },

  async show(trx, { tenantId, runId }, hiddenBy) {
    const { rowCount } = await trx.raw(
      `update jobs set deleted_at = null, deleted_by = null, deleted_reason = null, version = version - 1
       where tenant_id = :tenantId and run_id = :runId and hidden_by = :hiddenBy and deleted_at is not null`,
      { tenantId, runId, hiddenBy },
    );
    return [goneCount('job', rowCount ?? 0)];
  },
};
