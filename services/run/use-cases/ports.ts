import type { BulkItem } from '#libs/kernel/bulk-item.ts';
import type { Caller } from '#libs/kernel/caller.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import type { Blocker, Sample } from '#libs/participant/participant.ts';
import type { Answer, Deletion, DeletionMode, DeletionState, DeletionStep } from '../domain/deletion.ts';
import type { JsonObject, Run, RunState } from '../domain/run.ts';
import type { RunStep } from '../domain/step.ts';

/** One page of a list: at most `limit` rows after the keyset `after`. */
export interface PageQuery {
  readonly limit: number;
  readonly after: readonly string[] | undefined;
}

/** A page, and the keyset of its last row when there are more. */
export interface Page<T> {
  readonly items: readonly T[];
  readonly next: readonly string[] | undefined;
}

/** What a new run is. */
export interface NewRun {
  readonly tenantId: string;
  readonly workflow: string;
  readonly displayName: string;
  readonly input: JsonObject | undefined;
  readonly requestId: string | undefined;
  readonly fingerprint: string;
}

/** Which runs of a tenant. */
export interface RunQuery extends PageQuery {
  readonly state: RunState | undefined;
  readonly workflow: string | undefined;
  readonly minCreatedAt: Temporal.Instant | undefined;
  readonly maxCreatedAt: Temporal.Instant | undefined;
  readonly showDeleted: boolean;
  /** Hidden ones alone, the last hidden first; goes with `showDeleted`. */
  readonly deletedOnly: boolean;
}

/** The tenant's runs and their steps. */
export interface RunRepository {
  /**
   * Must create the run RUNNING, or answer with the one of this request id: REQUEST_ID_REUSED for another body,
   * RUN_NOT_FOUND when that run is hidden or gone.
   */
  create(run: NewRun): Promise<Run>;
  /** Must answer undefined for an unknown run, another tenant's, and a hidden one unless `showDeleted`. */
  get(tenantId: string, runId: string, showDeleted: boolean): Promise<Run | undefined>;
  /** Must answer the etag (`etagOf`) of each of these runs that is there, hidden or not, by id. */
  etags(tenantId: string, runIds: readonly string[]): Promise<ReadonlyMap<string, string>>;
  /** Must answer the run, hidden or not, with the database's instant; undefined for an unknown one. */
  inspect(tenantId: string, runId: string): Promise<{ run: Run; now: Temporal.Instant } | undefined>;
  /** Must list newest first by creation and id. */
  list(tenantId: string, query: RunQuery): Promise<Page<Run>>;
  /** Must apply `change` under the row's lock and commit what it returned; undefined for a hidden run too. */
  update(tenantId: string, runId: string, change: (run: Run, now: Temporal.Instant) => Run): Promise<Run | undefined>;
  /**
   * Must apply `change` to the step of that name under the lock of its run, and commit what it returned together with
   * what it means for the run; undefined for an unknown or hidden run.
   */
  recordStep(
    tenantId: string,
    runId: string,
    name: string,
    change: (run: Run, known: RunStep | undefined, nextPosition: number, now: Temporal.Instant) => RunStep,
  ): Promise<RunStep | undefined>;
  /** Must list in the order of positions; undefined for an unknown run, and a hidden one unless `showDeleted`. */
  listSteps(
    tenantId: string,
    runId: string,
    query: PageQuery & { readonly showDeleted: boolean },
  ): Promise<Page<RunStep> | undefined>;
}

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

/** What came of an order. */
export interface Ordered {
  /** `checked`: it would begin; the deletion has no id. `nothing`: there is nothing to do, and no deletion. */
  readonly outcome: 'begun' | 'known' | 'checked' | 'nothing';
  readonly deletion: Deletion | undefined;
}

/** A worker's hold on a deletion. */
export interface DeletionClaim {
  readonly deletion: Deletion;
  readonly token: bigint;
}

/** Which deletions of a tenant. */
export interface DeletionQuery extends PageQuery {
  readonly state: DeletionState | undefined;
  readonly mode: DeletionMode | undefined;
  readonly runId: string | undefined;
}

/**
 * The durable deletions of runs. A deletion's steps follow one another, so the lease on the deletion is the lease on
 * the step under way, and its fencing token guards every write of both.
 */
export interface DeletionRepository {
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
  get(tenantId: string, deletionId: string): Promise<Deletion | undefined>;
  /** Must list newest first. */
  list(tenantId: string, query: DeletionQuery): Promise<Page<Deletion>>;
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
  /**
   * Must give a STUCK deletion its attempts anew and make it due, and its item of a bulk deletion with it; undefined for
   * an unknown one.
   */
  redrive(
    tenantId: string,
    deletionId: string,
    caller: Caller,
    reason: string | undefined,
  ): Promise<Deletion | undefined>;
  /** Must write one audit row for a refusal. */
  recordRefusal(order: DeletionOrder, refusal: string): Promise<void>;
  oldestUnfinishedSeconds(): Promise<number>;
  /** Must count those of all tenants that are STUCK. */
  stuckCount(): Promise<number>;
}

/** A participant that this installation has or had. */
export interface KnownParticipant {
  readonly name: string;
  readonly firstConfiguredAt: Temporal.Instant;
  /** The data set that it answers from; undefined when it has never told. */
  readonly dataId: string | undefined;
  /** Another one that it answered from since, and that nobody has confirmed. */
  readonly claimedDataId: string | undefined;
  /** An operator's word that it is gone together with its data. */
  readonly retirement:
    | { readonly at: Temporal.Instant; readonly by: string; readonly reason: string | undefined }
    | undefined;
}

/** Every participant that was ever configured in this installation. It belongs to no tenant. */
export interface ParticipantDirectory {
  /** Must remember these names, and lift the retirement of any of them. */
  keepConfigured(names: readonly string[]): Promise<void>;
  /**
   * Must remember the first data set that the participant answers from. True when this is the one that is known,
   * and any claim must be forgotten; otherwise false, and this one must be kept as its claim.
   */
  bindData(name: string, dataId: string): Promise<boolean>;
  /** Must make the claimed data set the known one, with a row of the audit in one transaction; undefined as `retire`. */
  confirm(name: string, caller: Caller, reason: string): Promise<KnownParticipant | undefined>;
  /** Must list all of them by name. */
  list(): Promise<readonly KnownParticipant[]>;
  /**
   * Must retire the participant with a row of the audit in one transaction; one that is retired stays as it is.
   * Undefined for a name that was never configured.
   */
  retire(name: string, caller: Caller, reason: string): Promise<KnownParticipant | undefined>;
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

/** What a purge would take of one participant, and what forbids it. */
export interface ParticipantPreview {
  readonly counts: readonly ResourceCount[];
  readonly blockers: readonly Blocker[];
  readonly samples: readonly Sample[];
}

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
  /** Must answer what is left, read back from the stores; nothing, or counts of 0, when nothing is. */
  verify(call: ParticipantCall): Promise<readonly ResourceCount[]>;
  preview(call: ParticipantCall): Promise<ParticipantPreview>;
  /** Must answer whether the service takes calls at all, whatever it does with this run's; within a second or two. */
  isReachable(): Promise<boolean>;
}
