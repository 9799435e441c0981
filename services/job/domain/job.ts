import { DomainError } from '#libs/kernel/domain-error.ts';
import { etagMismatch, jobTransitionIllegal, leaseLost, taskNotFound, taskTransitionIllegal } from './errors.ts';

/** Where a job stands. A job that is being removed keeps its last state; its `deletionId` says so. */
export const JOB_STATES = ['PENDING', 'RUNNING', 'CANCELLING', 'CANCELLED', 'COMPLETED', 'FAILED'] as const;

/** One of JOB_STATES. */
export type JobState = (typeof JOB_STATES)[number];

/** Where a task of a job stands. */
export const TASK_STATES = ['PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED'] as const;

/** One of TASK_STATES. */
export type TaskState = (typeof TASK_STATES)[number];

/** One task of a job; instants are the database's. */
export interface Task {
  readonly name: string;
  readonly state: TaskState;
  readonly error: string | undefined;
  readonly startedAt: Temporal.Instant | undefined;
  readonly finishedAt: Temporal.Instant | undefined;
}

/** A worker's hold on a job. */
export interface Lease {
  readonly owner: string;
  /** Grows with every claim of the job; a write with an older one is refused. */
  readonly token: bigint;
  readonly expiresAt: Temporal.Instant;
}

/** A transcription job of a tenant. */
export interface Job {
  readonly id: string;
  readonly tenantId: string;
  /** The run whose effect it is, and the step of it. */
  readonly runId: string | undefined;
  readonly step: string | undefined;
  readonly displayName: string;
  readonly state: JobState;
  readonly tasks: readonly Task[];
  readonly error: string | undefined;
  readonly lease: Lease | undefined;
  readonly createdAt: Temporal.Instant;
  readonly startedAt: Temporal.Instant | undefined;
  readonly finishedAt: Temporal.Instant | undefined;
  readonly updatedAt: Temporal.Instant;
  /** Hidden with its run since then. */
  readonly deletedAt: Temporal.Instant | undefined;
  /** Grows with every change, a renewed lease aside; the etag. */
  readonly version: bigint;
}

/** Every legal step of a job; what is not here is refused. */
export const JOB_TRANSITIONS: Readonly<Record<JobState, readonly JobState[]>> = {
  PENDING: ['RUNNING', 'CANCELLED'],
  RUNNING: ['RUNNING', 'CANCELLING', 'COMPLETED', 'FAILED'],
  CANCELLING: ['CANCELLED', 'COMPLETED', 'FAILED'],
  CANCELLED: [],
  COMPLETED: [],
  FAILED: [],
};

const TASK_TRANSITIONS: Readonly<Record<TaskState, readonly TaskState[]>> = {
  PENDING: ['RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED'],
  RUNNING: ['COMPLETED', 'FAILED', 'CANCELLED'],
  COMPLETED: [],
  FAILED: ['RUNNING'],
  CANCELLED: [],
};

/**
 * Why a job of each state cannot be deleted, in the words of the seed "Job Deletion"; undefined where it can.
 */
const DELETION_REFUSALS: Readonly<Record<JobState, string | undefined>> = {
  PENDING: 'Cannot delete pending job. Use cancel instead.',
  RUNNING: 'Cannot delete running job. Use cancel instead.',
  CANCELLING: 'Cannot delete job while cancellation is in progress.',
  CANCELLED: undefined,
  COMPLETED: undefined,
  FAILED: undefined,
};

/** Why a job in this state cannot be deleted; undefined where it can. */
export const deletionRefusal = (state: JobState): string | undefined => DELETION_REFUSALS[state];

/** Whether nothing happens to the job any more. */
export const isTerminal = (state: JobState): boolean => JOB_TRANSITIONS[state].length === 0;

/** Passes for a job that can be deleted; FAILED_PRECONDITION/JOB_NOT_TERMINAL with the seed's sentence otherwise. */
export function assertDeletable({ state }: Job): void {
  const refusal = deletionRefusal(state);
  if (refusal !== undefined) throw new DomainError('failed-precondition', 'JOB_NOT_TERMINAL', refusal, { state });
}

/** The text that changes with every change of the job, a renewed lease aside. */
export const etagOf = ({ version }: Pick<Job, 'version'>): string => `"${version}"`;

