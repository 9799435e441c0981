import { jobNotFound } from '../domain/errors.ts';
import {
  assertLease,
  claim,
  finish,
  type Job,
  type JobState,
  renewLease,
  type TaskState,
  transition,
  updateTask,
} from '../domain/job.ts';
import type { JobRepository } from './ports.ts';

/** What a worker does with a job that it holds by a lease. */
export interface WorkOnJob {
  /**
   * The oldest claimable job, now RUNNING and leased; undefined for none. The same request id again answers with the same
   * claim; JOB_NOT_FOUND when its job is gone.
   */
  claim(tenantId: string, workerId: string, leaseMs: number, requestId: string | undefined): Promise<Job | undefined>;
  /** Records a task's state, or nothing but the renewal; JOB_NOT_FOUND, LEASE_LOST, TASK_NOT_FOUND. */
  updateTask(command: UpdateTaskCommand): Promise<Job>;
  /** Ends the job; JOB_NOT_FOUND, LEASE_LOST, JOB_TRANSITION_ILLEGAL. */
  finish(command: FinishJobCommand): Promise<Job>;
  /** Makes CANCELLED what was CANCELLING when its worker's lease ran out; answers how many. */
  endAbandonedCancellations(): Promise<number>;
}

/** What a worker tells of a task. */
export interface UpdateTaskCommand {
  readonly tenantId: string;
  readonly jobId: string;
  readonly leaseToken: bigint;
  readonly leaseMs: number;
  readonly task: { readonly name: string; readonly state: TaskState; readonly error: string | undefined } | undefined;
}

/** How a worker ends a job. */
export interface FinishJobCommand {
  readonly tenantId: string;
  readonly jobId: string;
  readonly leaseToken: bigint;
  readonly state: JobState;
  readonly error: string | undefined;
}

const CANCELLATIONS_PER_PASS = 100;

/** Makes the worker's use cases. */
export const makeWorkOnJob = (jobs: JobRepository): WorkOnJob => ({
  claim: (tenantId, workerId, leaseMs, requestId) =>
    jobs.claimOldest(tenantId, requestId, (job, now) => claim(job, workerId, leaseMs, now)),

  async updateTask({ tenantId, jobId, leaseToken, leaseMs, task }) {
    const updated = await jobs.update(tenantId, jobId, (job, now) => {
      assertLease(job, leaseToken, now);
      const told = task ? updateTask(job, task.name, task.state, now, task.error) : job;
      return renewLease(told, leaseMs, now);
    });
    if (!updated) throw jobNotFound();
    return updated;
  },

  async finish({ tenantId, jobId, leaseToken, state, error }) {
    const finished = await jobs.update(tenantId, jobId, (job, now) => finish(job, leaseToken, state, now, error));
    if (!finished) throw jobNotFound();
    return finished;
  },

  async endAbandonedCancellations() {
    let ended = 0;
    for (const { tenantId, jobId } of await jobs.findAbandonedCancellations(CANCELLATIONS_PER_PASS)) {
      let isAbandoned = false;
      const found = await jobs.update(tenantId, jobId, (job, now) => {
        const isPast = job.lease !== undefined && Temporal.Instant.compare(job.lease.expiresAt, now) <= 0;
        isAbandoned = job.state === 'CANCELLING' && isPast;
        return isAbandoned ? transition(job, 'CANCELLED', now) : job;
      });
      if (found && isAbandoned) ended += 1;
    }
    return ended;
  },
});
