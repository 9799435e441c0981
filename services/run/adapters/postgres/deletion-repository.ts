import { reopenItem, takeItem } from '#libs/bulk-deletion/item-rows.ts';
import { operationInProgress } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import type { FailedItem, ResourceCount } from '#libs/kernel/resource-count.ts';
import type { RunGate } from '#libs/participant/run-gate.ts';
import { columnsOf } from '#libs/postgres/columns.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf, pageOf, rowsOf } from '#libs/postgres/rows.ts';
import {
  type Deletion,
  type DeletionMode,
  type DeletionState,
  type DeletionStep,
  OWN_PARTICIPANT,
} from '../../domain/deletion.ts';
import { leaseLost, runNotFound } from '../../domain/errors.ts';
import { toOperation } from '../../use-cases/participate.ts';
import type { DeletionClaim, DeletionOrder, DeletionRepository, Ordered } from '../../use-cases/ports.ts';
import { audit } from './audit.ts';
import { makeOwnGate } from './own-rows.ts';
import { findRequest, type IdentifiedRequest, rememberRequest } from './request-ids.ts';
import { lockRun, type RunColumns, toRun } from './run-repository.ts';

interface DeletionRow {
  readonly tenant_id: string;
  readonly id: string;
  readonly run_id: string;
  readonly mode: DeletionMode;
  readonly state: DeletionState;
  readonly actor: string;
  readonly subject: string;
  readonly trust_entry: string | null;
  readonly reason: string | null;
  readonly request_id: string | null;
  readonly force: boolean;
  readonly undoes: string | null;
  readonly bulk_deletion_id: string | null;
  readonly attempts: number;
  readonly last_error: string | null;
  readonly lease_token: number;
  readonly created_at: Temporal.Instant;
  readonly started_at: Temporal.Instant | null;
  readonly updated_at: Temporal.Instant;
  readonly finished_at: Temporal.Instant | null;
  readonly steps: readonly StepJson[];
}

interface StepJson {
  readonly participant: string;
  readonly state: DeletionState;
  readonly counts: readonly ResourceCount[];
  readonly failed_items: readonly FailedItem[];
  readonly attempts: number;
  readonly last_error: string | null;
  readonly next_attempt_at: string | null;
  readonly verified_at: string | null;
}

const OWN_COLUMNS = columnsOf<Omit<DeletionRow, 'steps'>>({
  tenant_id: true,
  id: true,
  run_id: true,
  mode: true,
  state: true,
  actor: true,
  subject: true,
  trust_entry: true,
  reason: true,
  request_id: true,
  force: true,
  undoes: true,
  bulk_deletion_id: true,
  attempts: true,
  last_error: true,
  lease_token: true,
  created_at: true,
  started_at: true,
  updated_at: true,
  finished_at: true,
});
const COLUMNS = `${OWN_COLUMNS('d')}, coalesce((
  select json_agg(json_build_object('participant', s.participant, 'state', s.state, 'counts', s.counts,
    'failed_items', s.failed_items, 'attempts', s.attempts, 'last_error', s.last_error,
    'next_attempt_at', s.next_attempt_at, 'verified_at', s.verified_at)
    order by s.participant = 'run', s.position)
  from deletion_steps s where s.tenant_id = d.tenant_id and s.deletion_id = d.id), '[]') as steps`;

const UNDER_WAY = "d.tenant_id = :tenantId and d.run_id = :runId and d.state not in ('COMPLETE', 'CANCELLED')";
const BY_ID = 'd.tenant_id = :tenantId and d.id = :deletionId';

