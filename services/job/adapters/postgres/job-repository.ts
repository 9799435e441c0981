import { audit } from '#libs/audit/write-audit.ts';
import { requestIdReused } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import { pageOf } from '#libs/kernel/page.ts';
import { makeRunLock } from '#libs/participant/run-lock.ts';
import { enterRun } from '#libs/participant/step-actions.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import { isUniqueViolation } from '#libs/postgres/sql-errors.ts';
import { jobNotFound } from '../../domain/errors.ts';
import { isRenewal, type Job } from '../../domain/job.ts';
import type { JobChange, JobRepository, NewJob } from '../../use-cases/ports.ts';
import { BASIC_JOB_COLUMNS, JOB_COLUMNS, JobRow, type JobWithTasks, TaskRow, toJob } from './rows.ts';

/** The jobs in Postgres. */
export const makeJobRepository = (database: Database): JobRepository => ({
  create: (job) =>
    database.forTenant(job.tenantId, async (trx) => {
      const { tenantId, requestId, runId, step } = job;
      const id = newId();
      if (requestId !== undefined) {
        const known = await claimRequest(trx, { tenantId, requestId, fingerprint: job.fingerprint, jobId: id });
        if (known !== undefined) {
          if (known.fingerprint !== job.fingerprint) throw requestIdReused(requestId);
          const repeated = await lockJob(trx, tenantId, known.job_id, VISIBLE);
          if (!repeated) throw jobNotFound();
          return toJob(repeated.row);
        }
      }
      if (runId !== undefined) {
        await enterRun(trx, jobRunLock, { tenantId, runId, step });
      }
      await insertJob(trx, { ...job, id });
      const created = await lockJob(trx, tenantId, id, '');
      if (!created) throw new Error('the job just inserted is not there');
      return toJob(created.row);
    }),

  async get(tenantId, jobId, showDeleted, view = 'FULL') {
    const [row] = await database.readForTenant<JobWithTasks>(tenantId, {
      ...(view === 'FULL' ? { name: 'get-job' } : {}),
      text: `select ${view === 'FULL' ? JOB_COLUMNS : BASIC_JOB_COLUMNS} from jobs j
             where j.tenant_id = $1 and j.id = $2 and j.deletion_id is null and ($3 or j.deleted_at is null)`,
      values: [tenantId, jobId, showDeleted],
    });
    return row && toJob(row);
  },

  async list(tenantId, { state, runId, minCreatedAt, maxCreatedAt, showDeleted, view, limit, after }) {
    const rows = await database.readForTenant<JobWithTasks>(tenantId, {
      text: `select ${view === 'FULL' ? JOB_COLUMNS : BASIC_JOB_COLUMNS} from jobs j
             where j.tenant_id = $1 and j.deletion_id is null and ($2 or j.deleted_at is null)
               and ($3::text is null or j.state = $3) and ($4::uuid is null or j.run_id = $4)
               and ($5::timestamptz is null or j.created_at >= $5) and ($6::timestamptz is null or j.created_at < $6)
               and ($7::timestamptz is null or (j.created_at, j.id) < ($7, $8::uuid))
             order by j.created_at desc, j.id desc limit $9`,
      values: [
        tenantId,
        showDeleted,
        state ?? null,
        runId ?? null,
        minCreatedAt?.toString() ?? null,
        maxCreatedAt?.toString() ?? null,
        after?.[0] ?? null,
        after?.[1] ?? null,
        limit + 1,
      ],
    });
    return pageOf(rows, limit, toJob, (row) => [row.created_at.toString(), row.id]);
  },

  update: (tenantId, jobId, change, deed) =>
    database.forTenant(tenantId, async (trx) => {
      const found = await lockJob(trx, tenantId, jobId, VISIBLE);
      if (!found) return undefined;
      const before = toJob(found.row);
      const after = await saveJob(trx, before, found.now, change);
      if (deed && after !== before) {
        const { caller, action, reason } = deed;
        const { actor, subject } = caller;
        const target = { targetType: 'job', targetId: jobId, outcome: after.state };
        await audit(trx, { tenantId, actor, subject, action, reason, ...target });
      }
      return after;
    }),

  async claimOldest(tenantId, requestId, change) {
    for (;;) {
      try {
        return await database.forTenant(tenantId, (trx) => claimOldest(trx, tenantId, requestId, change));
      } catch (error) {
        // The same request was first elsewhere, with another job; this one's has stayed as it was.
        if (!isUniqueViolation(error, 'jobs_claim_request')) throw error;
      }
    }
  },

  async findAbandonedCancellations(limit) {
    const rows = await database.acrossTenants<{ tenant_id: string; id: string }>({
      text: 'select tenant_id, id from abandoned_cancellations($1)',
      values: [limit],
    });
    return rows.map((row) => ({ tenantId: row.tenant_id, jobId: row.id }));
  },

  async findExisting(tenantId, jobIds) {
    const rows = await database.readForTenant<{ id: string }>(tenantId, {
      text: 'select id from jobs where tenant_id = $1 and id = any($2::uuid[])',
      values: [tenantId, jobIds],
    });
    return new Set(rows.map(({ id }) => id));
  },

  async hasAny(tenantId) {
    const [row] = await database.readForTenant<{ any: boolean }>(tenantId, {
      text: 'select exists (select from jobs where tenant_id = $1) as any',
      values: [tenantId],
    });
    return row?.any ?? false;
  },

  async findTenants() {
    const rows = await database.acrossTenants<{ tenant_id: string }>({
      text: 'select tenants_with_jobs() as tenant_id',
      values: [],
    });
    return rows.map((row) => row.tenant_id);
  },

  async now() {
    const [row] = await database.acrossTenants<{ now: Temporal.Instant }>({
      text: 'select clock_timestamp() as now',
      values: [],
    });
    if (!row) throw new Error('the database told no time');
    return row.now;
  },
});

