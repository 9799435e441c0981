import 'reflect-metadata';
import { setTimeout as delay } from 'node:timers/promises';
import { Container, ContainerModule, type ServiceIdentifier } from 'inversify';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { auditHandlers } from '#libs/audit/audit-handlers.ts';
import { type BulkDeletions, type BulkFoundation, makeBulkDeletions } from '#libs/bulk-deletion/make-bulk-deletions.ts';
import { startWorkerLoop, startWorkerLoops, type WorkerLoops } from '#libs/durable/worker-loop.ts';
import { bindService } from '#libs/grpc/connect-handlers.ts';
import { hasReason } from '#libs/kernel/domain-error.ts';
import { openFileStore } from '#libs/object-store/file-store.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { openS3Store } from '#libs/object-store/s3-store.ts';
import { bindParticipant } from '#libs/participant/bind-participant.ts';
import { makeDataId } from '#libs/postgres/data-id.ts';
import type { Database } from '#libs/postgres/open-database.ts';
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
import { makeOrphanReports } from './adapters/postgres/orphan-reports.ts';
import { makeRunJobs } from './adapters/postgres/run-jobs.ts';
import { makeStepActions } from './adapters/postgres/step-actions.ts';
import { observeJobs } from './adapters/telemetry/observe-jobs.ts';
import type { JobSettings } from './config.ts';
import type { JobFilter } from './domain/job-filter.ts';
import { type CancelJob, makeCancelJob } from './use-cases/cancel-job.ts';
import { type CheckStore, makeCheckStore } from './use-cases/check-store.ts';
import { type CreateJob, makeCreateJob } from './use-cases/create-job.ts';
import { type DeleteJob, makeDeleteJob } from './use-cases/delete-job.ts';
import type { DeletionWork, RunJobs, Wake } from './use-cases/deletion-ports.ts';
import { type DownloadArtifact, makeDownloadArtifact } from './use-cases/download-artifact.ts';
import { type ExecuteStep, makeExecuteStep } from './use-cases/execute-step.ts';
import { makeParticipate, type Participate } from './use-cases/participate.ts';
import type {
  ArtifactIndex,
  DeletionOrders,
  DeletionRecords,
  DiscardedObjects,
  Installation,
  JobRepository,
  OrphanReports,
  RefusalAudit,
  StepActions,
  SweepAudit,
} from './use-cases/ports.ts';
import { makeReadJobs, type ReadJobs } from './use-cases/read-jobs.ts';
import { makeRecordRefusal, type RecordRefusal } from './use-cases/record-refusal.ts';
import { makeRemoveDiscarded, type OnDiscardFailed, type RemoveDiscarded } from './use-cases/remove-discarded.ts';
import { makeRunDeletions, type OnDeletionSettled, type RunDeletions } from './use-cases/run-deletions.ts';
import { makeStoreArtifact, type StoreArtifact } from './use-cases/store-artifact.ts';
import { makeSweepOrphans, type OnSweepFailed, type SweepOrphans } from './use-cases/sweep-orphans.ts';
import { makeUploadArtifact, type UploadArtifact } from './use-cases/upload-artifact.ts';
import { makeWorkOnJob, type WorkOnJob } from './use-cases/work-on-job.ts';

// How long another tenant's deletion may have to wait for a worker that removes a large job.
const DELETION_TURN_MS = 400;

const isOfStore = (error: unknown): boolean =>
  ['DEPENDENCY_UNAVAILABLE', 'STORE_REFUSED', 'STORE_MISBEHAVES'].some((reason) => hasReason(error, reason));

const token = <T>(name: string) => Symbol(name) as ServiceIdentifier<T>;

