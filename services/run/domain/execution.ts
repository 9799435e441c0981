/** Where an execution stands, in the order in which it gets there. */
export const EXECUTION_STATES = ['QUEUED', 'RUNNING', 'ENDED'] as const;

/** One of EXECUTION_STATES. */
export type ExecutionState = (typeof EXECUTION_STATES)[number];

/** One line of execution history. (id, createdAt) identify it in its tenant and never change; instants in microseconds. */
export interface Execution {
  readonly id: string;
  readonly workflow: string;
  /** How it ended, in the words of the system that executed it. Empty: not said. */
  readonly status: string;
  readonly state: ExecutionState;
  readonly startedAt: Temporal.Instant | undefined;
  readonly finishedAt: Temporal.Instant | undefined;
  readonly createdAt: Temporal.Instant;
}

/** How many executions there were on a day (UTC, by age) in a state. */
export interface ExecutionCount {
  readonly day: Temporal.PlainDate;
  readonly state: ExecutionState;
  readonly count: number;
}

/** The most days that one count covers. */
export const MAX_COUNTED_DAYS = 31;

const FIRST_COUNTABLE = Temporal.PlainDate.from('0001-01-01');
const LAST_COUNTABLE = Temporal.PlainDate.from('9999-12-30');

/** Whether executions of the day can be counted: it and the day after are within the years 1 to 9999. */
export const isCountable = (day: Temporal.PlainDate): boolean =>
  Temporal.PlainDate.compare(day, FIRST_COUNTABLE) >= 0 && Temporal.PlainDate.compare(day, LAST_COUNTABLE) <= 0;

/** The time in a UUIDv7, to the millisecond; undefined for a UUID of another version. */
export function timeInId(id: string): Temporal.Instant | undefined {
  if (id[14] !== '7') return undefined;
  return Temporal.Instant.fromEpochMilliseconds(Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16));
}
