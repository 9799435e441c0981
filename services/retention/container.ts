import 'reflect-metadata';
import { setTimeout as delay } from 'node:timers/promises';
import { Container, ContainerModule, type ServiceIdentifier } from 'inversify';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { auditHandlers } from '#libs/audit/audit-handlers.ts';
import { openSigningKey } from '#libs/auth/keys.ts';
import { makeOwnerCredential } from '#libs/auth/sign-token.ts';
import { type Drive, startDrive } from '#libs/durable/drive.ts';
import { startWorkerLoop } from '#libs/durable/worker-loop.ts';
import { connect } from '#libs/grpc/client.ts';
import { bindService } from '#libs/grpc/connect-handlers.ts';
import { logCertificates } from '#libs/grpc/tls.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { oldestSeconds } from '#libs/service/oldest-work.ts';
import type { ComposedService, ServiceFoundation } from '#libs/service/run-service.ts';
import { reachabilityOf } from '#libs/service/watch-parts.ts';
import type { Logger } from '#libs/telemetry/logger.ts';
import { makeOwnerClients } from './adapters/clients/owners.ts';
import { nextInstant } from './adapters/cron/cron-pattern.ts';
import { retentionService } from './adapters/grpc/retention-service.ts';
import { makeCatalogueRepository } from './adapters/postgres/catalogue-repository.ts';
import { makeExecutionPolicyRepository } from './adapters/postgres/execution-policy-repository.ts';
import { makePlanRepository } from './adapters/postgres/plan-repository.ts';
import { makePlanWindowRepository } from './adapters/postgres/plan-window-repository.ts';
import { makePurgeHealth } from './adapters/postgres/purge-health.ts';
import { makePurgeRepository } from './adapters/postgres/purge-repository.ts';
import { makeScheduleRepository } from './adapters/postgres/schedule-repository.ts';
import { makeStopRepository } from './adapters/postgres/stop-repository.ts';
import { makeTenantDirectory } from './adapters/postgres/tenant-directory.ts';
import type { RetentionSettings } from './config.ts';
import { countsOf } from './domain/purge-subject.ts';
import { makeCountExpired } from './use-cases/count-expired.ts';
import { FORECAST_SETTINGS, type ForecastPurge, makeForecastPurge } from './use-cases/forecast-purge.ts';
import {
  type KeepCatalogue,
  makeKeepCatalogue,
  type OnCatalogueEvent,
  type OnOwnerSilent,
} from './use-cases/keep-catalogue.ts';
import { type KeepExecutionPolicies, makeKeepExecutionPolicies } from './use-cases/keep-execution-policies.ts';
import { type KeepPlans, makeKeepPlans } from './use-cases/keep-plans.ts';
import { makeOrderPurge, type OnPurgeRefused, type OrderPurge } from './use-cases/order-purge.ts';
import type {
  CountExpired,
  ExecutionPolicyRepository,
  PlanRepository,
  PlanWindowRepository,
  SubjectCatalogue,
} from './use-cases/ports.ts';
import type {
  CatalogueRepository,
  PurgeRepository,
  RetentionOwners,
  StopRepository,
  TenantDirectory,
} from './use-cases/purge-ports.ts';
import { makeRunPurges, type OnItemError, type OnItemFinished, type RunPurges } from './use-cases/run-purges.ts';
import { makeRunSchedules, type Schedule } from './use-cases/run-schedules.ts';
import { makeStopPurges, type StopPurges } from './use-cases/stop-purges.ts';
import { makeSweepTenants, type SweepTenants } from './use-cases/sweep-tenants.ts';
import type { TenantPurgePorts } from './use-cases/tenant-purge.ts';

const token = <T>(name: string) => Symbol(name) as ServiceIdentifier<T>;

const TOKENS = {
  settings: token<RetentionSettings>('RetentionSettings'),
  database: token<Database>('Database'),
  owners: token<RetentionOwners>('RetentionOwners'),
  onRefused: token<OnPurgeRefused>('OnPurgeRefused'),
  onFinished: token<OnItemFinished>('OnItemFinished'),
  onError: token<OnItemError>('OnItemError'),
  plans: token<PlanRepository>('PlanRepository'),
  planWindows: token<PlanWindowRepository>('PlanWindowRepository'),
  countExpired: token<CountExpired>('CountExpired'),
  forecast: token<ForecastPurge>('ForecastPurge'),
  policies: token<ExecutionPolicyRepository>('ExecutionPolicyRepository'),
  catalogue: token<CatalogueRepository & SubjectCatalogue>('CatalogueRepository'),
  stops: token<StopRepository>('StopRepository'),
  directory: token<TenantDirectory>('TenantDirectory'),
  onCatalogueEvent: token<OnCatalogueEvent>('OnCatalogueEvent'),
  onOwnerSilent: token<OnOwnerSilent>('OnOwnerSilent'),
  onStopSwitched: token<Parameters<typeof makeStopPurges>[1]>('OnStopSwitched'),
  keepCatalogue: token<KeepCatalogue>('KeepCatalogue'),
  stopPurges: token<StopPurges>('StopPurges'),
  sweepTenants: token<SweepTenants>('SweepTenants'),
  purgePorts: token<TenantPurgePorts>('TenantPurgePorts'),
  purges: token<PurgeRepository>('PurgeRepository'),
  keepPlans: token<KeepPlans>('KeepPlans'),
  keepPolicies: token<KeepExecutionPolicies>('KeepExecutionPolicies'),
  orderPurge: token<OrderPurge>('OrderPurge'),
  runPurges: token<RunPurges>('RunPurges'),
  wake: token<() => void>('Wake'),
};