const TOKENS = {
  settings: token<JobSettings>('JobSettings'),
  database: token<Database>('Database'),
  bulkFoundation: token<BulkFoundation>('BulkFoundation'),
  store: token<ObjectStore>('ObjectStore'),
  wake: token<Wake>('Wake'),
  onSettled: token<OnDeletionSettled>('OnDeletionSettled'),
  refusals: token<RefusalAudit>('RefusalAudit'),
  recordRefusal: token<RecordRefusal>('RecordRefusal'),
  onSweepFailed: token<OnSweepFailed>('OnSweepFailed'),
  onDiscardFailed: token<OnDiscardFailed>('OnDiscardFailed'),
  orphanReports: token<OrphanReports>('OrphanReports'),
  installation: token<Installation>('Installation'),
  checkStore: token<CheckStore>('CheckStore'),
  discarded: token<DiscardedObjects>('DiscardedObjects'),
  removeDiscarded: token<RemoveDiscarded>('RemoveDiscarded'),
  jobs: token<JobRepository>('JobRepository'),
  artifacts: token<ArtifactIndex>('ArtifactIndex'),
  deletionOrders: token<DeletionOrders>('DeletionOrders'),
  deletionWork: token<DeletionWork>('DeletionWork'),
  deletions: token<DeletionRecords>('DeletionRecords'),
  runJobs: token<RunJobs>('RunJobs'),
  sweepAudit: token<SweepAudit>('SweepAudit'),
  stepActions: token<StepActions>('StepActions'),
  createJob: token<CreateJob>('CreateJob'),
  readJobs: token<ReadJobs>('ReadJobs'),
  storeArtifact: token<StoreArtifact>('StoreArtifact'),
  uploadArtifact: token<UploadArtifact>('UploadArtifact'),
  downloadArtifact: token<DownloadArtifact>('DownloadArtifact'),
  workOnJob: token<WorkOnJob>('WorkOnJob'),
  cancelJob: token<CancelJob>('CancelJob'),
  deleteJob: token<DeleteJob>('DeleteJob'),
  bulkDeletions: token<BulkDeletions<JobFilter>>('BulkDeletions'),
  runDeletions: token<RunDeletions>('RunDeletions'),
  sweepOrphans: token<SweepOrphans>('SweepOrphans'),
  participate: token<Participate>('Participate'),
  executeStep: token<ExecuteStep>('ExecuteStep'),
};

const adapters = new ContainerModule(({ bind }) => {
  bind(TOKENS.jobs).toResolvedValue(makeJobRepository, [TOKENS.database]);
  bind(TOKENS.artifacts).toResolvedValue(makeArtifactIndex, [TOKENS.database]);
  bind(TOKENS.deletionOrders).toResolvedValue(makeDeletionOrders, [TOKENS.database]);
  bind(TOKENS.deletionWork).toResolvedValue(makeDeletionWork, [TOKENS.database]);
  bind(TOKENS.deletions).toResolvedValue(makeDeletionRecords, [TOKENS.database]);
  bind(TOKENS.orphanReports).toResolvedValue(makeOrphanReports, [TOKENS.database]);
  bind(TOKENS.installation).toResolvedValue(makeInstallation, [TOKENS.database]);
  bind(TOKENS.discarded).toResolvedValue(makeDiscardedObjects, [TOKENS.database]);
  bind(TOKENS.runJobs).toResolvedValue(makeRunJobs, [TOKENS.database]);
  bind(TOKENS.stepActions).toResolvedValue(makeStepActions, [TOKENS.database]);
});

