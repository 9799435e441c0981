import type { BulkItem } from '#libs/kernel/bulk-item.ts';
import type { Caller, Principal } from '#libs/kernel/caller.ts';
import type { Page, PageQuery } from '#libs/kernel/page.ts';
import type { View } from '#libs/kernel/view.ts';
import type { Contents } from '#libs/object-store/object-store.ts';
import type { Artifact, ArtifactKind, ObjectRef } from '../domain/artifact.ts';
import type { DeletionState, FailedKey, JobDeletion } from '../domain/deletion.ts';
import type { Job, JobState } from '../domain/job.ts';
import type { StepOutcome } from '../domain/step-action.ts';

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
  readonly view: View;
}

/** What a change of a job decides by: the locked job and the database's clock. */
export type JobChange = (job: Job, now: Temporal.Instant) => Job;

/** Who did something worth a row of the audit, and why. */
export interface Deed {
  readonly caller: Caller;
  readonly action: string;
  readonly reason: string | undefined;
}

/** The tenant's jobs. A job that is being removed is not there, except for a method that says so. */
export interface JobRepository {
  /**
   * Must create the job PENDING, or answer with the one that this request id created before; REQUEST_ID_REUSED when
   * its fingerprint was another, JOB_NOT_FOUND when that job is gone, since a late repetition must not bring it back.
   * STEP_COMPENSATED when the run or its step has a tombstone, or gets one at the same time; RUN_DELETED while the run
   * is hidden.
   */
  create(job: NewJob): Promise<Job>;
  /** Must answer undefined for an unknown job, another tenant's, and a hidden one unless `showDeleted`. */
  get(tenantId: string, jobId: string, showDeleted: boolean, view?: View): Promise<Job | undefined>;
  /** Must list newest first by creation and id; of BASIC, tasks must not be read. */
  list(tenantId: string, query: JobQuery): Promise<Page<Job>>;
  /**
   * Must apply `change` to the job under its row's lock and commit what it returned, with a row of the audit for the
   * deed where one is given and something changed; undefined as for `get`. Version and update time must stay where only
   * the lease was renewed.
   */
  update(tenantId: string, jobId: string, change: JobChange, deed?: Deed): Promise<Job | undefined>;
  /**
   * Must apply `change` to the oldest claimable job, which no other call can get meanwhile; undefined for none. Must
   * answer, changing nothing, with the job that this request id claimed before, unless it was claimed again since;
   * JOB_NOT_FOUND when that job is gone.
   */
  claimOldest(tenantId: string, requestId: string | undefined, change: JobChange): Promise<Job | undefined>;
  /** Must answer the jobs of any tenant that are CANCELLING with a lease that ran out, and that `update` finds. */
  findAbandonedCancellations(limit: number): Promise<readonly { tenantId: string; jobId: string }[]>;
  /** Must answer which of these jobs have a row, hidden and half-removed ones included. */
  findExisting(tenantId: string, jobIds: readonly string[]): Promise<ReadonlySet<string>>;
  /** Must answer whether the tenant has any job, hidden and half-removed ones included. */
  hasAny(tenantId: string): Promise<boolean>;
  /** Must answer every tenant that has a job, hidden and half-removed ones included. */
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
  /** Must answer which of these objects the row of a stored artifact points at, of jobs that are not being removed. */
  findStored(tenantId: string, objects: readonly ObjectRef[]): Promise<readonly ObjectRef[]>;
  /**
   * Must list stored artifacts older than the age, by job, kind and name, over all the tenant's jobs that are not being
   * removed.
   */
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

/** Which deletions of a tenant. */
export interface DeletionQuery extends PageQuery {
  readonly state: DeletionState | undefined;
  readonly jobId: string | undefined;
}

/** Where the removal of a single job begins. */
export interface DeletionOrders {
  /**
   * Must check the job under its row's lock, and in one transaction commit the deletion and hide the job from every
   * reader. Must answer with the earlier deletion for the same request id and fingerprint, also after the job is
   * gone; REQUEST_ID_REUSED for another fingerprint; OPERATION_IN_PROGRESS while one is under way; undefined for an
   * unknown job. For an item of a bulk deletion it must mark the item in the same transaction, and throw LEASE_LOST once
   * the worker that ordered it no longer holds the bulk deletion.
   */
  begin(order: DeletionOrder, check: (job: Job) => void): Promise<JobDeletion | undefined>;
}

/** The durable removals of jobs, ordered and done. */
export interface DeletionRecords {
  /** Must answer undefined for an unknown deletion and another tenant's. */
  get(tenantId: string, deletionId: string): Promise<JobDeletion | undefined>;
  /** Must list newest first. */
  list(tenantId: string, query: DeletionQuery): Promise<Page<JobDeletion>>;
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
