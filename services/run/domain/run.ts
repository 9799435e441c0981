import { fingerprint } from '#libs/kernel/fingerprint.ts';
import { etagMismatch, runDrivenByEngine, runNotRunning, runNotTerminal } from './errors.ts';

/** Where a run stands. */
export const RUN_STATES = ['RUNNING', 'COMPENSATING', 'COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELLED'] as const;

/** One of RUN_STATES. */
export type RunState = (typeof RUN_STATES)[number];

/** Who advances a run: Lethe itself, or the caller that opened it. */
export type RunDriver = 'ENGINE' | 'CALLER';

/** JSON as the caller gave it. */
export type JsonObject = { readonly [key: string]: unknown };

/** When a run was hidden, by whom and why. */
export interface Tombstone {
  /** The soft delete that hid it: only what takes that back brings it back. */
  readonly deletionId: string;
  readonly at: Temporal.Instant;
  readonly by: string;
  readonly reason: string | undefined;
}

/** Whether what an output names is still there. */
export const REFERENCE_STATES = ['EXISTS', 'GONE', 'UNKNOWN'] as const;

/** What a field of a run's output names in another service. */
export interface OutputReference {
  readonly field: string;
  readonly participant: string;
  readonly resourceType: string;
  /** UNKNOWN: the participant did not answer, or is not configured. */
  readonly state: (typeof REFERENCE_STATES)[number];
}

/** One run of a workflow; instants are the database's. */
export interface Run {
  readonly id: string;
  readonly tenantId: string;
  readonly workflow: string;
  readonly displayName: string;
  readonly driver: RunDriver;
  readonly state: RunState;
  readonly input: JsonObject | undefined;
  readonly output: JsonObject | undefined;
  readonly error: string | undefined;
  /** Why its compensation cannot finish. Set exactly when it is FAILED and parked. */
  readonly parkedReason: string | undefined;
  /** Attempts of the current step that failed. */
  readonly attempts: number;
  /** The step that began last and has not ended. */
  readonly currentStep: string | undefined;
  readonly createdAt: Temporal.Instant;
  /** When its first step began. */
  readonly startedAt: Temporal.Instant | undefined;
  readonly updatedAt: Temporal.Instant;
  readonly finishedAt: Temporal.Instant | undefined;
  readonly tombstone: Tombstone | undefined;
  /** What its output names in other services, where a reader was told of it; empty for a run as it is stored. */
  readonly references: readonly OutputReference[];
  /** Grows with every change of what the run is; hiding and bringing back leave it, as they leave the rest. */
  readonly version: bigint;
}

const IS_TERMINAL: Readonly<Record<RunState, boolean>> = {
  RUNNING: false,
  COMPENSATING: false,
  COMPLETED: true,
  COMPENSATED: true,
  FAILED: true,
  CANCELLED: true,
};

/** Whether nothing happens to the run any more. */
export const isTerminal = (state: RunState): boolean => IS_TERMINAL[state];

/** The text that changes with every change of the run; a run brought back has the one that it was hidden with. */
export const etagOf = ({ version, tombstone }: Pick<Run, 'version' | 'tombstone'>): string =>
  tombstone ? `"${version}.${tombstone.deletionId}"` : `"${version}"`;

/** Passes when no etag is given or it is the run's; ABORTED/ETAG_MISMATCH otherwise. */
export function assertEtag(run: Run, etag: string): void {
  if (etag !== '' && etag !== etagOf(run)) throw etagMismatch(etag);
}

/** Passes for a run that has ended; FAILED_PRECONDITION/RUN_NOT_TERMINAL otherwise. */
export function assertTerminal({ state }: Run): void {
  if (!isTerminal(state)) throw runNotTerminal(state);
}

/** How a caller ends a run that it drives itself. */
export interface RunEnd {
  readonly state: 'COMPLETED' | 'FAILED' | 'CANCELLED';
  readonly error: string | undefined;
  readonly output: JsonObject | undefined;
}

/**
 * Whether this end was the run's last change, and `etag` is of just before it: the same call came again. A run that
 * ended as CANCELLED by its compensation has changed more than once since.
 */
export const hasEndedSo = (run: Run, { state, error, output }: RunEnd, etag: string): boolean =>
  run.state === state &&
  // What the database answers with has its keys in another order.
  fingerprint({ error: run.error, output: run.output }) === fingerprint({ error, output }) &&
  etag === etagOf({ ...run, version: run.version - 1n });

/** The run after its caller has ended it; the same state again changes nothing. */
export function finish(run: Run, end: RunEnd, now: Temporal.Instant): Run {
  if (run.driver === 'ENGINE') throw runDrivenByEngine();
  if (run.state === end.state) return run;
  if (run.state !== 'RUNNING') throw runNotRunning(run.state);
  return { ...run, ...end, currentStep: undefined, finishedAt: now };
}
