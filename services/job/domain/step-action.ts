import { actionRefused } from './errors.ts';
import { type Job, transition, updateTask } from './job.ts';

/** An object that a step's action makes. */
export interface Asset {
  readonly name: string;
  readonly contentType: string;
  readonly content: Uint8Array;
}

/** The action `create-job`: what the step's job is, and which objects it has from the beginning. */
export interface CreateJobAction {
  readonly displayName: string;
  readonly taskNames: readonly string[];
  /** Stored as OUTPUT artifacts. */
  readonly assets: readonly Asset[];
  /** COMPLETED once its assets are stored; PENDING waits for a worker. */
  readonly state: 'PENDING' | 'COMPLETED';
}

/** What an action has come to; the participant answers with it for ever after. */
export interface StepOutcome {
  readonly jobId: string;
  readonly state: 'PENDING' | 'COMPLETED';
  readonly tasks: number;
  readonly assets: readonly { readonly name: string; readonly bytes: number }[];
}

/** Passes while the step's job is as its action made it; ACTION_REFUSED once somebody has ended it. */
export function assertActionGoesOn({ state }: Job): void {
  if (state !== 'PENDING') throw actionRefused(`The step's job is ${state}.`);
}

/** The step's job when everything that belongs to it is stored; ACTION_REFUSED once somebody has ended it. */
export function finishAction(job: Job, state: StepOutcome['state'], now: Temporal.Instant): Job {
  assertActionGoesOn(job);
  if (state === 'PENDING') return job;
  const running = transition(job, 'RUNNING', now);
  const done = running.tasks.reduce((so, { name }) => updateTask(so, name, 'COMPLETED', now), running);
  return transition(done, 'COMPLETED', now);
}
