import 'reflect-metadata';
import { setTimeout as delay } from 'node:timers/promises';
import { Container, ContainerModule, type ServiceIdentifier } from 'inversify';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { auditHandlers } from '#libs/audit/audit-handlers.ts';
import { type BulkDeletions, type BulkFoundation, makeBulkDeletions } from '#libs/bulk-deletion/make-bulk-deletions.ts';
import { startWorkerLoop, startWorkerLoops, type WorkerLoops } from '#libs/durable/worker-loop.ts';
import { bindService } from '#libs/grpc/connect-handlers.ts';
import { makeOwner } from '#libs/owner/make-owner.ts';
import { bindOwner } from '#libs/owner/owner-service.ts';
import { bindParticipant } from '#libs/participant/bind-participant.ts';
import { makeParticipant as makeServedParticipant, type RunRows } from '#libs/participant/make-participant.ts';
import type { Participant as ServedParticipant } from '#libs/participant/participant.ts';
import { makeDataId } from '#libs/postgres/data-id.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { oldestSeconds } from '#libs/service/oldest-work.ts';
import type { ComposedService, ServiceFoundation } from '#libs/service/run-service.ts';
import { reachabilityOf } from '#libs/service/watch-parts.ts';
import { connectPeers } from './adapters/clients/connect-peers.ts';
import { makeOwnParticipant, makeParticipant } from './adapters/clients/participant.ts';
import { makeOwnStepParticipant, makeStepParticipant } from './adapters/clients/step-participant.ts';
import { bulkService } from './adapters/grpc/bulk-handlers.ts';
import { deletionHandlers } from './adapters/grpc/deletion-handlers.ts';
import { executionService } from './adapters/grpc/execution-service.ts';
import { receiptHandlers } from './adapters/grpc/receipt-handlers.ts';
import { runService } from './adapters/grpc/run-service.ts';
import { sagaService } from './adapters/grpc/saga-service.ts';
import { makeRunTargets } from './adapters/postgres/bulk-targets.ts';
import { makeDeletionOrders } from './adapters/postgres/deletion-orders.ts';
import { makeDeletionRecords } from './adapters/postgres/deletion-records.ts';
import { makeDeletionWork } from './adapters/postgres/deletion-work.ts';
import { makeExecutionMonths } from './adapters/postgres/execution-months.ts';
import { makeExecutionRepository } from './adapters/postgres/execution-repository.ts';
import { makeOwnRows } from './adapters/postgres/own-rows.ts';
import { makeParticipantDirectory } from './adapters/postgres/participant-directory.ts';
import { makeRunRepository } from './adapters/postgres/run-repository.ts';
import { makeSagaRepository } from './adapters/postgres/saga-repository.ts';
import { RUN_SUBJECTS } from './adapters/postgres/subjects.ts';
import { observeRuns } from './adapters/telemetry/observe-runs.ts';
import type { RunSettings } from './config.ts';
import type { RunFilter } from './domain/run-filter.ts';
import { deletionOrder, sharersOf, type Workflow } from './domain/workflow.ts';
import { type AdvanceRuns, makeAdvanceRuns, type OnSagaSettled } from './use-cases/advance-runs.ts';
import { type CancelRun, makeCancelRun } from './use-cases/cancel-run.ts';
import { type CreateRun, makeCreateRun } from './use-cases/create-run.ts';
import type { DeletionOrders, DeletionWork, Participant } from './use-cases/deletion-ports.ts';
import type { ExecutionMonths, ExecutionRepository } from './use-cases/execution-ports.ts';
import { type FailRun, makeFailRun } from './use-cases/fail-run.ts';
import { type FinishRun, makeFinishRun } from './use-cases/finish-run.ts';
import { makeGiveUpRetired } from './use-cases/give-up-retired.ts';
import {
  type KeepExecutionMonths,
  makeKeepExecutionMonths,
  type OnRewritten,
} from './use-cases/keep-execution-months.ts';
import { type KeepParticipants, makeKeepParticipants, type OnRetired } from './use-cases/keep-participants.ts';
import { makeOrderDeletion, type OnOrdered, type OrderDeletion } from './use-cases/order-deletion.ts';
import type { DeletionRecords, ParticipantDirectory, RunRepository } from './use-cases/ports.ts';
import { makePreviewPurge, type PreviewPurge } from './use-cases/preview-purge.ts';
import { makeReadDeletions, type ReadDeletions } from './use-cases/read-deletions.ts';
import { makeReadExecutions, type ReadExecutions } from './use-cases/read-executions.ts';
import { makeReadRuns, type ReadRuns } from './use-cases/read-runs.ts';
import { makeRecordExecutions, type RecordExecutions } from './use-cases/record-executions.ts';
import { makeRecordStep, type RecordStep } from './use-cases/record-step.ts';
import { makeRedriveDeletion, type RedriveDeletion } from './use-cases/redrive-deletion.ts';
import { makeRetryRun, type RetryRun } from './use-cases/retry-run.ts';
import { makeRunCascades, type OnCascadeSettled, type RunCascades } from './use-cases/run-cascades.ts';
import { makeRunChanges, type RunChanges } from './use-cases/run-changes.ts';
import { makeOwnRuns, type OwnRuns } from './use-cases/run-slots.ts';
import type { SagaRepository, StepParticipant } from './use-cases/saga-ports.ts';
import { shareReads } from './use-cases/share-reads.ts';
import { makeShowReferences, type ShowReferences } from './use-cases/show-references.ts';
import { makeStartRun, type StartRun } from './use-cases/start-run.ts';
import { makeWatchRun, type WatchRun } from './use-cases/watch-run.ts';
import { clientToDelivery } from './workflows/client-to-delivery/workflow.ts';