/** Passes when no etag is given or it is the job's; ABORTED/ETAG_MISMATCH otherwise. */
export function assertEtag(job: Job, etag: string): void {
  if (etag !== '' && etag !== etagOf(job)) throw etagMismatch(etag);
}

/** The job in another state, or JOB_TRANSITION_ILLEGAL. `now` is the database's clock. */
export function transition(job: Job, to: JobState, now: Temporal.Instant, error?: string): Job {
  if (!JOB_TRANSITIONS[job.state].includes(to)) throw jobTransitionIllegal(job.state, to);
  const ends = isTerminal(to);
  return {
    ...job,
    state: to,
    error,
    startedAt: to === 'RUNNING' ? (job.startedAt ?? now) : job.startedAt,
    finishedAt: ends ? now : undefined,
    // The token stays on the row, so that a worker of before can never pass for the next one.
    lease: ends && job.lease ? { ...job.lease, expiresAt: now } : job.lease,
    tasks: to === 'CANCELLED' ? job.tasks.map((task) => cancelTask(task, now)) : job.tasks,
  };
}

/** Whether somebody has cancelled it: its worker is asked to stop, or it has ended so. */
export const isCancelled = ({ state }: Job): boolean => state === 'CANCELLING' || state === 'CANCELLED';

/** PENDING is CANCELLED at once, RUNNING is asked to stop, and a second cancel changes nothing. */
export function cancel(job: Job, now: Temporal.Instant): Job {
  if (isCancelled(job)) return job;
  return transition(job, job.state === 'RUNNING' ? 'CANCELLING' : 'CANCELLED', now);
}

/** Gives the job to a worker with a new fencing token. */
export function claim(job: Job, owner: string, leaseMs: number, now: Temporal.Instant): Job {
  const lease = { owner, token: (job.lease?.token ?? 0n) + 1n, expiresAt: now.add({ milliseconds: leaseMs }) };
  return { ...transition(job, 'RUNNING', now), lease };
}

/** Passes while the worker with this token holds the job; ABORTED/LEASE_LOST otherwise. */
export function assertLease({ lease }: Job, token: bigint, now: Temporal.Instant): void {
  if (!lease || lease.token !== token || Temporal.Instant.compare(lease.expiresAt, now) <= 0) throw leaseLost();
}

/** The job with its lease going on for `leaseMs` from now. */
export const renewLease = (job: Job, leaseMs: number, now: Temporal.Instant): Job =>
  job.lease ? { ...job, lease: { ...job.lease, expiresAt: now.add({ milliseconds: leaseMs }) } } : job;

/** Whether nothing is new but how long the lease goes on. */
export const isRenewal = (before: Job, after: Job): boolean =>
  before.lease?.owner === after.lease?.owner &&
  before.lease?.token === after.lease?.token &&
  (Object.keys(before) as (keyof Job)[]).every((key) => key === 'lease' || before[key] === after[key]);

/** The job with one of its tasks in another state; TASK_NOT_FOUND or TASK_TRANSITION_ILLEGAL. */
export function updateTask(job: Job, name: string, to: TaskState, now: Temporal.Instant, error?: string): Job {
  const task = job.tasks.find((candidate) => candidate.name === name);
  if (!task) throw taskNotFound();
  if (task.state === to) return job;
  if (!TASK_TRANSITIONS[task.state].includes(to)) throw taskTransitionIllegal(task.state, to);
  const changed: Task = {
    ...task,
    state: to,
    error,
    startedAt: to === 'RUNNING' ? now : task.startedAt,
    finishedAt: to === 'RUNNING' ? undefined : now,
  };
  return { ...job, tasks: job.tasks.map((candidate) => (candidate === task ? changed : candidate)) };
}

/** Ends a claimed job. The same end again with the same token changes nothing. */
export function finish(job: Job, token: bigint, to: JobState, now: Temporal.Instant, error?: string): Job {
  if (job.state === to && job.lease?.token === token) return job;
  assertLease(job, token, now);
  // Only who asked for it may see it cancelled: a worker cannot cancel a job by itself.
  return transition(job, to, now, error);
}

const cancelTask = (task: Task, now: Temporal.Instant): Task =>
  TASK_TRANSITIONS[task.state].includes('CANCELLED') ? { ...task, state: 'CANCELLED', finishedAt: now } : task;
