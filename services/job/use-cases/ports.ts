import type { BulkItem } from '#libs/kernel/bulk-item.ts';
import type { Caller, Principal } from '#libs/kernel/caller.ts';
import type { Contents } from '#libs/object-store/object-store.ts';
import type { RunOperation, RunScope } from '#libs/participant/participant.ts';
import type { Artifact, ArtifactKind, ObjectRef } from '../domain/artifact.ts';
import type { DeletionState, FailedKey, JobDeletion, RemovalCounts } from '../domain/deletion.ts';
import type { Job, JobState } from '../domain/job.ts';
import type { StepOutcome } from '../domain/step-action.ts';

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

/** What a new job is. */
export interface NewJob {
  readonly tenantId: string;
  readonly displayName: string;
  readonly runId: string | undefined;
  readonly step: string | undefined;
  readonly taskNames: readonly string[];
  readonly requestId: string | undefined;
  /** Of everything above but the request id. */
  readonly fingerprint: string;
}

/** Which jobs of a tenant. */
export interface JobQuery extends PageQuery {
  readonly state: JobState | undefined;
  readonly runId: string | undefined;
  readonly minCreatedAt: Temporal.Instant | undefined;
  readonly maxCreatedAt: Temporal.Instant | undefined;
  /** Also those that are hidden with their run. */
  readonly showDeleted: boolean;
}

/** What a change of a job decides by: the locked job and the database's clock. */
export type JobChange = (job: Job, now: Temporal.Instant) => Job;

/** Who did something worth a row of the audit, and why. */
export interface Deed {
  readonly caller: Caller;
  readonly action: string;
  readonly reason: string | undefined;
}

/** The tenant's jobs. A job that is being removed is not there for any method but `beginDeletion`. */
export interface JobRepository {
  /**
   * Must create the job PENDING, or answer with the one that this request id created before; REQUEST_ID_REUSED when
   * its fingerprint was another, JOB_NOT_FOUND when that job is gone, since a late repetition must not bring it back.
   * STEP_COMPENSATED when the run or its step has a tombstone, or gets one at the same time; RUN_DELETED while the run
   * is hidden.
   */
  create(job: NewJob): Promise<Job>;
  /** Must answer undefined for an unknown job, another tenant's, and a hidden one unless `showDeleted`. */
  get(tenantId: string, jobId: string, showDeleted: boolean): Promise<Job | undefined>;
  /** Must list newest first by creation and id. */
  list(tenantId: string, query: JobQuery): Promise<Page<Job>>;
  /**
   * Must apply `change` to the job under its row's lock and commit what it returned, with a row of the audit for the
   * deed where one is given and something changed; undefined as for `get`.
   */
  update(tenantId: string, jobId: string, change: JobChange, deed?: Deed): Promise<Job | undefined>;
  /**
   * Must apply `change` to the oldest claimable job, which no other call can get meanwhile; undefined for none. Must
   * answer, changing nothing, with the job that this request id claimed before, unless it was claimed again since;
   * JOB_NOT_FOUND when that job is gone.
   */
  claimOldest(tenantId: string, requestId: string | undefined, change: JobChange): Promise<Job | undefined>;
  /** Must answer the jobs of any tenant that are CANCELLING with a lease that ran out. */
  findAbandonedCancellations(limit: number): Promise<readonly { tenantId: string; jobId: string }[]>;
  /** Must answer which of these jobs have a row, hidden and half-removed ones included. */
  findExisting(tenantId: string, jobIds: readonly string[]): Promise<ReadonlySet<string>>;
  /** Must answer whether the tenant has any job, hidden and half-removed ones included. */
  hasAny(tenantId: string): Promise<boolean>;
  /** Must answer every tenant that has a job. */
  findTenants(): Promise<readonly string[]>;
  /** Must answer the database's clock, which decides every age. */
  now(): Promise<Temporal.Instant>;
}

