import { sumDeleted } from '#libs/participant/counts.ts';
import type { RunScope } from '#libs/participant/participant.ts';
import { type CheckRun, type KeptRows, makeRunGate, type Touched, toRunEntry } from '#libs/participant/run-gate.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { pageOf, rowsOf } from '#libs/postgres/rows.ts';
import { type FailedKey, NOTHING_REMOVED, type RemovalCounts } from '../../domain/deletion.ts';
import type { JobState } from '../../domain/job.ts';
import type { CheckUnfinished, RunJobs, UnfinishedJobs } from '../../use-cases/deletion-ports.ts';
import { insertDeletions } from './deletion-repository.ts';
import { HIDDEN_JOBS } from './hidden-jobs.ts';
import { jobRunLock } from './job-repository.ts';

const MAX_SAMPLES = 100;
// So that the transaction is over in a second.
const MAX_JOBS_PER_ORDER = 1_000;
const MAX_FAILED_KEYS = 10;
// What is being removed is on its way, whatever state it was in.
const UNFINISHED = "state in ('PENDING', 'RUNNING', 'CANCELLING') and deletion_id is null";

/** The jobs of a run in Postgres. */
export function makeRunJobs(database: Database): RunJobs {
  const gate = makeRunGate(database, KEPT);
  return {
    async inspect(scope) {
      const [row] = await database.readForTenant<{
        jobs: number;
        tasks: number;
        artifacts: number;
        bytes: number;
        samples: string[] | null;
        unfinished: { jobId: string; state: JobState }[] | null;
      }>(scope.tenantId, {
        text: `with mine as (select * from jobs where tenant_id = $1 and run_id = $2 and ($3::text is null or step = $3))
             select (select count(*) from mine) as jobs,
                    (select count(*) from job_tasks t join mine m on t.tenant_id = m.tenant_id and t.job_id = m.id) as tasks,
                    (select count(*) from artifacts a join mine m on a.tenant_id = m.tenant_id and a.job_id = m.id) as artifacts,
                    (select coalesce(sum(a.bytes), 0)::bigint from artifacts a
                       join mine m on a.tenant_id = m.tenant_id and a.job_id = m.id) as bytes,
                    (select json_agg(id) from (select id from mine order by id limit ${MAX_SAMPLES}) s) as samples,
                    (select json_agg(json_build_object('jobId', id, 'state', state)) from
                       (select id, state from mine
                        where ${UNFINISHED} order by id limit ${MAX_SAMPLES}) u) as unfinished`,
        values: valuesOf(scope),
      });
      return {
        jobs: row?.jobs ?? 0,
        tasks: row?.tasks ?? 0,
        artifacts: row?.artifacts ?? 0,
        bytes: row?.bytes ?? 0,
        sampleJobIds: row?.samples ?? [],
        unfinishedJobs: row?.unfinished ?? [],
      };
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
      const [row] = await database.readForTenant<RemovalCounts & ProgressRow>(scope.tenantId, {
        name: 'removal-progress',
        // A job whose deletion was under way when the run's purge came belongs to the purge too, but not to its counts.
        text: `with orders as (
               select id, operation_id, state, counts, failed_keys, last_error from job_deletions
               where tenant_id = $1 and run_id = $2 and ($3::text is null or step = $3)
                 and (operation_id = $4 or state not in ('COMPLETE', 'CANCELLED')))
             select ${COUNTED.map((kind) => `${sumOf(kind)} as ${kind}`).join(', ')},
                    coalesce(bool_or((counts ->> 'atLeast')::boolean) filter (where operation_id = $4), false) as at_least,
                    count(*) filter (where state not in ('COMPLETE', 'STUCK')) as open,
                    count(*) filter (where state not in ('COMPLETE', 'STUCK') and last_error is null) as queued,
                    json_agg(json_build_object('deletionId', id, 'lastError', last_error) order by id)
                      filter (where state = 'STUCK') as stuck,
                    (select json_agg(key) from (
                       select jsonb_array_elements(failed_keys) as key from orders limit ${MAX_FAILED_KEYS}) f) as failed_keys
             from orders`,
        values: [...valuesOf(scope), operationId],
      });
      const {
        open = 0,
        queued = 0,
        stuck = null,
        failed_keys: failedKeys = null,
        at_least: atLeast = false,
        ...counts
      } = row ?? {};
      return {
        counts: { ...NOTHING_REMOVED, ...counts, ...(atLeast ? { atLeast } : {}) },
        failedKeys: failedKeys ?? [],
        stuck: (stuck ?? []).map(({ deletionId, lastError }) => ({ deletionId, lastError: lastError ?? undefined })),
        open,
        queued,
      };
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

interface ProgressRow {
  readonly open: number;
  readonly queued: number;
  readonly at_least: boolean;
  readonly stuck: readonly { readonly deletionId: string; readonly lastError: string | null }[] | null;
  readonly failed_keys: readonly FailedKey[] | null;
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
