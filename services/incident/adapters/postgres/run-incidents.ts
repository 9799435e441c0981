import { goneCount } from '#libs/participant/counts.ts';
import type { RunRows } from '#libs/participant/make-participant.ts';
import type { RunOperation, RunScope } from '#libs/participant/participant.ts';
import { type Batch, type KeptRows, makeRunGate, toRunEntry } from '#libs/participant/run-gate.ts';
import { makeRunLock } from '#libs/participant/run-lock.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf, rowsOf } from '#libs/postgres/rows.ts';
import { HIDDEN_INCIDENTS } from './hidden-incidents.ts';
import { BYTES_PER_PIECE, makeLookAtIncidents } from './look-at-incidents.ts';

interface Sums {
  readonly incidents: number;
  readonly payloads: number;
  readonly payload_bytes: number;
}

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

/** The lock of a run, for its incidents. */
export const incidentRunLock = makeRunLock('incident-run');

/** The incidents of a run in Postgres. */
export function makeRunIncidents(database: Database): RunRows {
  const gate = makeRunGate(database, KEPT);
  const left = makeLookAtIncidents(database);

  return {
    ...gate,
    left,
    // An open incident forbids nothing: its shell stays open.
    preview: async (scope, { blockersOnly = false, ...look } = {}) =>
      blockersOnly ? { counts: [], samples: [] } : left(scope, look),
    removeBatch: (scope, operation, limit) =>
      gate.remove(scope, operation, (trx) => endBatch(trx, scope, operation, limit)),
  };
}

/** How IncidentService keeps a run. */
const KEPT: KeptRows = {
  tombstones: 'step_tombstones',
  hold: incidentRunLock.hold,
  hasActions: true,

  ...HIDDEN_INCIDENTS,

  toEntry: (deed, scope, operation, counts) => {
    const sums = counts.map(({ resourceType, deleted }) => [`${resourceType}s`, deleted]);
    return toRunEntry(deed, scope, operation, Object.fromEntries(sums));
  },
};

/**
 * Removes the payloads of some incidents, fewer where these are large, and stamps their shells; closes those of a step that
 * are open as compensated, with an entry in their timelines.
 */
async function endBatch(
  trx: TenantTransaction,
  scope: RunScope,
  operation: RunOperation,
  limit: number,
): Promise<Batch> {
  const isCompensation = scope.step !== undefined;
  const bindings = { ...bindingsOf(scope), closes: isCompensation };
  const chosen = rowsOf<{ id: string }>(
    await trx.raw(
      `with next as materialized (
         select i.id, i.closed_at, coalesce(pg_column_size(p.payload_json), 0) as size
         from incidents i left join incident_payloads p on p.tenant_id = i.tenant_id and p.incident_id = i.id
         where ${UNENDED} ${IN_ORDER} limit :limit),
       piece as (
         select id from (select id, sum(size) over (order by closed_at, id) - size as before from next) s
         where before < ${BYTES_PER_PIECE})
       select i.id from incidents i
       where ${UNENDED} and i.id = any(array(select id from piece)) ${IN_ORDER} for update of i`,
      { ...bindings, limit },
    ),
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
  return {
    counts: [
      goneCount('incident', ended.incidents),
      goneCount('incident_payload', ended.payloads, ended.payload_bytes),
    ],
    removed: chosen.length,
    isDone: rest === undefined,
  };
}

const bindingsOf = ({ tenantId, runId, step }: RunScope) => ({ tenantId, runId, step: step ?? null });