/** What was found with one tenant. */
export interface TenantSweep {
  readonly tenantId: string;
  /** What the store holds of jobs that are not there. */
  readonly found: Contents;
  /** What was removed of it. */
  readonly deleted: Contents;
  /** What the store still held when it was asked again; what was not tried included. */
  readonly left: Contents;
  readonly jobsWithoutObjects: number;
  /** Up to 100 keys of orphaned objects and ids of jobs without objects. */
  readonly orphanKeys: readonly string[];
  readonly jobIds: readonly string[];
  readonly failedKeys: readonly FailedKey[];
  /** Why the tenant was left alone, or not done to its end. */
  readonly error: string | undefined;
}

/** What is written down of the sweep of a tenant's orphans. */
export interface SweepAudit {
  /** Must commit that these orphans are going to be removed. */
  begin(caller: Caller, sweep: TenantSweep, reason: string | undefined): Promise<void>;
  /** Must commit what was removed, what is left, and whether that is everything. */
  end(caller: Caller, sweep: TenantSweep, reason: string | undefined): Promise<void>;
}

/** What the last report over all tenants found. */
export interface OrphanReport {
  /** Versions, markers and open uploads that no row keeps in mind. */
  readonly orphans: number;
  readonly jobsWithoutObjects: number;
  /** Tenants that could not be looked at. */
  readonly failedTenants: number;
}

/** The last report, for the figures. */
export interface OrphanReports {
  /** Must commit it in the place of the one before. */
  save(report: OrphanReport): Promise<void>;
  /** Must answer the last one with its age; undefined where there was none. */
  last(): Promise<(OrphanReport & { readonly ageSeconds: number }) | undefined>;
}

/** A new upload of one artifact. */
export interface NewUpload {
  readonly tenantId: string;
  readonly jobId: string;
  readonly uploadId: string;
  readonly kind: ArtifactKind;
  readonly name: string;
  readonly contentType: string;
  /** Of the worker that holds the job; undefined for anybody else. */
  readonly leaseToken: bigint | undefined;
  readonly leaseMs: number;
  /** Whether an artifact that is stored already is left as it is. */
  readonly ifAbsent: boolean;
}

/** The index of the objects that jobs have, and of the uploads under way. */
export interface ArtifactIndex {
  /**
   * Must check the job under its row's lock and commit that this upload is under way, before a byte is sent;
   * JOB_NOT_FOUND, what `check` throws, or OPERATION_IN_PROGRESS while another upload of the same artifact lives, and
   * with `ifAbsent` where one has just been stored.
   */
  begin(upload: NewUpload, check: (job: Job, now: Temporal.Instant) => void): Promise<void>;
  /** Must answer false once the upload's lease or its worker's ran out, or the job is being removed. */
  renew(upload: NewUpload): Promise<boolean>;
  /**
   * Must point the artifact's row at this upload's object, in one transaction with the note that the object it pointed
   * at before is to be removed; undefined, changing nothing, as for `renew`.
   */
  finish(upload: NewUpload, bytes: number, sha256: string): Promise<Artifact | undefined>;
  /**
   * Must end an upload that failed, so that it can never be finished any more and what the store holds of it is
   * removed. Must answer with the artifact where the upload was finished all the same: the answer may have been lost.
   */
  abandon(upload: NewUpload): Promise<Artifact | undefined>;
  /** Must answer the stored artifact only. */
  get(tenantId: string, jobId: string, kind: ArtifactKind, name: string): Promise<Artifact | undefined>;
  /** Must list stored artifacts by kind and name. */
  list(tenantId: string, jobId: string, kind: ArtifactKind | undefined, page: PageQuery): Promise<Page<Artifact>>;
  /**
   * Must count the job's uploads whose lease has not run out together with removals of its objects that are under way,
   * and the objects that its artifacts point at.
   */
  countObjects(tenantId: string, jobId: string): Promise<{ readonly liveUploads: number; readonly stored: number }>;
  /** Must answer which of these objects a row keeps in mind: an artifact's, an open upload's, one that is to be removed. */
  findKnown(tenantId: string, objects: readonly ObjectRef[]): Promise<readonly ObjectRef[]>;
  /** Must list stored artifacts older than the age, by job, kind and name, over all the tenant's jobs. */
  listStored(tenantId: string, minAgeMs: number, page: PageQuery): Promise<Page<Artifact>>;
}

