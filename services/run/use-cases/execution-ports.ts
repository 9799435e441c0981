import type { Page, PageQuery } from '#libs/kernel/page.ts';
import type { Execution, ExecutionCount, ExecutionState } from '../domain/execution.ts';

/** What became of a batch of executions. Positions count from 0. */
export interface RecordedExecutions {
  readonly created: number;
  readonly updated: number;
  /** Positions of those that the tenant's last purge reached and that are gone; they were not stored. */
  readonly expired: readonly number[];
}

/** A batch that was refused because of instants that no execution can have; nothing was stored. */
export interface MisdatedExecutions {
  /** Positions of those created more than a day from now or more than ten years ago. */
  readonly created: readonly number[];
  /** Positions of those started more than a day from now. */
  readonly started: readonly number[];
  /** Positions of those finished more than a day from now. */
  readonly finished: readonly number[];
}

/** Which executions to list. Ages count from the start, or from the creation where there is none. */
export interface ExecutionQuery extends PageQuery {
  readonly workflow: string | undefined;
  readonly status: string | undefined;
  readonly state: ExecutionState | undefined;
  /** Inclusive. */
  readonly minAge: Temporal.Instant | undefined;
  /** Exclusive. */
  readonly maxAge: Temporal.Instant | undefined;
}

/** Executions of a tenant. */
export interface ExecutionRepository {
  /**
   * Must store all of them or none. One that is there, by id and createdAt, must be brought up to date, but no state
   * may go back, and what is absent or empty must stay as it was. One that is not there and that a purge has passed by
   * age must not be stored. No two of the batch may have the same id and createdAt.
   */
  record(
    tenantId: string,
    executions: readonly Execution[],
  ): Promise<RecordedExecutions | { readonly misdated: MisdatedExecutions }>;
  /**
   * Must list by age, newest first, and look at a bounded number of rows. A page may be short, or empty, and still have
   * a next one.
   */
  list(tenantId: string, query: ExecutionQuery): Promise<Page<Execution>>;
  /** Must count the executions of each day by state. */
  count(
    tenantId: string,
    days: readonly Temporal.PlainDate[],
    workflow: string | undefined,
  ): Promise<readonly ExecutionCount[]>;
  /** Must answer today's date in UTC by the database's clock. */
  today(): Promise<Temporal.PlainDate>;
}

/** A month that was rewritten in place, with the disk that it held before and after. */
export interface RewrittenMonth {
  /** Its first day. */
  readonly month: string;
  readonly keptRows: number;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

/** The partitions that hold the executions of all tenants. */
export interface ExecutionMonths {
  /** Must make what is missing of this month and the next two. */
  makeAhead(): Promise<void>;
  /**
   * Must rewrite one month that holds far more disk than its rows need, where there is one that nobody uses or rewrites
   * at the moment, without a lock on any other month.
   */
  rewriteOne(): Promise<RewrittenMonth | undefined>;
  /** Must note since when months have been empty, for the migration that drops them. */
  noteEmpty(): Promise<void>;
}