/** A job `j` that a worker may claim: PENDING, or RUNNING with a lease that ran out, and none that an action is still making. */
const CLAIMABLE = `j.tenant_id = :tenantId and j.deletion_id is null and j.deleted_at is null
  and (j.state = 'PENDING' or (j.state = 'RUNNING' and j.lease_expires_at <= now()))
  and not exists (select from step_actions a where a.tenant_id = j.tenant_id and a.run_id = j.run_id
                    and a.step = j.step and a.job_id = j.id and a.outcome is null)`;

const CLAIMED =
  'select j.id from jobs j where j.tenant_id = :tenantId and j.claim_request_id = cast(:requestId as uuid)';

const MOST_CLAIMS = 100;

/** What the request claimed before, or else the oldest job that no other claim has at this moment, claimed. */
async function claimOldest(
  trx: TenantTransaction,
  tenantId: string,
  requestId: string | undefined,
  change: JobChange,
): Promise<Job | undefined> {
  const key = { tenantId, requestId: requestId ?? null };
  const found = firstOf<{ claimed: string | null; oldest: string | null; has_claims: boolean }>(
    await trx.raw(
      `with claimed as (${CLAIMED}),
            oldest as (select j.id from jobs j where ${CLAIMABLE} and not exists (select from claimed)
                       order by j.created_at, j.id limit 1 for update of j skip locked)
       select (select id from claimed) as claimed, (select id from oldest) as oldest,
              exists (select from jobs j where ${CLAIMABLE} and not exists (select from oldest)) as has_claims`,
      key,
    ),
  );
  if (found?.claimed) return readClaimed(trx, tenantId, found.claimed);
  const locked = found?.oldest && (await readLocked(trx, tenantId, found.oldest));
  if (locked) return saveJob(trx, toJob(locked.row), locked.now, change, { claim_request_id: key.requestId });
  if (requestId === undefined || !found?.has_claims) return undefined;
  // The only job there is may be the one that this request is claiming elsewhere. Those who wait share the lock, and take it
  // in the order in which a run's jobs are locked.
  await trx.raw(`select from jobs j where ${CLAIMABLE} order by j.id limit ${MOST_CLAIMS} for key share of j`, key);
  const claimed = firstOf<{ id: string }>(await trx.raw(CLAIMED, key));
  return claimed && readClaimed(trx, tenantId, claimed.id);
}

/** A job that its request claimed before. Without a lock: those who have waited share one, and would wait for each other. */
async function readClaimed(trx: TenantTransaction, tenantId: string, jobId: string): Promise<Job> {
  const read = await readLocked(trx, tenantId, jobId);
  if (!read || read.row.deletion_id !== null || read.row.deleted_at !== null) throw jobNotFound();
  return toJob(read.row);
}

/** Inserts a PENDING job and its tasks, in their order. */
async function insertJob(
  trx: TenantTransaction,
  job: Pick<NewJob, 'tenantId' | 'displayName' | 'runId' | 'step' | 'taskNames'> & { readonly id: string },
): Promise<void> {
  const { tenantId, id, runId, step, displayName, taskNames } = job;
  await JobRow.query(trx).insert({
    tenant_id: tenantId,
    id,
    run_id: runId ?? null,
    step: step ?? null,
    display_name: displayName,
    state: 'PENDING',
  });
  if (taskNames.length === 0) return;
  await TaskRow.query(trx).insert(
    taskNames.map((name, position) => ({
      tenant_id: tenantId,
      job_id: id,
      name,
      position,
      state: 'PENDING' as const,
    })),
  );
}

