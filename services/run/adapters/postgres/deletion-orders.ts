import { takeItem } from '#libs/bulk-deletion/item-rows.ts';
import { operationInProgress } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import type { RunGate } from '#libs/participant/run-gate.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf, rowsOf } from '#libs/postgres/rows.ts';
import { type Deletion, OWN_PARTICIPANT } from '../../domain/deletion.ts';
import { runNotFound } from '../../domain/errors.ts';
import type { DeletionOrder, DeletionOrders } from '../../use-cases/deletion-ports.ts';
import { audit } from './audit.ts';
import { type DeletionRow, findDeletion, RUN_DELETION_COLUMNS, toDeletion } from './deletion-rows.ts';
import { cancelHiding } from './hidden-runs.ts';
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
      if (known) return { deletion: await findById(trx, tenantId, known.resultId) };
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
        return { deletion: await findById(trx, tenantId, isRepetition ? hiddenBy : undefined) };
      }

      check(toRun(run.row), run.now);
      const participants = await findParticipants(trx, order);
      if (checkOnly) return { checked: { participants, undoes: hiddenBy, now: run.now } };
      if (hides) await cancelHiding(trx, hides);
      return { deletion: await insert(trx, makeOwnGate(database), { ...order, participants }, request, run.row) };
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

async function findById(
  trx: TenantTransaction,
  tenantId: string,
  deletionId: string | undefined,
): Promise<Deletion | undefined> {
  const row = deletionId === undefined ? undefined : await findDeletion(trx, tenantId, deletionId);
  return row && toDeletion(row);
}
