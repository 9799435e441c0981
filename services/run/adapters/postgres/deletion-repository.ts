import type { Knex } from 'knex';
import { operationInProgress, requestIdReused } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import { deleteBatch } from '#libs/postgres/delete-batch.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf, pageOf, rowsOf } from '#libs/postgres/rows.ts';
import {
  type Deletion,
  type DeletionMode,
  type DeletionState,
  type DeletionStep,
  type FailedItem,
  OWN_PARTICIPANT,
  type ResourceCount,
} from '../../domain/deletion.ts';
import { leaseLost } from '../../domain/errors.ts';
import type { DeletionClaim, DeletionOrder, DeletionRepository } from '../../use-cases/ports.ts';
import { lockRun, toRun } from './run-repository.ts';

const ROWS_PER_BATCH = 1_000;

interface DeletionRow {
  readonly tenant_id: string;
  readonly id: string;
  readonly run_id: string;
  readonly mode: DeletionMode;
  readonly state: DeletionState;
  readonly actor: string;
  readonly subject: string;
  readonly reason: string | null;
  readonly request_id: string | null;
  readonly fingerprint: string;
  readonly force: boolean;
  readonly undoes: string | null;
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
  readonly verified_at: string | null;
}

const COLUMNS = `d.*, coalesce((
  select json_agg(json_build_object('participant', s.participant, 'state', s.state, 'counts', s.counts,
    'failed_items', s.failed_items, 'attempts', s.attempts, 'last_error', s.last_error,
    'verified_at', s.verified_at) order by s.position)
  from deletion_steps s where s.tenant_id = d.tenant_id and s.deletion_id = d.id), '[]') as steps`;

