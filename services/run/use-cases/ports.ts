import type { Caller } from '#libs/kernel/caller.ts';
import type { Page, PageQuery } from '#libs/kernel/page.ts';
import type { View } from '#libs/kernel/view.ts';
import type { Deletion, DeletionMode, DeletionState } from '../domain/deletion.ts';
import type { JsonObject, Run, RunState } from '../domain/run.ts';
import type { RunStep } from '../domain/step.ts';

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
  /**
   * Must answer undefined for an unknown run, another tenant's, and a hidden one unless `showDeleted`. Of BASIC, input
   * and output must not be read. FULL where no view is named.
   */
  get(tenantId: string, runId: string, showDeleted: boolean, view?: View): Promise<Run | undefined>;
  /** Must answer the etag (`etagOf`) of each of these runs that is there, hidden or not, by id. */
  etags(tenantId: string, runIds: readonly string[]): Promise<ReadonlyMap<string, string>>;
  /** Must answer the run, hidden or not, with the database's instant; undefined for an unknown one. */
  inspect(tenantId: string, runId: string): Promise<{ run: Run; now: Temporal.Instant } | undefined>;
  /** Must list newest first by creation and id, in the BASIC view. */
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

/** Which deletions of a tenant. */
export interface DeletionQuery extends PageQuery {
  readonly state: DeletionState | undefined;
  readonly mode: DeletionMode | undefined;
  readonly runId: string | undefined;
}

/** The deletions of a tenant, ordered and done: the receipts. */
export interface DeletionRecords {
  get(tenantId: string, deletionId: string): Promise<Deletion | undefined>;
  /** Must list newest first. */
  list(tenantId: string, query: DeletionQuery): Promise<Page<Deletion>>;
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
