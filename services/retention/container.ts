import 'reflect-metadata';
import { setTimeout as delay } from 'node:timers/promises';
import { Container, ContainerModule, type ServiceIdentifier } from 'inversify';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { readSigningKey } from '#libs/auth/keys.ts';
import { makeServiceCredential } from '#libs/auth/sign-token.ts';
import { connect } from '#libs/grpc/client.ts';
import { bindService } from '#libs/grpc/connect-handlers.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import type { ComposedService, ServiceFoundation } from '#libs/service/run-service.ts';
import { makeIncidentOwner } from './adapters/clients/incident-owner.ts';
import { retentionService } from './adapters/grpc/retention-service.ts';
import { makeExecutionPolicyRepository } from './adapters/postgres/execution-policy-repository.ts';
import { makePlanRepository } from './adapters/postgres/plan-repository.ts';
import { makePlanWindowRepository } from './adapters/postgres/plan-window-repository.ts';
import { makePurgeHealth } from './adapters/postgres/purge-health.ts';
import { makePurgeRepository } from './adapters/postgres/purge-repository.ts';
import { startPurgeQueue } from './adapters/queue/purge-queue.ts';
import type { RetentionSettings } from './config.ts';
import { FORECAST_SETTINGS, type ForecastPurge, makeForecastPurge } from './use-cases/forecast-purge.ts';
import { type KeepExecutionPolicies, makeKeepExecutionPolicies } from './use-cases/keep-execution-policies.ts';
import { type KeepPlans, makeKeepPlans } from './use-cases/keep-plans.ts';
import { makeOrderPurge, type OnPurgeRefused, type OrderPurge } from './use-cases/order-purge.ts';
import type {
  CountExpired,
  DataOwner,
  ExecutionPolicyRepository,
  PlanRepository,
  PlanWindowRepository,
  PurgeRepository,
  SubjectCatalogue,
} from './use-cases/ports.ts';
import {
  countsOf,
  makeRunPurges,
  makeSettlePurge,
  type OnItemError,
  type OnItemFinished,
  type RunPurges,
  type SettlePurge,
} from './use-cases/run-purges.ts';

const token = <T>(name: string) => Symbol(name) as ServiceIdentifier<T>;

const TOKENS = {
  settings: token<RetentionSettings>('RetentionSettings'),
  database: token<Database>('Database'),
  owner: token<DataOwner>('DataOwner'),
  onRefused: token<OnPurgeRefused>('OnPurgeRefused'),
  onFinished: token<OnItemFinished>('OnItemFinished'),
  onError: token<OnItemError>('OnItemError'),
  plans: token<PlanRepository>('PlanRepository'),
  planWindows: token<PlanWindowRepository>('PlanWindowRepository'),
  countExpired: token<CountExpired>('CountExpired'),
  forecast: token<ForecastPurge>('ForecastPurge'),
  policies: token<ExecutionPolicyRepository>('ExecutionPolicyRepository'),
  catalogue: token<SubjectCatalogue>('SubjectCatalogue'),
  purges: token<PurgeRepository>('PurgeRepository'),
  keepPlans: token<KeepPlans>('KeepPlans'),
  keepPolicies: token<KeepExecutionPolicies>('KeepExecutionPolicies'),
  orderPurge: token<OrderPurge>('OrderPurge'),
  runPurges: token<RunPurges>('RunPurges'),
  settlePurge: token<SettlePurge>('SettlePurge'),
};

const adapters = new ContainerModule(({ bind }) => {
  bind(TOKENS.plans).toResolvedValue(makePlanRepository, [TOKENS.database]).inSingletonScope();
  bind(TOKENS.planWindows).toResolvedValue(makePlanWindowRepository, [TOKENS.database]).inSingletonScope();
  bind(TOKENS.policies).toResolvedValue(makeExecutionPolicyRepository, [TOKENS.database]).inSingletonScope();
  bind(TOKENS.purges).toResolvedValue(makePurgeRepository, [TOKENS.database]).inSingletonScope();
});

const useCases = new ContainerModule(({ bind }) => {
  const { plans, purges, keepPlans, owner, settings, onRefused, onFinished, onError } = TOKENS;
  bind(TOKENS.forecast)
    .toResolvedValue((count: CountExpired) => makeForecastPurge(count, FORECAST_SETTINGS), [TOKENS.countExpired])
    .inSingletonScope();
  bind(keepPlans)
    .toResolvedValue(
      (
        p: PlanRepository,
        w: PlanWindowRepository,
        e: ExecutionPolicyRepository,
        c: SubjectCatalogue,
        f: ForecastPurge,
        { graceDays }: RetentionSettings,
      ) => makeKeepPlans(p, w, e, c, f, graceDays),
      [plans, TOKENS.planWindows, TOKENS.policies, TOKENS.catalogue, TOKENS.forecast, settings],
    )
    .inSingletonScope();
  bind(TOKENS.keepPolicies)
    .toResolvedValue(
      (
        e: ExecutionPolicyRepository,
        p: PlanRepository,
        c: SubjectCatalogue,
        f: ForecastPurge,
        { graceDays }: RetentionSettings,
      ) => makeKeepExecutionPolicies(e, p, c, f, graceDays),
      [TOKENS.policies, plans, TOKENS.catalogue, TOKENS.forecast, settings],
    )
    .inSingletonScope();
  bind(TOKENS.orderPurge)
    .toResolvedValue(
      (p: PurgeRepository, l: PlanRepository, refused: OnPurgeRefused) =>
        makeOrderPurge(p, l, (ms, signal) => delay(ms, undefined, { signal }), refused),
      [purges, plans, onRefused],
    )
    .inSingletonScope();
  bind(TOKENS.settlePurge).toResolvedValue(makeSettlePurge, [purges, owner]).inSingletonScope();
  bind(TOKENS.runPurges)
    .toResolvedValue(
      (
        p: PurgeRepository,
        k: KeepPlans,
        o: DataOwner,
        of: RetentionSettings,
        finished: OnItemFinished,
        failed: OnItemError,
      ) =>
        makeRunPurges(
          p,
          k,
          o,
          {
            workerId: of.workerId,
            leaseMs: of.ownerTimeoutMs * 2,
            retry: { maxAttempts: of.purgeAttempts, baseMs: of.purgeBackoffMs, maxMs: 60_000 },
            ceiling: { maxShare: of.ceilingShare, maxCount: of.ceilingRows, shareFrom: of.ceilingShareFrom },
          },
          finished,
          failed,
        ),
      [purges, keepPlans, owner, settings, onFinished, onError],
    )
    .inSingletonScope();
});