const token = <T>(name: string) => Symbol(name) as ServiceIdentifier<T>;

const TOKENS = {
  settings: token<RunSettings>('RunSettings'),
  database: token<Database>('Database'),
  bulkFoundation: token<BulkFoundation>('BulkFoundation'),
  workflows: token<readonly Workflow[]>('Workflows'),
  peers: token<readonly (Participant & StepParticipant)[]>('Peers'),
  participants: token<readonly Participant[]>('Participants'),
  wake: token<() => void>('Wake'),
  onOrdered: token<OnOrdered>('OnOrdered'),
  onSettled: token<OnCascadeSettled>('OnCascadeSettled'),
  runs: token<RunRepository>('RunRepository'),
  showReferences: token<ShowReferences>('ShowReferences'),
  deletionOrders: token<DeletionOrders>('DeletionOrders'),
  deletionWork: token<DeletionWork>('DeletionWork'),
  deletions: token<DeletionRecords>('DeletionRecords'),
  ownRows: token<RunRows>('RunRows'),
  directory: token<ParticipantDirectory>('ParticipantDirectory'),
  onRetired: token<OnRetired>('OnRetired'),
  keepParticipants: token<KeepParticipants>('KeepParticipants'),
  served: token<ServedParticipant>('ServedParticipant'),
  ownParticipant: token<Participant>('OwnParticipant'),
  createRun: token<CreateRun>('CreateRun'),
  recordStep: token<RecordStep>('RecordStep'),
  finishRun: token<FinishRun>('FinishRun'),
  readRuns: token<ReadRuns>('ReadRuns'),
  orderDeletion: token<OrderDeletion>('OrderDeletion'),
  previewPurge: token<PreviewPurge>('PreviewPurge'),
  readDeletions: token<ReadDeletions>('ReadDeletions'),
  bulkDeletions: token<BulkDeletions<RunFilter>>('BulkDeletions'),
  redriveDeletion: token<RedriveDeletion>('RedriveDeletion'),
  runCascades: token<RunCascades>('RunCascades'),
  sagas: token<SagaRepository>('SagaRepository'),
  changes: token<RunChanges>('RunChanges'),
  onSagaSettled: token<OnSagaSettled>('OnSagaSettled'),
  onLostRun: token<(error: unknown) => void>('OnLostRun'),
  advanceRuns: token<AdvanceRuns>('AdvanceRuns'),
  ownRuns: token<OwnRuns>('OwnRuns'),
  startRun: token<StartRun>('StartRun'),
  watchRun: token<WatchRun>('WatchRun'),
  cancelRun: token<CancelRun>('CancelRun'),
  retryRun: token<RetryRun>('RetryRun'),
  failRun: token<FailRun>('FailRun'),
  executions: token<ExecutionRepository>('ExecutionRepository'),
  recordExecutions: token<RecordExecutions>('RecordExecutions'),
  readExecutions: token<ReadExecutions>('ReadExecutions'),
  executionMonths: token<ExecutionMonths>('ExecutionMonths'),
  onRewritten: token<OnRewritten>('OnRewritten'),
  keepExecutionMonths: token<KeepExecutionMonths>('KeepExecutionMonths'),
};

