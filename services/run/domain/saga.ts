import { addCounts, type ResourceCount } from '#libs/kernel/resource-count.ts';
import { OWN_PARTICIPANT } from './deletion.ts';
import { runNotParked, runNotRunning } from './errors.ts';
import type { JsonObject, RunState } from './run.ts';
import type { StepState } from './step.ts';

/** How many rows or things of each type a compensation removed. */
export type RemovedCounts = Readonly<Record<string, number>>;

/** What a compensation removed of one step with one participant; RunService's own rows are those of `run`. */
export interface Removal {
  readonly participant: string;
  readonly counts: readonly ResourceCount[];
}

/** One step of a saga as the ledger has it. */
export interface SagaStep {
  readonly name: string;
  /** Its place in the order in which steps began, from 1. */
  readonly position: number;
  readonly state: StepState;
  /** Who may hold effects of it besides RunService: exactly those that its intent names. */
  readonly participants: readonly string[];
  /** Attempts of its action or compensation that failed. */
  readonly attempts: number;
  readonly error: string | undefined;
  /** What it resulted in, for the steps after it. Undefined once it is compensated. */
  readonly output: JsonObject | undefined;
  /** What its compensation removed, once it did. */
  readonly removed: RemovedCounts;
  /** The same by participant, where others held something of it; empty where all was RunService's. See `removalsOf`. */
  readonly removals: readonly Removal[];
}

/** How a run ends whose effects are removed. */
export type Ending = 'COMPENSATED' | 'CANCELLED';

/** A run as a saga: all that decides what comes next. */
export interface Saga {
  readonly state: RunState;
  readonly ending: Ending;
  /** What it was given. Compensation does not need it, so it is gone from the moment that it begins. */
  readonly input: JsonObject | undefined;
  readonly currentStep: string | undefined;
  /** Attempts of the step under way that failed. */
  readonly attempts: number;
  /** Why the run failed. */
  readonly error: string | undefined;
  /** Why its compensation cannot finish. Set exactly when it is FAILED and parked. */
  readonly parkedReason: string | undefined;
  readonly output: JsonObject | undefined;
  /** In the order in which they began. */
  readonly steps: readonly SagaStep[];
}

/** A step about to begin. */
export type Intent = Pick<SagaStep, 'name' | 'participants'>;

/** What a worker does next of a saga. */
export type SagaMove =
  | { readonly kind: 'act'; readonly step: SagaStep }
  /** The newest first: one step that others hold effects of, or some in a row that only RunService does. */
  | { readonly kind: 'compensate'; readonly steps: readonly [SagaStep, ...SagaStep[]] }
  /** Nothing is left to compensate, but the run does not say so yet. */
  | { readonly kind: 'end' }
  /** It is over, for good or until a person redrives it. */
  | { readonly kind: 'none' };

// What may have effects. A step that is only known has none.
const MAY_HAVE_EFFECTS: Readonly<Record<StepState, boolean>> = {
  PENDING: false,
  RUNNING: true,
  COMPLETED: true,
  FAILED: true,
  COMPENSATING: true,
  COMPENSATED: false,
};

/** A saga whose first step's intent is known. */
export const beginSaga = (first: Intent, input: JsonObject): Saga => ({
  state: 'RUNNING',
  ending: 'COMPENSATED',
  input,
  currentStep: first.name,
  attempts: 0,
  error: undefined,
  parkedReason: undefined,
  output: undefined,
  steps: [toStep(first, 1)],
});

/** The next move: the step that has begun acts; when compensating, the newest that may have effects give them up. */
export function nextMove({ state, steps, attempts }: Saga): SagaMove {
  switch (state) {
    case 'RUNNING': {
      const step = steps.findLast((each) => each.state === 'RUNNING');
      return step ? { kind: 'act', step } : { kind: 'none' };
    }
    case 'COMPENSATING': {
      const [newest, ...others] = steps.filter((step) => MAY_HAVE_EFFECTS[step.state]).toReversed();
      if (!newest) return { kind: 'end' };
      // After a failure one at a time, so that what cannot be removed holds up nothing newer.
      if (!isLocal(newest) || attempts > 0) return { kind: 'compensate', steps: [newest] };
      const end = others.findIndex((step) => !isLocal(step));
      return { kind: 'compensate', steps: [newest, ...(end < 0 ? others : others.slice(0, end))] };
    }
    case 'COMPLETED':
    case 'COMPENSATED':
    case 'FAILED':
    case 'CANCELLED':
      return { kind: 'none' };
  }
}

