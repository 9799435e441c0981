import { newId } from '#libs/kernel/id.ts';
import { pageOf } from '#libs/kernel/page.ts';
import { enterRun } from '#libs/participant/step-actions.ts';
import { column, columnsOf, type RowOf } from '#libs/postgres/columns.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import { driftCheckNotFound, environmentNotFound, type JsonObject } from '../../domain/drift.ts';
import {
  type CloseCause,
  type Incident,
  type IncidentState,
  incidentNotFound,
  type PayloadState,
  type PurgeCause,
} from '../../domain/incident.ts';
import type { IncidentRepository, NewIncident } from '../../use-cases/ports.ts';
import { repeatedTarget } from './requests.ts';
import { incidentRunLock } from './run-incidents.ts';

const INCIDENT = {
  tenant_id: column<string>(),
  id: column<string>(),
  environment_id: column<string>(),
  drift_check_id: column<string | null>(),
  run_id: column<string | null>(),
  step: column<string | null>(),
  title: column<string>(),
  state: column<IncidentState>(),
  close_cause: column<CloseCause | null>(),
  payload_purged_at: column<Temporal.Instant | null>(),
  payload_purge_cause: column<PurgeCause | null>(),
  approvals_purged_at: column<Temporal.Instant | null>(),
  created_at: column<Temporal.Instant>(),
  updated_at: column<Temporal.Instant>(),
  closed_at: column<Temporal.Instant | null>(),
  deleted_at: column<Temporal.Instant | null>(),
  version: column<number>(),
};

type IncidentRow = RowOf<typeof INCIDENT> & {
  readonly has_payload: boolean;
  readonly payload?: JsonObject | null;
  readonly timeline?: readonly { state: IncidentState; actor: string; note: string | null; at: string }[];
};

const OWN_COLUMNS = columnsOf(INCIDENT);
const HAS_PAYLOAD = `exists (
  select from incident_payloads p where p.tenant_id = i.tenant_id and p.incident_id = i.id) as has_payload`;
const BASIC = `${OWN_COLUMNS('i')}, ${HAS_PAYLOAD}`;
const WHOLE = `${BASIC},
  (select p.payload_json from incident_payloads p where p.tenant_id = i.tenant_id and p.incident_id = i.id) as payload,
  coalesce((
    select json_agg(json_build_object('state', t.state, 'actor', t.actor, 'note', t.note, 'at', t.at) order by t.at)
    from incident_transitions t where t.tenant_id = i.tenant_id and t.incident_id = i.id), '[]') as timeline`;

/** Incidents in Postgres. */
export const makeIncidentRepository = (database: Database): IncidentRepository => ({
  open: (incident) =>
    database.forTenant(incident.tenantId, async (trx) => {
      const { tenantId } = incident;
      const id = newId();
      const known = await repeatedTarget(trx, { ...incident, id });
      if (known === undefined) {
        const { runId, step } = incident;
        if (runId !== undefined) {
          await enterRun(trx, incidentRunLock, { tenantId, runId, step });
        }
        await insertIncident(trx, { ...incident, id });
      }
      const row = await readIncident(trx, tenantId, known ?? id);
      // The repetition of a request whose incident was hidden since.
      if (!row) throw incidentNotFound();
      return toIncident(row);
    }),

  async get(tenantId, incidentId, showDeleted, view = 'FULL') {
    const [row] = await database.readForTenant<IncidentRow>(tenantId, {
      ...(view === 'FULL' ? { name: 'get-incident' } : {}),
      text: `select ${view === 'FULL' ? WHOLE : BASIC} from incidents i where i.tenant_id = $1 and i.id = $2 and ($3 or i.deleted_at is null)`,
      values: [tenantId, incidentId, showDeleted],
    });
    return row && toIncident(row);
  },

  async list(tenantId, { state, environmentId, runId, showDeleted }, { limit, after }) {
    const rows = await database.readForTenant<IncidentRow>(tenantId, {
      text: `select ${BASIC} from incidents i
             where i.tenant_id = $1 and ($2::text is null or i.state = $2)
               and ($3::uuid is null or i.environment_id = $3) and ($4::uuid is null or i.run_id = $4)
               and ($5 or i.deleted_at is null) and ($7::uuid is null or (i.created_at, i.id) < ($6::timestamptz, $7))
             order by i.created_at desc, i.id desc limit $8`,
      values: [
        tenantId,
        state ?? null,
        environmentId ?? null,
        runId ?? null,
        showDeleted,
        after?.[0] ?? null,
        after?.[1] ?? null,
        limit + 1,
      ],
    });
    return pageOf(rows, limit, toIncident, (row) => [row.created_at.toString(), row.id]);
  },

  update: (tenantId, incidentId, change, { actor, note }) =>
    database.forTenant(tenantId, async (trx) => {
      const bindings = { tenantId, incidentId };
      await trx.raw('select 1 from incidents where tenant_id = :tenantId and id = :incidentId for update', bindings);
      // Read after the lock is there, the clock too: the timeline's instants are in its order.
      const row = await readIncident(trx, tenantId, incidentId);
      if (!row) return undefined;
      const before = toIncident(row);
      const after = change(before, row.now);
      if (after === before) return before;
      const at = row.now.toString();
      await trx.raw(
        `update incidents set state = :state, close_cause = :closeCause, closed_at = :closedAt, updated_at = :at,
                version = version + 1
         where tenant_id = :tenantId and id = :incidentId`,
        {
          ...bindings,
          state: after.state,
          closeCause: after.closeCause ?? null,
          closedAt: after.closedAt?.toString() ?? null,
          at,
        },
      );
      if (after.state !== before.state) {
        await trx.raw(
          `insert into incident_transitions (tenant_id, incident_id, state, actor, note, at)
           values (:tenantId, :incidentId, :state, :actor, :note, :at)`,
          { ...bindings, state: after.state, actor, note: note ?? null, at },
        );
      }
      const changed = await readIncident(trx, tenantId, incidentId);
      if (!changed) throw new Error('the incident was locked and is gone');
      return toIncident(changed);
    }),
});