const useCases = new ContainerModule(({ bind }) => {
  const { jobs, artifacts, deletions, runJobs, store, settings, wake } = TOKENS;
  bind(TOKENS.checkStore).toResolvedValue(makeCheckStore, [TOKENS.installation, store]);
  bind(TOKENS.recordRefusal).toResolvedValue(makeRecordRefusal, [TOKENS.refusals]);
  bind(TOKENS.createJob).toResolvedValue(makeCreateJob, [jobs]);
  bind(TOKENS.readJobs).toResolvedValue(makeReadJobs, [jobs, artifacts, deletions]);
  bind(TOKENS.workOnJob).toResolvedValue(makeWorkOnJob, [jobs]);
  bind(TOKENS.cancelJob).toResolvedValue(makeCancelJob, [jobs]);
  bind(TOKENS.deleteJob).toResolvedValue(makeDeleteJob, [
    jobs,
    artifacts,
    TOKENS.deletionOrders,
    deletions,
    store,
    wake,
    TOKENS.recordRefusal,
  ]);
  bind(TOKENS.downloadArtifact).toResolvedValue(makeDownloadArtifact, [TOKENS.readJobs, artifacts, store]);
  bind(TOKENS.uploadArtifact).toResolvedValue(makeUploadArtifact, [TOKENS.storeArtifact]);
  bind(TOKENS.storeArtifact).toResolvedValue(
    (
      j: JobRepository,
      a: ArtifactIndex,
      s: ObjectStore,
      check: CheckStore,
      { maxArtifactBytes, uploadLeaseMs: leaseMs }: JobSettings,
    ) => makeStoreArtifact(j, a, s, check, maxArtifactBytes, { leaseMs, heartbeatMs: leaseMs / 10 }),
    [jobs, artifacts, store, TOKENS.checkStore, settings],
  );
  bind(TOKENS.runDeletions).toResolvedValue(
    (
      d: DeletionWork,
      a: ArtifactIndex,
      s: ObjectStore,
      check: CheckStore,
      of: JobSettings,
      onSettled: OnDeletionSettled,
    ) =>
      makeRunDeletions(
        d,
        a,
        s,
        check,
        {
          workerId: of.workerId,
          leaseMs: of.deletionLeaseMs,
          objectsPerBatch: of.objectsPerBatch,
          turnMs: DELETION_TURN_MS,
          retry: { maxAttempts: of.deletionAttempts, baseMs: of.deletionBackoffMs, maxMs: of.deletionBackoffMaxMs },
        },
        onSettled,
      ),
    [TOKENS.deletionWork, artifacts, store, TOKENS.checkStore, settings, TOKENS.onSettled],
  );
  bind(TOKENS.removeDiscarded).toResolvedValue(
    (d: DiscardedObjects, s: ObjectStore, check: CheckStore, of: JobSettings, onFailed: OnDiscardFailed) =>
      makeRemoveDiscarded(
        d,
        s,
        check,
        {
          leaseMs: of.deletionLeaseMs,
          graceMs: of.uploadGraceMs,
          backoffMs: of.deletionBackoffMs,
          backoffMaxMs: of.deletionBackoffMaxMs,
        },
        onFailed,
      ),
    [TOKENS.discarded, store, TOKENS.checkStore, settings, TOKENS.onDiscardFailed],
  );
  bind(TOKENS.sweepOrphans).toResolvedValue(
    (
      j: JobRepository,
      a: ArtifactIndex,
      s: ObjectStore,
      check: CheckStore,
      audit: SweepAudit,
      reports: OrphanReports,
      { sweepCeilingPercent }: JobSettings,
      onFailed: OnSweepFailed,
    ) => makeSweepOrphans(j, a, s, check, audit, reports, sweepCeilingPercent, onFailed),
    [
      jobs,
      artifacts,
      store,
      TOKENS.checkStore,
      TOKENS.sweepAudit,
      TOKENS.orphanReports,
      settings,
      TOKENS.onSweepFailed,
    ],
  );
  bind(TOKENS.participate).toResolvedValue(
    (r: RunJobs, d: DeletionRecords, s: ObjectStore, check: CheckStore, record: RecordRefusal, w: Wake) =>
      makeParticipate(r, d, s, check, record, w, (ms) => delay(ms)),
    [runJobs, deletions, store, TOKENS.checkStore, TOKENS.recordRefusal, wake],
  );
  bind(TOKENS.executeStep).toResolvedValue(
    (
      steps: StepActions,
      index: ArtifactIndex,
      storeArtifact: StoreArtifact,
      { maxArtifactBytes, uploadLeaseMs }: JobSettings,
    ) => makeExecuteStep(steps, index, storeArtifact, maxArtifactBytes, uploadLeaseMs, (ms) => delay(ms)),
    [TOKENS.stepActions, artifacts, TOKENS.storeArtifact, settings],
  );
});

const bulkUseCases = new ContainerModule(({ bind }) => {
  const { bulkFoundation, settings, deleteJob } = TOKENS;
  bind(TOKENS.bulkDeletions).toResolvedValue(
    (foundation: BulkFoundation, of: JobSettings, jobs: DeleteJob) =>
      makeBulkDeletions({
        foundation,
        settings: of,
        targets: jobTargets,
        async orderItem({ id, reason }, { targetId: jobId, etag }, bulkItem, caller) {
          const order = { caller, jobId, reason, etag, allowMissing: false, requestId: undefined, bulkItem };
          return (await jobs.order(order))?.bulkDeletionId === id;
        },
      }),
    [bulkFoundation, settings, deleteJob],
  );
});

