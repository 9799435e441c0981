import type { Caller } from '#libs/kernel/caller.ts';
import type { Deletion, DeletionMode, DeletionState, FailedItem, ResourceCount } from '../domain/deletion.ts';
import type { JsonObject, Run, RunState } from '../domain/run.ts';

/** One page of a list: at most `limit` rows after the keyset `after`, newest first. */
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
}

/** The tenant's runs. */
export interface RunRepository {
  /** Must create the run RUNNING, or answer with the one of this request id; REQUEST_ID_REUSED for another body. */
  create(run: NewRun): Promise<Run>;
  /** Must answer undefined for an unknown run, another tenant's, and a hidden one unless `showDeleted`. */
  get(tenantId: string, runId: string, showDeleted: boolean): Promise<Run | undefined>;
  /** Must list newest first by creation and id. */
  list(tenantId: string, query: RunQuery): Promise<Page<Run>>;
  /** Must apply `change` under the row's lock and commit what it returned; undefined for a hidden run too. */
  update(tenantId: string, runId: string, change: (run: Run, now: Temporal.Instant) => Run): Promise<Run | undefined>;
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
  /** The participants that it cascades to, in order; RunService's own rows come after them. */
  readonly participants: readonly string[];
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

/** What a step came to. */
export interface StepResult {
  readonly participant: string;
  readonly state: DeletionState;
  readonly counts: readonly ResourceCount[];
  readonly failedItems: readonly FailedItem[];
  readonly lastError: string | undefined;
  readonly verified: boolean;
}

/** The durable deletions of runs. */
export interface DeletionRepository {
  /**
   * Must lock the run's row, run `check`, and in one transaction commit the deletion with its steps and hide the run
   * (SOFT_DELETE). Must answer with the earlier deletion for the same request id and fingerprint, also when the run
   * is gone; REQUEST_ID_REUSED for another fingerprint; the first deletion for a SOFT_DELETE repeated;
   * OPERATION_IN_PROGRESS while another one is under way; 'nothing' for the UNDELETE of a run that is not hidden;
   * undefined for an unknown run.
   */
  begin(
    order: DeletionOrder,
    check: (run: Run, now: Temporal.Instant) => void,
  ): Promise<Deletion | 'nothing' | undefined>;
  get(tenantId: string, deletionId: string): Promise<Deletion | undefined>;
  /** Must list newest first. */
  list(tenantId: string, query: DeletionQuery): Promise<Page<Deletion>>;
  /** Must answer the deletions of any tenant that are due and that nobody holds, the longest due first. */
  findDue(limit: number): Promise<readonly { tenantId: string; deletionId: string }[]>;
  /** Must give the deletion to this worker with a new token, unless it is not due or somebody holds it. */
  claim(tenantId: string, deletionId: string, owner: string, leaseMs: number): Promise<DeletionClaim | undefined>;
  /** Must save a step and the deletion's state and renew the lease; LEASE_LOST when the token is not the last one. */
  saveStep(claim: DeletionClaim, state: DeletionState, step: StepResult, leaseMs: number): Promise<void>;
  /** Must remove or bring back RunService's own rows, mark the deletion COMPLETE and write its audit row. */
  complete(claim: DeletionClaim): Promise<Deletion>;
  /** Must give the deletion up until `retryMs` from now, or park it as STUCK when that is undefined. */
  postpone(claim: DeletionClaim, error: string, retryMs: number | undefined, counted: boolean): Promise<void>;
  /** Must give a STUCK deletion its attempts anew and make it due; undefined for an unknown one. */
  redrive(
    tenantId: string,
    deletionId: string,
    caller: Caller,
    reason: string | undefined,
  ): Promise<Deletion | undefined>;
  /** Must count the run's own rows by the predicate that `complete` uses. */
  countOwnRows(tenantId: string, runId: string): Promise<readonly ResourceCount[]>;
  /** Must write one audit row for a refusal. */
  recordRefusal(order: DeletionOrder, refusal: string): Promise<void>;
  oldestUnfinishedSeconds(): Promise<number>;
}

/** For whom, and under which key, a participant is called. */
export interface ParticipantCall {
  readonly tenantId: string;
  readonly actor: string;
  readonly operationId: string;
  readonly runId: string;
  readonly reason: string | undefined;
}

/** What a participant answered. */
export interface ParticipantAnswer {
  readonly progress: 'PARTIAL' | 'COMPLETE';
  readonly counts: readonly ResourceCount[];
  readonly failedItems: readonly FailedItem[];
}

/** What forbids a purge. */
export interface Blocker {
  readonly reason: string;
  readonly resourceType: string;
  readonly resourceId: string;
  readonly message: string;
}

/** One thing that a purge would take, or that is left. */
export interface ResourceSample {
  readonly resourceType: string;
  readonly resourceId: string;
}

/**
 * A service that owns data reachable from a run. Every method must be idempotent by the operation; it throws
 * DEPENDENCY_UNAVAILABLE when the service does not answer in time, and what the service refused otherwise.
 */
export interface Participant {
  readonly name: string;
  softDelete(call: ParticipantCall): Promise<ParticipantAnswer>;
  restore(call: ParticipantCall, softDeleteId: string): Promise<ParticipantAnswer>;
  purge(call: ParticipantCall): Promise<ParticipantAnswer>;
  /** Must answer what is left, read back from the stores; empty when nothing is. */
  verify(call: ParticipantCall): Promise<readonly ResourceCount[]>;
  preview(call: ParticipantCall): Promise<{
    readonly counts: readonly ResourceCount[];
    readonly blockers: readonly Blocker[];
    readonly samples: readonly ResourceSample[];
  }>;
}