/** The saga after a step has done well: the next step has begun, or the run is COMPLETED with its output. */
export function afterAction(
  saga: Saga,
  step: SagaStep,
  output: JsonObject,
  next: { readonly intent: Intent } | { readonly output: JsonObject },
): Saga {
  const done = withStep(saga, { ...step, state: 'COMPLETED', error: undefined, output });
  if ('output' in next)
    return { ...done, state: 'COMPLETED', currentStep: undefined, attempts: 0, output: next.output };
  const steps = [...done.steps, toStep(next.intent, step.position + 1)];
  return { ...done, currentStep: next.intent.name, attempts: 0, steps };
}

/**
 * The saga after a step has failed for good: everything that was done is to be undone, this step first. `cause` is why it
 * failed in the first place, where that is not the error of its last attempt.
 */
export const afterFailedAction = (saga: Saga, step: SagaStep, error: string, cause: string = error): Saga => ({
  ...withStep(saga, { ...step, state: 'FAILED', attempts: step.attempts + 1, error }),
  state: 'COMPENSATING',
  input: undefined,
  attempts: 0,
  error: cause,
});

/** The saga after an attempt that may be repeated; after the last one the step has failed, or the run is parked. */
export function afterAttempt(saga: Saga, step: SagaStep, error: string, isLast: boolean, cause?: string): Saga {
  if (isLast && saga.state === 'RUNNING') return afterFailedAction(saga, step, error, cause);
  const state = saga.state === 'COMPENSATING' ? 'COMPENSATING' : step.state;
  const tried = withStep(saga, { ...step, state, attempts: step.attempts + 1, error });
  const attempts = saga.attempts + 1;
  return isLast ? { ...tried, state: 'FAILED', attempts, parkedReason: error } : { ...tried, attempts };
}

/** The saga while the participant of its step cannot be reached: that is no attempt, as it says nothing about the run. */
export const whileAway = (saga: Saga, step: SagaStep, error: string): Saga => withStep(saga, { ...step, error });

/**
 * The saga after the effects of steps are gone, and what the steps had resulted in with them. It ends only when no other
 * step may have effects.
 */
export function afterCompensation(saga: Saga, steps: readonly SagaStep[], removals: readonly Removal[]): Saga {
  const removed = toRemovedCounts(removals);
  const undone = steps.reduce(
    (left, step) => withStep(left, { ...step, state: 'COMPENSATED', output: undefined, removed, removals }),
    saga,
  );
  const next = newestWithEffects(undone.steps);
  return next ? { ...undone, currentStep: next.name, attempts: 0 } : end(undone);
}

/** The saga at the end of its compensation; only for one of which nothing is left. */
export const end = (saga: Saga): Saga => ({ ...saga, state: saga.ending, currentStep: undefined, attempts: 0 });

/**
 * A run that its caller drives and says has failed. The very same when that is known already; RUN_NOT_RUNNING when it
 * has ended otherwise.
 */
export function failSaga(saga: Saga, error: string): Saga {
  const isKnown = (saga.state === 'COMPENSATING' && saga.ending === 'COMPENSATED') || saga.state === 'COMPENSATED';
  if (isKnown) return saga;
  if (saga.state !== 'RUNNING') throw runNotRunning(saga.state);
  return toCompensating(saga, 'COMPENSATED', error);
}

/** Whether its effects are being removed, or were, for this very error. */
export const hasFailedSo = (saga: Saga, error: string): boolean =>
  saga.ending === 'COMPENSATED' &&
  (saga.state === 'COMPENSATING' || saga.state === 'COMPENSATED') &&
  saga.error === error;