const adapters = new ContainerModule(({ bind }) => {
  bind(TOKENS.plans).toResolvedValue(makePlanRepository, [TOKENS.database]).inSingletonScope();
  bind(TOKENS.planWindows).toResolvedValue(makePlanWindowRepository, [TOKENS.database]).inSingletonScope();
  bind(TOKENS.policies).toResolvedValue(makeExecutionPolicyRepository, [TOKENS.database]).inSingletonScope();
  bind(TOKENS.purges).toResolvedValue(makePurgeRepository, [TOKENS.database]).inSingletonScope();
  bind(TOKENS.catalogue).toResolvedValue(makeCatalogueRepository, [TOKENS.database]).inSingletonScope();
  bind(TOKENS.stops).toResolvedValue(makeStopRepository, [TOKENS.database]).inSingletonScope();
  bind(TOKENS.directory).toResolvedValue(makeTenantDirectory, [TOKENS.database]).inSingletonScope();
});

const sleep = (ms: number, signal: AbortSignal): Promise<void> => delay(ms, undefined, { signal });

const useCases = new ContainerModule(({ bind }) => {
  const { plans, purges, keepPlans, owners, settings, catalogue, directory, onFinished, onError } = TOKENS;
  bind(TOKENS.countExpired).toResolvedValue(makeCountExpired, [catalogue, owners]).inSingletonScope();
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
  bind(TOKENS.keepCatalogue)
    .toResolvedValue(
      (
        c: CatalogueRepository,
        o: RetentionOwners,
        of: RetentionSettings,
        event: OnCatalogueEvent,
        silent: OnOwnerSilent,
      ) => makeKeepCatalogue(c, o, of.observeNights, event, silent),
      [catalogue, owners, settings, TOKENS.onCatalogueEvent, TOKENS.onOwnerSilent],
    )
    .inSingletonScope();
  bind(TOKENS.stopPurges).toResolvedValue(makeStopPurges, [TOKENS.stops, TOKENS.onStopSwitched]).inSingletonScope();
  bind(TOKENS.sweepTenants)
    .toResolvedValue(
      (c: CatalogueRepository, o: RetentionOwners, d: TenantDirectory, of: RetentionSettings, silent: OnOwnerSilent) =>
        makeSweepTenants(
          c,
          o,
          d,
          { everyMs: of.sweepSeconds * 1_000, pauseMs: PAUSE_BETWEEN_PAGES_MS, pages: PAGES_PER_SWEEP },
          sleep,
          silent,
        ),
      [catalogue, owners, directory, settings, TOKENS.onOwnerSilent],
    )
    .inSingletonScope();
  bind(TOKENS.orderPurge)
    .toResolvedValue(
      (
        p: PurgeRepository,
        l: PlanRepository,
        w: KeepPlans,
        k: KeepCatalogue,
        c: CatalogueRepository,
        d: TenantDirectory,
        o: RetentionOwners,
        of: RetentionSettings,
        refused: OnPurgeRefused,
        wake: () => void,
      ) =>
        makeOrderPurge(
          {
            purges: p,
            plans: l,
            windows: w,
            catalogue: c,
            directory: d,
            owners: o,
            sleep,
            // An owner that takes its time is not waited for: it is asked again every minute.
            refresh: () => Promise.race([k.reconcile(), delay(REFRESH_MS)]),
            wake,
          },
          { share: of.fleetCeilingShare, tenants: of.fleetCeilingTenants },
          refused,
        ),
      [
        purges,
        plans,
        keepPlans,
        TOKENS.keepCatalogue,
        catalogue,
        directory,
        owners,
        settings,
        TOKENS.onRefused,
        TOKENS.wake,
      ],
    )
    .inSingletonScope();
  bind(TOKENS.purgePorts)
    .toResolvedValue(
      (
        p: PurgeRepository,
        k: KeepPlans,
        c: CatalogueRepository,
        o: RetentionOwners,
        s: StopRepository,
        e: ExecutionPolicyRepository,
      ) => ({ purges: p, plans: k, catalogue: c, owners: o, stops: s, recordCleanup: e.recordCleanup }),
      [purges, keepPlans, catalogue, owners, TOKENS.stops, TOKENS.policies],
    )
    .inSingletonScope();
  bind(TOKENS.runPurges)
    .toResolvedValue(
      (ports: TenantPurgePorts, of: RetentionSettings, finished: OnItemFinished, failed: OnItemError) =>
        makeRunPurges(
          ports,
          {
            workerId: of.workerId,
            leaseMs: of.ownerTimeoutMs * 2,
            retry: { maxAttempts: of.purgeAttempts, baseMs: of.purgeBackoffMs, maxMs: 60_000 },
            maxWaitMs: of.ownerMaxWaitMs,
            ceiling: { maxShare: of.ceilingShare, maxCount: of.ceilingRows, shareFrom: of.ceilingShareFrom },
          },
          finished,
          failed,
        ),
      [TOKENS.purgePorts, settings, onFinished, onError],
    )
    .inSingletonScope();
});

