import { operationInProgress } from '#libs/kernel/domain-error.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf, pageOf, rowsOf } from '#libs/postgres/rows.ts';
import { addCounts, type FailedKey, NOTHING_REMOVED } from '../../domain/deletion.ts';
import type { JobState } from '../../domain/job.ts';
import type { RunJobs, RunScope } from '../../use-cases/ports.ts';
import { audit, insertDeletion } from './deletion-repository.ts';
import type { DeletionRow } from './rows.ts';

const MAX_SAMPLES = 100;
const MAX_FAILED_KEYS = 10;

/** The jobs of a run in Postgres. */
export const makeRunJobs = (database: Database): RunJobs => ({
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
                        where state in ('PENDING', 'RUNNING', 'CANCELLING') order by id limit ${MAX_SAMPLES}) u) as unfinished`,
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

  hide: (scope, operationId, caller, reason) =>
    database.forTenant(scope.tenantId, async (trx) => {
      const bindings = { ...bindingsOf(scope), operationId, actor: caller.actor, reason: reason ?? null };
      // The tombstone of a restore that came first, and the lock against one that comes at the same time.
      const { rowCount } = await trx.raw(
        `insert into step_tombstones (tenant_id, run_id, step, operation)
         values (:tenantId, :runId, '', :operationId) on conflict do nothing`,
        bindings,
      );
      if (rowCount === 0) {
        const late = firstOf<{ restored: boolean }>(
          await trx.raw(
            `select exists (select from step_tombstones where tenant_id = :tenantId and run_id = :runId
               and operation = 'restored:' || :operationId) as restored`,
            bindings,
          ),
        );
        if (late?.restored) return 0;
      }
      const hidden = await trx.raw(
        `update jobs set deleted_at = now(), deleted_by = :actor, deleted_reason = :reason, hidden_by = :operationId,
                version = version + 1
         where tenant_id = :tenantId and run_id = :runId and deleted_at is null and deletion_id is null`,
        bindings,
      );
      if (hidden.rowCount) {
        await audit(trx, {
          tenantId: scope.tenantId,
          actor: caller.actor,
          subject: caller.subject,
          action: 'soft-delete',
          targetType: 'run',
          targetId: scope.runId,
          reason,
          outcome: 'COMPLETE',
          counts: { jobs: hidden.rowCount },
        });
      }
      const all = await trx.raw(
        `select count(*) as count from jobs
         where tenant_id = :tenantId and run_id = :runId and hidden_by = :operationId and deleted_at is not null`,
        bindings,
      );
      return firstOf<{ count: number }>(all)?.count ?? 0;
    }),

  restore: (scope, hiddenBy) =>
    database.forTenant(scope.tenantId, async (trx) => {
      const bindings = { ...bindingsOf(scope), hiddenBy };
      const purging = firstOf<{ id: string }>(
        await trx.raw(
          'select id from job_deletions where tenant_id = :tenantId and run_id = :runId and operation_id is not null limit 1',
          bindings,
        ),
      );
      if (purging) throw operationInProgress(purging.id);
      await trx.raw(
        `insert into step_tombstones (tenant_id, run_id, step, operation)
         values (:tenantId, :runId, '', :hiddenBy), (:tenantId, :runId, '', 'restored:' || :hiddenBy)
         on conflict do nothing`,
        bindings,
      );
      await trx.raw(
        `update jobs set deleted_at = null, deleted_by = null, deleted_reason = null, version = version - 1
         where tenant_id = :tenantId and run_id = :runId and hidden_by = :hiddenBy and deleted_at is not null`,
        bindings,
      );
      const back = await trx.raw(
        'select count(*) as count from jobs where tenant_id = :tenantId and run_id = :runId and hidden_by = :hiddenBy',
        bindings,
      );
      return firstOf<{ count: number }>(back)?.count ?? 0;
    }),

  forbid: (scope) =>
    database.forTenant(scope.tenantId, async (trx) => {
      await trx.raw(
        `insert into step_tombstones (tenant_id, run_id, step, operation)
         values (:tenantId, :runId, coalesce(:step, ''), 'compensate') on conflict do nothing`,
        bindingsOf(scope),
      );
    }),

  orderRemoval: (scope, { operationId, caller, reason, limit, force }) =>
    database.forTenant(scope.tenantId, async (trx) => {
      const jobs = rowsOf<{ id: string; run_id: string; step: string | null }>(
        await trx.raw(
          `select id, run_id, step from jobs
           where tenant_id = :tenantId and run_id = :runId and (cast(:step as text) is null or step = :step)
             and deletion_id is null and (:force or state in ('CANCELLED', 'COMPLETED', 'FAILED'))
           order by id limit :limit for update`,
          { ...bindingsOf(scope), limit, force },
        ),
      );
      const ids: string[] = [];
      for (const job of jobs) {
        const order = {
          caller,
          tenantId: scope.tenantId,
          jobId: job.id,
          runId: job.run_id,
          step: job.step,
          operationId,
          reason,
        };
        ids.push((await insertDeletion(trx, order)).id);
      }
      return ids;
    }),

  async removalProgress(scope, operationId) {
    const rows = await database.readForTenant<DeletionRow & { operation_id: string | null }>(scope.tenantId, {
      // A job whose deletion was under way when the run's purge came belongs to the purge too.
      text: `select * from job_deletions where tenant_id = $1 and run_id = $2 and ($3::text is null or step = $3)
               and (operation_id = $4 or state not in ('COMPLETE', 'CANCELLED')) order by id`,
      values: [...valuesOf(scope), operationId],
    });
    const mine = rows.filter((row) => row.operation_id === operationId);
    const failedKeys: FailedKey[] = rows.flatMap((row) => [...row.failed_keys]).slice(0, MAX_FAILED_KEYS);
    return {
      ordered: rows.length,
      complete: rows.filter(({ state }) => state === 'COMPLETE').length,
      counts: mine.reduce((sum, { counts }) => addCounts(sum, counts), NOTHING_REMOVED),
      failedKeys,
      stuck: rows
        .filter(({ state }) => state === 'STUCK')
        .map((row) => ({ deletionId: row.id, lastError: row.last_error ?? undefined })),
      openDeletionIds: rows.filter(({ state }) => state !== 'COMPLETE' && state !== 'STUCK').map(({ id }) => id),
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
});

const valuesOf = ({ tenantId, runId, step }: RunScope): unknown[] => [tenantId, runId, step ?? null];

const bindingsOf = ({ tenantId, runId, step }: RunScope) => ({ tenantId, runId, step: step ?? null });