/**
 * Inserts the incident with its payload and the first entry of its timeline. ENVIRONMENT_NOT_FOUND,
 * DRIFT_CHECK_NOT_FOUND. Needs the lock of its run.
 */
export async function insertIncident(
  trx: TenantTransaction,
  incident: Omit<NewIncident, 'requestId' | 'fingerprint'> & { readonly id: string },
): Promise<void> {
  const { tenantId, id, environmentId, driftCheckId, runId, step, title, payload, actor } = incident;
  const bindings = {
    tenantId,
    id,
    environmentId,
    driftCheckId: driftCheckId ?? null,
    runId: runId ?? null,
    step: step ?? null,
    title,
    payload: payload === undefined ? null : JSON.stringify(payload),
    actor,
  };
  const named = firstOf<{ environment: boolean; check: boolean }>(
    await trx.raw(
      `select exists (select from environments where tenant_id = :tenantId and id = :environmentId) as environment,
              cast(:driftCheckId as uuid) is null or exists (
                select from drift_checks
                where tenant_id = :tenantId and id = :driftCheckId and environment_id = :environmentId) as check`,
      bindings,
    ),
  );
  if (!named?.environment) throw environmentNotFound();
  if (!named.check) throw driftCheckNotFound();
  await trx.raw(
    `with opened as (
       insert into incidents (tenant_id, id, environment_id, drift_check_id, run_id, step, title, opened_with_payload)
       values (:tenantId, :id, :environmentId, :driftCheckId, :runId, :step, :title,
               cast(:payload as jsonb) is not null)
       returning tenant_id, id, state, created_at, opened_with_payload),
     entry as (
       insert into incident_transitions (tenant_id, incident_id, state, actor, at)
       select tenant_id, id, state, :actor, created_at from opened returning 1)
     insert into incident_payloads (tenant_id, incident_id, payload_json, created_at)
     select tenant_id, id, cast(:payload as jsonb), created_at from opened where opened_with_payload`,
    bindings,
  );
}

/** The whole incident and the database's clock; undefined for an unknown or hidden one. */
async function readIncident(
  trx: TenantTransaction,
  tenantId: string,
  incidentId: string,
): Promise<(IncidentRow & { readonly now: Temporal.Instant }) | undefined> {
  return firstOf(
    await trx.raw(
      `select ${WHOLE}, clock_timestamp() as now from incidents i
       where i.tenant_id = :tenantId and i.id = :incidentId and i.deleted_at is null`,
      { tenantId, incidentId },
    ),
  );
}

const toIncident = (row: IncidentRow): Incident => ({
  id: row.id,
  tenantId: row.tenant_id,
  environmentId: row.environment_id,
  driftCheckId: row.drift_check_id ?? undefined,
  runId: row.run_id ?? undefined,
  step: row.step ?? undefined,
  title: row.title,
  state: row.state,
  closeCause: row.close_cause ?? undefined,
  payload: row.payload ?? undefined,
  payloadState: toPayloadState(row),
  timeline: (row.timeline ?? []).map(({ state, actor, note, at }) => ({
    state,
    actor,
    note: note ?? undefined,
    at: Temporal.Instant.from(at),
  })),
  createdAt: row.created_at,
  updatedAt: row.updated_at,
  closedAt: row.closed_at ?? undefined,
  payloadPurgedAt: row.payload_purged_at ?? undefined,
  payloadPurgeCause: row.payload_purge_cause ?? undefined,
  approvalsPurgedAt: row.approvals_purged_at ?? undefined,
  deletedAt: row.deleted_at ?? undefined,
  version: BigInt(row.version),
});

/** By what is there, not by what is said of it. */
function toPayloadState({ has_payload, payload_purged_at }: IncidentRow): PayloadState {
  if (has_payload) return 'PRESENT';
  return payload_purged_at ? 'PURGED' : 'ABSENT';
}
