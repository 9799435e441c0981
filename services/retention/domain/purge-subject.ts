import type { Hold } from './ceiling.ts';
import { boundCounts, type ResourceCount, sumCounts, withoutLeft } from './counts.ts';
import type { ResolvedWindow } from './windows.ts';

/** Where one subject of one tenant stands in a retention purge. */
export type PurgeSubjectState =
  | 'PENDING'
  | 'COUNTING'
  | 'RUNNING'
  | 'COMPLETE'
  | 'PARTIAL'
  | 'HELD'
  | 'OBSERVED'
  | 'KEPT';

/** What an owner may remove, as an operation was begun with it. It never changes within one operation. */
export interface OperationRule {
  readonly days: number;
  /** Undefined: the owner makes it when the operation begins. */
  readonly cutoff: Temporal.Instant | undefined;
  readonly minToKeep: number;
  /** Undefined: rows that have not finished stay for ever. */
  readonly staleAfterDays: number | undefined;
  /** What a person approved; undefined: no limit. */
  readonly maxRows: number | undefined;
}

/** Rows counted by one window, oldest first: the expired ones, and all that were seen. */
export interface Tally {
  readonly days: number;
  readonly minToKeep: number;
  readonly staleAfterDays: number | undefined;
  /** How many rows were to be seen in all; 0: the expired ones only. */
  readonly upTo: number;
  readonly expired: number;
  readonly seen: number;
  /** By the clock of the owner's database. */
  readonly cutoff: Temporal.Instant;
}

/** A count that is under way. */
export interface Walk extends Omit<Tally, 'cutoff'> {
  /** Which tally it becomes. */
  readonly purpose: 'expired' | 'usual';
  readonly cutoff: Temporal.Instant | undefined;
  /** As the owner answered, in base64; empty: from the beginning. */
  readonly cursor: string;
}

/** Why an operation stood still, and for how long in all. */
export interface Wait {
  readonly cause: string;
  readonly ms: number;
}

/** An owner asked for time. */
export interface Pause {
  /** Since when no row went. */
  readonly since: Temporal.Instant;
  /** The operation is not to be called before this. */
  readonly until: Temporal.Instant;
}

/** One subject of one tenant in a retention purge. */
export interface PurgeSubject {
  readonly subject: string;
  /** The owner that is called; undefined while none was. */
  readonly owner: string | undefined;
  readonly state: PurgeSubjectState;
  /** The window that is used. */
  readonly window: ResolvedWindow;
  /** The days of the window in the tenant's last COMPLETE purge of the subject; undefined: there was none. */
  readonly lastDays: number | undefined;
  readonly walk: Walk | undefined;
  /** By the window. */
  readonly expired: Tally | undefined;
  /** By the wider of the window and that of the last COMPLETE purge, which is what the ceiling counts. */
  readonly usual: Tally | undefined;
  readonly hold: Hold | undefined;
  readonly operationId: string | undefined;
  /** Undefined unless an operation was begun. */
  readonly operation: OperationRule | undefined;
  /** Undefined unless the owner asked for time, and has not removed a row since. */
  readonly pause: Pause | undefined;
  /** Whether the operation is closed, so that nothing more can be removed under it. */
  readonly isEnded: boolean;
  readonly cutoff: Temporal.Instant | undefined;
  /** Of all operations under this purge. */
  readonly counts: readonly ResourceCount[];
  /** Of the operations that are closed. */
  readonly endedCounts: readonly ResourceCount[];
  readonly waits: readonly Wait[];
  readonly endedWaits: readonly Wait[];
  readonly error: string | undefined;
}

const IS_FINAL: Readonly<Record<PurgeSubjectState, boolean>> = {
  PENDING: false,
  COUNTING: false,
  RUNNING: false,
  COMPLETE: true,
  PARTIAL: true,
  HELD: true,
  OBSERVED: true,
  KEPT: true,
};

/** Whether nothing more is done with the subject by itself. */
export const isSettled = ({ state }: PurgeSubject): boolean => IS_FINAL[state];

/** A subject as a purge first meets it. */
export const newSubject = (window: ResolvedWindow, lastDays: number | undefined): PurgeSubject => ({
  subject: window.subject,
  owner: undefined,
  state: window.window.kind === 'DAYS' ? 'PENDING' : 'KEPT',
  window,
  lastDays,
  walk: undefined,
  expired: undefined,
  usual: undefined,
  hold: undefined,
  operationId: undefined,
  operation: undefined,
  pause: undefined,
  isEnded: false,
  cutoff: undefined,
  counts: [],
  endedCounts: [],
  waits: [],
  endedWaits: [],
  error: undefined,
});

const daysOf = ({ window }: ResolvedWindow): number => (window.kind === 'DAYS' ? window.days : Infinity);

