/**
 * The side of a run's deletion and compensation that answers. A service in this repository that owns data of runs stands on
 * this library and gives only what differs: how its rows are hidden, shown and removed, what there is of a run, and what
 * steps can have done; .github/CONTRIBUTING.md says how. The least of such services is test/support/notes-participant.ts;
 * test/contract/participant-library.test.ts holds it to the suite that every participant passes. JobService, whose objects
 * are in a store, uses the gate and removes by its own workers. RunService keeps what was done in `participant_operations`,
 * and the run's row is its lock. A service outside of this repository needs none of this: see proto/README.md.
 */
import type { Principal } from '#libs/kernel/caller.ts';
import type { FailedItem, ResourceCount } from '#libs/kernel/resource-count.ts';
import type { Action } from './action.ts';

/** What belongs to a run, and is hidden, brought back and removed with it. */
export interface RunScope {
  readonly tenantId: string;
  readonly runId: string;
  /** Only the effects of this step. */
  readonly step: string | undefined;
}

/** One operation of a cascade, and who stands behind it. */
export interface RunOperation {
  readonly operationId: string;
  /** The step of its key, as the caller named it. */
  readonly part: string;
  readonly caller: Principal;
  readonly reason: string | undefined;
}

/** What forbids a purge. */
export interface Blocker {
  readonly reason: string;
  readonly resourceType: string;
  readonly resourceId: string;
  readonly message: string;
}

/** One of the things that would go. */
export interface Sample {
  readonly resourceType: string;
  readonly resourceId: string;
}

/** How far one call looks. */
export interface Look {
  /** How long it may take, in milliseconds; undefined: as long as the answer takes to be whole. */
  readonly budgetMs?: number | undefined;
  /** Where the call before left off, as it answered; undefined: from the beginning. */
  readonly cursor?: string | undefined;
  /** Aborted when nobody waits for the answer any more. */
  readonly signal?: AbortSignal;
}

/** What there is, counted as `found` and `left`. */
export interface Inventory {
  readonly counts: readonly ResourceCount[];
  /** Up to 100. */
  readonly samples: readonly Sample[];
  /** Where the next call goes on, and adds its counts to these; undefined: all was seen. */
  readonly cursor?: string | undefined;
}

/** What a purge would take, and up to 100 of the things that forbid it. */
export interface Preview extends Inventory {
  readonly blockers?: readonly Blocker[];
}

/** What one call did, summed over all calls with its key. */
export interface Participation {
  readonly progress: 'PARTIAL' | 'COMPLETE';
  readonly counts: readonly ResourceCount[];
  readonly failedItems: readonly FailedItem[];
  /** Whether a PARTIAL one waits for the participant's workers. */
  readonly isQueued?: boolean;
}

/**
 * A service's part in runs. Nothing of a run is no error: then counts are empty. What changes something is idempotent by
 * its operation, and its counts are sums over all calls with one operation.
 */
export interface Participant {
  /** By name, such as `create-job`. */
  readonly actions: Readonly<Record<string, Action>>;
  /** Must tell what a purge would take, by the predicates that it uses; with `blockersOnly` it need not count. */
  preview(scope: RunScope, look?: Look & { readonly blockersOnly?: boolean }): Promise<Preview>;
  /** Must hide what is there and refuse what comes later; counts what this operation hid, as `deleted`. */
  softDelete(scope: RunScope, operation: RunOperation): Promise<readonly ResourceCount[]>;
  /** Must bring back exactly what that soft delete hid, and refuse it from now on; OPERATION_IN_PROGRESS. */
  restore(scope: RunScope, operation: RunOperation, softDeleteId: string): Promise<readonly ResourceCount[]>;
  /** Must remove for good, about `limit` rows and objects a call, and refuse what comes later. */
  purge(scope: RunScope, operation: RunOperation, limit: number): Promise<Participation>;
  /** Must remove the effects of the scope's step whatever their state, and refuse those that come later. */
  compensate(scope: RunScope, operation: RunOperation): Promise<Participation>;
  /** Must tell what is left, read from the stores themselves; with `rowsOnly` from the service's rows alone. */
  verify(scope: RunScope, rowsOnly: boolean, look?: Look): Promise<Inventory>;
}
