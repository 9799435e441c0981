import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import { runDrivenByEngine, runNotRunning, stepTransitionIllegal, tooManySteps } from './errors.ts';
import type { Run, Tombstone } from './run.ts';

/** Where a step of a run stands. */
export const STEP_STATES = ['PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'COMPENSATING', 'COMPENSATED'] as const;

/** One of STEP_STATES. */
export type StepState = (typeof STEP_STATES)[number];

/** The states that a caller records of a run that it drives itself; the others are Lethe's. */
export const RECORDED_STATES = ['RUNNING', 'COMPLETED', 'FAILED'] as const satisfies readonly StepState[];

/** One of RECORDED_STATES. */
export type RecordedState = (typeof RECORDED_STATES)[number];

/** A run has no more steps: whoever takes it up reads them all, and its compensation is told all their names at once. */
export const MOST_STEPS = 1_000;

/** One step of a run. */
export interface RunStep {
  readonly runId: string;
  /** Unique in its run. */
  readonly name: string;
  /** Its place in the order in which steps began, from 1. */
  readonly position: number;
  readonly state: StepState;
  /** Who holds its effects. */
  readonly participants: readonly string[];
  /** Attempts of its action that failed. */
  readonly attempts: number;
  readonly error: string | undefined;
  readonly startedAt: Temporal.Instant | undefined;
  readonly finishedAt: Temporal.Instant | undefined;
  /** When its effects were gone. */
  readonly compensatedAt: Temporal.Instant | undefined;
  /** What its compensation removed, by type. */
  readonly removed: readonly ResourceCount[];
  readonly tombstone: Tombstone | undefined;
}

/** What a caller says of a step. */
export interface StepRecord {
  readonly name: string;
  readonly state: RecordedState;
  readonly participants: readonly string[];
  readonly error: string | undefined;
}

// A failed step may be tried again; a completed one is history.
const NEXT: Readonly<Record<StepState, readonly RecordedState[]>> = {
  PENDING: ['RUNNING', 'COMPLETED', 'FAILED'],
  RUNNING: ['COMPLETED', 'FAILED'],
  COMPLETED: [],
  FAILED: ['RUNNING'],
  COMPENSATING: [],
  COMPENSATED: [],
};

/**
 * The step as recorded; the very same step when it says nothing new. RUN_NOT_RUNNING for a run that has ended,
 * STEP_TRANSITION_ILLEGAL for a state that cannot follow, TOO_MANY_STEPS for one more than MOST_STEPS. A participant
 * once recorded stays: its effects may exist.
 */
export function recordStep(
  run: Pick<Run, 'id' | 'state' | 'driver'>,
  known: RunStep | undefined,
  { name, state, participants, error }: StepRecord,
  nextPosition: number,
  now: Temporal.Instant,
): RunStep {
  if (run.driver === 'ENGINE') throw runDrivenByEngine();
  if (run.state !== 'RUNNING') throw runNotRunning(run.state);
  if (!known && nextPosition > MOST_STEPS) throw tooManySteps(MOST_STEPS);
  const before: RunStep = known ?? {
    runId: run.id,
    name,
    position: nextPosition,
    state: 'PENDING',
    participants: [],
    attempts: 0,
    error: undefined,
    startedAt: undefined,
    finishedAt: undefined,
    compensatedAt: undefined,
    removed: [],
    tombstone: undefined,
  };
  const all = [...new Set([...before.participants, ...participants])];
  const isSameState = before.state === state && before.error === error;
  if (known && isSameState && all.length === known.participants.length) return known;
  if (isSameState) return { ...before, participants: all };
  if (!NEXT[before.state].includes(state)) throw stepTransitionIllegal(name, before.state, state);
  return {
    ...before,
    state,
    participants: all,
    error,
    attempts: before.attempts + (state === 'FAILED' ? 1 : 0),
    startedAt: before.startedAt ?? now,
    finishedAt: state === 'RUNNING' ? undefined : now,
  };
}
