/** A schedule as it stands. */
export interface KnownSchedule {
  readonly name: string;
  readonly pattern: string;
  readonly isDue: boolean;
}

/** A replica's hold on the work of one instant. */
export interface ScheduleClaim {
  readonly name: string;
  readonly token: bigint;
  /** The id of this instant's work: the same one for every replica that claims it. */
  readonly runId: string;
  /** How often this instant's work was claimed, this claim included. */
  readonly attempts: number;
}

/** The first instant after the database's now; undefined: there is none. */
export type NextInstant = (now: Temporal.Instant) => Temporal.Instant | undefined;

/** Schedules as leased rows of the installation, due by the database's clock. */
export interface ScheduleRepository {
  list(): Promise<readonly KnownSchedule[]>;
  /** Must create the schedule, or replace its pattern and its instant. */
  plan(name: string, pattern: string, next: NextInstant): Promise<void>;
  /** Must remove the schedule; whoever holds it then loses its lease. */
  remove(name: string): Promise<void>;
  /** Must give a schedule of this pattern to one replica for `leaseMs`; undefined when it is not due. */
  claim(name: string, pattern: string, owner: string, leaseMs: number): Promise<ScheduleClaim | undefined>;
  /** LEASE_LOST. */
  renew(claim: ScheduleClaim, leaseMs: number): Promise<void>;
  /** Must plan the next instant, with a run id of its own; LEASE_LOST. */
  finish(claim: ScheduleClaim, next: NextInstant): Promise<void>;
  /** Must have the same instant's work tried again after `retryMs`; LEASE_LOST. */
  fail(claim: ScheduleClaim, error: string, retryMs: number): Promise<void>;
}