const adapters = new ContainerModule(({ bind }) => {
  bind(TOKENS.runs).toResolvedValue(
    (database: Database, show: ShowReferences): RunRepository => {
      const runs = makeRunRepository(database);
      const get: RunRepository['get'] = async (...of) => {
        const run = await runs.get(...of);
        return run && show(run);
      };
      return { ...runs, get };
    },
    [TOKENS.database, TOKENS.showReferences],
  );
  bind(TOKENS.showReferences).toResolvedValue(
    (workflows: readonly Workflow[], peers: readonly StepParticipant[]) =>
      makeShowReferences(workflows, peers, REFERENCE_PATIENCE_MS),
    [TOKENS.workflows, TOKENS.peers],
  );
  bind(TOKENS.deletionOrders).toResolvedValue(makeDeletionOrders, [TOKENS.database]);
  bind(TOKENS.deletionWork).toResolvedValue(makeDeletionWork, [TOKENS.database]);
  bind(TOKENS.deletions).toResolvedValue(makeDeletionRecords, [TOKENS.database]);
  bind(TOKENS.ownRows).toResolvedValue(
    (database: Database, workflows: readonly Workflow[]) =>
      makeOwnRows(
        database,
        workflows.flatMap((workflow) =>
          deletionOrder(workflow).map((table) => {
            const sharedThrough = sharersOf(workflow, table);
            return { table, resourceType: table, ...(sharedThrough ? { sharedThrough } : {}) };
          }),
        ),
      ),
    [TOKENS.database, TOKENS.workflows],
  );
  bind(TOKENS.sagas).toResolvedValue(
    (database: Database, workflows: readonly Workflow[]) =>
      makeSagaRepository(
        database,
        workflows.flatMap(({ types }) => types),
      ),
    [TOKENS.database, TOKENS.workflows],
  );
});

const useCases = new ContainerModule(({ bind }) => {
  const { runs, deletions, participants, ownParticipant, settings, wake, onOrdered, onSettled } = TOKENS;
  bind(TOKENS.served).toResolvedValue(
    (rows: RunRows) =>
      makeServedParticipant({
        rows,
        rowsPerBatch: ROWS_PER_BATCH,
        crashPoints: { afterBatch: 'run.delete.between-own-batches' },
      }),
    [TOKENS.ownRows],
  );
  bind(ownParticipant).toResolvedValue(makeOwnParticipant, [TOKENS.served]);
  // RunService's own rows come last: while they stand, the run can be found.
  bind(participants).toResolvedValue(
    (others: readonly Participant[], own: Participant): readonly Participant[] => [...others, own],
    [TOKENS.peers, ownParticipant],
  );
  bind(TOKENS.createRun).toResolvedValue(makeCreateRun, [runs]);
  bind(TOKENS.recordStep).toResolvedValue(makeRecordStep, [runs, participants]);
  bind(TOKENS.finishRun).toResolvedValue(makeFinishRun, [runs]);
  bind(TOKENS.readRuns).toResolvedValue(makeReadRuns, [runs]);
  bind(TOKENS.readDeletions).toResolvedValue(makeReadDeletions, [deletions]);
  bind(TOKENS.redriveDeletion).toResolvedValue(makeRedriveDeletion, [deletions, wake]);
  bind(TOKENS.previewPurge).toResolvedValue(makePreviewPurge, [runs, TOKENS.deletionOrders, participants, settings]);
  bind(TOKENS.orderDeletion).toResolvedValue(makeOrderDeletion, [
    runs,
    TOKENS.deletionOrders,
    participants,
    settings,
    wake,
    onOrdered,
  ]);
  bind(TOKENS.runCascades).toResolvedValue(
    (d: DeletionWork, known: ParticipantDirectory, p: readonly Participant[], of: RunSettings, o: OnCascadeSettled) =>
      makeRunCascades(
        d,
        makeGiveUpRetired(known, p),
        p,
        {
          workerId: of.workerId,
          leaseMs: of.participantTimeoutMs * 2,
          movesPerTurn: 50,
          purgeLimit: of.purgeLimit,
          retry: { maxAttempts: of.deletionAttempts, baseMs: of.deletionBackoffMs, maxMs: of.deletionBackoffMaxMs },
        },
        o,
      ),
    [TOKENS.deletionWork, TOKENS.directory, participants, settings, onSettled],
  );
  bind(TOKENS.keepParticipants).toResolvedValue(makeKeepParticipants, [
    TOKENS.directory,
    TOKENS.peers,
    TOKENS.onRetired,
  ]);
});

