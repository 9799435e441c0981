import { goneCount } from '#libs/participant/counts.ts';
import type { HiddenRows } from '#libs/participant/hide-run.ts';
import { firstOf } from '#libs/postgres/rows.ts';

/** How the incidents of a run are hidden and shown, in the order in which a purge by age locks them. */
export const HIDDEN_INCIDENTS: HiddenRows = {
  async hide(trx, { tenantId, runId }, { operationId, caller, reason }) {
    const bindings = { tenantId, runId, operationId, actor: caller.actor, reason: reason ?? null };
    await trx.raw(
      `with mine as materialized (
         select i.id from incidents i
         where i.tenant_id = :tenantId and i.run_id = :runId and i.deleted_at is null
         order by i.closed_at, i.id for update)
       update incidents i
       set deleted_at = clock_timestamp(), deleted_by = :actor, deleted_reason = :reason, hidden_by = :operationId
       from mine where i.tenant_id = :tenantId and i.id = mine.id`,
      bindings,
    );
    const hidden = await trx.raw(
      `select count(*) as count from incidents i
       where i.tenant_id = :tenantId and i.run_id = :runId and i.hidden_by = :operationId and i.deleted_at is not null`,
      bindings,
    );
    return [goneCount('incident', firstOf<{ count: number }>(hidden)?.count ?? 0)];
  },

  async show(trx, { tenantId, runId }, hiddenBy) {
    const { rowCount } = await trx.raw(
      `with mine as materialized (
         select i.id from incidents i
         where i.tenant_id = :tenantId and i.run_id = :runId and i.hidden_by = :hiddenBy
           and i.deleted_at is not null order by i.closed_at, i.id for update)
       update incidents i set deleted_at = null, deleted_by = null, deleted_reason = null
       from mine where i.tenant_id = :tenantId and i.id = mine.id`,
      { tenantId, runId, hiddenBy },
    );
    return [goneCount('incident', rowCount ?? 0)];
  },
};
