import type { Knex } from 'knex';
import { newId } from '#libs/kernel/id.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import { actionRefused, stepKeyReused } from '../../domain/errors.ts';
import type { StepOutcome } from '../../domain/step-action.ts';
import type { StepAction, StepActions } from '../../use-cases/ports.ts';
import { assertNotCompensated, insertJob, lockJob, lockRun, saveJob, VISIBLE } from './job-repository.ts';
import { toJob } from './rows.ts';

interface ActionRow {
  readonly fingerprint: string;
  readonly job_id: string;
  readonly outcome: StepOutcome | null;
}

/** The actions of steps in Postgres. */
export const makeStepActions = (database: Database): StepActions => ({
  begin: (action, check) =>
    database.forTenant(action.tenantId, async (trx) => {
      const { tenantId, runId, step } = action;
      await lockRun(trx, tenantId, runId, 'shared');
      await assertNotCompensated(trx, tenantId, runId, step);
      const id = newId();
      // The second of two at once waits here for the first, and then sees what it did.
      const { rowCount } = await trx.raw(
        `insert into step_actions (tenant_id, run_id, step, fingerprint, job_id)
         values (:tenantId, :runId, :step, :fingerprint, :id) on conflict do nothing`,
        { tenantId, runId, step, fingerprint: action.fingerprint, id },
      );
      if (rowCount === 1) {
        await insertJob(trx, { ...action, id });
        return { jobId: id, outcome: undefined };
      }
      // The job's row is the lock: the outcome is looked for again once nobody can be about to write it.
      const { job_id: jobId } = await readAction(trx, action);
      const job = await lockJob(trx, tenantId, jobId, VISIBLE);
      const { outcome } = await readAction(trx, action);
      if (outcome) return { jobId, outcome };
      if (!job) throw jobIsGone();
      check(toJob(job.row));
      return { jobId, outcome: undefined };
    }),

  finish: (action, change, outcome) =>
    database.forTenant(action.tenantId, async (trx) => {
      const { tenantId, runId, step } = action;
      await lockRun(trx, tenantId, runId, 'shared');
      await assertNotCompensated(trx, tenantId, runId, step);
      // The job's row is the lock: of two that finish at once, the second sees the outcome of the first.
      const job = await lockJob(trx, tenantId, outcome.jobId, VISIBLE);
      const known = await readAction(trx, action);
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

const jobIsGone = () => actionRefused("The step's job was deleted or hidden before its action was done.");

async function readAction(
  trx: Knex.Transaction,
  { tenantId, runId, step, fingerprint }: StepAction,
): Promise<ActionRow> {
  const row = firstOf<ActionRow>(
    await trx.raw(
      `select fingerprint, job_id, outcome from step_actions
       where tenant_id = :tenantId and run_id = :runId and step = :step`,
      { tenantId, runId, step },
    ),
  );
  // Whoever removes it leaves a tombstone under the run's lock, which was looked for under that lock.
  if (!row) throw new Error('the action is not there, and neither is a tombstone');
  if (row.fingerprint !== fingerprint) throw stepKeyReused(runId, step);
  return row;
}