/** The wider of two windows of one subject, with the larger floor. */
function widest(a: ResolvedWindow, b: ResolvedWindow): ResolvedWindow {
  const wider = daysOf(a) >= daysOf(b) ? a : b;
  const floors = [a.minToKeep, b.minToKeep].filter((floor) => floor !== undefined);
  return floors.length === 0 ? wider : { ...wider, minToKeep: Math.max(...floors) };
}

/**
 * The subjects of a tenant's part of a purge when the windows are `windows` now. What has ended stays. What is not
 * decided yet is counted anew when its window changed. What is being removed gets the window too, so that a raised
 * one shows: `isOutgrown`. With `isOrdered`, no window gets narrower than it was when the purge was ordered.
 */
export function adoptWindows(
  known: readonly PurgeSubject[],
  windows: readonly ResolvedWindow[],
  lastDays: ReadonlyMap<string, number>,
  isOrdered: boolean,
): readonly PurgeSubject[] {
  const names = new Set(windows.map(({ subject }) => subject));
  const adopted = windows.map((window) => {
    const subject = known.find((candidate) => candidate.subject === window.subject);
    if (!subject) return newSubject(window, lastDays.get(window.subject));
    if (isSettled(subject)) return subject;
    const used = isOrdered ? widest(window, subject.window) : window;
    if (subject.state === 'RUNNING') return { ...subject, window: used };
    const fresh = { ...subject, window: used, lastDays: lastDays.get(window.subject) };
    if (used.window.kind !== 'DAYS') return { ...fresh, state: 'KEPT' as const, walk: undefined };
    const isSame = daysOf(used) === daysOf(subject.window) && used.minToKeep === subject.window.minToKeep;
    return isSame ? fresh : { ...fresh, walk: undefined, expired: undefined, usual: undefined };
  });
  // A subject that was retired meanwhile keeps what it has counted.
  return [...adopted, ...known.filter(({ subject }) => !names.has(subject))];
}

/** Whether more is to be kept now than when the operation began, so that it must not go on. */
export function isOutgrown({ operation, window }: PurgeSubject): boolean {
  if (!operation) return false;
  if (daysOf(window) > operation.days || (window.minToKeep ?? 0) > operation.minToKeep) return true;
  if (operation.staleAfterDays === undefined) return false;
  return window.staleAfterDays === undefined || window.staleAfterDays > operation.staleAfterDays;
}

/** Waits by cause, added up. */
export function addWaits(a: readonly Wait[], b: readonly Wait[]): readonly Wait[] {
  const sums = new Map<string, number>();
  for (const { cause, ms } of [...a, ...b]) sums.set(cause, (sums.get(cause) ?? 0) + ms);
  return [...sums].map(([cause, ms]) => ({ cause, ms }));
}

/** The subject with what its operation now tells of itself. */
export const withAnswer = (
  subject: PurgeSubject,
  answer: { counts: readonly ResourceCount[]; cutoff: Temporal.Instant | undefined; waits: readonly Wait[] },
): PurgeSubject => ({
  ...subject,
  counts: boundCounts(sumCounts([subject.endedCounts, answer.counts])),
  cutoff: answer.cutoff ?? subject.cutoff,
  waits: addWaits(subject.endedWaits, answer.waits),
});

/**
 * The pause after an answer that asks for `retryDelayMs`; 0: for none. However much an owner asks for, it is called again
 * when no row has gone for `mostMs`.
 */
export function pauseAfter(
  pause: Pause | undefined,
  { retryDelayMs, hasRemoved }: { readonly retryDelayMs: number; readonly hasRemoved: boolean },
  now: Temporal.Instant,
  mostMs: number,
): Pause | undefined {
  if (retryDelayMs === 0) return hasRemoved ? undefined : pause;
  const since = hasRemoved ? now : (pause?.since ?? now);
  const restMs = Math.max(0, mostMs - now.since(since).total('milliseconds'));
  return { since, until: now.add({ milliseconds: Math.ceil(Math.min(retryDelayMs, restMs)) }) };
}

/** The subject with its operation closed; `counts` are the operation's final sums. */
export function withEnd(
  subject: PurgeSubject,
  counts: readonly ResourceCount[],
  cutoff?: Temporal.Instant,
): PurgeSubject {
  const told = withAnswer(subject, { counts, cutoff, waits: [] });
  const { waits } = subject;
  return { ...told, isEnded: true, endedCounts: withoutLeft(told.counts), waits, endedWaits: waits };
}

/** What a tenant's part has removed, or would remove, so far. */
export const countsOf = (subjects: readonly PurgeSubject[]): readonly ResourceCount[] =>
  sumCounts(subjects.map(({ counts }) => counts));
