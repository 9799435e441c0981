import { pageOf } from '#libs/kernel/page.ts';
import { sumDeleted } from '#libs/participant/counts.ts';
import type { CheckRun, Touched } from '#libs/participant/hide-run.ts';
import type { RunScope } from '#libs/participant/participant.ts';
import { type KeptRows, makeRunGate, toRunEntry } from '#libs/participant/run-gate.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { rowsOf } from '#libs/postgres/rows.ts';
import { NOTHING_REMOVED, type RemovalCounts } from '../../domain/deletion.ts';
import type {
  CheckUnfinished,
  RemovalProgress,
  RunInventory,
  RunJobs,
  UnfinishedJobs,
} from '../../use-cases/deletion-ports.ts';
import { insertDeletions } from './deletion-work.ts';
import { HIDDEN_JOBS } from './hidden-jobs.ts';
import { jobRunLock } from './job-repository.ts';

const MAX_SAMPLES = 100;
// So that the transaction is over in a second.
const MAX_JOBS_PER_ORDER = 1_000;
const MAX_FAILED_KEYS = 10;
const MAX_STUCK = 10;
// What is being removed is on its way, whatever state it was in.
const UNFINISHED = "state in ('PENDING', 'RUNNING', 'CANCELLING') and deletion_id is null";

/** The jobs of a run in Postgres. */
export function makeRunJobs(database: Database): RunJobs {
  const gate = makeRunGate(database, KEPT);
  return {
    async inspect(scope) {
      const [row] = await database.readForTenant<RunInventory>(scope.tenantId, {
        text: `with mine as (select * from jobs where tenant_id = $1 and run_id = $2 and ($3::text is null or step = $3)),
             stored as (select a.bytes from artifacts a join mine m on a.tenant_id = m.tenant_id and a.job_id = m.id)
             select (select count(*) from mine) as jobs,
                    (select count(*) from job_tasks t join mine m on t.tenant_id = m.tenant_id and t.job_id = m.id) as tasks,
                    (select count(*) from stored) as artifacts,
                    (select coalesce(sum(bytes), 0)::bigint from stored) as bytes,
                    (select coalesce(json_agg(id), '[]') from
                       (select id from mine order by id limit ${MAX_SAMPLES}) s) as "sampleJobIds",
                    (select coalesce(json_agg(json_build_object('jobId', id, 'state', state)), '[]') from
                       (select id, state from mine
                        where ${UNFINISHED} order by id limit ${MAX_SAMPLES}) u) as "unfinishedJobs"`,
        values: valuesOf(scope),
      });
      if (!row) throw new Error('the count gave no row');
      return row;
    },

    hide: async (scope, operation, check) => jobsOf(await gate.hide(scope, operation, checkUnfinished(scope, check))),

    restore: async (scope, operation, hiddenBy) => jobsOf(await gate.restore(scope, operation, hiddenBy)),

    forbid: (scope, operation, check) => gate.forbid(scope, operation, check && checkUnfinished(scope, check)),

    orderRemoval: (scope, { operationId, caller, reason, limit, force }) =>
      database.forTenant(scope.tenantId, async (trx) => {
        const removable = `tenant_id = :tenantId and run_id = :runId and (cast(:step as text) is null or step = :step)
             and deletion_id is null and (:force or state in ('CANCELLED', 'COMPLETED', 'FAILED'))`;
        const bindings = { ...bindingsOf(scope), limit, force };
        const jobs = rowsOf<{ id: string }>(
          await trx.raw(
            // Each has its own row, its tasks, and for every artifact a row and an object.
            `with candidates as (select * from jobs where ${removable} order by id limit least(:limit, ${MAX_JOBS_PER_ORDER})),
                weighed as (
                  select id, 1 + (select count(*) from job_tasks t where t.tenant_id = c.tenant_id and t.job_id = c.id)
                    + 2 * (select count(*) from artifacts a where a.tenant_id = c.tenant_id and a.job_id = c.id) as items
                  from candidates c),
                summed as (select id, sum(items) over (order by id) - items as before from weighed)
           select id from jobs
           where ${removable} and id in (select id from summed where before < :limit) order by id for update`,
            bindings,
          ),
        );
        const { tenantId } = scope;
        const jobIds = jobs.map(({ id }) => id);
        if (jobIds.length > 0) await insertDeletions(trx, { caller, tenantId, jobIds, operationId, reason });
        const left = await trx.raw(`select from jobs where ${removable} limit 1`, bindings);
        return { ordered: jobs.length, more: left.rowCount > 0 };
      }),

    async removalProgress(scope, operationId) {
      const [row] = await database.readForTenant<RemovalCounts & Omit<RemovalProgress, 'counts'>>(scope.tenantId, {
        name: 'removal-progress',
        // A job whose deletion was under way when the run's purge came belongs to the purge too, but not to its counts.
        text: `with orders as (
               select id, operation_id, state, counts, failed_keys, last_error from job_deletions
               where tenant_id = $1 and run_id = $2 and ($3::text is null or step = $3)
                 and (operation_id = $4 or state not in ('COMPLETE', 'CANCELLED')))
             select ${COUNTED.map((kind) => `${sumOf(kind)} as ${kind}`).join(', ')},
                    coalesce(bool_or((counts ->> 'atLeast')::boolean) filter (where operation_id = $4), false) as "atLeast",
                    count(*) filter (where state not in ('COMPLETE', 'STUCK')) as open,
                    count(*) filter (where state not in ('COMPLETE', 'STUCK') and last_error is null) as queued,
                    (select coalesce(json_agg(json_strip_nulls(
                       json_build_object('deletionId', id, 'lastError', last_error)) order by id), '[]') from (
                       select id, last_error from orders where state = 'STUCK' order by id limit ${MAX_STUCK}) s) as stuck,
                    (select coalesce(json_agg(key), '[]') from (
                       select jsonb_array_elements(failed_keys) as key from orders limit ${MAX_FAILED_KEYS}) f) as "failedKeys"
             from orders`,
        values: [...valuesOf(scope), operationId],
      });
      if (!row) throw new Error('the sum gave no row');
      const { failedKeys, stuck, open, queued, atLeast, ...counts } = row;
      return { counts: { ...counts, ...(atLeast && { atLeast }) }, failedKeys, stuck, open, queued };
    },

    async listStuck(scope, { limit, after }) {
      const rows = await database.readForTenant<{ id: string }>(scope.tenantId, {
        text: `select id from job_deletions
               where tenant_id = $1 and run_id = $2 and ($3::text is null or step = $3) and state = 'STUCK'
                 and ($4::uuid is null or id > $4) order by id limit $5`,
        values: [...valuesOf(scope), after?.[0] ?? null, limit + 1],
      });
      return pageOf(
        rows,
        limit,
        ({ id }) => id,
        ({ id }) => [id],
      );
    },

    async listPrefixes(scope, { limit, after }) {
      const rows = await database.readForTenant<{ job_id: string }>(scope.tenantId, {
        text: `select job_id from (
               select id as job_id from jobs where tenant_id = $1 and run_id = $2 and ($3::text is null or step = $3)
               union
               select job_id from job_deletions where tenant_id = $1 and run_id = $2 and ($3::text is null or step = $3)) j
             where ($4::uuid is null or job_id > $4) order by job_id limit $5`,
        values: [...valuesOf(scope), after?.[0] ?? null, limit + 1],
      });
      return pageOf(
        rows,
        limit,
        (row) => row.job_id,
        (row) => [row.job_id],
      );
    },
  };
}