const bulkUseCases = new ContainerModule(({ bind }) => {
  const { bulkFoundation, settings, orderDeletion } = TOKENS;
  bind(TOKENS.bulkDeletions).toResolvedValue(
    (foundation: BulkFoundation, of: RunSettings, order: OrderDeletion) =>
      makeBulkDeletions({
        foundation,
        settings: of,
        targets: makeRunTargets(of.minPurgeAgeHours),
        async orderItem({ id, mode, reason, force }, { targetId, etag }, bulkItem, caller) {
          const { deletion } = await order({
            caller,
            runId: targetId,
            mode,
            reason,
            requestId: undefined,
            etag,
            allowMissing: false,
            validateOnly: false,
            force,
            bulkItem,
          });
          return deletion?.bulkDeletionId === id;
        },
      }),
    [bulkFoundation, settings, orderDeletion],
  );
});

const sagaUseCases = new ContainerModule(({ bind }) => {
  const { sagas, workflows, settings, advanceRuns, ownRuns, changes, wake } = TOKENS;
  bind(advanceRuns).toResolvedValue(
    (
      s: SagaRepository,
      w: readonly Workflow[],
      peers: readonly StepParticipant[],
      own: ServedParticipant,
      of: RunSettings,
      c: RunChanges,
      o: OnSagaSettled,
    ) =>
      makeAdvanceRuns(
        s,
        w,
        [...peers, makeOwnStepParticipant(own)],
        {
          workerId: of.workerId,
          leaseMs: of.runLeaseMs,
          retry: { maxAttempts: of.runAttempts, baseMs: of.runBackoffMs, maxMs: of.runBackoffMaxMs },
        },
        ({ tenantId, runId }) => c.tell({ tenantId, id: runId }),
        o,
      ),
    [sagas, workflows, TOKENS.peers, TOKENS.served, settings, changes, TOKENS.onSagaSettled],
  );
  bind(ownRuns).toResolvedValue(
    (a: AdvanceRuns, of: RunSettings, onLost: (error: unknown) => void) =>
      makeOwnRuns(a, { owner: of.workerId, leaseMs: of.runLeaseMs, size: of.runSlots }, onLost),
    [advanceRuns, settings, TOKENS.onLostRun],
  );
  bind(TOKENS.startRun).toResolvedValue(makeStartRun, [
    sagas,
    workflows,
    advanceRuns,
    TOKENS.peers,
    ownRuns,
    wake,
    TOKENS.showReferences,
  ]);
  bind(changes).toResolvedValue((r: RunRepository) => makeRunChanges(r, () => delay(WATCH_POLL_MS)), [TOKENS.runs]);
  bind(TOKENS.watchRun).toResolvedValue(
    (r: RunRepository, c: RunChanges) => makeWatchRun(makeReadRuns(shareReads(r)), c),
    [TOKENS.runs, changes],
  );
  bind(TOKENS.cancelRun).toResolvedValue(makeCancelRun, [sagas, wake]);
  bind(TOKENS.retryRun).toResolvedValue(makeRetryRun, [sagas, wake]);
  bind(TOKENS.failRun).toResolvedValue(makeFailRun, [sagas, wake]);
});

const executionUseCases = new ContainerModule(({ bind }) => {
  const { database, executions } = TOKENS;
  bind(executions).toResolvedValue(makeExecutionRepository, [database]);
  bind(TOKENS.recordExecutions).toResolvedValue(makeRecordExecutions, [executions]);
  bind(TOKENS.readExecutions).toResolvedValue(makeReadExecutions, [executions]);
  bind(TOKENS.executionMonths).toResolvedValue(makeExecutionMonths, [database]);
  bind(TOKENS.keepExecutionMonths).toResolvedValue(makeKeepExecutionMonths, [
    TOKENS.executionMonths,
    TOKENS.onRewritten,
  ]);
});

// So many of RunService's own rows are removed well within a second.
const ROWS_PER_BATCH = 1_000;

// A reader of a run waits no longer for a participant.
const REFERENCE_PATIENCE_MS = 1_000;

// How late a watcher hears of what another replica did.
const WATCH_POLL_MS = 100;
const EXPIRY_POLL_MS = 3_600_000;

