import 'reflect-metadata';
import { setTimeout as delay } from 'node:timers/promises';
import { Container, ContainerModule, type ServiceIdentifier } from 'inversify';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { readSigningKey } from '#libs/auth/keys.ts';
import { makeServiceCredential } from '#libs/auth/sign-token.ts';
import { connect } from '#libs/grpc/client.ts';
import { bindService } from '#libs/grpc/connect-handlers.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { startWorkerLoop, type WorkerLoop } from '#libs/saga/worker-loop.ts';
import type { ComposedService, ServiceFoundation } from '#libs/service/run-service.ts';
import { makeIncidentOwner } from './adapters/clients/incident-owner.ts';
import { retentionService } from './adapters/grpc/retention-service.ts';
import { makePlanRepository } from './adapters/postgres/plan-repository.ts';
import { makePurgeRepository } from './adapters/postgres/purge-repository.ts';
import type { RetentionSettings } from './config.ts';
import { type KeepPlans, makeKeepPlans } from './use-cases/keep-plans.ts';
import { makeOrderPurge, type OrderPurge } from './use-cases/order-purge.ts';
import type { DataOwner, PlanRepository, PurgeRepository } from './use-cases/ports.ts';
import { makeRunPurges, type OnItemFinished, type RunPurges } from './use-cases/run-purges.ts';

const token = <T>(name: string) => Symbol(name) as ServiceIdentifier<T>;

const TOKENS = {
  settings: token<RetentionSettings>('RetentionSettings'),
  database: token<Database>('Database'),
  owner: token<DataOwner>('DataOwner'),
  wake: token<() => void>('Wake'),
  onFinished: token<OnItemFinished>('OnItemFinished'),
  plans: token<PlanRepository>('PlanRepository'),
  purges: token<PurgeRepository>('PurgeRepository'),
  keepPlans: token<KeepPlans>('KeepPlans'),
  orderPurge: token<OrderPurge>('OrderPurge'),
  runPurges: token<RunPurges>('RunPurges'),
};

const adapters = new ContainerModule(({ bind }) => {
  bind(TOKENS.plans).toResolvedValue(makePlanRepository, [TOKENS.database]).inSingletonScope();
  bind(TOKENS.purges).toResolvedValue(makePurgeRepository, [TOKENS.database]).inSingletonScope();
});

const useCases = new ContainerModule(({ bind }) => {
  const { plans, purges, keepPlans, owner, settings, wake, onFinished } = TOKENS;
  bind(keepPlans)
    .toResolvedValue(
      (p: PlanRepository, { graceDays }: RetentionSettings) => makeKeepPlans(p, graceDays),
      [plans, settings],
    )
    .inSingletonScope();
  bind(TOKENS.orderPurge)
    .toResolvedValue(
      (p: PurgeRepository, l: PlanRepository, w: () => void) =>
        makeOrderPurge(p, l, w, (ms, signal) => delay(ms, undefined, { signal })),
      [purges, plans, wake],
    )
    .inSingletonScope();
  bind(TOKENS.runPurges)
    .toResolvedValue(
      (p: PurgeRepository, k: KeepPlans, o: DataOwner, of: RetentionSettings, done: OnItemFinished) =>
        makeRunPurges(
          p,
          k,
          o,
          {
            workerId: of.workerId,
            leaseMs: of.ownerTimeoutMs * 2,
            retry: { maxAttempts: of.purgeAttempts, baseMs: of.purgeBackoffMs, maxMs: 60_000 },
          },
          done,
        ),
      [purges, keepPlans, owner, settings, onFinished],
    )
    .inSingletonScope();
});

/** RetentionService, composed. */
export async function composeRetentionService(
  settings: RetentionSettings,
  { database, log, metrics }: ServiceFoundation,
): Promise<ComposedService> {
  let workers: readonly WorkerLoop[] = [];
  const issuer = {
    key: await readSigningKey(settings.serviceKey),
    issuer: settings.jwtIssuer,
    audience: settings.jwtAudience,
  };
  const credential = makeServiceCredential(issuer, 'retention', ['retention:purge']);
  const connection = connect({
    address: settings.incidentAddress,
    deadlineMs: settings.ownerTimeoutMs,
    token: () => credential({ actor: 'service:retention' }),
  });
  const container = new Container();
  container.bind(TOKENS.settings).toConstantValue(settings);
  container.bind(TOKENS.database).toConstantValue(database);
  container.bind(TOKENS.owner).toConstantValue(makeIncidentOwner(connection, credential));
  container.bind(TOKENS.wake).toConstantValue(() => {
    for (const worker of workers) worker.wake();
  });
  container.bind(TOKENS.onFinished).toConstantValue(({ purgeId, tenantId, actor, validateOnly }, progress, error) => {
    const { state, plan, counts } = progress;
    const told = {
      audit: true,
      action: 'retention-purge',
      purgeId,
      tenantId,
      actor,
      validateOnly,
      plan,
      counts,
      outcome: state,
    };
    if (state === 'COMPLETE') log.info(told, 'tenant purged');
    else log.warn({ ...told, err: error }, 'tenant not purged whole');
    metrics.deletionFinished('retention', state);
  });
  container.load(adapters, useCases);

  return {
    services: [
      bindService(
        RetentionService,
        retentionService(container.get(TOKENS.keepPlans), container.get(TOKENS.orderPurge)),
      ),
    ],
    startWorkers() {
      const work = container.get(TOKENS.runPurges);
      const onError = (name: string, error: unknown) =>
        log.error({ err: error, loop: name }, 'a background pass failed');
      workers = Array.from({ length: settings.purgeWorkers }, (_, index) =>
        startWorkerLoop({ name: `purges-${index}`, pollMs: settings.pollMs, work, onError }),
      );
      return workers;
    },
    close: () => connection.close(),
  };
}