// Owners are asked for their tenants without haste: a million of them in three hours.
const PAUSE_BETWEEN_PAGES_MS = 500;
const PAGES_PER_SWEEP = 20;
const REFRESH_MS = 3_000;
const EXPIRED_AT_ONCE = 500;

const EVERY_MINUTE = '* * * * *';
const EVERY_HOUR = '17 * * * *';
const SCHEDULES = { leaseMs: 10_000, retry: { baseMs: 1_000, maxMs: 60_000 } };

/** Who orders what the schedule does, and in whose name owners are called then. */
const SCHEDULER = { actor: 'system:retention', subject: 'service:retention' };

/** RetentionService, composed. */
export async function composeRetentionService(
  settings: RetentionSettings,
  { database, log, metrics }: ServiceFoundation,
): Promise<ComposedService> {
  let workers: Drive | undefined;
  const issuer = {
    key: await openSigningKey(settings.serviceKey),
    issuer: settings.jwtIssuer,
  };
  const credential = makeOwnerCredential(issuer, 'retention');
  const connections = new Map(
    settings.owners.map(({ name, address }) => [
      name,
      connect({
        address,
        deadlineMs: settings.ownerTimeoutMs,
        tls: settings.clientTls,
        onCertificates: logCertificates(log),
        token: () => credential({ owner: name, scope: 'owner:read', actor: SCHEDULER.subject }),
      }),
    ]),
  );
  const container = new Container();
  container.bind(TOKENS.settings).toConstantValue(settings);
  container.bind(TOKENS.database).toConstantValue(database);
  container
    .bind(TOKENS.owners)
    .toConstantValue(makeOwnerClients({ connections, credential, rowsPerCall: settings.purgeRowsPerCall }));
  container.bind(TOKENS.onCatalogueEvent).toConstantValue(({ subject, event }) => {
    const { name, owner, dataId, problem, claim } = subject;
    const told = { audit: true, action: 'subject', subject: name, owner, dataId, claim, event };
    log[problem ? 'error' : 'info'](told, 'the catalogue of subjects changed');
  });
  container.bind(TOKENS.onOwnerSilent).toConstantValue((owner, error) => {
    log.warn({ err: error, owner }, 'an owner of aging data could not be asked');
  });
  container.bind(TOKENS.onStopSwitched).toConstantValue(({ isStopped, last, version }) => {
    const told = { audit: true, action: isStopped ? 'stop-purges' : 'resume-purges', version, ...last };
    log.warn({ ...told, at: last?.at.toString() }, isStopped ? 'purges are stopped' : 'purges go on');
    workers?.wake();
  });
  container.bind(TOKENS.wake).toConstantValue(() => workers?.wake());
  container.bind(TOKENS.onRefused).toConstantValue((tenantId, { actor, reason, trigger }, outcome) => {
    log.warn({ audit: true, action: 'retention-purge', tenantId, actor, reason, trigger, outcome }, 'purge refused');
    metrics.deletionFinished('retention', 'REFUSED');
  });
  container.bind(TOKENS.onError).toConstantValue(({ purgeId, tenantId, attempts }, error) => {
    log.warn({ err: error, purgeId, tenantId, attempts }, 'a tenant could not be purged whole');
  });
  container.bind(TOKENS.onFinished).toConstantValue(({ purgeId, tenantId, actor, validateOnly }, progress) => {
    const { state: outcome, plan, planVersion, error } = progress;
    const counts = countsOf(progress.subjects);
    const told = { audit: !validateOnly, action: 'retention-purge', purgeId, tenantId, actor, validateOnly, outcome };
    log[outcome === 'COMPLETE' ? 'info' : 'warn']({ ...told, plan, planVersion, counts, error }, 'tenant purged');
    if (!validateOnly) metrics.deletionFinished('retention', outcome);
  });
  container.load(adapters, useCases);
  const health = makePurgeHealth(database);
  metrics.observeLastPurge(health.lastPurgeSeconds);
  metrics.observeOldestPurge(oldestSeconds(database, 'PURGE'));
  metrics.observeHeldPurges(health.heldPurges);
  const stopPurges = container.get(TOKENS.stopPurges);
  metrics.observeUnplannedTenants(health.unplannedTenants);
  metrics.observeOverdue(health.overdueSeconds);
  metrics.observePurgesStopped(async () => ((await stopPurges.get()).isStopped ? 1 : 0));
  metrics.expectDeletions('retention', ['COMPLETE', 'PARTIAL', 'FAILED', 'HELD']);

  return {
    services: [
      bindService(
        RetentionService,
        {
          ...retentionService({
            keepPlans: container.get(TOKENS.keepPlans),
            keepPolicies: container.get(TOKENS.keepPolicies),
            orderPurge: container.get(TOKENS.orderPurge),
            stopPurges,
            keepCatalogue: container.get(TOKENS.keepCatalogue),
            directory: container.get(TOKENS.directory),
          }),
          ...auditHandlers(database),
        },
        ['purge'],
      ),
    ],
    async readyNotes() {
      const { isStopped, last } = await stopPurges.get();
      return isStopped ? [`Purges by age are stopped by ${last?.actor} since ${last?.at}: ${last?.reason}`] : [];
    },
    hasWork: true,
    startWorkers() {
      const { pollMs, purgeWorkers, cataloguePollMs, workerId } = settings;
      const onError = (name: string, error: unknown) =>
        log.error({ err: error, loop: name }, 'a background pass failed');
      const catalogue = startWorkerLoop({
        name: 'reconcile-subjects',
        pollMs: cataloguePollMs,
        async work() {
          await container.get(TOKENS.keepCatalogue).reconcile();
          return 0;
        },
        onError,
      });
      workers = startDrive({
        name: 'purges',
        concurrency: purgeWorkers,
        pollMs,
        findDue: container.get(TOKENS.purges).findDue,
        work: container.get(TOKENS.runPurges),
        onError,
      });
      const all = schedulesOf(container, settings, log);
      const repository = makeScheduleRepository(database);
      const schedules = makeRunSchedules(repository, all, nextInstant, { ...SCHEDULES, workerId }, onError);
      const scheduled = startDrive({
        name: 'schedules',
        concurrency: all.length,
        // A pattern has no seconds; nobody waits for the first ones of a night.
        pollMs: 10 * pollMs,
        findDue: schedules.findDue,
        work: schedules.run,
        onError,
      });
      return [catalogue, workers, scheduled];
    },
    parts: [...connections].map(([name, connection]) => reachabilityOf('owner', name, connection)),
    close() {
      for (const connection of connections.values()) connection.close();
    },
  };
}

