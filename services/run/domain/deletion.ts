import type { FailedItem, ResourceCount } from '#libs/kernel/resource-count.ts';
import { hasMoved, sumLeft, withLeft } from './counts.ts';
import { retentionGuard } from './errors.ts';
import { assertTerminal, type Run } from './run.ts';

/** What a deletion does: hide, bring back, remove for good, or remove the effects of a run that failed. */
export const DELETION_MODES = ['SOFT_DELETE', 'UNDELETE', 'PURGE', 'COMPENSATION'] as const;

/** One of DELETION_MODES. */
export type DeletionMode = (typeof DELETION_MODES)[number];

/** Where a deletion, or one participant's part of it, stands. */
export const DELETION_STATES = ['PENDING', 'CASCADING', 'VERIFYING', 'COMPLETE', 'STUCK', 'CANCELLED'] as const;

/** One of DELETION_STATES. */
export type DeletionState = (typeof DELETION_STATES)[number];

/** Whether an answer names what only a person can change: the deletion is parked without another attempt. */
export const needsPerson = (failedItems: readonly FailedItem[]): boolean =>
  failedItems.some(({ permanent = false }) => permanent);

/** One participant's part in a deletion. */
export interface DeletionStep {
  readonly participant: string;
  readonly state: DeletionState;
  readonly counts: readonly ResourceCount[];
  readonly failedItems: readonly FailedItem[];
  /** Calls that failed since the participant last answered well. */
  readonly attempts: number;
  readonly lastError: string | undefined;
  /** When the next call is due after a failure. */
  readonly nextAttemptAt: Temporal.Instant | undefined;
  readonly verifiedAt: Temporal.Instant | undefined;
}

/** A participant's part that nobody has asked for yet. */
export const pendingStep = (participant: string): DeletionStep => ({
  participant,
  state: 'PENDING',
  counts: [],
  failedItems: [],
  attempts: 0,
  lastError: undefined,
  nextAttemptAt: undefined,
  verifiedAt: undefined,
});

/** A durable operation on one run. It outlives the run: it is the receipt. */
export interface Deletion {
  /** Empty for what was only checked. */
  readonly id: string;
  readonly tenantId: string;
  readonly runId: string;
  readonly mode: DeletionMode;
  readonly state: DeletionState;
  readonly actor: string;
  readonly subject: string;
  /** The entry of the trust file by whose key the subject came; for the audit. */
  readonly trustEntry: string | undefined;
  readonly reason: string | undefined;
  readonly requestId: string | undefined;
  readonly force: boolean;
  /** The soft delete that an undelete takes back. */
  readonly undoes: string | undefined;
  /** The bulk deletion that ordered it. */
  readonly bulkDeletionId: string | undefined;
  /** In the order of the cascade; RunService's own rows are the last. */
  readonly steps: readonly DeletionStep[];
  /** Attempts of the step now under way that failed. */
  readonly attempts: number;
  readonly lastError: string | undefined;
  readonly createdAt: Temporal.Instant;
  readonly startedAt: Temporal.Instant | undefined;
  readonly updatedAt: Temporal.Instant;
  readonly finishedAt: Temporal.Instant | undefined;
}

/** RunService as a participant of its own cascades. Its rows go last: while they stand, the run can be found. */
export const OWN_PARTICIPANT = 'run';

/** From when the operator's guard lets a run be purged: so many hours after it was created or, if later, has ended. */
export function purgeableAt(
  { createdAt, finishedAt = createdAt }: Pick<Run, 'createdAt' | 'finishedAt'>,
  minPurgeAgeHours: number,
): Temporal.Instant {
  const from = Temporal.Instant.compare(finishedAt, createdAt) > 0 ? finishedAt : createdAt;
  return from.add({ hours: minPurgeAgeHours });
}

/**
 * Passes for a run that may be purged now, by seed "Workflow Run Deletion": ended, and that for longer
 * than WORKFLOW_MIN_PURGE_AGE_HOURS unless forced.
 */
export function assertPurgeable(run: Run, now: Temporal.Instant, minPurgeAgeHours: number, force: boolean): void {
  assertTerminal(run);
  const at = purgeableAt(run, minPurgeAgeHours);
  if (!force && Temporal.Instant.compare(now, at) < 0) throw retentionGuard(at);
}

/** A deletion's mode and how far each participant is: all that decides what comes next. */
export type Cascade = Pick<Deletion, 'mode' | 'steps'>;

/** What a worker does next of a deletion. */
export type Move =
  /** Ask this participant to do its part. */
  | { readonly kind: 'call'; readonly step: DeletionStep }
  /** Read back what this participant still holds. */
  | { readonly kind: 'verify'; readonly step: DeletionStep }
  /** Everything is done and, where something was removed, read back as gone. */
  | { readonly kind: 'complete' };

