import type { Knex } from 'knex';
import type { Caller } from '#libs/kernel/caller.ts';
import { operationInProgress, requestIdReused } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import { deleteBatch } from '#libs/postgres/delete-batch.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf, pageOf } from '#libs/postgres/rows.ts';
import { isUniqueViolation } from '#libs/postgres/sql-errors.ts';
import { NOTHING_REMOVED } from '../../domain/deletion.ts';
import { leaseLost } from '../../domain/errors.ts';
import type { DeletionClaim, DeletionRepository } from '../../use-cases/ports.ts';
import { type AuditEntry, audit } from './audit.ts';
import { lockJob } from './job-repository.ts';
import { type DeletionRow, toDeletion, toJob } from './rows.ts';

const ROWS_PER_BATCH = 1_000;

/** The durable removals of jobs in Postgres. */
export const makeDeletionRepository = (database: Database): DeletionRepository => ({
  begin: async (order, check) => {
    const { tenantId, jobId, requestId } = order;
    try {
      return await database.forTenant(tenantId, async (trx) => {
        // The job's row is the lock: of two deletions at once, the second sees what the first has committed.
        const job = await lockJob(trx, tenantId, jobId, '');
        const known = firstOf<DeletionRow>(
          await trx.raw(
            `select * from job_deletions where tenant_id = :tenantId
               and (job_id = :jobId or request_id = cast(:requestId as uuid))
             order by (request_id = cast(:requestId as uuid)) desc nulls last limit 1`,
            { tenantId, jobId, requestId: requestId ?? null },
          ),
        );
        if (known && requestId !== undefined && known.request_id === requestId) {
          if (known.fingerprint !== order.fingerprint) throw requestIdReused(requestId);
          return toDeletion(known);
        }
        if (!job || job.row.deleted_at !== null) return undefined;
        if (known && job.row.deletion_id !== null) throw operationInProgress(known.id);
        check(toJob(job.row));
        return toDeletion(await insertDeletion(trx, { ...order, runId: job.row.run_id, step: job.row.step }));
      });
    } catch (error) {
      // The same request id for two jobs at once: the row of one is no lock for the other.
      if (requestId !== undefined && isUniqueViolation(error, 'job_deletions_request'))
        throw requestIdReused(requestId);
      throw error;
    }
  },

  async get(tenantId, deletionId) {
    const [row] = await database.readForTenant<DeletionRow>(tenantId, {
      text: 'select * from job_deletions where tenant_id = $1 and id = $2',
      values: [tenantId, deletionId],
    });
    return row && toDeletion(row);
  },

  async list(tenantId, { state, jobId, limit, after }) {
    const rows = await database.readForTenant<DeletionRow>(tenantId, {
      text: `select * from job_deletions
             where tenant_id = $1 and ($2::text is null or state = $2) and ($3::uuid is null or job_id = $3)
               and ($4::timestamptz is null or (created_at, id) < ($4, $5::uuid))
             order by created_at desc, id desc limit $6`,
      values: [tenantId, state ?? null, jobId ?? null, after?.[0] ?? null, after?.[1] ?? null, limit + 1],
    });
    return pageOf(rows, limit, toDeletion, (row) => [row.created_at.toString(), row.id]);
  },

  async findDue(limit) {
    const rows = await database.acrossTenants<{ tenant_id: string; id: string }>({
      text: 'select tenant_id, id from due_job_deletions($1)',
      values: [limit],
    });
    return rows.map((row) => ({ tenantId: row.tenant_id, deletionId: row.id }));
  },

  claim: (tenantId, deletionId, owner, leaseMs) =>
    database.forTenant(tenantId, async (trx) => {
      const row = firstOf<DeletionRow>(
        await trx.raw(
          `update job_deletions d
           set state = 'CASCADING', lease_owner = :owner, lease_token = d.lease_token + 1, attempts = d.attempts + 1,
               lease_expires_at = clock_timestamp() + :leaseMs * interval '1 ms',
               started_at = coalesce(d.started_at, clock_timestamp()), updated_at = clock_timestamp()
           where d.tenant_id = :tenantId and d.ctid = (
                 select ctid from job_deletions
                 where tenant_id = :tenantId and id = :deletionId and state in ('PENDING', 'CASCADING', 'VERIFYING')
                   and next_attempt_at <= clock_timestamp()
                   and (lease_expires_at is null or lease_expires_at <= clock_timestamp())
                 for update skip locked)
           returning d.*`,
          { tenantId, deletionId, owner, leaseMs },
        ),
      );
      return row && { deletion: toDeletion(row), token: BigInt(row.lease_token) };
    }),

  renew: (claim, leaseMs) =>
    database.forTenant(claim.deletion.tenantId, async (trx) => {
      await updateClaimed(trx, claim, "lease_expires_at = clock_timestamp() + :leaseMs * interval '1 ms'", { leaseMs });
    }),

  saveProgress: (claim, state, counts, leaseMs) =>
    database.forTenant(claim.deletion.tenantId, async (trx) => {
      await updateClaimed(
        trx,
        claim,
        `state = :state, counts = cast(:counts as jsonb), updated_at = clock_timestamp(),
         lease_expires_at = clock_timestamp() + :leaseMs * interval '1 ms'`,
        { state, counts: JSON.stringify(counts), leaseMs },
      );
    }),

  async complete(claim, counted) {
    const { tenantId, jobId } = claim.deletion;
    const bindings = { tenantId, jobId };
    let counts = counted;
    if (counts.artifacts === 0) {
      const indexed = await database.readForTenant<{ objects: number; bytes: number }>(tenantId, {
        text: `select count(*) as objects, coalesce(sum(bytes), 0)::bigint as bytes from artifacts
               where tenant_id = $1 and job_id = $2 and stored_at is not null`,
        values: [tenantId, jobId],
      });
      // A process that died between a removal and its count has told nobody. What the index says was there, and the
      // read-back says is not, was removed all the same.
      counts = {
        ...counts,
        objects: Math.max(counts.objects, indexed[0]?.objects ?? 0),
        bytes: Math.max(counts.bytes, indexed[0]?.bytes ?? 0),
      };
    }
    const batches = deleteBatch(database, {
      table: 'artifacts',
      tenantId,
      where: 'job_id = :jobId',
      bindings: { jobId },
      limit: ROWS_PER_BATCH,
      async inBatch(trx, deleted) {
        counts = { ...counts, artifacts: counts.artifacts + deleted };
        const set = 'counts = cast(:counts as jsonb), updated_at = clock_timestamp()';
        await updateClaimed(trx, claim, set, { counts: JSON.stringify(counts) });
      },
    });
    for await (const _ of batches);
    return database.forTenant(tenantId, async (trx) => {
      // The tasks, at most 50, go by cascade. A worker that lost its claim rolls all of this back below.
      const gone = firstOf<{ tasks: number }>(
        await trx.raw(
          `with gone as (delete from jobs where tenant_id = :tenantId and id = :jobId returning id)
           select (select count(*) from job_tasks where tenant_id = :tenantId and job_id in (select id from gone))
             as tasks from gone`,
          bindings,
        ),
      );
      const all = { ...counts, tasks: counts.tasks + (gone?.tasks ?? 0), jobs: counts.jobs + (gone ? 1 : 0) };
      const row = await updateClaimed(
        trx,
        claim,
        `state = 'COMPLETE', counts = cast(:counts as jsonb), remaining = 0, failed_keys = '[]', last_error = null,
         next_attempt_at = null, lease_owner = null, lease_expires_at = null, updated_at = clock_timestamp(),
         finished_at = clock_timestamp()`,
        { counts: JSON.stringify(all) },
      );
      await audit(trx, auditOf(row, 'delete', 'COMPLETE', all));
      return toDeletion(row);
    });
  },

  postpone: (claim, { counts, left, error, failedKeys, retryMs, counted }) =>
    database.forTenant(claim.deletion.tenantId, async (trx) => {
      const row = await updateClaimed(
        trx,
        claim,
        `state = case when cast(:retryMs as bigint) is null then 'STUCK' else 'CASCADING' end,
         counts = cast(:counts as jsonb), remaining = :left, failed_keys = cast(:failedKeys as jsonb),
         last_error = :error, attempts = attempts - :refund, lease_owner = null, lease_expires_at = null,
         next_attempt_at = clock_timestamp() + cast(:retryMs as bigint) * interval '1 ms',
         updated_at = clock_timestamp()`,
        {
          retryMs: retryMs ?? null,
          counts: JSON.stringify(counts),
          left,
          failedKeys: JSON.stringify(failedKeys),
          error,
          refund: counted ? 0 : 1,
        },
      );
      if (retryMs === undefined) await audit(trx, auditOf(row, 'delete', 'STUCK', counts));
    }),

  redrive: (tenantId, deletionId, caller, reason) =>
    database.forTenant(tenantId, async (trx) => {
      const row = firstOf<DeletionRow>(
        await trx.raw(
          `update job_deletions
           set state = 'PENDING', attempts = 0, next_attempt_at = clock_timestamp(), updated_at = clock_timestamp()
           where tenant_id = :tenantId and id = :deletionId and state = 'STUCK' returning *`,
          { tenantId, deletionId },
        ),
      );
      if (row) {
        const { subject, actor } = caller;
        await audit(trx, { ...auditOf(row, 'redrive', 'PENDING', {}), subject, actor, reason });
        return toDeletion(row);
      }
      const known = firstOf<DeletionRow>(
        await trx.raw('select * from job_deletions where tenant_id = :tenantId and id = :deletionId', {
          tenantId,
          deletionId,
        }),
      );
      return known && toDeletion(known);
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

/** Commits the intent: the deletion's row, and the mark that hides the job from every reader. */
export async function insertDeletion(
  trx: Knex.Transaction,
  order: {
    readonly caller: Caller;
    readonly tenantId: string;
    readonly jobId: string;
    readonly runId: string | null;
    readonly step: string | null;
    readonly operationId?: string;
    readonly reason: string | undefined;
    readonly requestId?: string | undefined;
    readonly fingerprint?: string;
  },
): Promise<DeletionRow> {
  const { caller, tenantId, jobId, runId, step } = order;
  const id = newId();
  const row = firstOf<DeletionRow>(
    await trx.raw(
      `with hidden as (
         update jobs set deletion_id = :id, version = version + 1, updated_at = clock_timestamp()
         where tenant_id = :tenantId and id = :jobId)
       insert into job_deletions
         (tenant_id, id, job_id, run_id, step, operation_id, state, actor, subject, reason, request_id, fingerprint, counts)
       values (:tenantId, :id, :jobId, :runId, :step, :operationId, 'PENDING', :actor, :subject, :reason, :requestId,
               :fingerprint, cast(:counts as jsonb))
       returning *`,
      {
        tenantId,
        id,
        jobId,
        runId,
        step,
        operationId: order.operationId ?? null,
        actor: caller.actor,
        subject: caller.subject,
        reason: order.reason ?? null,
        requestId: order.requestId ?? null,
        fingerprint: order.fingerprint ?? null,
        counts: JSON.stringify(NOTHING_REMOVED),
      },
    ),
  );
  if (!row) throw new Error('the deletion was not inserted');
  return row;
}

const auditOf = (row: DeletionRow, action: string, outcome: string, counts: object): AuditEntry => ({
  tenantId: row.tenant_id,
  actor: row.actor,
  subject: row.subject,
  action,
  targetType: 'job',
  targetId: row.job_id,
  reason: row.reason,
  requestId: row.request_id,
  outcome,
  counts,
});

async function updateClaimed(
  trx: Knex.Transaction,
  { deletion, token }: DeletionClaim,
  set: string,
  bindings: Record<string, string | number | null>,
): Promise<DeletionRow> {
  const row = firstOf<DeletionRow>(
    await trx.raw(
      `update job_deletions set ${set}
       where tenant_id = :tenantId and id = :deletionId and lease_token = :token and lease_owner is not null returning *`,
      { ...bindings, tenantId: deletion.tenantId, deletionId: deletion.id, token: String(token) },
    ),
  );
  if (!row) throw leaseLost();
  return row;
}