/** The durable deletions of runs in Postgres. */
export const makeDeletionRepository = (database: Database): DeletionRepository => ({
  begin: (order, check, checkOnly) =>
    database.forTenant(order.tenantId, async (trx) => {
      const { tenantId, runId, mode } = order;
      // The run's row is the lock: of two orders at once, the second sees what the first has committed.
      const run = await lockRun(trx, tenantId, runId);
      const request = toRequest(order);
      const known = request && (await findRequest(trx, request));
      if (known) return toOrdered(await findById(trx, tenantId, known.resultId), 'known');
      if (!run) throw runNotFound();

      const underWay = await findOne(trx, UNDER_WAY, { tenantId, runId });
      const hiddenBy = run.row.deletion_id ?? undefined;
      const hides = underWay?.id === hiddenBy ? underWay : undefined;
      if (underWay && !(hides && mode !== 'PURGE') && !(mode === 'UNDELETE' && underWay.mode === 'UNDELETE')) {
        throw operationInProgress(underWay.id);
      }
      const isRepetition = mode === 'SOFT_DELETE' && hiddenBy !== undefined;
      if (isRepetition || (mode === 'UNDELETE' && hiddenBy === undefined)) {
        if (request && !checkOnly) await rememberRequest(trx, request, isRepetition ? hiddenBy : undefined);
        return toOrdered(await findById(trx, tenantId, isRepetition ? hiddenBy : undefined), 'known');
      }

      check(toRun(run.row), run.now);
      const participants = await findParticipants(trx, order);
      const cascading = { ...order, participants };
      if (checkOnly) return { outcome: 'checked', deletion: toChecked(cascading, run.now, hiddenBy) };
      if (hides) await cancel(trx, hides);
      return { outcome: 'begun', deletion: await insert(trx, makeOwnGate(database), cascading, request, run.row) };
    }),

  participantsOf: (tenantId, runId, participants) =>
    database.forTenant(tenantId, (trx) => findParticipants(trx, { tenantId, runId, participants })),

  async get(tenantId, deletionId) {
    const [row] = await database.readForTenant<DeletionRow>(tenantId, {
      name: 'get-deletion',
      text: `select ${COLUMNS} from deletions d where d.tenant_id = $1 and d.id = $2`,
      values: [tenantId, deletionId],
    });
    return row && toDeletion(row);
  },

  async list(tenantId, { state, mode, runId, limit, after }) {
    const rows = await database.readForTenant<DeletionRow>(tenantId, {
      text: `select ${COLUMNS} from deletions d
             where d.tenant_id = $1 and ($2::text is null or d.state = $2) and ($3::text is null or d.mode = $3)
               and ($4::uuid is null or d.run_id = $4)
               and ($5::timestamptz is null or (d.created_at, d.id) < ($5, $6::uuid))
             order by d.created_at desc, d.id desc limit $7`,
      values: [tenantId, state ?? null, mode ?? null, runId ?? null, after?.[0] ?? null, after?.[1] ?? null, limit + 1],
    });
    return pageOf(rows, limit, toDeletion, (row) => [row.created_at.toString(), row.id]);
  },

  async findDue(limit) {
    const rows = await database.acrossTenants<{ tenant_id: string; id: string }>({
      text: 'select tenant_id, id from due_deletions($1)',
      values: [limit],
    });
    return rows.map((row) => ({ tenantId: row.tenant_id, deletionId: row.id }));
  },

  claim: (tenantId, deletionId, owner, leaseMs) =>
    database.forTenant(tenantId, async (trx) => {
      // By ctid: a join of the table with itself is planned badly behind row-level security.
      // An owner that is still written there is one that vanished: whoever gives up a claim takes its name away.
      const claimed = firstOf<{ lease_token: number }>(
        await trx.raw(
          `update deletions d
           set state = case d.state when 'PENDING' then 'CASCADING' else d.state end,
               attempts = d.attempts + case when d.lease_owner is null then 0 else 1 end,
               lease_owner = :owner, lease_token = d.lease_token + 1,
               lease_expires_at = now.at + :leaseMs * interval '1 ms',
               started_at = coalesce(d.started_at, now.at), updated_at = now.at
           from (select clock_timestamp() as at) now
           where d.tenant_id = :tenantId and d.ctid = (
                 select ctid from deletions
                 where tenant_id = :tenantId and id = :deletionId and state in ('PENDING', 'CASCADING', 'VERIFYING')
                   and next_attempt_at <= clock_timestamp()
                   and (lease_expires_at is null or lease_expires_at <= clock_timestamp())
                 for update skip locked)
           returning d.lease_token`,
          { tenantId, deletionId, owner, leaseMs },
        ),
      );
      if (!claimed) return undefined;
      const row = await findOne(trx, BY_ID, { tenantId, deletionId });
      return row && { deletion: toDeletion(row), token: BigInt(claimed.lease_token) };
    }),

  addSteps: (claim, participants) =>
    database.forTenant(claim.deletion.tenantId, async (trx) => {
      const { tenantId, id: deletionId } = claim.deletion;
      await updateClaimed(trx, claim, 'updated_at = clock_timestamp()', {});
      await trx.raw(
        `insert into deletion_steps (tenant_id, deletion_id, position, participant, state)
         select :tenantId, :deletionId, p.position + (
                  select max(position) from deletion_steps where tenant_id = :tenantId and deletion_id = :deletionId),
                p.name, 'PENDING'
         from unnest(cast(:participants as text[])) with ordinality as p(name, position)
         on conflict do nothing`,
        { tenantId, deletionId, participants: [...participants] },
      );
      const row = await findOne(trx, BY_ID, { tenantId, deletionId });
      if (!row) throw leaseLost();
      return toDeletion(row);
    }),

  saveStep: (claim, state, step, leaseMs) =>
    database.forTenant(claim.deletion.tenantId, (trx) =>
      saveClaimed(trx, claim, step, undefined, {
        set: `state = :state, lease_expires_at = clock_timestamp() + :leaseMs * interval '1 ms'`,
        bindings: { state, leaseMs },
      }),
    ),

  release: (claim, pauseMs) =>
    database.forTenant(claim.deletion.tenantId, (trx) =>
      updateClaimed(
        trx,
        claim,
        `lease_owner = null, lease_expires_at = null, updated_at = clock_timestamp(),
         next_attempt_at = clock_timestamp() + :pauseMs * interval '1 ms'`,
        { pauseMs },
      ),
    ),

  fail: (claim, step, retryMs) =>
    database.forTenant(claim.deletion.tenantId, async (trx) => {
      await saveClaimed(trx, claim, step, retryMs, {
        set: `state = case when cast(:retryMs as bigint) is not null then d.state else 'STUCK' end,
              lease_owner = null, lease_expires_at = null,
              next_attempt_at = clock_timestamp() + cast(:retryMs as bigint) * interval '1 ms'`,
        bindings: { retryMs: retryMs ?? null },
      });
      if (retryMs === undefined) await auditOutcome(trx, claim.deletion, 'STUCK');
    }),

  complete: (claim) =>
    database.forTenant(claim.deletion.tenantId, async (trx) => {
      await updateClaimed(
        trx,
        claim,
        `state = 'COMPLETE', attempts = 0, last_error = null, next_attempt_at = null, lease_owner = null,
         lease_expires_at = null, updated_at = clock_timestamp(), finished_at = clock_timestamp()`,
        {},
      );
      const { tenantId, id: deletionId } = claim.deletion;
      const row = await findOne(trx, BY_ID, { tenantId, deletionId });
      if (!row) throw leaseLost();
      const deletion = toDeletion(row);
      await auditOutcome(trx, deletion, 'COMPLETE');
      return deletion;
    }),

  redrive: (tenantId, deletionId, caller, reason) =>
    database.forTenant(tenantId, async (trx) => {
      const bindings = { tenantId, deletionId };
      const { rowCount } = await trx.raw(
        `with redriven as (
           update deletions
           set state = 'CASCADING', attempts = 0, last_error = null, next_attempt_at = clock_timestamp(),
               updated_at = clock_timestamp()
           where tenant_id = :tenantId and id = :deletionId and state = 'STUCK' returning tenant_id, id)
         update deletion_steps s
         set state = case s.state when 'STUCK' then 'CASCADING' else s.state end, attempts = 0, last_error = null,
             next_attempt_at = null
         from redriven r where s.tenant_id = r.tenant_id and s.deletion_id = r.id and s.state not in ('COMPLETE', 'CANCELLED')`,
        bindings,
      );
      const row = await findOne(trx, BY_ID, bindings);
      if (!row) return undefined;
      if (rowCount) {
        await reopenItem(trx, tenantId, row.bulk_deletion_id, deletionId);
        const { actor, subject } = caller;
        await audit(trx, {
          tenantId,
          runId: row.run_id,
          actor,
          subject,
          action: 'REDRIVE',
          reason,
          outcome: 'PENDING',
        });
      }
      return toDeletion(row);
    }),

  recordRefusal: (order, refusal) =>
    database.forTenant(order.tenantId, (trx) => {
      const { tenantId, runId, mode, reason, requestId, caller } = order;
      const { actor, subject } = caller;
      return audit(trx, { tenantId, runId, actor, subject, action: mode, reason, requestId, outcome: refusal });
    }),

  async oldestUnfinishedSeconds() {
    const [row] = await database.acrossTenants<{ seconds: number }>({
      text: 'select oldest_unfinished_deletion_seconds() as seconds',
      values: [],
    });
    return row?.seconds ?? 0;
  },

  async stuckCount() {
    const [row] = await database.acrossTenants<{ count: string }>({
      text: 'select stuck_deletions() as count',
      values: [],
    });
    return Number(row?.count ?? 0);
  },
});

