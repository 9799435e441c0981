/** What a deletion does: hide, bring back, or remove for good. */
export const DELETION_MODES = ['SOFT_DELETE', 'UNDELETE', 'PURGE'] as const;

/** One of DELETION_MODES. */
export type DeletionMode = (typeof DELETION_MODES)[number];

/** Where a deletion stands. */
export const DELETION_STATES = ['PENDING', 'CASCADING', 'VERIFYING', 'COMPLETE', 'STUCK', 'CANCELLED'] as const;

/** One of DELETION_STATES. */
export type DeletionState = (typeof DELETION_STATES)[number];

/** Counts of one kind of resource; bytes where it has any. */
export interface ResourceCount {
  readonly resourceType: string;
  readonly found: number;
  readonly deleted: number;
  readonly left: number;
  readonly bytes: number;
}

/** Something that could not be removed. */
export interface FailedItem {
  readonly key: string;
  readonly code: string;
  readonly message: string;
}

/** One participant's part in a deletion. */
export interface DeletionStep {
  readonly participant: string;
  readonly state: DeletionState;
  readonly counts: readonly ResourceCount[];
  readonly failedItems: readonly FailedItem[];
  readonly attempts: number;
  readonly lastError: string | undefined;
  readonly verifiedAt: Temporal.Instant | undefined;
}

/** A durable operation on one run. It outlives the run: it is the receipt. */
export interface Deletion {
  readonly id: string;
  readonly tenantId: string;
  readonly runId: string;
  readonly mode: DeletionMode;
  readonly state: DeletionState;
  readonly actor: string;
  readonly subject: string;
  readonly reason: string | undefined;
  readonly requestId: string | undefined;
  readonly force: boolean;
  /** The soft delete that an undelete takes back. */
  readonly undoes: string | undefined;
  readonly steps: readonly DeletionStep[];
  readonly attempts: number;
  readonly lastError: string | undefined;
  readonly createdAt: Temporal.Instant;
  readonly startedAt: Temporal.Instant | undefined;
  readonly updatedAt: Temporal.Instant;
  readonly finishedAt: Temporal.Instant | undefined;
}

/** RunService's own rows are the last step of every deletion. */
export const OWN_PARTICIPANT = 'run';

/** Whether the deletion is done with, for good or until a person redrives it. */
export const isSettled = (state: DeletionState): boolean =>
  state === 'COMPLETE' || state === 'STUCK' || state === 'CANCELLED';