const IS_SETTLED: Readonly<Record<DeletionState, boolean>> = {
  PENDING: false,
  CASCADING: false,
  VERIFYING: false,
  COMPLETE: true,
  STUCK: true,
  CANCELLED: true,
};

// STUCK here is one participant's: once the deletion is redriven, its part is to be done.
const IS_TO_BE_CALLED: Readonly<Record<DeletionState, boolean>> = {
  PENDING: true,
  CASCADING: true,
  STUCK: true,
  VERIFYING: false,
  COMPLETE: false,
  CANCELLED: false,
};

/** Whether nothing will happen to the deletion, for good or until a person redrives it. */
export const isSettled = (state: DeletionState): boolean => IS_SETTLED[state];

/**
 * The next move: every other service first, each called until it is done and all of them then read back; RunService's
 * own rows after them, so that a cascade that stops half-way still has its run.
 */
export function nextMove({ steps }: Cascade): Move {
  const own = steps.filter(({ participant }) => participant === OWN_PARTICIPANT);
  const others = steps.filter(({ participant }) => participant !== OWN_PARTICIPANT);
  for (const group of [others, own]) {
    const uncalled = group.find(({ state }) => IS_TO_BE_CALLED[state]);
    if (uncalled) return { kind: 'call', step: uncalled };
    const unread = group.find(({ state }) => state === 'VERIFYING');
    if (unread) return { kind: 'verify', step: unread };
  }
  return { kind: 'complete' };
}

/** Where a deletion under way stands: CASCADING while anybody is still to be called, VERIFYING after that. */
export const stateOf = ({ steps }: Cascade): 'CASCADING' | 'VERIFYING' =>
  steps.some(({ state }) => IS_TO_BE_CALLED[state]) ? 'CASCADING' : 'VERIFYING';

/** What a participant told of its part. */
export interface Answer {
  readonly progress: 'PARTIAL' | 'COMPLETE';
  readonly counts: readonly ResourceCount[];
  readonly failedItems: readonly FailedItem[];
  /** Whether a PARTIAL one waits for the participant's workers: then it is no failure that nothing has moved. */
  readonly isQueued?: boolean;
}

/**
 * The step after an answer. Only a COMPLETE without failed items ends its calls; what was removed is then to be read
 * back, what was hidden or brought back is done. Failures are forgotten once something moved or was read back as
 * gone, and not before: a participant that reports success and keeps its rows has to run out of attempts too.
 */
export function afterAnswer(
  mode: DeletionMode,
  step: DeletionStep,
  { progress, counts, failedItems }: Answer,
): DeletionStep {
  const told = { ...step, counts, failedItems, lastError: undefined, nextAttemptAt: undefined };
  const failed = failedItems[0];
  if (failed) {
    const lastError = `ITEMS_FAILED: ${failed.key} could not be removed: ${failed.code}.`;
    return { ...told, state: 'CASCADING', lastError };
  }
  if (progress === 'PARTIAL') {
    return { ...told, state: 'CASCADING', attempts: hasMoved(step.counts, counts) ? 0 : step.attempts };
  }
  return mode === 'PURGE' ? { ...told, state: 'VERIFYING' } : { ...told, state: 'COMPLETE', attempts: 0 };
}

/** The step after a read-back: complete when nothing is left, otherwise to be called again. */
export function afterReadBack(step: DeletionStep, read: readonly ResourceCount[]): DeletionStep {
  const counts = withLeft(step.counts, read);
  const sum = sumLeft(read);
  if (sum === 0) return { ...step, state: 'COMPLETE', counts, attempts: 0, lastError: undefined };
  return { ...step, state: 'CASCADING', counts, lastError: `NOT_EMPTY: ${sum} are left after the purge.` };
}

/** The step after a failed attempt; STUCK when it was the last one. */
export const afterFailure = (step: DeletionStep, error: string, isLast: boolean): DeletionStep => ({
  ...step,
  state: isLast ? 'STUCK' : step.state === 'VERIFYING' ? 'VERIFYING' : 'CASCADING',
  attempts: step.attempts + 1,
  lastError: error,
});

/** The step while its participant cannot be reached: that is no attempt, as it says nothing about the deletion. */
export const whileAway = (step: DeletionStep, error: string): DeletionStep => ({
  ...afterFailure(step, error, false),
  attempts: step.attempts,
});

/** The deletion with one of its steps in a new state. */
export const withStep = <T extends Cascade>(deletion: T, step: DeletionStep): T => ({
  ...deletion,
  steps: deletion.steps.map((other) => (other.participant === step.participant ? step : other)),
});

/** What is told of a participant whose PARTIAL answers tell of nothing new: that counts as a failed attempt. */
export const noProgress = (participant: string): string =>
  `NO_PROGRESS: ${participant} says that it is not done, and has removed nothing since its last answer.`;