const toRequest = ({ tenantId, mode, requestId, fingerprint }: DeletionOrder): IdentifiedRequest | undefined =>
  requestId === undefined ? undefined : { tenantId, method: mode, requestId, fingerprint };

const toOrdered = (deletion: Deletion | undefined, outcome: 'known'): Ordered => ({
  outcome: deletion ? outcome : 'nothing',
  deletion,
});

/** As `participantsOf`, in the caller's transaction. */
async function findParticipants(
  trx: TenantTransaction,
  { tenantId, runId, participants }: Pick<DeletionOrder, 'tenantId' | 'runId' | 'participants'>,
): Promise<readonly string[]> {
  const known = rowsOf<{ name: string }>(
    await trx.raw(
      `select name from participants where retired_at is null
       union
       select s.name from (select unnest(participants) as name from workflow_run_steps
                           where tenant_id = :tenantId and run_id = :runId) s
       where not exists (select from participants p where p.name = s.name and p.retired_at is not null)
       order by name`,
      { tenantId, runId },
    ),
  );
  const others = known.map(({ name }) => name);
  return [...participants, ...others.filter((name) => name !== OWN_PARTICIPANT && !participants.includes(name))];
}

/** Commits the intent, its steps, and what is done at once: the run's own rows hidden or shown. */
async function insert(
  trx: TenantTransaction,
  own: RunGate,
  order: DeletionOrder,
  request: IdentifiedRequest | undefined,
  run: RunColumns,
): Promise<Deletion> {
  const { tenantId, runId, mode, caller, reason, requestId, fingerprint, force, participants, bulkItem } = order;
  const id = newId();
  if (request) await rememberRequest(trx, request, id);
  await trx.raw(
    `with begun as (
       insert into deletions
         (tenant_id, id, run_id, mode, state, actor, subject, reason, request_id, fingerprint, force, undoes,
          bulk_deletion_id, trust_entry)
       values (:tenantId, :id, :runId, :mode, 'PENDING', :actor, :subject, :reason, :requestId, :fingerprint, :force, :undoes,
               :bulkDeletionId, :trustEntry)
       returning tenant_id, id)
     insert into deletion_steps (tenant_id, deletion_id, position, participant, state)
     select b.tenant_id, b.id, p.position - 1, p.name, 'PENDING'
     from begun b, unnest(cast(:participants as text[])) with ordinality as p(name, position)`,
    {
      tenantId,
      id,
      runId,
      mode,
      actor: caller.actor,
      subject: caller.subject,
      trustEntry: caller.trustEntry ?? null,
      reason: reason ?? null,
      requestId: requestId ?? null,
      fingerprint,
      force,
      undoes: mode === 'UNDELETE' ? run.deletion_id : null,
      bulkDeletionId: bulkItem?.bulkDeletionId ?? null,
      participants: [...participants, OWN_PARTICIPANT],
    },
  );
  if (bulkItem) await takeItem(trx, tenantId, bulkItem, id);
  const scope = { tenantId, runId, step: undefined };
  const operation = toOperation({ operationId: id, step: OWN_PARTICIPANT, actor: caller.actor, reason });
  if (mode === 'SOFT_DELETE') await own.hideNow(trx, scope, operation);
  if (mode === 'UNDELETE' && run.deletion_id !== null) await own.restoreNow(trx, scope, operation, run.deletion_id);
  const begun = await findById(trx, tenantId, id);
  if (!begun) throw new Error('the deletion just inserted is not there');
  return begun;
}