/** Who orders what the schedule does. */
const SCHEDULER = 'service:retention';

/** RetentionService, composed. */
export async function composeRetentionService(
  settings: RetentionSettings,
  { database, log, metrics }: ServiceFoundation,
): Promise<ComposedService> {
  const issuer = {
    key: await readSigningKey(settings.serviceKey),
    issuer: settings.jwtIssuer,
    audience: settings.jwtAudience,
  };
  const credential = makeServiceCredential(issuer, 'retention', ['retention:purge']);
  const connection = connect({
    address: settings.incidentAddress,
    deadlineMs: settings.ownerTimeoutMs,
    token: () => credential({ actor: SCHEDULER }),
  });
  const container = new Container();
  container.bind(TOKENS.settings).toConstantValue(settings);
  container.bind(TOKENS.database).toConstantValue(database);
  container.bind(TOKENS.owner).toConstantValue(makeIncidentOwner(connection, credential, settings.purgeRowsPerCall));
  container.bind(TOKENS.catalogue).toConstantValue({
    listSubjects: async () => [
      { name: 'approvals', hasFloor: false },
      { name: 'drift_checks', hasFloor: false },
      { name: 'executions', hasFloor: true },
      { name: 'incident_payloads', hasFloor: false },
    ],
  });
  // Until owners can count: every tenant is told as uncounted.
  container.bind(TOKENS.countExpired).toConstantValue(async () => undefined);
  container.bind(TOKENS.onRefused).toConstantValue((tenantId, { actor, reason, trigger }, outcome) => {
    log.warn({ audit: true, action: 'retention-purge', tenantId, actor, reason, trigger, outcome }, 'purge refused');
    metrics.deletionFinished('retention', 'REFUSED');
  });
  container.bind(TOKENS.onError).toConstantValue(({ purgeId, tenantId, attempts }, error) => {
    log.warn({ err: error, purgeId, tenantId, attempts }, 'a tenant could not be purged whole');
  });
  container.bind(TOKENS.onFinished).toConstantValue(({ purgeId, tenantId, actor, validateOnly }, progress) => {
    const { state: outcome, plan, planVersion, error } = progress;
    const counts = countsOf(progress);
    const told = { audit: !validateOnly, action: 'retention-purge', purgeId, tenantId, actor, validateOnly, outcome };
    log[outcome === 'COMPLETE' ? 'info' : 'warn']({ ...told, plan, planVersion, counts, error }, 'tenant purged');
    if (!validateOnly) metrics.deletionFinished('retention', outcome);
  });
  container.load(adapters, useCases);
  const health = makePurgeHealth(database);
  metrics.observeLastPurge(health.lastPurgeSeconds);
  metrics.observeHeldPurges(health.heldPurges);
  metrics.expectDeletions('retention', ['COMPLETE', 'PARTIAL', 'FAILED', 'HELD']);

  return {
    services: [
      bindService(
        RetentionService,
        retentionService({
          keepPlans: container.get(TOKENS.keepPlans),
          keepPolicies: container.get(TOKENS.keepPolicies),
          orderPurge: container.get(TOKENS.orderPurge),
        }),
      ),
    ],
    startWorkers: () => [
      startPurgeQueue({
        database,
        databaseUrl: settings.databaseUrl,
        concurrency: settings.purgeWorkers,
        pollMs: settings.pollMs,
        runPurge: container.get(TOKENS.runPurges),
        settlePurge: container.get(TOKENS.settlePurge),
        schedule:
          settings.purgeSchedule === undefined
            ? undefined
            : {
                pattern: settings.purgeSchedule,
                async order(requestId) {
                  const caller = { actor: SCHEDULER, subject: SCHEDULER };
                  const order = {
                    caller,
                    trigger: 'SCHEDULE',
                    validateOnly: false,
                    requestId,
                    reason: undefined,
                  } as const;
                  const { id } = await container.get(TOKENS.orderPurge).order({ ...order, tenantIds: undefined });
                  log.info({ purgeId: id }, 'the schedule ordered a purge');
                },
              },
        log,
      }),
    ],
    close: () => connection.close(),
  };
}
