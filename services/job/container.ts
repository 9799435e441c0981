import { setTimeout as delay } from 'node:timers/promises';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { auditHandlers } from '#libs/audit/audit-handlers.ts';
import { makeBulkDeletions } from '#libs/bulk-deletion/make-bulk-deletions.ts';
import { leisurely, startWorkerLoop, startWorkerLoops, type WorkerLoops } from '#libs/durable/worker-loop.ts';
import { bindService } from '#libs/grpc/connect-handlers.ts';
import { hasReason } from '#libs/kernel/domain-error.ts';
import { openFileStore } from '#libs/object-store/file-store.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { openS3Store } from '#libs/object-store/s3-store.ts';
import { bindParticipant } from '#libs/participant/bind-participant.ts';
import { makeDataId } from '#libs/postgres/data-id.ts';
import { makeForgetRequests } from '#libs/postgres/forget-requests.ts';
import { makeComposition } from '#libs/service/composition.ts';
import type { ComposedService, ServiceFoundation } from '#libs/service/run-service.ts';
import { bulkService } from './adapters/grpc/bulk-handlers.ts';
import { jobService } from './adapters/grpc/job-service.ts';
import { makeJobActions } from './adapters/grpc/step-actions.ts';
import { makeStoreChecks, makeStorePart } from './adapters/grpc/store-checks.ts';
import { makeArtifactIndex } from './adapters/postgres/artifact-index.ts';
import { jobTargets } from './adapters/postgres/bulk-targets.ts';
import { makeDeletionOrders } from './adapters/postgres/deletion-orders.ts';
import { makeDeletionRecords } from './adapters/postgres/deletion-records.ts';
import { makeDeletionWork } from './adapters/postgres/deletion-work.ts';
import { makeDiscardedObjects } from './adapters/postgres/discarded-objects.ts';
import { makeInstallation } from './adapters/postgres/installation.ts';
import { makeJobRepository } from './adapters/postgres/job-repository.ts';
import { REMEMBERED_REQUESTS } from './adapters/postgres/job-requests.ts';
import { makeOrphanReports } from './adapters/postgres/orphan-reports.ts';
import { makeRunJobs } from './adapters/postgres/run-jobs.ts';
import { makeStepActions } from './adapters/postgres/step-actions.ts';
import { observeJobs } from './adapters/telemetry/observe-jobs.ts';
import type { JobSettings } from './config.ts';
import { makeCancelJob } from './use-cases/cancel-job.ts';
import { makeCheckStore } from './use-cases/check-store.ts';
import { makeCreateJob } from './use-cases/create-job.ts';
import { type DeleteJob, makeDeleteJob } from './use-cases/delete-job.ts';
import type { Wake } from './use-cases/deletion-ports.ts';
import { makeDownloadArtifact } from './use-cases/download-artifact.ts';
import { makeExecuteStep } from './use-cases/execute-step.ts';
import { makeParticipate } from './use-cases/participate.ts';
import { makeReadJobs } from './use-cases/read-jobs.ts';
import { makeRecordRefusal } from './use-cases/record-refusal.ts';
import { makeRemoveDiscarded } from './use-cases/remove-discarded.ts';
import { makeRunDeletions } from './use-cases/run-deletions.ts';
import { makeStoreArtifact } from './use-cases/store-artifact.ts';
import { makeSweepOrphans } from './use-cases/sweep-orphans.ts';
import { makeUploadArtifact } from './use-cases/upload-artifact.ts';
import { makeUploadTurns } from './use-cases/upload-turns.ts';
import { makeWorkOnJob } from './use-cases/work-on-job.ts';

// How long another tenant's deletion may have to wait for a worker that removes a large job.
const DELETION_TURN_MS = 400;
const EXPIRY_POLL_MS = 3_600_000;

const isOfStore = (error: unknown): boolean =>
  ['DEPENDENCY_UNAVAILABLE', 'STORE_REFUSED', 'STORE_MISBEHAVES'].some((reason) => hasReason(error, reason));

