import { newId } from '#libs/kernel/id.ts';
import { enterRun, readAction, TOMBSTONES_OF_STEP } from '#libs/participant/step-actions.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { actionRefused } from '../../domain/errors.ts';
import type { Job } from '../../domain/job.ts';
import type { StepOutcome } from '../../domain/step-action.ts';
import type { StepAction, StepActions } from '../../use-cases/ports.ts';
import { jobRunLock, lockJob, saveJob, VISIBLE } from './job-repository.ts';
import { toJob } from './rows.ts';

/** The actions of steps in Postgres. */
export const makeStepActions = (database: Database): StepActions => ({
  async begin(action, check) {
    const jobId = newId();
    if (await createJob(database, action, jobId)) return { jobId, outcome: undefined, isNew: true };
    return readBegun(database, action, check);
  },

  finish: (action, change, outcome) =>
    database.forTenant(action.tenantId, async (trx) => {
      const { tenantId, runId, step } = action;
      await enterRun(trx, jobRunLock, action);
      // The job's row is the lock: of two that finish at once, the second sees the outcome of the first.
      const job = await lockJob(trx, tenantId, outcome.jobId, VISIBLE);
      const known = await readOutcome(trx, action);
      if (known.outcome) return known.outcome;
      if (!job) throw jobIsGone();
      await saveJob(trx, toJob(job.row), job.now, change);
      await trx.raw(
        `update step_actions set outcome = cast(:outcome as jsonb), finished_at = clock_timestamp()
         where tenant_id = :tenantId and run_id = :runId and step = :step`,
        { tenantId, runId, step, outcome: JSON.stringify(outcome) },
      );
      return outcome;
    }),
});

/**
 * Remembers a new action, creates its job and begins its uploads in one round trip; false, changing nothing, when the
 * key was used before or the step has a tombstone. The second of two at once waits for the first.
 */
async function createJob(database: Database, action: StepAction, jobId: string): Promise<boolean> {
  const { tenantId, runId, step, displayName, taskNames, fingerprint, uploads, uploadLeaseMs } = action;
  const isMine = `exists (select from step_actions where tenant_id = $1 and run_id = $2 and step = $3 and job_id = $4)`;
  const toShare = jobRunLock.toShare(action);
  const answers = await database.writeForTenant(tenantId, [
    ...toShare,
    {
      name: 'insert-action',
      text: `insert into step_actions (tenant_id, run_id, step, fingerprint, job_id)
             select $1, $2, $3, $4, $5 where not exists (${TOMBSTONES_OF_STEP}) on conflict do nothing returning 1`,
      values: [tenantId, runId, step, fingerprint, jobId],
    },
    {
      name: 'insert-step-job',
      text: `insert into jobs (tenant_id, run_id, step, id, display_name, state)
             select $1, $2, $3, $4, $5, 'PENDING' where ${isMine} returning 1`,
      values: [tenantId, runId, step, jobId, displayName],
    },
    {
      name: 'insert-step-tasks',
      text: `insert into job_tasks (tenant_id, job_id, name, position, state)
             select $1, $4, name, position - 1, 'PENDING'
             from unnest($5::text[]) with ordinality as task (name, position) where ${isMine} returning 1`,
      values: [tenantId, runId, step, jobId, taskNames],
    },
    {
      name: 'insert-step-uploads',
      text: `insert into artifact_uploads (tenant_id, job_id, id, kind, name, object_id, state, due_at)
             select $1, $4, id, 'OUTPUT', name, id, 'OPEN', clock_timestamp() + $7 * interval '1 ms'
             from unnest($5::uuid[], $6::text[]) as upload (id, name) where ${isMine} returning 1`,
      values: [
        tenantId,
        runId,
        step,
        jobId,
        uploads.map(({ uploadId }) => uploadId),
        uploads.map(({ name }) => name),
        uploadLeaseMs,
      ],
    },
  ]);
  return answers[toShare.length]?.length === 1;
}

/** What a key that was used before has come to. */
const readBegun = (
  database: Database,
  action: StepAction,
  check: (job: Job) => void,
): ReturnType<StepActions['begin']> =>
  database.forTenant(action.tenantId, async (trx) => {
    const { tenantId } = action;
    await enterRun(trx, jobRunLock, action);
    // The job's row is the lock: the outcome is looked for again once nobody can be about to write it.
    const { effect_id: jobId } = await readOutcome(trx, action);
    const job = await lockJob(trx, tenantId, jobId, VISIBLE);
    const { outcome } = await readOutcome(trx, action);
    if (outcome) return { jobId, outcome, isNew: false };
    if (!job) throw jobIsGone();
    check(toJob(job.row));
    return { jobId, outcome: undefined, isNew: false };
  });

const jobIsGone = () => actionRefused("The step's job was deleted or hidden before its action was done.");

const readOutcome = (trx: TenantTransaction, action: StepAction) =>
  readAction<{ readonly outcome: StepOutcome | null }>(trx, action, 'job_id', ['outcome']);