/** A job that readers and workers see: neither being removed nor hidden with its run. */
export const VISIBLE = 'and j.deletion_id is null and j.deleted_at is null';

/** The job under its row's lock, with the database's clock; `condition` narrows what counts as there. */
export async function lockJob(
  trx: TenantTransaction,
  tenantId: string,
  jobId: string,
  condition: string,
): Promise<LockedJob | undefined> {
  const { rowCount } = await trx.raw(
    `select from jobs j where j.tenant_id = :tenantId and j.id = :jobId ${condition} for update of j`,
    { tenantId, jobId },
  );
  return rowCount === 0 ? undefined : readLocked(trx, tenantId, jobId);
}

interface LockedJob {
  readonly row: JobWithTasks;
  readonly now: Temporal.Instant;
}

/**
 * What a locked job is, read by a statement of its own: one that waits for the lock and reads at once would see the
 * tasks as they were before it waited.
 */
async function readLocked(trx: TenantTransaction, tenantId: string, jobId: string): Promise<LockedJob | undefined> {
  const row = firstOf<JobWithTasks & { now: Temporal.Instant }>(
    await trx.raw(
      `select ${JOB_COLUMNS}, clock_timestamp() as now from jobs j where j.tenant_id = :tenantId and j.id = :jobId`,
      { tenantId, jobId },
    ),
  );
  return row && { row, now: row.now };
}

/** The lock of a run, for its jobs. */
export const jobRunLock = makeRunLock('job-run');

/** Commits what `change` makes of the locked job, where it makes anything; a renewed lease leaves the etag as it is. */
export async function saveJob(
  trx: TenantTransaction,
  before: Job,
  now: Temporal.Instant,
  change: JobChange,
  more: { readonly claim_request_id?: string | null } = {},
): Promise<Job> {
  const changed = change(before, now);
  if (changed === before) return before;
  const after: Job = isRenewal(before, changed)
    ? changed
    : { ...changed, version: before.version + 1n, updatedAt: now };
  const instant = (value: Temporal.Instant | undefined) => value?.toString() ?? null;
  const tasks = after.tasks.filter((task, index) => task !== before.tasks[index]);
  await trx.raw(
    `with tasks as (
       update job_tasks t
       set state = changed.state, error = changed.error, started_at = changed.started_at, finished_at = changed.finished_at
       from unnest(cast(:names as text[]), cast(:states as text[]), cast(:errors as text[]),
                   cast(:startedAts as timestamptz[]), cast(:finishedAts as timestamptz[]))
         as changed (name, state, error, started_at, finished_at)
       where t.tenant_id = :tenantId and t.job_id = :id and t.name = changed.name returning 1)
     update jobs
     set state = :state, error = :error, lease_owner = :leaseOwner, lease_token = :leaseToken,
         lease_expires_at = :leaseExpiresAt, started_at = :startedAt, finished_at = :finishedAt, updated_at = :updatedAt,
         version = :version
         ${more.claim_request_id === undefined ? '' : ', claim_request_id = :claimRequestId'}
     where tenant_id = :tenantId and id = :id`,
    {
      tenantId: after.tenantId,
      id: after.id,
      state: after.state,
      error: after.error ?? null,
      leaseOwner: after.lease?.owner ?? null,
      leaseToken: String(after.lease?.token ?? 0n),
      leaseExpiresAt: instant(after.lease?.expiresAt),
      startedAt: instant(after.startedAt),
      finishedAt: instant(after.finishedAt),
      updatedAt: instant(after.updatedAt),
      version: String(after.version),
      claimRequestId: more.claim_request_id ?? null,
      names: tasks.map(({ name }) => name),
      states: tasks.map(({ state }) => state),
      errors: tasks.map(({ error }) => error ?? null),
      startedAts: tasks.map((task) => instant(task.startedAt)),
      finishedAts: tasks.map((task) => instant(task.finishedAt)),
    },
  );
  return after;
}

async function claimRequest(
  trx: TenantTransaction,
  request: { tenantId: string; requestId: string; fingerprint: string; jobId: string },
): Promise<{ fingerprint: string; job_id: string } | undefined> {
  // The second of two at once waits here for the first, and then sees what it did.
  const { rowCount } = await trx.raw(
    `insert into job_requests (tenant_id, request_id, fingerprint, job_id)
     values (:tenantId, :requestId, :fingerprint, :jobId) on conflict do nothing`,
    request,
  );
  if (rowCount === 1) return undefined;
  return firstOf(
    await trx.raw(
      'select fingerprint, job_id from job_requests where tenant_id = :tenantId and request_id = :requestId',
      request,
    ),
  );
}