/** An object that no row points at and that is to be removed, held by one worker. */
export interface DiscardClaim {
  readonly tenantId: string;
  /** The row that keeps it in mind. */
  readonly id: string;
  readonly object: ObjectRef;
  /** ABANDONED: a late request of its upload may still bring something. REPLACED: nothing comes any more. */
  readonly state: 'ABANDONED' | 'REPLACED';
  /** Whether it was removed and read back before, some time ago. */
  readonly isLastLook: boolean;
  /** Grows with each claim; a write with an older one changes nothing. */
  readonly attempt: number;
}

/** Objects to be removed: those of uploads that failed or were never heard of again, and those that were replaced. */
export interface DiscardedObjects {
  /** Must answer those of any tenant that are due and that nobody holds. Those of jobs being deleted are left to that. */
  findDue(limit: number): Promise<readonly { tenantId: string; jobId: string; id: string }[]>;
  /**
   * Must give it to this worker; undefined where it is not due or somebody holds it. An upload whose lease ran out is
   * abandoned by this, and can never be finished any more.
   */
  claim(of: { tenantId: string; jobId: string; id: string }, leaseMs: number): Promise<DiscardClaim | undefined>;
  /** Must forget it: nothing of it is left. */
  forget(claim: DiscardClaim): Promise<void>;
  /** Must give it up until `dueInMs` from now; `removed` when nothing of it was left, and the next look is the last. */
  putBack(claim: DiscardClaim, dueInMs: number, removed: boolean): Promise<void>;
  /** Must tell how old the oldest upload of any tenant is that is neither stored nor removed; 0 where there is none. */
  oldestUnfinishedSeconds(): Promise<number>;
}

/** What the database says of the installation, and where to look whether a store is its own. */
export interface Installation {
  /** Must answer the id that the schema was created with, and whether a store was marked with it. */
  read(): Promise<{ readonly id: string; readonly isMarked: boolean }>;
  /** Must remember that a store has the marker. */
  setMarked(): Promise<void>;
  /** Must answer some objects that stored artifacts of any tenant point at. */
  someStored(limit: number): Promise<readonly { readonly tenantId: string; readonly object: ObjectRef }[]>;
}

/** Who wants a job removed, and why. */
export interface DeletionOrder {
  readonly caller: Caller;
  readonly tenantId: string;
  readonly jobId: string;
  readonly reason: string | undefined;
  readonly requestId: string | undefined;
  readonly fingerprint: string;
  /** The item of a bulk deletion that it is for. */
  readonly bulkItem?: BulkItem | undefined;
}

/** An order to end, hide or bring back something, and the reason it was refused with. */
export interface Refusal {
  readonly caller: Principal;
  readonly tenantId: string;
  readonly action: 'delete' | 'redrive' | 'soft-delete' | 'undelete' | 'purge';
  readonly targetType: 'job' | 'run' | 'deletion';
  readonly targetId: string;
  readonly reason: string | undefined;
  readonly requestId?: string | undefined;
  readonly outcome: string;
}

/** What is written down of refusals. */
export interface RefusalAudit {
  /** Must commit a row of the audit. */
  record(refusal: Refusal): Promise<void>;
}

/** A worker's hold on a deletion. Every write by it is refused once another has claimed the deletion. */
export interface DeletionClaim {
  readonly deletion: JobDeletion;
  readonly token: bigint;
}

/** Which deletions of a tenant. */
export interface DeletionQuery extends PageQuery {
  readonly state: DeletionState | undefined;
  readonly jobId: string | undefined;
}