/** JobService, composed; STORE_NOT_OURS where the object store is another installation's. */
export async function composeJobService(
  settings: JobSettings,
  { database, log, metrics }: ServiceFoundation,
): Promise<ComposedService> {
  let workers: WorkerLoops | undefined;
  const { objectStore, maxArtifactBytes, uploadLeaseMs, workerId, deletionBackoffMs, deletionBackoffMaxMs } = settings;
  const opened = objectStore.kind === 'file' ? openFileStore(objectStore.root) : openS3Store(objectStore);
  const observed = observeJobs({ database, log, metrics });
  const { given, made, madeOf, get } = makeComposition();

  const ofDatabase = [given(database)] as const;
  const store = given<ObjectStore>(opened);
  const wake = given<Wake>((items) => workers?.wake(items));
  const jobs = made(makeJobRepository, ofDatabase);
  const artifacts = made(makeArtifactIndex, ofDatabase);
  const deletions = made(makeDeletionRecords, ofDatabase);
  const discarded = made(makeDiscardedObjects, ofDatabase);
  const orphanReports = made(makeOrphanReports, ofDatabase);

  const checkStore = made(makeCheckStore, [made(makeInstallation, ofDatabase), store]);
  const recordRefusal = made(makeRecordRefusal, [given(observed.refusals)]);
  const readJobs = made(makeReadJobs, [jobs, artifacts, deletions]);
  const workOnJob = made(makeWorkOnJob, [jobs]);
  const deleteJob = made(makeDeleteJob, [
    jobs,
    artifacts,
    made(makeDeletionOrders, ofDatabase),
    deletions,
    store,
    wake,
    recordRefusal,
  ]);
  const storeArtifact = made(makeStoreArtifact, [
    jobs,
    artifacts,
    store,
    checkStore,
    given(maxArtifactBytes),
    given({ leaseMs: uploadLeaseMs, heartbeatMs: uploadLeaseMs / 10 }),
  ]);
  const runDeletions = made(makeRunDeletions, [
    made(makeDeletionWork, ofDatabase),
    artifacts,
    store,
    checkStore,
    given({
      workerId,
      leaseMs: settings.deletionLeaseMs,
      objectsPerBatch: settings.objectsPerBatch,
      turnMs: DELETION_TURN_MS,
      retry: { maxAttempts: settings.deletionAttempts, baseMs: deletionBackoffMs, maxMs: deletionBackoffMaxMs },
    }),
    given(observed.onSettled),
  ]);
  const removeDiscarded = made(makeRemoveDiscarded, [
    discarded,
    store,
    checkStore,
    given({
      leaseMs: settings.deletionLeaseMs,
      graceMs: settings.uploadGraceMs,
      backoffMs: deletionBackoffMs,
      backoffMaxMs: deletionBackoffMaxMs,
    }),
    given(observed.onDiscardFailed),
  ]);
  const sweepOrphans = made(makeSweepOrphans, [
    jobs,
    artifacts,
    store,
    checkStore,
    given(observed.sweepAudit),
    orphanReports,
    given(settings.sweepCeilingPercent),
    given(observed.onSweepFailed),
  ]);
  const sleep = given((ms: number) => delay(ms));
  const participate = made(makeParticipate, [
    made(makeRunJobs, ofDatabase),
    deletions,
    store,
    checkStore,
    recordRefusal,
    wake,
    sleep,
  ]);
  const executeStep = made(makeExecuteStep, [
    made(makeStepActions, ofDatabase),
    artifacts,
    storeArtifact,
    given(maxArtifactBytes),
    given(uploadLeaseMs),
    sleep,
  ]);
  const bulkDeletions = made(
    (order: DeleteJob) =>
      makeBulkDeletions({
        foundation: { database, log, metrics },
        settings,
        targets: jobTargets,
        async orderItem({ id, reason }, { targetId: jobId, etag }, bulkItem, caller) {
          const command = { caller, jobId, reason, etag, allowMissing: false, requestId: undefined, bulkItem };
          return (await order.order(command))?.bulkDeletionId === id;
        },
      }),
    [deleteJob],
  );
  const service = madeOf(jobService, {
    createJob: made(makeCreateJob, [jobs]),
    readJobs,
    workOnJob,
    deleteJob,
    sweepOrphans,
    uploadArtifact: made(makeUploadArtifact, [storeArtifact, made(makeUploadTurns, [given(settings.uploadsAtOnce)])]),
    downloadArtifact: made(makeDownloadArtifact, [readJobs, artifacts, store]),
    cancelJob: made(makeCancelJob, [jobs]),
  });

  try {
    await get(checkStore)();
  } catch (error) {
    // A store that cannot be used is asked again before anything is removed.
    if (!isOfStore(error)) throw error;
    log.warn({ err: error }, 'the object store cannot be used yet');
  }
  metrics.observe('lethe_oldest_unfinished_deletion_seconds', get(deletions).oldestUnfinishedSeconds);
  metrics.observe('lethe_stuck_deletions', get(deletions).stuckCount);
  metrics.observe('lethe_oldest_unfinished_upload_seconds', get(discarded).oldestUnfinishedSeconds);
  metrics.observeOrphans(get(orphanReports).last);
  const { order: orderBulkDeletion, read: readBulkDeletions, startWorkers: startBulkWorkers } = get(bulkDeletions);

  return {
    services: [
      bindService(
        JobService,
        {
          ...get(service),
          ...bulkService({ orderBulkDeletion, readBulkDeletions }),
          ...auditHandlers(database),
        },
        ['watchBulkDeletion'],
      ),
      bindParticipant({ ...get(participate), actions: makeJobActions(get(executeStep)) }, makeDataId(database)),
    ],
    hasWork: true,
    startWorkers() {
      const { pollMs, deletionWorkers, receiptDays } = settings;
      const leisureMs = leisurely(pollMs);
      const onError = (name: string, error: unknown) =>
        log.error({ err: error, loop: name }, 'a background pass failed');
      const { endAbandonedCancellations } = get(workOnJob);
      const forgetRequests = makeForgetRequests(database, REMEMBERED_REQUESTS);
      workers = startWorkerLoops(deletionWorkers, { name: 'deletions', pollMs, work: get(runDeletions), onError });
      return [
        workers,
        ...startBulkWorkers(onError),
        startWorkerLoop({ name: 'discarded', pollMs: leisureMs, work: get(removeDiscarded), onError }),
        startWorkerLoop({ name: 'cancellations', pollMs: leisureMs, work: () => endAbandonedCancellations(), onError }),
        startWorkerLoop({
          name: 'request-ids',
          pollMs: EXPIRY_POLL_MS,
          work: () => forgetRequests(receiptDays),
          onError,
        }),
      ];
    },
    parts: [makeStorePart(opened, get(checkStore))],
    checks: makeStoreChecks(opened, get(checkStore)),
    close: () => opened.close(),
  };
}
