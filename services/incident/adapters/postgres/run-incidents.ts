import { audit } from '#libs/audit/write-audit.ts';
import { operationInProgress } from '#libs/kernel/domain-error.ts';
import type { RunOperation, RunScope } from '#libs/participant/participant.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf, rowsOf } from '#libs/postgres/rows.ts';
import type { EndingCounts, RunIncidents } from '../../use-cases/ports.ts';
import { lockRun } from './runs.ts';

interface Sums {
  readonly incidents: number;
  readonly payloads: number;
  readonly payload_bytes: number;
}

const MAX_SAMPLES = 100;
const OF_RUN = `i.tenant_id = :tenantId and i.run_id = :runId and (cast(:step as text) is null or i.step = :step)`;
const HAS_PAYLOAD = `exists (
  select from incident_payloads p where p.tenant_id = i.tenant_id and p.incident_id = i.id)`;
// One predicate for what is chosen and for what is left. A purge of the run leaves open what is open, and shows the shells
// that were hidden with it: hidden or not before, every shell is the same after it.
const UNENDED = `${OF_RUN} and (
  i.payload_purged_at is null and ${HAS_PAYLOAD} or
  case when :closes then i.state <> 'CLOSED' else i.deleted_at is not null end)`;
// The order in which a purge by age locks them too, so that the two never wait for each other.
const IN_ORDER = 'order by i.closed_at, i.id';

