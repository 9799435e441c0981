import { crashPoint } from '#libs/durable/crash-point.ts';
import type { BulkItem } from '#libs/kernel/bulk-item.ts';
import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { jobPrefix } from '../domain/artifact.ts';
import { type JobDeletion, NOTHING_REMOVED } from '../domain/deletion.ts';
import { deletionFinished, deletionNotFound, jobNotFound } from '../domain/errors.ts';
import { assertDeletable, assertEtag, type Job } from '../domain/job.ts';
import type { Wake } from './deletion-ports.ts';
import type { ArtifactIndex, DeletionOrders, DeletionRecords, JobRepository } from './ports.ts';
import type { RecordRefusal } from './record-refusal.ts';

/** What the caller asks for. */
export interface DeleteJobCommand {
  readonly caller: Caller;
  readonly jobId: string;
  readonly allowMissing: boolean;
  readonly requestId: string | undefined;
  readonly reason: string | undefined;
  readonly etag: string;
  /** The item of a bulk deletion that it is for: a refusal is left out of the audit, since the item tells of it. */
  readonly bulkItem?: BulkItem;
}

/** Ends jobs: the intent at once, the removal by whichever replica's worker comes first. */
export interface DeleteJob {
  /**
   * Commits that the job goes, and answers with the deletion; undefined when `allowMissing` lets a missing job pass.
   * JOB_NOT_FOUND, JOB_NOT_TERMINAL, ETAG_MISMATCH, OPERATION_IN_PROGRESS, REQUEST_ID_REUSED.
   */
  order(command: DeleteJobCommand): Promise<JobDeletion | undefined>;
  /** Checks the same, changes nothing, and answers with what would go. */
  preview(command: DeleteJobCommand, signal?: AbortSignal): Promise<JobDeletion | undefined>;
  /** Sets a STUCK deletion going again; DELETION_NOT_FOUND, DELETION_FINISHED. */
  redrive(caller: Caller, deletionId: string, reason: string | undefined): Promise<JobDeletion>;
}

/** Makes DeleteJob. `wake` tells the worker that something is due. */
export const makeDeleteJob = (
  jobs: JobRepository,
  artifacts: ArtifactIndex,
  orders: DeletionOrders,
  deletions: Pick<DeletionRecords, 'redrive'>,
  store: ObjectStore,
  wake: Wake,
  recordRefusal: RecordRefusal,
): DeleteJob => ({
  async order({ caller, jobId, allowMissing, requestId, reason, etag, bulkItem }) {
    const order = {
      caller,
      tenantId: tenantOf(caller),
      jobId,
      reason,
      requestId,
      fingerprint: fingerprint({ rpc: 'DeleteJob', jobId, reason, etag, allowMissing }),
      bulkItem,
    };
    const check = (job: Job): void => {
      assertEtag(job, etag);
      assertDeletable(job);
    };
    const begin = () => orders.begin(order, check);
    const deletion = bulkItem
      ? await begin()
      : await recordRefusal(
          { caller, tenantId: order.tenantId, action: 'delete', targetType: 'job', targetId: jobId, reason, requestId },
          begin,
        );
    if (!deletion) {
      if (allowMissing) return undefined;
      throw jobNotFound();
    }
    crashPoint('job.delete.after-intent');
    wake();
    return deletion;
  },

  async preview({ caller, jobId, allowMissing, reason, etag }, signal) {
    const tenantId = tenantOf(caller);
    const job = await jobs.get(tenantId, jobId, false);
    if (!job) {
      if (allowMissing) return undefined;
      throw jobNotFound();
    }
    assertEtag(job, etag);
    assertDeletable(job);
    const contents = await store.count(jobPrefix(tenantId, jobId), signal);
    let indexed = 0;
    for (let after: readonly string[] | undefined, first = true; first || after; first = false) {
      signal?.throwIfAborted();
      const page = await artifacts.list(tenantId, jobId, undefined, { limit: 1_000, after });
      indexed += page.items.length;
      after = page.next;
    }
    return {
      id: '',
      tenantId,
      jobId,
      runId: job.runId,
      state: 'PENDING',
      actor: caller.actor,
      reason,
      requestId: undefined,
      counts: {
        ...NOTHING_REMOVED,
        objects: contents.versions,
        markers: contents.markers,
        uploads: contents.uploads,
        bytes: contents.bytes,
        tasks: job.tasks.length,
        artifacts: indexed,
        jobs: 1,
      },
      left: 0,
      failedKeys: [],
      attempts: 0,
      lastError: undefined,
      nextAttemptAt: undefined,
      acceptsMissing: false,
      bulkDeletionId: undefined,
      createdAt: job.updatedAt,
      startedAt: undefined,
      updatedAt: job.updatedAt,
      finishedAt: undefined,
    };
  },

  async redrive(caller, deletionId, reason) {
    const tenantId = tenantOf(caller);
    const deletion = await recordRefusal(
      { caller, tenantId, action: 'redrive', targetType: 'deletion', targetId: deletionId, reason },
      async () => {
        const driven = await deletions.redrive(tenantId, deletionId, { caller, reason, isByPerson: true });
        if (!driven) throw deletionNotFound();
        if (driven.state === 'COMPLETE' || driven.state === 'CANCELLED') throw deletionFinished(driven.state);
        return driven;
      },
    );
    wake();
    return deletion;
  },
});