/** Gives up a soft delete that is taken back while it is under way; the new token ends whoever works on it. */
async function cancel(trx: TenantTransaction, row: DeletionRow): Promise<void> {
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

async function findOne(
  trx: TenantTransaction,
  where: string,
  bindings: Record<string, string>,
): Promise<DeletionRow | undefined> {
  return firstOf<DeletionRow>(await trx.raw(`select ${COLUMNS} from deletions d where ${where} limit 1`, bindings));
}

async function findById(
  trx: TenantTransaction,
  tenantId: string,
  deletionId: string | undefined,
): Promise<Deletion | undefined> {
  const row = deletionId === undefined ? undefined : await findOne(trx, BY_ID, { tenantId, deletionId });
  return row && toDeletion(row);
}

async function updateClaimed(
  trx: TenantTransaction,
  { deletion, token }: DeletionClaim,
  set: string,
  bindings: Record<string, string | number | null>,
): Promise<void> {
  const { rowCount } = await trx.raw(
    `update deletions set ${set}
     where tenant_id = :tenantId and id = :deletionId and lease_token = :token and lease_owner is not null`,
    { ...bindings, tenantId: deletion.tenantId, deletionId: deletion.id, token: String(token) },
  );
  if (rowCount !== 1) throw leaseLost();
}

/** Saves a step and its deletion in one statement, if the claim still holds. */
async function saveClaimed(
  trx: TenantTransaction,
  { deletion, token }: DeletionClaim,
  step: DeletionStep,
  retryMs: number | undefined,
  { set, bindings }: { readonly set: string; readonly bindings: Record<string, string | number | null> },
): Promise<void> {
  const { rowCount } = await trx.raw(
    `with held as (
       update deletions d
       set ${set}, attempts = :attempts, last_error = :lastError, updated_at = clock_timestamp()
       where d.tenant_id = :tenantId and d.id = :deletionId and d.lease_token = :token and d.lease_owner is not null
       returning 1)
     update deletion_steps s
     set state = :stepState, counts = cast(:counts as jsonb), failed_items = cast(:failedItems as jsonb),
         attempts = :attempts, last_error = :lastError,
         ${step.state === 'COMPLETE' && deletion.mode === 'PURGE' ? 'verified_at = clock_timestamp(),' : ''}
         next_attempt_at = clock_timestamp() + cast(:retryMs as bigint) * interval '1 ms'
     where s.tenant_id = :tenantId and s.deletion_id = :deletionId and s.participant = :participant
       and exists (select from held)`,
    {
      ...bindings,
      tenantId: deletion.tenantId,
      deletionId: deletion.id,
      token: String(token),
      participant: step.participant,
      stepState: step.state,
      counts: JSON.stringify(step.counts),
      failedItems: JSON.stringify(step.failedItems),
      attempts: step.attempts,
      lastError: step.lastError ?? null,
      retryMs: retryMs ?? null,
    },
  );
  if (rowCount !== 1) throw leaseLost();
}

const auditOutcome = (trx: TenantTransaction, deletion: Deletion, outcome: DeletionState): Promise<void> =>
  audit(trx, {
    tenantId: deletion.tenantId,
    runId: deletion.runId,
    actor: deletion.actor,
    subject: deletion.subject,
    trustEntry: deletion.trustEntry,
    action: deletion.mode,
    reason: deletion.reason,
    requestId: deletion.requestId,
    outcome,
    counts: Object.fromEntries(deletion.steps.map(({ participant, counts }) => [participant, counts])),
  });

/** The deletion as it would begin; it has no id, since nothing is stored. */
const toChecked = (order: DeletionOrder, now: Temporal.Instant, undoes: string | undefined): Deletion => ({
  id: '',
  tenantId: order.tenantId,
  runId: order.runId,
  mode: order.mode,
  state: 'PENDING',
  actor: order.caller.actor,
  subject: order.caller.subject,
  trustEntry: order.caller.trustEntry,
  reason: order.reason,
  requestId: order.requestId,
  force: order.force,
  undoes: order.mode === 'UNDELETE' ? undoes : undefined,
  bulkDeletionId: order.bulkItem?.bulkDeletionId,
  steps: [...order.participants, OWN_PARTICIPANT].map((participant) => ({
    participant,
    state: 'PENDING',
    counts: [],
    failedItems: [],
    attempts: 0,
    lastError: undefined,
    nextAttemptAt: undefined,
    verifiedAt: undefined,
  })),
  attempts: 0,
  lastError: undefined,
  createdAt: now,
  startedAt: undefined,
  updatedAt: now,
  finishedAt: undefined,
});

const toDeletion = (row: DeletionRow): Deletion => ({
  id: row.id,
  tenantId: row.tenant_id,
  runId: row.run_id,
  mode: row.mode,
  state: row.state,
  actor: row.actor,
  subject: row.subject,
  trustEntry: row.trust_entry ?? undefined,
  reason: row.reason ?? undefined,
  requestId: row.request_id ?? undefined,
  force: row.force,
  undoes: row.undoes ?? undefined,
  bulkDeletionId: row.bulk_deletion_id ?? undefined,
  steps: row.steps.map(toStep),
  attempts: row.attempts,
  lastError: row.last_error ?? undefined,
  createdAt: row.created_at,
  startedAt: row.started_at ?? undefined,
  updatedAt: row.updated_at,
  finishedAt: row.finished_at ?? undefined,
});

const toStep = (step: StepJson): DeletionStep => ({
  participant: step.participant,
  state: step.state,
  counts: step.counts,
  failedItems: step.failed_items,
  attempts: step.attempts,
  lastError: step.last_error ?? undefined,
  nextAttemptAt: toInstant(step.next_attempt_at),
  verifiedAt: toInstant(step.verified_at),
});

const toInstant = (text: string | null): Temporal.Instant | undefined =>
  text === null ? undefined : Temporal.Instant.from(text);