/** The incidents of a run in Postgres. */
export const makeRunIncidents = (database: Database): RunIncidents => ({
  async inspect({ tenantId, runId, step }) {
    const [row] = await database.readForTenant<Sums & { samples: string[] | null }>(tenantId, {
      text: `with payloads as (
               select i.id, octet_length(p.payload_json::text) as bytes
               from incidents i join incident_payloads p on p.tenant_id = i.tenant_id and p.incident_id = i.id
               where i.tenant_id = $1 and i.run_id = $2 and ($3::text is null or i.step = $3)),
             open as (
               select i.id from incidents i
               where i.tenant_id = $1 and i.run_id = $2 and i.step = $3 and i.state <> 'CLOSED' and exists (
                 select from step_tombstones s where s.tenant_id = i.tenant_id and s.run_id = i.run_id
                   and s.step = i.step and s.operation = 'compensate')),
             ids as (select id from payloads union select id from open order by id limit ${MAX_SAMPLES})
             select (select count(*) from open) as incidents, (select count(*) from payloads) as payloads,
                    (select coalesce(sum(bytes), 0)::bigint from payloads) as payload_bytes,
                    (select json_agg(id) from ids) as samples`,
      values: [tenantId, runId, step ?? null],
    });
    if (!row) throw new Error('the count gave no row');
    return { ...toCounts(row), sampleIds: row.samples ?? [] };
  },

  hide: (scope, operation) =>
    database.forTenant(scope.tenantId, async (trx) => {
      const { operationId, caller, reason } = operation;
      const bindings = { ...bindingsOf(scope), operationId, actor: caller.actor, reason: reason ?? null };
      await lockRun(trx, scope.tenantId, scope.runId, 'exclusive');
      if (await findTombstone(trx, scope, `restored:${operationId}`)) return { incidents: 0, isNew: false };
      await assertNoPurge(trx, scope);
      // Until it is restored, nothing that is visible can be opened for the run.
      await leaveTombstone(trx, scope, `hidden:${operationId}`);
      const hidden = await trx.raw(
        `with mine as materialized (
           select i.id from incidents i where ${OF_RUN} and i.deleted_at is null ${IN_ORDER} for update)
         update incidents i
         set deleted_at = clock_timestamp(), deleted_by = :actor, deleted_reason = :reason, hidden_by = :operationId
         from mine where i.tenant_id = :tenantId and i.id = mine.id`,
        bindings,
      );
      const isNew = (hidden.rowCount ?? 0) > 0;
      if (isNew) await auditRun(trx, scope, operation, 'soft-delete', { incidents: hidden.rowCount ?? 0 });
      const counted = firstOf<{ count: number }>(
        await trx.raw(
          `select count(*) as count from incidents i
           where ${OF_RUN} and i.hidden_by = :operationId and i.deleted_at is not null`,
          bindings,
        ),
      );
      return { incidents: counted?.count ?? 0, isNew };
    }),

  restore: (scope, operation, hiddenBy) =>
    database.forTenant(scope.tenantId, async (trx) => {
      await lockRun(trx, scope.tenantId, scope.runId, 'exclusive');
      await assertNoPurge(trx, scope);
      const tombstone = `restored:${hiddenBy}`;
      const isFirst = await leaveTombstone(trx, scope, tombstone);
      if (!isFirst) return { incidents: (await findTombstone(trx, scope, tombstone))?.incidents ?? 0, isNew: false };
      await trx.raw(
        `delete from step_tombstones
         where tenant_id = :tenantId and run_id = :runId and step = '' and operation = 'hidden:' || :hiddenBy`,
        { ...bindingsOf(scope), hiddenBy },
      );
      const restored = await trx.raw(
        `with mine as materialized (
           select i.id from incidents i
           where ${OF_RUN} and i.hidden_by = :hiddenBy and i.deleted_at is not null ${IN_ORDER} for update)
         update incidents i set deleted_at = null, deleted_by = null, deleted_reason = null
         from mine where i.tenant_id = :tenantId and i.id = mine.id`,
        { ...bindingsOf(scope), hiddenBy },
      );
      const incidents = restored.rowCount ?? 0;
      await addToTombstone(trx, scope, tombstone, { incidents, payloads: 0, payload_bytes: 0 }, true);
      if (incidents > 0) await auditRun(trx, scope, operation, 'undelete', { incidents });
      return { incidents, isNew: incidents > 0 };
    }),

  forbid: (scope, operation) =>
    database.forTenant(scope.tenantId, async (trx) => {
      await lockRun(trx, scope.tenantId, scope.runId, 'exclusive');
      await leaveTombstone(trx, scope, endingOf(scope, operation));
      // The tombstone answers for them from here on.
      await trx.raw(
        `delete from step_actions
         where tenant_id = :tenantId and run_id = :runId and (cast(:step as text) is null or step = :step)`,
        bindingsOf(scope),
      );
    }),

  endBatch: (scope, operation, limit) =>
    database.forTenant(scope.tenantId, async (trx) => {
      const ending = endingOf(scope, operation);
      const isCompensation = scope.step !== undefined;
      const bindings = { ...bindingsOf(scope), closes: isCompensation };
      const chosen = rowsOf<{ id: string }>(
        await trx.raw(`select i.id from incidents i where ${UNENDED} ${IN_ORDER} limit :limit for update of i`, {
          ...bindings,
          limit,
        }),
      );
      // A statement of its own: its clock is read when the locks are there, after whatever they waited for.
      const ended = firstOf<Sums>(
        await trx.raw(
          `with clock as materialized (select clock_timestamp() as at),
           payloads as (
             delete from incident_payloads p where p.tenant_id = :tenantId and p.incident_id = any(cast(:ids as uuid[]))
             returning p.incident_id, octet_length(p.payload_json::text) as bytes),
           before as materialized (
             select i.id, :closes and i.state <> 'CLOSED' as closes, p.incident_id is not null as purges,
                    not :closes and i.deleted_at is not null as shows
             from incidents i left join payloads p on p.incident_id = i.id
             where i.tenant_id = :tenantId and i.id = any(cast(:ids as uuid[]))),
           shells as (
             update incidents i
             set state = case when b.closes then 'CLOSED' else i.state end,
                 close_cause = case when b.closes then 'COMPENSATED' else i.close_cause end,
                 closed_at = case when b.closes then clock.at else i.closed_at end,
                 payload_purged_at = case when b.purges then clock.at else i.payload_purged_at end,
                 payload_purge_cause = case when b.purges then :cause else i.payload_purge_cause end,
                 deleted_at = case when b.shows then null else i.deleted_at end,
                 deleted_by = case when b.shows then null else i.deleted_by end,
                 deleted_reason = case when b.shows then null else i.deleted_reason end,
                 updated_at = clock.at, version = i.version + 1
             from before b, clock
             where i.tenant_id = :tenantId and i.id = b.id and (b.closes or b.purges or b.shows) returning 1),
           entries as (
             insert into incident_transitions (tenant_id, incident_id, state, actor, note, at)
             select :tenantId, b.id, 'CLOSED', :actor, :note, clock.at from before b, clock where b.closes returning 1)
           select (select count(*) from before where closes) as incidents,
                  (select count(*) from payloads) as payloads,
                  (select coalesce(sum(bytes), 0)::bigint from payloads) as payload_bytes`,
          {
            ...bindings,
            ids: chosen.map(({ id }) => id),
            cause: isCompensation ? 'COMPENSATION' : 'RUN_PURGE',
            actor: operation.caller.actor,
            note: operation.reason ?? null,
          },
        ),
      );
      if (!ended) throw new Error('the ending gave no row');
      const rest = firstOf(await trx.raw(`select 1 from incidents i where ${UNENDED} limit 1`, bindings));
      const isDone = rest === undefined;
      const { before, after } = await addToTombstone(trx, scope, ending, ended, isDone);
      const sums = toCounts(after);
      const isNew = isDone && !before.isFinished && sums.incidents + sums.payloads > 0;
      if (isNew) {
        const counts = { incidents: sums.incidents, incident_payloads: sums.payloads };
        await auditRun(trx, scope, operation, scope.step === undefined ? 'purge' : 'compensate', counts);
      }
      return { ended: chosen.length, isDone, sums, isNew };
    }),
});

