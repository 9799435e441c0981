import 'reflect-metadata';
import { Container, ContainerModule, type ServiceIdentifier } from 'inversify';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { readSigningKey } from '#libs/auth/keys.ts';
import { makeServiceCredential } from '#libs/auth/sign-token.ts';
import { connect } from '#libs/grpc/client.ts';
import { bindService } from '#libs/grpc/connect-handlers.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { startWorkerLoop, type WorkerLoop } from '#libs/saga/worker-loop.ts';
import type { ComposedService, ServiceFoundation } from '#libs/service/run-service.ts';
import { makeParticipant } from './adapters/clients/participant.ts';
import { participantService } from './adapters/grpc/participant-service.ts';
import { runService } from './adapters/grpc/run-service.ts';
import { makeDeletionRepository } from './adapters/postgres/deletion-repository.ts';
import { makeOwnRows } from './adapters/postgres/own-rows.ts';
import { makeRunRepository } from './adapters/postgres/run-repository.ts';
import type { RunSettings } from './config.ts';
import { type CreateRun, makeCreateRun } from './use-cases/create-run.ts';
import { type FinishRun, makeFinishRun } from './use-cases/finish-run.ts';
import { makeOrderDeletion, type OnOrdered, type OrderDeletion } from './use-cases/order-deletion.ts';
import { makeOwnParticipant, type OwnParticipant } from './use-cases/participate.ts';
import type { DeletionRepository, OwnRows, Participant, RunRepository } from './use-cases/ports.ts';
import { makePreviewPurge, type PreviewPurge } from './use-cases/preview-purge.ts';
import { makeReadDeletions, type ReadDeletions } from './use-cases/read-deletions.ts';
import { makeReadRuns, type ReadRuns } from './use-cases/read-runs.ts';
import { makeRecordStep, type RecordStep } from './use-cases/record-step.ts';
import { makeRedriveDeletion, type RedriveDeletion } from './use-cases/redrive-deletion.ts';
import { makeRunCascades, type OnCascadeSettled, type RunCascades } from './use-cases/run-cascades.ts';

const token = <T>(name: string) => Symbol(name) as ServiceIdentifier<T>;

const TOKENS = {
  settings: token<RunSettings>('RunSettings'),
  database: token<Database>('Database'),
  peers: token<readonly Participant[]>('Peers'),
  participants: token<readonly Participant[]>('Participants'),
  wake: token<() => void>('Wake'),
  onOrdered: token<OnOrdered>('OnOrdered'),
  onSettled: token<OnCascadeSettled>('OnCascadeSettled'),
  runs: token<RunRepository>('RunRepository'),
  deletions: token<DeletionRepository>('DeletionRepository'),
  ownRows: token<OwnRows>('OwnRows'),
  ownParticipant: token<OwnParticipant>('OwnParticipant'),
  createRun: token<CreateRun>('CreateRun'),
  recordStep: token<RecordStep>('RecordStep'),
  finishRun: token<FinishRun>('FinishRun'),
  readRuns: token<ReadRuns>('ReadRuns'),
  orderDeletion: token<OrderDeletion>('OrderDeletion'),
  previewPurge: token<PreviewPurge>('PreviewPurge'),
  readDeletions: token<ReadDeletions>('ReadDeletions'),
  redriveDeletion: token<RedriveDeletion>('RedriveDeletion'),
  runCascades: token<RunCascades>('RunCascades'),
};

const adapters = new ContainerModule(({ bind }) => {
  bind(TOKENS.runs).toResolvedValue(makeRunRepository, [TOKENS.database]).inSingletonScope();
  bind(TOKENS.deletions).toResolvedValue(makeDeletionRepository, [TOKENS.database]).inSingletonScope();
  bind(TOKENS.ownRows)
    .toResolvedValue((database: Database) => makeOwnRows(database, []), [TOKENS.database])
    .inSingletonScope();
});

