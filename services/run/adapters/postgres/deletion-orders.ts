import { takeItem } from '#libs/bulk-deletion/item-rows.ts';
import { operationInProgress } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import type { RunGate } from '#libs/participant/run-gate.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf, rowsOf } from '#libs/postgres/rows.ts';
import { type Deletion, OWN_PARTICIPANT } from '../../domain/deletion.ts';
import { runNotFound } from '../../domain/errors.ts';
import type { DeletionOrder, DeletionOrders, Ordered } from '../../use-cases/deletion-ports.ts';
import { audit } from './audit.ts';
import { auditOutcome, type DeletionRow, findDeletion, RUN_DELETION_COLUMNS, toDeletion } from './deletion-rows.ts';
import { makeOwnGate } from './own-rows.ts';
import { findRequest, type IdentifiedRequest, rememberRequest } from './request-ids.ts';
import { lockRun, type RunColumns, toRun } from './run-repository.ts';

/** Where deletions of runs begin, in Postgres. */
export const makeDeletionOrders = (database: Database): DeletionOrders => ({
  begin: (order, check, checkOnly) =>
    database.forTenant(order.tenantId, async (trx) => {
      const { tenantId, runId, mode } = order;
      // The run's row is the lock: of two orders at once, the second sees what the first has committed.
      const run = await lockRun(trx, tenantId, runId);
      const request = toRequest(order);
      const known = request && (await findRequest(trx, request));
      if (known) return toOrdered(await findById(trx, tenantId, known.resultId), 'known');
      if (!run) throw runNotFound();

      const underWay = await findUnderWay(trx, tenantId, runId);
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

  recordRefusal: (order, refusal) =>
    database.forTenant(order.tenantId, (trx) => {
      const { tenantId, runId, mode, reason, requestId, caller } = order;
      const { actor, subject } = caller;
      return audit(trx, { tenantId, runId, actor, subject, action: mode, reason, requestId, outcome: refusal });
    }),
});

const toRequest = ({ tenantId, mode, requestId, fingerprint }: DeletionOrder): IdentifiedRequest | undefined =>
  requestId === undefined ? undefined : { tenantId, method: mode, requestId, fingerprint };

const toOrdered = (deletion: Deletion | undefined, outcome: 'known'): Ordered => ({
  outcome: deletion ? outcome : 'nothing',
  deletion,
});

/** The run's deletion that is not over. */
const findUnderWay = async (
  trx: TenantTransaction,
  tenantId: string,
  runId: string,
): Promise<DeletionRow | undefined> =>
  firstOf<DeletionRow>(
    await trx.raw(
      `select ${RUN_DELETION_COLUMNS} from deletions d
       where d.tenant_id = :tenantId and d.run_id = :runId and d.state not in ('COMPLETE', 'CANCELLED') limit 1`,
      { tenantId, runId },
    ),
  );

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
  const by = { actor: caller.actor, subject: 'service:run' };
  const operation = { operationId: id, part: OWN_PARTICIPANT, caller: by, reason };
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

async function findById(
  trx: TenantTransaction,
  tenantId: string,
  deletionId: string | undefined,
): Promise<Deletion | undefined> {
  const row = deletionId === undefined ? undefined : await findDeletion(trx, tenantId, deletionId);
  return row && toDeletion(row);
}

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