/** The durable removals of jobs. */
export interface DeletionRepository {
  /**
   * Must check the job under its row's lock, and in one transaction commit the deletion and hide the job from every
   * reader. Must answer with the earlier deletion for the same request id and fingerprint, also after the job is
   * gone; REQUEST_ID_REUSED for another fingerprint; OPERATION_IN_PROGRESS while one is under way; undefined for an
   * unknown job. For an item of a bulk deletion it must mark the item in the same transaction, and throw LEASE_LOST once
   * the worker that ordered it no longer holds the bulk deletion.
   */
  begin(order: DeletionOrder, check: (job: Job) => void): Promise<JobDeletion | undefined>;
  /** Must answer undefined for an unknown deletion and another tenant's. */
  get(tenantId: string, deletionId: string): Promise<JobDeletion | undefined>;
  /** Must list newest first. */
  list(tenantId: string, query: DeletionQuery): Promise<Page<JobDeletion>>;
  /** Must answer deletions that are due so that tenants take turns: first those whose deletions have fewest workers. */
  findDue(limit: number): Promise<readonly { tenantId: string; deletionId: string }[]>;
  /** Must give the deletion to this worker with a new token, unless it is not due or somebody holds it. */
  claim(tenantId: string, deletionId: string, owner: string, leaseMs: number): Promise<DeletionClaim | undefined>;
  /** Must renew the lease; ABORTED/LEASE_LOST when the token is not the last one, or the claim was given up. */
  renew(claim: DeletionClaim, leaseMs: number): Promise<void>;
  /** Must save how far it has come and renew the lease; ABORTED/LEASE_LOST when the token is not the last one. */
  saveProgress(claim: DeletionClaim, state: DeletionState, counts: RemovalCounts, leaseMs: number): Promise<void>;
  /**
   * Must remove the job's rows in bounded batches, children first, then in one transaction the job, and mark the
   * deletion COMPLETE with the rows counted and an audit row. LEASE_LOST as above.
   */
  complete(claim: DeletionClaim, counts: RemovalCounts): Promise<JobDeletion>;
  /**
   * Must save the counts and give the deletion up unharmed: due again at once, behind what is due already. It costs no
   * attempt.
   */
  release(claim: DeletionClaim, counts: RemovalCounts): Promise<void>;
  /** Must give the deletion up until `retryMs` from now, or park it as STUCK when that is undefined. */
  postpone(claim: DeletionClaim, failure: DeletionFailure): Promise<void>;
  /** Must say on a deletion that is due why it is left alone until `retryMs` from now; it costs no attempt. */
  defer(tenantId: string, deletionId: string, error: string, retryMs: number): Promise<void>;
  /**
   * Must give a STUCK deletion its attempts anew and make it due; undefined for an unknown one. A person who redrives one
   * that is OBJECTS_MISSING accepts that.
   */
  redrive(
    tenantId: string,
    deletionId: string,
    by: { readonly caller: Principal; readonly reason: string | undefined; readonly isByPerson: boolean },
  ): Promise<JobDeletion | undefined>;
  /** Must answer the age in seconds of the oldest deletion that is not COMPLETE, 0 for none. */
  oldestUnfinishedSeconds(): Promise<number>;
  /** Must count those of all tenants that are STUCK. */
  stuckCount(): Promise<number>;
}

/** Why a deletion did not come to its end this time. */
export interface DeletionFailure {
  readonly counts: RemovalCounts;
  readonly left: number;
  readonly error: string;
  readonly failedKeys: readonly FailedKey[];
  /** Undefined parks it. */
  readonly retryMs: number | undefined;
  /** Whether this attempt counts towards parking: waiting for an upload to end does not. */
  readonly counted: boolean;
}

/** Counts over the jobs of a run, by the predicate that their removal uses. */
export interface RunInventory {
  readonly jobs: number;
  readonly tasks: number;
  readonly artifacts: number;
  readonly bytes: number;
  readonly sampleJobIds: readonly string[];
  readonly unfinishedJobs: UnfinishedJobs;
}

/** Jobs of a run that are in no terminal state. */
export type UnfinishedJobs = readonly { jobId: string; state: JobState }[];

/** Throws when the operation may not go on with these unfinished jobs there. */
export type CheckUnfinished = (unfinished: UnfinishedJobs) => void;