/** The durable deletions of runs in Postgres. */
export const makeDeletionRepository = (database: Database): DeletionRepository => ({
  begin: (order, check) =>
    database.forTenant(order.tenantId, async (trx) => {
      const { tenantId, runId, requestId, mode } = order;
      // The run's row is the lock: of two orders at once, the second sees what the first has committed.
      const run = await lockRun(trx, tenantId, runId);
      if (requestId !== undefined) {
        const known = await findOne(trx, 'd.tenant_id = :tenantId and d.request_id = :requestId', {
          tenantId,
          requestId,
        });
        if (known) {
          if (known.fingerprint !== order.fingerprint) throw requestIdReused(requestId);
          return toDeletion(known);
        }
      }
      if (!run) return undefined;
      const underWay = await findOne(
        trx,
        "d.tenant_id = :tenantId and d.run_id = :runId and d.state not in ('COMPLETE', 'CANCELLED')",
        { tenantId, runId },
      );
      const hiddenBy = run.row.deletion_id;
      if (
        mode === 'SOFT_DELETE' &&
        run.row.deleted_at !== null &&
        hiddenBy !== null &&
        (!underWay || underWay.id === hiddenBy)
      ) {
        const first = await findOne(trx, 'd.tenant_id = :tenantId and d.id = :hiddenBy', { tenantId, hiddenBy });
        if (first) return toDeletion(first);
      }
      if (underWay) throw operationInProgress(underWay.id);
      if (mode === 'UNDELETE' && run.row.deleted_at === null) return 'nothing';
      check(toRun(run.row), run.now);
      const id = newId();
      await trx.raw(
        `insert into deletions
           (tenant_id, id, run_id, mode, state, actor, subject, reason, request_id, fingerprint, force, undoes)
         values (:tenantId, :id, :runId, :mode, 'PENDING', :actor, :subject, :reason, :requestId, :fingerprint, :force, :undoes)`,
        {
          tenantId,
          id,
          runId,
          mode,
          actor: order.caller.actor,
          subject: order.caller.subject,
          reason: order.reason ?? null,
          requestId: requestId ?? null,
          fingerprint: order.fingerprint,
          force: order.force,
          undoes: mode === 'UNDELETE' ? hiddenBy : null,
        },
      );
      for (const [position, participant] of order.participants.entries()) {
        await trx.raw(
          `insert into deletion_steps (tenant_id, deletion_id, position, participant, state)
           values (:tenantId, :id, :position, :participant, 'PENDING')`,
          { tenantId, id, position, participant },
        );
      }
      if (mode === 'SOFT_DELETE') {
        const bindings = { tenantId, runId, id, actor: order.caller.actor, reason: order.reason ?? null };
        await trx.raw(
          `update workflow_runs set deleted_at = now(), deleted_by = :actor, deleted_reason = :reason,
                  deletion_id = :id, version = version + 1
           where tenant_id = :tenantId and id = :runId`,
          bindings,
        );
        await trx.raw(
          `update workflow_run_steps set deleted_at = now(), deleted_by = :actor, deleted_reason = :reason
           where tenant_id = :tenantId and run_id = :runId and deleted_at is null`,
          bindings,
        );
      }
      const begun = await findOne(trx, 'd.tenant_id = :tenantId and d.id = :id', { tenantId, id });
      return begun && toDeletion(begun);
    }),

  async get(tenantId, deletionId) {
    const [row] = await database.readForTenant<DeletionRow>(tenantId, {
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
      const claimed = firstOf<DeletionRow>(
        await trx.raw(
          `update deletions d
           set state = 'CASCADING', lease_owner = :owner, lease_token = d.lease_token + 1, attempts = d.attempts + 1,
               lease_expires_at = clock_timestamp() + :leaseMs * interval '1 ms',
               started_at = coalesce(d.started_at, clock_timestamp()), updated_at = clock_timestamp()
           from (select tenant_id, id from deletions
                 where tenant_id = :tenantId and id = :deletionId and state in ('PENDING', 'CASCADING', 'VERIFYING')
                   and next_attempt_at <= clock_timestamp()
                   and (lease_expires_at is null or lease_expires_at <= clock_timestamp())
                 for update skip locked) due
           where d.tenant_id = due.tenant_id and d.id = due.id returning d.lease_token`,
          { tenantId, deletionId, owner, leaseMs },
        ),
      );
      if (!claimed) return undefined;
      const row = await findOne(trx, 'd.tenant_id = :tenantId and d.id = :deletionId', { tenantId, deletionId });
      return row && { deletion: toDeletion(row), token: BigInt(claimed.lease_token) };
    }),

  saveStep: (claim, state, step, leaseMs) =>
    database.forTenant(claim.deletion.tenantId, async (trx) => {
      await updateClaimed(
        trx,
        claim,
        `state = :state, updated_at = clock_timestamp(), lease_expires_at = clock_timestamp() + :leaseMs * interval '1 ms'`,
        { state, leaseMs },
      );
      await trx.raw(
        `update deletion_steps
         set state = :stepState, counts = cast(:counts as jsonb), failed_items = cast(:failedItems as jsonb),
             last_error = :lastError, attempts = attempts + 1,
             verified_at = case when :verified then clock_timestamp() else verified_at end
         where tenant_id = :tenantId and deletion_id = :deletionId and participant = :participant`,
        {
          tenantId: claim.deletion.tenantId,
          deletionId: claim.deletion.id,
          participant: step.participant,
          stepState: step.state,
          counts: JSON.stringify(step.counts),
          failedItems: JSON.stringify(step.failedItems),
          lastError: step.lastError ?? null,
          verified: step.verified,
        },
      );
    }),

  async complete(claim) {
    const { tenantId, runId, id, mode, actor, subject, reason, requestId, undoes } = claim.deletion;
    let steps = 0;
    if (mode === 'PURGE') {
      const batch = { table: 'workflow_run_steps', tenantId, where: 'run_id = :runId', bindings: { runId } };
      for await (const count of deleteBatch(database, { ...batch, limit: ROWS_PER_BATCH })) steps += count;
    }
    return database.forTenant(tenantId, async (trx) => {
      const bindings = { tenantId, runId, undoes: undoes ?? null };
      let runs = 0;
      if (mode === 'PURGE') {
        const purged = await trx.raw('delete from workflow_runs where tenant_id = :tenantId and id = :runId', bindings);
        runs = purged.rowCount ?? 0;
      }
      if (mode === 'UNDELETE') {
        const back = await trx.raw(
          `update workflow_runs set deleted_at = null, deleted_by = null, deleted_reason = null, deletion_id = null,
                  version = version - 1
           where tenant_id = :tenantId and id = :runId and deletion_id = :undoes`,
          bindings,
        );
        runs = back.rowCount ?? 0;
        await trx.raw(
          `update workflow_run_steps set deleted_at = null, deleted_by = null, deleted_reason = null
           where tenant_id = :tenantId and run_id = :runId`,
          bindings,
        );
      }
      const own = [count('run', runs), count('run_step', steps)].filter(({ found }) => found > 0);
      await trx.raw(
        `insert into deletion_steps (tenant_id, deletion_id, position, participant, state, counts, attempts, verified_at)
         select :tenantId, :id, count(*), :participant, 'COMPLETE', cast(:counts as jsonb), 1, clock_timestamp()
         from deletion_steps where tenant_id = :tenantId and deletion_id = :id`,
        { tenantId, id, participant: OWN_PARTICIPANT, counts: JSON.stringify(own) },
      );
      await updateClaimed(
        trx,
        claim,
        `state = 'COMPLETE', last_error = null, next_attempt_at = null, lease_owner = null, lease_expires_at = null,
         updated_at = clock_timestamp(), finished_at = clock_timestamp()`,
        {},
      );
      const row = await findOne(trx, 'd.tenant_id = :tenantId and d.id = :id', { tenantId, id });
      if (!row) throw leaseLost();
      const deletion = toDeletion(row);
      const counts = Object.fromEntries(deletion.steps.map((step) => [step.participant, step.counts]));
      await audit(trx, {
        tenantId,
        runId,
        actor,
        subject,
        action: mode,
        reason,
        requestId,
        outcome: 'COMPLETE',
        counts,
      });
      return deletion;
    });
  },

  postpone: (claim, error, retryMs, counted) =>
    database.forTenant(claim.deletion.tenantId, async (trx) => {
      await updateClaimed(
        trx,
        claim,
        `state = case when cast(:retryMs as bigint) is null then 'STUCK' else 'CASCADING' end, last_error = :error,
         attempts = attempts - :refund, lease_owner = null, lease_expires_at = null, updated_at = clock_timestamp(),
         next_attempt_at = clock_timestamp() + cast(:retryMs as bigint) * interval '1 ms'`,
        { retryMs: retryMs ?? null, error: counted ? error : null, refund: counted ? 0 : 1 },
      );
      if (retryMs !== undefined) return;
      const { tenantId, runId, actor, subject, mode, reason, requestId } = claim.deletion;
      await audit(trx, {
        tenantId,
        runId,
        actor,
        subject,
        action: mode,
        reason,
        requestId,
        outcome: 'STUCK',
        counts: {},
      });
    }),

  redrive: (tenantId, deletionId, caller, reason) =>
    database.forTenant(tenantId, async (trx) => {
      const bindings = { tenantId, deletionId };
      const { rowCount } = await trx.raw(
        `update deletions
         set state = 'PENDING', attempts = 0, next_attempt_at = clock_timestamp(), updated_at = clock_timestamp()
         where tenant_id = :tenantId and id = :deletionId and state = 'STUCK'`,
        bindings,
      );
      const row = await findOne(trx, 'd.tenant_id = :tenantId and d.id = :deletionId', bindings);
      if (!row) return undefined;
      if (rowCount === 1) {
        const { actor, subject } = caller;
        const requestId = undefined;
        const entry = { tenantId, runId: row.run_id, actor, subject, action: 'REDRIVE', reason, requestId };
        await audit(trx, { ...entry, outcome: 'PENDING', counts: {} });
      }
      return toDeletion(row);
    }),

  async countOwnRows(tenantId, runId) {
    const [row] = await database.readForTenant<{ runs: number; steps: number }>(tenantId, {
      text: `select (select count(*) from workflow_runs where tenant_id = $1 and id = $2) as runs,
                    (select count(*) from workflow_run_steps where tenant_id = $1 and run_id = $2) as steps`,
      values: [tenantId, runId],
    });
    return [count('run', row?.runs ?? 0), count('run_step', row?.steps ?? 0)]
      .filter(({ found }) => found > 0)
      .map((counted) => ({ ...counted, deleted: 0, left: counted.found }));
  },

  recordRefusal: (order, refusal) =>
    database.forTenant(order.tenantId, (trx) => {
      const { tenantId, runId, mode, reason, requestId, caller } = order;
      const { actor, subject } = caller;
      return audit(trx, {
        tenantId,
        runId,
        actor,
        subject,
        action: mode,
        reason,
        requestId,
        outcome: refusal,
        counts: {},
      });
    }),

  async oldestUnfinishedSeconds() {
    const [row] = await database.acrossTenants<{ seconds: number }>({
      text: 'select oldest_unfinished_deletion_seconds() as seconds',
      values: [],
    });
    return row?.seconds ?? 0;
  },
});

const count = (resourceType: string, found: number): ResourceCount => ({
  resourceType,
  found,
  deleted: found,
  left: 0,
  bytes: 0,
});

async function findOne(
  trx: Knex.Transaction,
  where: string,
  bindings: Record<string, string>,
): Promise<DeletionRow | undefined> {
  const rows = rowsOf<DeletionRow>(
    await trx.raw(`select ${COLUMNS} from deletions d where ${where} limit 1`, bindings),
  );
  return rows[0];
}

async function updateClaimed(
  trx: Knex.Transaction,
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

async function audit(
  trx: Knex.Transaction,
  entry: Pick<DeletionOrder, 'tenantId' | 'runId' | 'reason' | 'requestId'> & {
    readonly actor: string;
    readonly subject: string;
    readonly action: string;
    readonly outcome: string;
    readonly counts: object;
  },
): Promise<void> {
  await trx('audit_entries').insert({
    tenant_id: entry.tenantId,
    actor: entry.actor,
    subject: entry.subject,
    action: entry.action,
    target_type: 'run',
    target_id: entry.runId,
    reason: entry.reason ?? null,
    request_id: entry.requestId ?? null,
    outcome: entry.outcome,
    counts: JSON.stringify(entry.counts),
  });
}

const toDeletion = (row: DeletionRow): Deletion => ({
  id: row.id,
  tenantId: row.tenant_id,
  runId: row.run_id,
  mode: row.mode,
  state: row.state,
  actor: row.actor,
  subject: row.subject,
  reason: row.reason ?? undefined,
  requestId: row.request_id ?? undefined,
  force: row.force,
  undoes: row.undoes ?? undefined,
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
  verifiedAt: step.verified_at === null ? undefined : Temporal.Instant.from(step.verified_at),
});