const COUNTED = Object.keys(NOTHING_REMOVED);

const sumOf = (kind: string): string =>
  `coalesce(sum((counts ->> '${kind}')::bigint) filter (where operation_id = $4), 0)::bigint`;

const valuesOf = ({ tenantId, runId, step }: RunScope): unknown[] => [tenantId, runId, step ?? null];

const bindingsOf = ({ tenantId, runId, step }: RunScope) => ({ tenantId, runId, step: step ?? null });

/** How JobService keeps a run. */
const KEPT: KeptRows = {
  tombstones: 'step_tombstones',
  hold: jobRunLock.hold,
  hasActions: true,

  ...HIDDEN_JOBS,

  // What a purge removes is in the audit job by job.
  toEntry: (deed, scope, operation, counts) => toRunEntry(deed, scope, operation, { jobs: sumDeleted(counts) }),
};

const jobsOf = ({ counts }: Touched) => counts.filter(({ deleted }) => deleted > 0);

const checkUnfinished =
  (scope: RunScope, check: CheckUnfinished): CheckRun =>
  async (trx) =>
    check(await listUnfinished(trx, scope));

async function listUnfinished(trx: TenantTransaction, scope: RunScope): Promise<UnfinishedJobs> {
  return rowsOf(
    await trx.raw(
      `select id as "jobId", state from jobs
       where tenant_id = :tenantId and run_id = :runId and (cast(:step as text) is null or step = :step)
         and ${UNFINISHED} order by id limit ${MAX_SAMPLES}`,
      bindingsOf(scope),
    ),
  );
}