/** The jobs of a run. */
export interface RunJobs {
  /** Must count jobs, hidden ones and those being removed included; only the latter cannot be unfinished. */
  inspect(scope: RunScope): Promise<RunInventory>;
  /**
   * Must hide the run's jobs and remember by which operation; counts all that this operation hides. Must pass the
   * unfinished ones to `check` in the same transaction, in which no job of the run can be created.
   */
  hide(scope: RunScope, operation: RunOperation, check: CheckUnfinished): Promise<number>;
  /**
   * Must bring back what `hiddenBy` hid and leave a tombstone against that operation coming late; counts them.
   * OPERATION_IN_PROGRESS once a purge of the run has begun.
   */
  restore(scope: RunScope, operation: RunOperation, hiddenBy: string): Promise<number>;
  /**
   * Must commit that no job of this run and step can be created any more, one that is being created included: it is
   * either refused or seen by what follows. With `check`, the unfinished jobs are passed to it in that transaction.
   */
  forbid(scope: RunScope, operation: RunOperation, check?: CheckUnfinished): Promise<void>;
  /**
   * Must order the removal of jobs that have none yet, whatever their state when `force`, until their rows and objects
   * reach `limit`, of one job at least; answers how many, and whether there are more.
   */
  orderRemoval(
    scope: RunScope,
    order: RunOperation & { limit: number; force: boolean },
  ): Promise<{ readonly ordered: number; readonly more: boolean }>;
  /** Must sum up the removals that this operation ordered. */
  removalProgress(scope: RunScope, operationId: string): Promise<RemovalProgress>;
  /** Must answer the ids of all jobs of the run that exist or were removed by an order, for reading their prefixes. */
  listPrefixes(scope: RunScope, page: PageQuery): Promise<Page<string>>;
}

/** How far the removals have come that one operation ordered. */
export interface RemovalProgress {
  /** Summed over the operation's own orders. */
  readonly counts: RemovalCounts;
  /** Up to 10. */
  readonly failedKeys: readonly FailedKey[];
  readonly stuck: readonly { readonly deletionId: string; readonly lastError: string | undefined }[];
  /** How many are neither complete nor parked. */
  readonly open: number;
  /** How many of `open` have not failed since they were last begun: they wait for a worker, or a worker has them. */
  readonly queued: number;
}

/** The action of one step of a run, keyed by both. */
export interface StepAction {
  readonly tenantId: string;
  readonly runId: string;
  readonly step: string;
  readonly displayName: string;
  readonly taskNames: readonly string[];
  /** Of the action and its whole input. */
  readonly fingerprint: string;
  /** The uploads of its assets, as OUTPUT, under way from the beginning. */
  readonly uploads: readonly Pick<NewUpload, 'uploadId' | 'name'>[];
  readonly uploadLeaseMs: number;
}

/** What an action has come to so far. */
export interface BegunAction {
  readonly jobId: string;
  readonly outcome: StepOutcome | undefined;
  /** Whether this call has created the job: only then are its uploads under way, and nothing is stored yet. */
  readonly isNew: boolean;
}

/** The actions of steps, and what they came to. */
export interface StepActions {
  /**
   * Must remember the action, create its job PENDING and begin its uploads in one transaction, in which the step cannot
   * be compensated, or answer with the job that this key created before. No worker gets the job before `finish`. STEP_COMPENSATED
   * where the run or its step has a tombstone; REQUEST_ID_REUSED for another fingerprint. Of a job that was created
   * before and is no longer there, or that `check` refuses, and that has no outcome yet, ACTION_REFUSED.
   */
  begin(action: StepAction, check: (job: Job) => void): Promise<BegunAction>;
  /**
   * Must apply `change` to the job under its row's lock and remember the outcome in the same transaction; the earlier
   * outcome, changing nothing, where there is one. Errors as of `begin`.
   */
  finish(action: StepAction, change: JobChange, outcome: StepOutcome): Promise<StepOutcome>;
}

/** Tells the workers that so many deletions, one by default, have become due. */
export type Wake = (items?: number) => void;