/** Whether it was cancelled and its effects are being removed, or were; not where its caller ended it and left them. */
export const isGivenUp = ({ state, ending }: Saga): boolean =>
  ending === 'CANCELLED' && (state === 'COMPENSATING' || state === 'CANCELLED');

/** A run that is given up; the very same when it is already. RUN_NOT_RUNNING when it has ended or failed. */
export function cancelSaga(saga: Saga): Saga {
  const isKnown = (saga.state === 'COMPENSATING' && saga.ending === 'CANCELLED') || saga.state === 'CANCELLED';
  if (isKnown) return saga;
  if (saga.state !== 'RUNNING') throw runNotRunning(saga.state);
  return toCompensating(saga, 'CANCELLED', undefined);
}

/** A parked run with its attempts anew; the very same while it compensates, RUN_NOT_PARKED otherwise. */
export function retrySaga(saga: Saga): Saga {
  if (saga.state === 'COMPENSATING') return saga;
  if (saga.state !== 'FAILED' || saga.parkedReason === undefined) throw runNotParked(saga.state);
  return { ...saga, state: 'COMPENSATING', attempts: 0, parkedReason: undefined };
}

/** How many of each type were removed, whoever held them. */
export function toRemovedCounts(removals: readonly Removal[]): RemovedCounts {
  const sum: Record<string, number> = {};
  for (const { resourceType, deleted } of removals.flatMap(({ counts }) => counts))
    sum[resourceType] = (sum[resourceType] ?? 0) + deleted;
  return sum;
}

/** What a step's compensation removed, by participant; where it is known by type alone, all of it as of `run`. */
export function removalsOf({ removed, removals }: Pick<SagaStep, 'removed' | 'removals'>): readonly Removal[] {
  if (removals.length > 0 || Object.keys(removed).length === 0) return removals;
  const counts = Object.entries(removed).map(([resourceType, deleted]) => ({
    resourceType,
    found: deleted,
    deleted,
    left: 0,
    bytes: 0,
  }));
  return [{ participant: OWN_PARTICIPANT, counts }];
}

/** One count for each type that anything was found of. */
export const sumByType = (removals: readonly Removal[]): readonly ResourceCount[] =>
  addCounts(
    [],
    removals.flatMap(({ counts }) => counts),
  ).filter(({ found }) => found > 0);

/** What steps' compensation removed, one Removal a participant, in the order of a receipt: RunService's own rows last. */
export function sumByParticipant(removals: readonly Removal[]): readonly Removal[] {
  const names = new Set(removals.map(({ participant }) => participant));
  const own = names.delete(OWN_PARTICIPANT) ? [OWN_PARTICIPANT] : [];
  return [...[...names].toSorted(), ...own].map((participant) => ({
    participant,
    counts: sumByType(removals.filter((removal) => removal.participant === participant)),
  }));
}

/** All that compensation removed so far, by type. */
export const sumRemoved = (steps: readonly SagaStep[]): RemovedCounts => toRemovedCounts(steps.flatMap(removalsOf));

function toCompensating(saga: Saga, ending: Ending, error: string | undefined): Saga {
  const newest = newestWithEffects(saga.steps);
  return { ...saga, state: 'COMPENSATING', ending, input: undefined, error, attempts: 0, currentStep: newest?.name };
}

const isLocal = ({ participants }: SagaStep): boolean => participants.length === 0;

const newestWithEffects = (steps: readonly SagaStep[]): SagaStep | undefined =>
  steps.findLast((step) => MAY_HAVE_EFFECTS[step.state]);

const toStep = ({ name, participants }: Intent, position: number): SagaStep => ({
  name,
  position,
  state: 'RUNNING',
  participants,
  attempts: 0,
  error: undefined,
  output: undefined,
  removed: {},
  removals: [],
});

const withStep = (saga: Saga, step: SagaStep): Saga => ({
  ...saga,
  steps: saga.steps.map((other) => (other.name === step.name ? step : other)),
});
