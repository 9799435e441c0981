import { setTimeout as delay } from 'node:timers/promises';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { auditHandlers } from '#libs/audit/audit-handlers.ts';
import { makeBulkDeletions } from '#libs/bulk-deletion/make-bulk-deletions.ts';
import { startWorkerLoop, startWorkerLoops, type WorkerLoops } from '#libs/durable/worker-loop.ts';
import { bindService } from '#libs/grpc/connect-handlers.ts';
import { makeOwner } from '#libs/owner/make-owner.ts';
import { observeOwner } from '#libs/owner/observe-owner.ts';
import { bindOwner } from '#libs/owner/owner-service.ts';
import { bindParticipant } from '#libs/participant/bind-participant.ts';
import { makeParticipant as makeServedParticipant } from '#libs/participant/make-participant.ts';
import type { Participant as ServedParticipant } from '#libs/participant/participant.ts';
import { makeDataId } from '#libs/postgres/data-id.ts';
import { makeForgetRequests } from '#libs/postgres/forget-requests.ts';
import { makeComposition } from '#libs/service/composition.ts';
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
import { REMEMBERED_REQUESTS } from './adapters/postgres/request-ids.ts';
import { makeRunRepository } from './adapters/postgres/run-repository.ts';
import { makeSagaRepository } from './adapters/postgres/saga-repository.ts';
import { RUN_SUBJECTS } from './adapters/postgres/subjects.ts';
import { observeRuns } from './adapters/telemetry/observe-runs.ts';
import type { RunSettings } from './config.ts';
import { deletionOrder, sharersOf, type Workflow } from './domain/workflow.ts';
import { makeAdvanceRuns, type OnRunChanged } from './use-cases/advance-runs.ts';
import { makeCancelRun } from './use-cases/cancel-run.ts';
import { makeCreateRun } from './use-cases/create-run.ts';
import type { Participant } from './use-cases/deletion-ports.ts';
import { makeFailRun } from './use-cases/fail-run.ts';
import { makeFinishRun } from './use-cases/finish-run.ts';
import { makeGiveUpRetired } from './use-cases/give-up-retired.ts';
import { makeKeepExecutionMonths } from './use-cases/keep-execution-months.ts';
import { makeKeepParticipants } from './use-cases/keep-participants.ts';
import { makeOrderDeletion, type OrderDeletion } from './use-cases/order-deletion.ts';
import type { RunRepository } from './use-cases/ports.ts';
import { makePreviewPurge } from './use-cases/preview-purge.ts';
import { makeReadDeletions } from './use-cases/read-deletions.ts';
import { makeReadExecutions } from './use-cases/read-executions.ts';
import { makeReadRuns } from './use-cases/read-runs.ts';
import { makeRecordExecutions } from './use-cases/record-executions.ts';
import { makeRecordStep } from './use-cases/record-step.ts';
import { makeRedriveDeletion } from './use-cases/redrive-deletion.ts';
import { makeRetryRun } from './use-cases/retry-run.ts';
import { makeRunCascades } from './use-cases/run-cascades.ts';
import { makeRunChanges, type RunChanges } from './use-cases/run-changes.ts';
import { makeOwnRuns } from './use-cases/run-slots.ts';
import type { StepParticipant } from './use-cases/saga-ports.ts';
import { shareReads } from './use-cases/share-reads.ts';
import { makeShowReferences, type ShowReferences } from './use-cases/show-references.ts';
import { makeStartRun } from './use-cases/start-run.ts';
import { makeWatchRun } from './use-cases/watch-run.ts';
import { clientToDelivery } from './workflows/client-to-delivery/workflow.ts';

// So many of RunService's own rows are removed well within a second.
const ROWS_PER_BATCH = 1_000;

// A reader of a run waits no longer for a participant.
const REFERENCE_PATIENCE_MS = 1_000;

// How late a watcher hears of what another replica did.
const WATCH_POLL_MS = 100;
const EXPIRY_POLL_MS = 3_600_000;

/** A run's rows in the order in which they are deleted. */
const rowsOf = (workflows: readonly Workflow[]) =>
  workflows.flatMap((workflow) =>
    deletionOrder(workflow).map((table) => {
      const sharedThrough = sharersOf(workflow, table);
      return { table, resourceType: table, ...(sharedThrough ? { sharedThrough } : {}) };
    }),
  );

/** Runs as they are read: with what their steps made elsewhere. */
function withReferences(runs: RunRepository, show: ShowReferences): RunRepository {
  const get: RunRepository['get'] = async (...of) => {
    const run = await runs.get(...of);
    return run && show(run);
  };
  return { ...runs, get };
}

