import type { Page, PageQuery } from '#libs/kernel/page.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import type { RunOperation, RunScope } from '#libs/participant/participant.ts';
import type { DeletionState, FailedKey, JobDeletion, RemovalCounts } from '../domain/deletion.ts';
import type { JobState } from '../domain/job.ts';

/** A worker's hold on a deletion. Every write by it is refused once another has claimed the deletion. */
export interface DeletionClaim {
  readonly deletion: JobDeletion;
  readonly token: bigint;
}

/** What is done about the durable removals of jobs once they are ordered. */
export interface DeletionWork {
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
  hide(scope: RunScope, operation: RunOperation, check: CheckUnfinished): Promise<readonly ResourceCount[]>;
  /**
   * Must bring back what `hiddenBy` hid and leave a tombstone against that operation coming late; counts them.
   * OPERATION_IN_PROGRESS once a purge of the run has begun.
   */
  restore(scope: RunScope, operation: RunOperation, hiddenBy: string): Promise<readonly ResourceCount[]>;
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
  /** Must answer the ids of the run's parked removals, whichever operation ordered them. */
  listStuck(scope: RunScope, page: PageQuery): Promise<Page<string>>;
  /** Must answer the ids of all jobs of the run that exist or were removed by an order, for reading their prefixes. */
  listPrefixes(scope: RunScope, page: PageQuery): Promise<Page<string>>;
}

/** How far the removals have come that one operation ordered. */
export interface RemovalProgress {
  /** Summed over the operation's own orders. */
  readonly counts: RemovalCounts;
  /** Up to 10. */
  readonly failedKeys: readonly FailedKey[];
  /** Up to 10 of the parked ones, by id. */
  readonly stuck: readonly { readonly deletionId: string; readonly lastError?: string | undefined }[];
  /** How many are neither complete nor parked. */
  readonly open: number;
  /** How many of `open` have not failed since they were last begun: they wait for a worker, or a worker has them. */
  readonly queued: number;
}

/** Tells the workers that so many deletions, one by default, have become due. */
export type Wake = (items?: number) => void;