const toCounts = ({ incidents, payloads, payload_bytes }: Sums): EndingCounts => ({
  incidents,
  payloads,
  payloadBytes: payload_bytes,
});

const bindingsOf = ({ tenantId, runId, step }: RunScope) => ({ tenantId, runId, step: step ?? null });

const endingOf = ({ step }: RunScope, { operationId }: RunOperation): string =>
  step === undefined ? `purge:${operationId}` : 'compensate';

async function assertNoPurge(trx: TenantTransaction, scope: RunScope): Promise<void> {
  const purge = firstOf<{ operation: string }>(
    await trx.raw(
      `select operation from step_tombstones
       where tenant_id = :tenantId and run_id = :runId and step = '' and operation like 'purge:%' limit 1`,
      bindingsOf(scope),
    ),
  );
  if (purge) throw operationInProgress(purge.operation.slice('purge:'.length));
}

/** Whether the tombstone is a new one. */
async function leaveTombstone(trx: TenantTransaction, scope: RunScope, operation: string): Promise<boolean> {
  const { rowCount } = await trx.raw(
    `insert into step_tombstones (tenant_id, run_id, step, operation)
     values (:tenantId, :runId, coalesce(cast(:step as text), ''), :operation) on conflict do nothing`,
    { ...bindingsOf(scope), operation },
  );
  return rowCount === 1;
}

async function findTombstone(trx: TenantTransaction, scope: RunScope, operation: string): Promise<Sums | undefined> {
  return firstOf(
    await trx.raw(
      `select incidents, payloads, payload_bytes from step_tombstones
       where tenant_id = :tenantId and run_id = :runId and step = coalesce(cast(:step as text), '')
         and operation = :operation`,
      { ...bindingsOf(scope), operation },
    ),
  );
}

/** Adds to the operation's sums and marks it finished when it is; the sums after it, and whether it was before. */
async function addToTombstone(
  trx: TenantTransaction,
  scope: RunScope,
  operation: string,
  added: Sums,
  isDone: boolean,
): Promise<{ before: { isFinished: boolean }; after: Sums }> {
  const row = firstOf<Sums & { was_finished: boolean }>(
    await trx.raw(
      `update step_tombstones s
       set incidents = s.incidents + :incidents, payloads = s.payloads + :payloads,
           payload_bytes = s.payload_bytes + :payload_bytes,
           finished_at = case when :isDone then coalesce(s.finished_at, before.at) else s.finished_at end
       from (select finished_at is not null as was_finished, clock_timestamp() as at from step_tombstones
             where tenant_id = :tenantId and run_id = :runId and step = coalesce(cast(:step as text), '')
               and operation = :operation for update) before
       where s.tenant_id = :tenantId and s.run_id = :runId and s.step = coalesce(cast(:step as text), '')
         and s.operation = :operation
       returning s.incidents, s.payloads, s.payload_bytes, before.was_finished`,
      { ...bindingsOf(scope), operation, ...added, isDone },
    ),
  );
  if (!row) throw new Error('the tombstone is not there');
  return { before: { isFinished: row.was_finished }, after: row };
}

const auditRun = (
  trx: TenantTransaction,
  { tenantId, runId, step }: RunScope,
  { caller: { actor, subject }, reason }: RunOperation,
  action: string,
  counts: Readonly<Record<string, number>>,
): Promise<void> => {
  const target = step === undefined ? { targetType: 'run', targetId: runId } : stepTarget(runId, step);
  return audit(trx, { tenantId, actor, subject, action, ...target, reason, outcome: 'COMPLETE', counts });
};

const stepTarget = (runId: string, step: string) => ({ targetType: 'run_step', targetId: `${runId}/${step}` });