/** RunService, composed. */
export async function composeRunService(
  settings: RunSettings,
  { database, log, metrics, turns }: ServiceFoundation,
): Promise<ComposedService> {
  let workers: readonly WorkerLoops[] = [];
  const workflows = [clientToDelivery];
  const participantDirectory = makeParticipantDirectory(database);
  const connected = await connectPeers(settings, participantDirectory, log);
  const observed = observeRuns({ log, metrics });
  const subjects = RUN_SUBJECTS;
  const owner = makeOwner({ ...settings, database, turns, subjects, onPurged: observeOwner({ log, metrics }) });
  const { given, made, madeOf, get } = makeComposition();

  const ofDatabase = [given(database)] as const;
  const ofSettings = given(settings);
  const wake = given(() => {
    for (const group of workers) group.wake();
  });
  const directory = given(participantDirectory);
  const peers = given<readonly (Participant & StepParticipant)[]>(
    connected.map((peer) => ({ ...makeParticipant(peer), ...makeStepParticipant(peer) })),
  );
  const allWorkflows = given<readonly Workflow[]>(workflows);
  const showReferences = made(makeShowReferences, [allWorkflows, peers, given(REFERENCE_PATIENCE_MS)]);
  const runs = made(withReferences, [made(makeRunRepository, ofDatabase), showReferences]);
  const deletionOrders = made(makeDeletionOrders, ofDatabase);
  const deletions = made(makeDeletionRecords, ofDatabase);
  const sagas = given(
    makeSagaRepository(
      database,
      workflows.flatMap(({ types }) => types),
    ),
  );

  const served = made(makeServedParticipant, [
    given({
      rows: makeOwnRows(database, rowsOf(workflows)),
      rowsPerBatch: ROWS_PER_BATCH,
      crashPoints: { afterBatch: 'run.delete.between-own-batches' },
    }),
  ]);
  // RunService's own rows come last: while they stand, the run can be found.
  const participants = made(
    (others: readonly Participant[], own: Participant): readonly Participant[] => [...others, own],
    [peers, made(makeOwnParticipant, [served])],
  );
  const orderDeletion = made(makeOrderDeletion, [
    runs,
    deletionOrders,
    participants,
    ofSettings,
    wake,
    given(observed.onOrdered),
  ]);
  const runCascades = made(makeRunCascades, [
    made(makeDeletionWork, ofDatabase),
    made(makeGiveUpRetired, [directory, participants]),
    participants,
    given({
      workerId: settings.workerId,
      leaseMs: settings.participantTimeoutMs * 2,
      movesPerTurn: 50,
      purgeLimit: settings.purgeLimit,
      retry: {
        maxAttempts: settings.deletionAttempts,
        baseMs: settings.deletionBackoffMs,
        maxMs: settings.deletionBackoffMaxMs,
      },
    }),
    given(observed.onSettled),
  ]);
  const bulkDeletions = made(
    (order: OrderDeletion) =>
      makeBulkDeletions({
        foundation: { database, log, metrics },
        settings,
        targets: makeRunTargets(settings.minPurgeAgeHours),
        async orderItem({ id, mode, reason, force }, { targetId: runId, etag }, bulkItem, caller) {
          const command = { caller, runId, mode, reason, etag, force, bulkItem };
          const asked = { requestId: undefined, allowMissing: false, validateOnly: false };
          const { deletion } = await order({ ...command, ...asked });
          return deletion?.bulkDeletionId === id;
        },
      }),
    [orderDeletion],
  );

  const changes = made((r: RunRepository) => makeRunChanges(r, () => delay(WATCH_POLL_MS)), [runs]);
  const advanceRuns = made(makeAdvanceRuns, [
    sagas,
    allWorkflows,
    made(
      (others: readonly StepParticipant[], own: ServedParticipant) => [...others, makeOwnStepParticipant(own)],
      [peers, served],
    ),
    given({
      workerId: settings.workerId,
      leaseMs: settings.runLeaseMs,
      retry: { maxAttempts: settings.runAttempts, baseMs: settings.runBackoffMs, maxMs: settings.runBackoffMaxMs },
    }),
    made(
      ({ tell }: RunChanges): OnRunChanged =>
        ({ tenantId, runId }) =>
          tell({ tenantId, id: runId }),
      [changes],
    ),
    given(observed.onSagaSettled),
  ]);
  const ownRuns = made(makeOwnRuns, [
    advanceRuns,
    given({ owner: settings.workerId, leaseMs: settings.runLeaseMs, size: settings.runSlots }),
    given(observed.onLostRun),
  ]);
  const executions = made(makeExecutionRepository, ofDatabase);
  const keepExecutionMonths = made(makeKeepExecutionMonths, [
    made(makeExecutionMonths, ofDatabase),
    given(observed.onRewritten),
  ]);

  const ofRuns = madeOf(runService, {
    createRun: made(makeCreateRun, [runs]),
    recordStep: made(makeRecordStep, [runs, participants]),
    finishRun: made(makeFinishRun, [runs]),
    readRuns: made(makeReadRuns, [runs]),
    keepParticipants: made(makeKeepParticipants, [directory, peers, given(observed.onRetired)]),
  });
  const ofReceipts = madeOf(receiptHandlers, {
    previewPurge: made(makePreviewPurge, [runs, deletionOrders, participants, ofSettings]),
    readDeletions: made(makeReadDeletions, [deletions]),
    redriveDeletion: made(makeRedriveDeletion, [deletions, wake]),
  });
  const ofSagas = madeOf(sagaService, {
    startRun: made(makeStartRun, [sagas, allWorkflows, advanceRuns, peers, ownRuns, wake, showReferences]),
    watchRun: made((r: RunRepository, c: RunChanges) => makeWatchRun(makeReadRuns(shareReads(r)), c), [runs, changes]),
    cancelRun: made(makeCancelRun, [sagas, wake]),
    retryRun: made(makeRetryRun, [sagas, wake]),
    failRun: made(makeFailRun, [sagas, wake]),
  });
  const ofExecutions = madeOf(executionService, {
    recordExecutions: made(makeRecordExecutions, [executions]),
    readExecutions: made(makeReadExecutions, [executions]),
  });

  await participantDirectory.keepConfigured(settings.participants.map(({ name }) => name));
  metrics.observe('lethe_oldest_unfinished_deletion_seconds', get(deletions).oldestUnfinishedSeconds);
  metrics.observe('lethe_stuck_deletions', get(deletions).stuckCount);
  metrics.observe('lethe_oldest_unfinished_run_seconds', get(sagas).oldestUnfinishedSeconds);
  metrics.observe('lethe_oldest_unfinished_compensation_seconds', oldestSeconds(database, 'COMPENSATION'));
  metrics.observe('lethe_parked_runs', get(sagas).parkedCount);
  const { order: orderBulkDeletion, read: readBulkDeletions, startWorkers: startBulkWorkers } = get(bulkDeletions);

  return {
    services: [
      bindService(
        RunService,
        {
          ...get(ofRuns),
          ...deletionHandlers(get(orderDeletion)),
          ...get(ofReceipts),
          ...get(ofSagas),
          ...get(ofExecutions),
          ...bulkService({ orderBulkDeletion, readBulkDeletions }),
          ...auditHandlers(database),
        },
        ['watchRun', 'watchDeletion', 'watchBulkDeletion'],
      ),
      bindParticipant(get(served), makeDataId(database)),
      bindOwner(owner),
    ],
    hasWork: true,
    startWorkers() {
      const onError = (name: string, error: unknown) =>
        log.error({ err: error, loop: name }, 'a background pass failed');
      const { deletionWorkers, runWorkers, pollMs, executionUpkeepMs, receiptDays } = settings;
      workers = [
        startWorkerLoops(deletionWorkers, { name: 'cascades', pollMs, work: get(runCascades), onError }),
        startWorkerLoops(runWorkers, { name: 'runs', pollMs, work: get(advanceRuns).due, onError }),
      ];
      const upkeep = startWorkerLoop({
        name: 'execution-months',
        pollMs: executionUpkeepMs,
        work: get(keepExecutionMonths),
        onError,
      });
      const operations = startWorkerLoop({
        name: 'owner-operations',
        pollMs: EXPIRY_POLL_MS,
        work: owner.expireOperations,
        onError,
      });
      const forgetRequests = makeForgetRequests(database, REMEMBERED_REQUESTS);
      const requests = startWorkerLoop({
        name: 'request-ids',
        pollMs: EXPIRY_POLL_MS,
        work: () => forgetRequests(receiptDays),
        onError,
      });
      return [...workers, ...startBulkWorkers(onError), upkeep, operations, requests, { stop: get(ownRuns).stop }];
    },
    parts: connected.map(({ name, connection }) => reachabilityOf('participant', name, connection)),
    close() {
      for (const { connection } of connected) connection.close();
    },
  };
}