/** What RetentionService does by the clock. */
const schedulesOf = (container: Container, settings: RetentionSettings, log: Logger): readonly Schedule[] => [
  {
    name: 'order-purge',
    // Undefined where others order the purge of every tenant, as Kubernetes' CronJob does.
    pattern: settings.purgeSchedule,
    async work(requestId) {
      const { id } = await container.get(TOKENS.orderPurge).order({
        caller: SCHEDULER,
        tenantIds: undefined,
        subjects: [],
        trigger: 'SCHEDULE',
        validateOnly: false,
        requestId,
        reason: undefined,
      });
      log.info({ purgeId: id }, 'the schedule ordered a purge');
    },
  },
  {
    name: 'sweep-tenants',
    pattern: EVERY_MINUTE,
    work: (_, signal) => container.get(TOKENS.sweepTenants)(signal),
  },
  {
    name: 'expire-purges',
    pattern: EVERY_HOUR,
    async work() {
      const { receiptDays, graceDays } = settings;
      // Few rows: people make them one by one. Whatever is left goes an hour later.
      await container.get(TOKENS.plans).expire(Math.max(receiptDays, graceDays), EXPIRED_AT_ONCE);
      await container.get(TOKENS.directory).expire(receiptDays, EXPIRED_AT_ONCE);
      while ((await container.get(TOKENS.purges).expire(receiptDays, EXPIRED_AT_ONCE)) === EXPIRED_AT_ONCE);
    },
  },
];
