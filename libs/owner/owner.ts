import type { Caller } from '#libs/kernel/caller.ts';
import type { OwnedSubject, OwnerRule, Position } from './subject.ts';

/** Which rows of whom, and who stands behind the call. */
export interface OwnerOrder {
  readonly tenantId: string;
  readonly subject: OwnedSubject;
  readonly caller: Pick<Caller, 'actor' | 'subject'>;
}

/** Where a walk goes on. */
export interface Cursor {
  /** What is being walked: expired rows, then those that have an instant, then those without one. */
  readonly part: 'expired' | 'dated' | 'undated';
  /** The last row seen. Undefined: none of this part. */
  readonly after: Position | undefined;
}

/** How much one call may do. */
export interface CallLimits {
  /** In milliseconds. Checked between slices and batches, so that at least one is always done. */
  readonly budgetMs: number;
  readonly signal: AbortSignal;
}

/** What a call of Count has seen. */
export interface Counted {
  readonly expired: number;
  readonly remaining: number;
  readonly undated: number;
  readonly cutoff: Temporal.Instant;
  /** Where to go on. Undefined: the walk is over. */
  readonly next: Cursor | undefined;
}

/** One operation, over all its calls. */
export interface Operation {
  readonly operationId: string;
  /** Undefined: it was ended before it began. */
  readonly rule: OperationRule | undefined;
  /** Rows of the subject that are gone. */
  readonly removed: number;
  /** How many went with them, by type. */
  readonly dependents: Readonly<Record<string, number>>;
  /** For how long it stood still, in milliseconds by cause. */
  readonly waits: Readonly<Record<string, number>>;
}

/** The rule that an operation keeps from its first call on. */
export interface OperationRule extends Omit<OwnerRule, 'cutoff' | 'latestCutoff'> {
  readonly cutoff: Temporal.Instant;
}

/** How a call of Purge ended. */
export interface Purged {
  readonly operation: Operation;
  readonly isComplete: boolean;
  /** Something else holds it up: not to be called again before so many milliseconds. */
  readonly retryAfterMs: number | undefined;
  /** It has been held up for as long as it may: the caller ends it as PARTIAL. */
  readonly isThrottled: boolean;
  /** The rows that are left could not be removed, twice in a row: the caller ends it as PARTIAL. */
  readonly isStuck: boolean;
  /** The next row alone takes longer than a statement may: the caller ends it as PARTIAL. */
  readonly isTooSlow: boolean;
}

/** How a call of End ended. */
export interface Ended {
  readonly operation: Operation;
  /** Rows that the operation's rule would still take, as far as this call has looked. */
  readonly left: number;
  readonly next: Cursor | undefined;
}

/**
 * A retention owner, as the contract lethe.owner.v1 has it. The clock of its database decides. Every method is bound by
 * its limits, and its counts are those of committed transactions.
 */
export interface Owner {
  readonly subjects: readonly OwnedSubject[];
  /** Made once in the owner's database. */
  dataId(): Promise<string>;
  /** Up to `limit` tenants that have rows of the subject, in byte order, after this one; '' begins. */
  listTenants(subject: OwnedSubject, after: string, limit: number): Promise<readonly string[]>;
  /** CUTOFF_TOO_LATE, CLOCKS_DISAGREE. `upTo`: rows of this call in all, after which no more are counted. */
  count(
    order: OwnerOrder,
    rule: OwnerRule,
    from: Cursor | undefined,
    upTo: number,
    limits: CallLimits,
  ): Promise<Counted>;
  /**
   * Removes up to `limit` rows. REQUEST_ID_REUSED for another rule than the operation's, OPERATION_ENDED after `end`,
   * CUTOFF_TOO_LATE, CLOCKS_DISAGREE.
   */
  purge(order: OwnerOrder, operationId: string, rule: OwnerRule, limit: number, limits: CallLimits): Promise<Purged>;
  /** Ends the operation, known or not: no row is removed under it from here on. Reads back what its rule has left. */
  end(order: OwnerOrder, operationId: string, from: Cursor | undefined, limits: CallLimits): Promise<Ended>;
  /** Forgets operations that nothing has touched for 90 days, up to 1,000 of each of some tenants; how many. */
  expireOperations(): Promise<number>;
}

/** Called once for each operation that found nothing left to remove, and again when it then removed more. */
export type OnPurged = (order: OwnerOrder, operation: Operation) => void;
