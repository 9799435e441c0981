import 'reflect-metadata';
import { Container, ContainerModule, type ServiceIdentifier } from 'inversify';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { readSigningKey } from '#libs/auth/keys.ts';
import { makeServiceCredential } from '#libs/auth/sign-token.ts';
import { connect } from '#libs/grpc/client.ts';
import { bindService } from '#libs/grpc/connect-handlers.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { startWorkerLoop, type WorkerLoop } from '#libs/saga/worker-loop.ts';
import type { ComposedService, ServiceFoundation } from '#libs/service/run-service.ts';
import { makeParticipant } from './adapters/clients/participant.ts';
import { runService } from './adapters/grpc/run-service.ts';
import { makeDeletionRepository } from './adapters/postgres/deletion-repository.ts';
import { makeRunRepository } from './adapters/postgres/run-repository.ts';
import type { RunSettings } from './config.ts';
import { type EndRuns, makeEndRuns, type OnOrdered } from './use-cases/end-runs.ts';
import { type KeepRuns, makeKeepRuns } from './use-cases/keep-runs.ts';
import type { DeletionRepository, Participant, RunRepository } from './use-cases/ports.ts';
import { makeRunCascades, type OnCascadeSettled, type RunCascades } from './use-cases/run-cascades.ts';

const token = <T>(name: string) => Symbol(name) as ServiceIdentifier<T>;

const TOKENS = {
  settings: token<RunSettings>('RunSettings'),
  database: token<Database>('Database'),
  participants: token<readonly Participant[]>('Participants'),
  wake: token<() => void>('Wake'),
  onOrdered: token<OnOrdered>('OnOrdered'),
  onSettled: token<OnCascadeSettled>('OnCascadeSettled'),
  runs: token<RunRepository>('RunRepository'),
  deletions: token<DeletionRepository>('DeletionRepository'),
  keepRuns: token<KeepRuns>('KeepRuns'),
  endRuns: token<EndRuns>('EndRuns'),
  runCascades: token<RunCascades>('RunCascades'),
};

const adapters = new ContainerModule(({ bind }) => {
  bind(TOKENS.runs).toResolvedValue(makeRunRepository, [TOKENS.database]).inSingletonScope();
  bind(TOKENS.deletions).toResolvedValue(makeDeletionRepository, [TOKENS.database]).inSingletonScope();
});

const useCases = new ContainerModule(({ bind }) => {
  const { runs, deletions, participants, settings, wake, onOrdered, onSettled } = TOKENS;
  bind(TOKENS.keepRuns).toResolvedValue(makeKeepRuns, [runs]).inSingletonScope();
  bind(TOKENS.endRuns)
    .toResolvedValue(
      (
        r: RunRepository,
        d: DeletionRepository,
        p: readonly Participant[],
        of: RunSettings,
        w: () => void,
        o: OnOrdered,
      ) => makeEndRuns(r, d, p, of.minPurgeAgeHours, w, o),
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
            callsPerTurn: 50,
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
    .bind(TOKENS.participants)
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
  metrics.observeOldestDeletion(container.get(TOKENS.deletions).oldestUnfinishedSeconds);

  return {
    services: [bindService(RunService, runService(container.get(TOKENS.keepRuns), container.get(TOKENS.endRuns)))],
    startWorkers() {
      const work = container.get(TOKENS.runCascades);
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