/** RunService, composed. */
export async function composeRunService(
  settings: RunSettings,
  { database, log, metrics, turns }: ServiceFoundation,
): Promise<ComposedService> {
  let workers: readonly WorkerLoops[] = [];
  const directory = makeParticipantDirectory(database);
  const peers = await connectPeers(settings, directory, log);
  const container = new Container({ defaultScope: 'Singleton' });
  container.bind(TOKENS.directory).toConstantValue(directory);
  container.bind(TOKENS.settings).toConstantValue(settings);
  container.bind(TOKENS.database).toConstantValue(database);
  container.bind(TOKENS.bulkFoundation).toConstantValue({ database, log, metrics });
  container
    .bind(TOKENS.peers)
    .toConstantValue(peers.map((peer) => ({ ...makeParticipant(peer), ...makeStepParticipant(peer) })));
  container.bind(TOKENS.wake).toConstantValue(() => {
    for (const group of workers) group.wake();
  });
  const observed = observeRuns({ log, metrics });
  container.bind(TOKENS.onOrdered).toConstantValue(observed.onOrdered);
  container.bind(TOKENS.onSettled).toConstantValue(observed.onSettled);
  container.bind(TOKENS.onRetired).toConstantValue(observed.onRetired);
  container.bind(TOKENS.onLostRun).toConstantValue(observed.onLostRun);
  container.bind(TOKENS.onSagaSettled).toConstantValue(observed.onSagaSettled);
  container.bind(TOKENS.onRewritten).toConstantValue(observed.onRewritten);
  container.bind(TOKENS.workflows).toConstantValue([clientToDelivery]);
  const owner = makeOwner({
    ...settings,
    database,
    turns,
    subjects: RUN_SUBJECTS,
    onPurged: observed.onPurged,
  });
  container.load(adapters, useCases, bulkUseCases, sagaUseCases, executionUseCases);
  const get = <T>(identifier: ServiceIdentifier<T>): T => container.get(identifier);
  await directory.keepConfigured(settings.participants.map(({ name }) => name));
  metrics.observeOldestDeletion(get(TOKENS.deletions).oldestUnfinishedSeconds);
  metrics.observeStuckDeletions(get(TOKENS.deletions).stuckCount);
  metrics.observeOldestRun(get(TOKENS.sagas).oldestUnfinishedSeconds);
  metrics.observeOldestCompensation(oldestSeconds(database, 'COMPENSATION'));
  metrics.observeParkedRuns(get(TOKENS.sagas).parkedCount);

  return {
    services: [
      bindService(
        RunService,
        {
          ...runService({
            createRun: get(TOKENS.createRun),
            recordStep: get(TOKENS.recordStep),
            finishRun: get(TOKENS.finishRun),
            readRuns: get(TOKENS.readRuns),
            keepParticipants: get(TOKENS.keepParticipants),
          }),
          ...deletionHandlers(get(TOKENS.orderDeletion)),
          ...receiptHandlers({
            previewPurge: get(TOKENS.previewPurge),
            readDeletions: get(TOKENS.readDeletions),
            redriveDeletion: get(TOKENS.redriveDeletion),
          }),
          ...sagaService({
            startRun: get(TOKENS.startRun),
            watchRun: get(TOKENS.watchRun),
            cancelRun: get(TOKENS.cancelRun),
            retryRun: get(TOKENS.retryRun),
            failRun: get(TOKENS.failRun),
          }),
          ...executionService({
            recordExecutions: get(TOKENS.recordExecutions),
            readExecutions: get(TOKENS.readExecutions),
          }),
          ...bulkService({
            orderBulkDeletion: get(TOKENS.bulkDeletions).order,
            readBulkDeletions: get(TOKENS.bulkDeletions).read,
          }),
          ...auditHandlers(database),
        },
        ['watchRun', 'watchDeletion', 'watchBulkDeletion'],
      ),
      bindParticipant(get(TOKENS.served), makeDataId(database)),
      bindOwner(owner),
    ],
    hasWork: true,
    startWorkers() {
      const onError = (name: string, error: unknown) =>
        log.error({ err: error, loop: name }, 'a background pass failed');
      const { deletionWorkers, runWorkers, pollMs, executionUpkeepMs } = settings;
      const { due } = get(TOKENS.advanceRuns);
      const cascades = get(TOKENS.runCascades);
      workers = [
        startWorkerLoops(deletionWorkers, { name: 'cascades', pollMs, work: cascades, onError }),
        startWorkerLoops(runWorkers, { name: 'runs', pollMs, work: due, onError }),
      ];
      const upkeep = startWorkerLoop({
        name: 'execution-months',
        pollMs: executionUpkeepMs,
        work: get(TOKENS.keepExecutionMonths),
        onError,
      });
      const operations = startWorkerLoop({
        name: 'owner-operations',
        pollMs: EXPIRY_POLL_MS,
        work: owner.expireOperations,
        onError,
      });
      const bulk = get(TOKENS.bulkDeletions).startWorkers(onError);
      return [...workers, ...bulk, upkeep, operations, { stop: get(TOKENS.ownRuns).stop }];
    },
    parts: peers.map(({ name, connection }) => reachabilityOf('participant', name, connection)),
    close() {
      for (const { connection } of peers) connection.close();
    },
  };
}