const useCases = new ContainerModule(({ bind }) => {
  const { runs, deletions, participants, ownParticipant, settings, wake, onOrdered, onSettled } = TOKENS;
  bind(ownParticipant).toResolvedValue(makeOwnParticipant, [TOKENS.ownRows]).inSingletonScope();
  // RunService's own rows come last: while they stand, the run can be found.
  bind(participants)
    .toResolvedValue(
      (others: readonly Participant[], own: OwnParticipant): readonly Participant[] => [...others, own],
      [TOKENS.peers, ownParticipant],
    )
    .inSingletonScope();
  bind(TOKENS.createRun).toResolvedValue(makeCreateRun, [runs]).inSingletonScope();
  bind(TOKENS.recordStep)
    .toResolvedValue(
      (r: RunRepository, p: readonly Participant[]) =>
        makeRecordStep(
          r,
          p.map(({ name }) => name),
        ),
      [runs, participants],
    )
    .inSingletonScope();
  bind(TOKENS.finishRun).toResolvedValue(makeFinishRun, [runs]).inSingletonScope();
  bind(TOKENS.readRuns).toResolvedValue(makeReadRuns, [runs]).inSingletonScope();
  bind(TOKENS.readDeletions).toResolvedValue(makeReadDeletions, [deletions]).inSingletonScope();
  bind(TOKENS.redriveDeletion).toResolvedValue(makeRedriveDeletion, [deletions, wake]).inSingletonScope();
  bind(TOKENS.previewPurge)
    .toResolvedValue(
      (r: RunRepository, p: readonly Participant[], { minPurgeAgeHours }: RunSettings) =>
        makePreviewPurge(r, p, minPurgeAgeHours),
      [runs, participants, settings],
    )
    .inSingletonScope();
  bind(TOKENS.orderDeletion)
    .toResolvedValue(
      (
        r: RunRepository,
        d: DeletionRepository,
        p: readonly Participant[],
        { minPurgeAgeHours }: RunSettings,
        w: () => void,
        o: OnOrdered,
      ) => makeOrderDeletion(r, d, p, minPurgeAgeHours, w, o),
      [runs, deletions, participants, settings, wake, onOrdered],
    )
    .inSingletonScope();
  bind(TOKENS.runCascades)
    .toResolvedValue(
      (d: DeletionRepository, p: readonly Participant[], of: RunSettings, o: OnCascadeSettled) =>
        makeRunCascades(
          d,
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
      [deletions, participants, settings, onSettled],
    )
    .inSingletonScope();
});

/** RunService, composed. */
export async function composeRunService(
  settings: RunSettings,
  { database, log, metrics }: ServiceFoundation,
): Promise<ComposedService> {
  let workers: readonly WorkerLoop[] = [];
  const issuer = {
    key: await readSigningKey(settings.serviceKey),
    issuer: settings.jwtIssuer,
    audience: settings.jwtAudience,
  };
  const credential = makeServiceCredential(issuer, 'run', ['participant']);
  const connections = settings.participants.map(({ name, address }) => ({
    name,
    connection: connect({
      address,
      deadlineMs: settings.participantTimeoutMs,
      token: () => credential({ actor: 'service:run' }),
    }),
  }));
  const container = new Container();
  container.bind(TOKENS.settings).toConstantValue(settings);
  container.bind(TOKENS.database).toConstantValue(database);
  container
    .bind(TOKENS.peers)
    .toConstantValue(connections.map(({ name, connection }) => makeParticipant(name, connection, credential)));
  container.bind(TOKENS.wake).toConstantValue(() => {
    for (const worker of workers) worker.wake();
  });
  container.bind(TOKENS.onOrdered).toConstantValue(({ tenantId, runId, mode, caller, reason }, outcome, why) => {
    const { actor, subject } = caller;
    log.info(
      { audit: true, action: mode, tenantId, runId, actor, subject, reason, outcome, why },
      'operation on a run',
    );
    if (outcome === 'REFUSED') metrics.deletionFinished(mode, 'REFUSED');
  });
  container.bind(TOKENS.onSettled).toConstantValue((deletion, outcome, error) => {
    const { tenantId, id, runId, mode, actor, reason, attempts, steps, lastError } = deletion;
    const told = { audit: outcome !== 'RETRY', action: mode, tenantId, deletionId: id, runId, actor, reason, outcome };
    if (outcome === 'COMPLETE')
      log.info(
        { ...told, counts: steps.map(({ participant, counts }) => ({ participant, counts })) },
        'cascade complete',
      );
    else log.warn({ ...told, attempts, lastError, err: error }, 'cascade not complete yet');
    if (outcome !== 'RETRY') metrics.deletionFinished(mode, outcome);
  });
  container.load(adapters, useCases);
  const get = <T>(identifier: ServiceIdentifier<T>): T => container.get(identifier);
  metrics.observeOldestDeletion(get(TOKENS.deletions).oldestUnfinishedSeconds);
  metrics.observeStuckDeletions(get(TOKENS.deletions).stuckCount);

  return {
    services: [
      bindService(
        RunService,
        runService({
          createRun: get(TOKENS.createRun),
          recordStep: get(TOKENS.recordStep),
          finishRun: get(TOKENS.finishRun),
          readRuns: get(TOKENS.readRuns),
          orderDeletion: get(TOKENS.orderDeletion),
          previewPurge: get(TOKENS.previewPurge),
          readDeletions: get(TOKENS.readDeletions),
          redriveDeletion: get(TOKENS.redriveDeletion),
        }),
      ),
      bindService(ParticipantService, participantService(get(TOKENS.ownParticipant))),
    ],
    startWorkers() {
      const work = get(TOKENS.runCascades);
      const onError = (name: string, error: unknown) =>
        log.error({ err: error, loop: name }, 'a background pass failed');
      workers = Array.from({ length: settings.deletionWorkers }, (_, index) =>
        startWorkerLoop({ name: `cascades-${index}`, pollMs: settings.pollMs, work, onError }),
      );
      return workers;
    },
    close() {
      for (const { connection } of connections) connection.close();
    },
  };
}