/** JobService, composed; STORE_NOT_OURS where the object store is another installation's. */
export async function composeJobService(
  settings: JobSettings,
  { database, log, metrics }: ServiceFoundation,
): Promise<ComposedService> {
  let workers: WorkerLoops | undefined;
  const { objectStore } = settings;
  const store = objectStore.kind === 'file' ? openFileStore(objectStore.root) : openS3Store(objectStore);
  const container = new Container({ defaultScope: 'Singleton' });
  container.bind(TOKENS.settings).toConstantValue(settings);
  container.bind(TOKENS.database).toConstantValue(database);
  container.bind(TOKENS.bulkFoundation).toConstantValue({ database, log, metrics });
  container.bind(TOKENS.store).toConstantValue(store);
  container.bind(TOKENS.wake).toConstantValue((items) => workers?.wake(items));
  const observed = observeJobs({ database, log, metrics });
  container.bind(TOKENS.onSettled).toConstantValue(observed.onSettled);
  container.bind(TOKENS.refusals).toConstantValue(observed.refusals);
  container.bind(TOKENS.onSweepFailed).toConstantValue(observed.onSweepFailed);
  container.bind(TOKENS.onDiscardFailed).toConstantValue(observed.onDiscardFailed);
  container.bind(TOKENS.sweepAudit).toConstantValue(observed.sweepAudit);
  container.load(adapters, useCases, bulkUseCases);
  const get = <T>(identifier: ServiceIdentifier<T>): T => container.get(identifier);
  try {
    await get(TOKENS.checkStore)();
  } catch (error) {
    // A store that cannot be used is asked again before anything is removed.
    if (!isOfStore(error)) throw error;
    log.warn({ err: error }, 'the object store cannot be used yet');
  }
  metrics.observeOldestDeletion(get(TOKENS.deletions).oldestUnfinishedSeconds);
  metrics.observeStuckDeletions(get(TOKENS.deletions).stuckCount);
  metrics.observeOldestUpload(get(TOKENS.discarded).oldestUnfinishedSeconds);
  metrics.observeOrphans(get(TOKENS.orphanReports).last);

  return {
    services: [
      bindService(
        JobService,
        {
          ...jobService({
            createJob: get(TOKENS.createJob),
            readJobs: get(TOKENS.readJobs),
            uploadArtifact: get(TOKENS.uploadArtifact),
            downloadArtifact: get(TOKENS.downloadArtifact),
            workOnJob: get(TOKENS.workOnJob),
            cancelJob: get(TOKENS.cancelJob),
            deleteJob: get(TOKENS.deleteJob),
            sweepOrphans: get(TOKENS.sweepOrphans),
          }),
          ...bulkService({
            orderBulkDeletion: get(TOKENS.bulkDeletions).order,
            readBulkDeletions: get(TOKENS.bulkDeletions).read,
          }),
          ...auditHandlers(database),
        },
        ['watchBulkDeletion'],
      ),
      bindParticipant(
        { ...get(TOKENS.participate), actions: makeJobActions(get(TOKENS.executeStep)) },
        makeDataId(database),
      ),
    ],
    hasWork: true,
    startWorkers() {
      const { pollMs, deletionWorkers } = settings;
      // What a process left that ended in the middle; nobody waits for it.
      const leisureMs = 10 * pollMs;
      const onError = (name: string, error: unknown) =>
        log.error({ err: error, loop: name }, 'a background pass failed');
      const runDeletions = get(TOKENS.runDeletions);
      const { endAbandonedCancellations } = get(TOKENS.workOnJob);
      workers = startWorkerLoops(deletionWorkers, { name: 'deletions', pollMs, work: runDeletions, onError });
      return [
        workers,
        ...get(TOKENS.bulkDeletions).startWorkers(onError),
        startWorkerLoop({ name: 'discarded', pollMs: leisureMs, work: get(TOKENS.removeDiscarded), onError }),
        startWorkerLoop({ name: 'cancellations', pollMs: leisureMs, work: () => endAbandonedCancellations(), onError }),
      ];
    },
    parts: [makeStorePart(store, get(TOKENS.checkStore))],
    checks: makeStoreChecks(store, get(TOKENS.checkStore)),
    close: () => store.close(),
  };
}
