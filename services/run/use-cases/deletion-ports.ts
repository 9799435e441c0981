import type { BulkItem } from '#libs/kernel/bulk-item.ts';
import type { Caller } from '#libs/kernel/caller.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import type { Blocker, Sample } from '#libs/participant/participant.ts';
import type { Answer, Deletion, DeletionMode, DeletionState, DeletionStep } from '../domain/deletion.ts';
import type { Run } from '../domain/run.ts';

/** Who wants what of a run, and why. */
export interface DeletionOrder {
  readonly caller: Caller;
  readonly tenantId: string;
  readonly runId: string;
  readonly mode: DeletionMode;
  readonly reason: string | undefined;
  readonly requestId: string | undefined;
  readonly fingerprint: string;
  readonly force: boolean;
  /** The configured participants but RunService itself, in the order in which they are called. */
  readonly participants: readonly string[];
  /** The item of a bulk deletion that it is for. */
  readonly bulkItem: BulkItem | undefined;
}

/** What an order would begin. */
export interface CheckedOrder {
  /** All who would be called but RunService itself, in their order. */
  readonly participants: readonly string[];
  /** The soft delete that hides the run. */
  readonly undoes: string | undefined;
  readonly now: Temporal.Instant;
}

/** What came of an order. */
export interface Ordered {
  /** The one that has begun, now or before; undefined when there is nothing to do. */
  readonly deletion?: Deletion | undefined;
  /** What was only checked, and would begin. */
  readonly checked?: CheckedOrder;
}

/** Where deletions of runs begin. */
export interface DeletionOrders {
  /**
   * Must lock the run's row, run `check`, and in one transaction commit the deletion with its steps and do what is
   * done at once: SOFT_DELETE hides the run and its steps, UNDELETE shows what that soft delete hid and cancels it
   * where it is still under way. With `checkOnly` it must do the same checks and change nothing.
   *
   * Must answer with the earlier deletion for the same mode, request id and fingerprint, also when the run is gone,
   * and for a SOFT_DELETE repeated with the one that hid the run. Must throw REQUEST_ID_REUSED for another
   * fingerprint, OPERATION_IN_PROGRESS while another deletion is not over, RUN_NOT_FOUND for an unknown run.
   *
   * For an item of a bulk deletion it must mark the item in the same transaction, and throw LEASE_LOST once the worker
   * that ordered it no longer holds the bulk deletion.
   *
   * The deletion's steps must be those of `participantsOf`, read under the lock, and RunService's own as the last one.
   */
  begin(order: DeletionOrder, check: (run: Run, now: Temporal.Instant) => void, checkOnly: boolean): Promise<Ordered>;
  /**
   * Must return everyone who may hold data of the run: the configured participants in their order, then by name those
   * that were ever configured or that a step of the run names. Retired ones are left out unless they are configured.
   */
  participantsOf(tenantId: string, runId: string, configured: readonly string[]): Promise<readonly string[]>;
  /** Must write one audit row for a refusal. */
  recordRefusal(order: DeletionOrder, refusal: string): Promise<void>;
}

/** A worker's hold on a deletion. */
export interface DeletionClaim {
  readonly deletion: Deletion;
  readonly token: bigint;
}

/**
 * What workers do of the durable deletions of runs. A deletion's steps follow one another, so the lease on the deletion
 * is the lease on the step under way, and its fencing token guards every write of both.
 */
export interface DeletionWork {
  /** Must answer deletions that are due so that tenants take turns: first those whose deletions have fewest workers. */
  findDue(limit: number): Promise<readonly { tenantId: string; deletionId: string }[]>;
  /**
   * Must give the deletion to this worker with a new token, unless it is not due or somebody holds it. A holder that
   * vanished, its lease run out, must count as a failed attempt.
   */
  claim(tenantId: string, deletionId: string, owner: string, leaseMs: number): Promise<DeletionClaim | undefined>;
  /** Must add a PENDING step for each of these participants that has none; the deletion with them. LEASE_LOST. */
  addSteps(claim: DeletionClaim, participants: readonly string[]): Promise<Deletion>;
  /** Must save the step and the deletion's state and renew the lease; LEASE_LOST when the token is not the last one. */
  saveStep(claim: DeletionClaim, state: DeletionState, step: DeletionStep, leaseMs: number): Promise<void>;
  /** Must give the deletion up unharmed, due again in `pauseMs`; LEASE_LOST. */
  release(claim: DeletionClaim, pauseMs: number): Promise<void>;
  /** Must save the failed step and give the deletion up: due in `retryMs`, or STUCK when that is undefined; LEASE_LOST. */
  fail(claim: DeletionClaim, step: DeletionStep, retryMs: number | undefined): Promise<void>;
  /** Must mark the deletion COMPLETE and write its audit row; LEASE_LOST. */
  complete(claim: DeletionClaim): Promise<Deletion>;
}

/** For whom, and under which key, a participant is called. */
export interface ParticipantCall {
  readonly tenantId: string;
  readonly actor: string;
  readonly operationId: string;
  /** The part of the operation: with `operationId`, the key that makes the call idempotent. */
  readonly step: string;
  readonly runId: string;
  readonly reason: string | undefined;
}

/** Where an answer left off. What it is made of is the participant's affair. */
export type Cursor = Uint8Array;

/** What is left of a part of a participant's data, or of the last part. */
export interface ReadBack {
  readonly counts: readonly ResourceCount[];
  /** Where the next part begins; undefined: there is none. */
  readonly cursor?: Cursor | undefined;
}

/** How a preview is asked for. */
export interface PreviewOptions {
  readonly blockersOnly?: boolean;
  /** Aborted when nobody waits for it any more. */
  readonly signal?: AbortSignal | undefined;
}

/** What a purge would take of one participant, and what forbids it. */
export interface ParticipantPreview {
  readonly counts: readonly ResourceCount[];
  readonly blockers: readonly Blocker[];
  readonly samples: readonly Sample[];
}

/** What a purge would take of each participant, and what forbids it. */
export type ParticipantPreviews = readonly ({ readonly participant: string } & ParticipantPreview)[];

/**
 * A service that owns data reachable from a run. Every method must be idempotent by the call's key; it throws
 * DEPENDENCY_UNAVAILABLE when the service does not answer in time, and what the service refused otherwise.
 */
export interface Participant {
  readonly name: string;
  softDelete(call: ParticipantCall): Promise<Answer>;
  restore(call: ParticipantCall, softDeleteId: string): Promise<Answer>;
  /** Removes at most `limit` rows and objects, or as many as the participant thinks fit. */
  purge(call: ParticipantCall, limit?: number): Promise<Answer>;
  /**
   * Must answer what is left, read back from the stores; nothing, or counts of 0, when nothing is. An answer with a cursor
   * is of a part, and the next call goes on from it.
   */
  verify(call: ParticipantCall, cursor?: Cursor): Promise<ReadBack>;
  /** Must answer the whole; with `blockersOnly`, without counts. */
  preview(call: ParticipantCall, options?: PreviewOptions): Promise<ParticipantPreview>;
  /** Must answer whether the service takes calls at all, whatever it does with this run's; within a second or two. */
  isReachable(): Promise<boolean>;
}
