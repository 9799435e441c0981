import { setTimeout as delay } from 'node:timers/promises';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { auditHandlers } from '#libs/audit/audit-handlers.ts';
import { openSigningKey } from '#libs/auth/keys.ts';
import { makeOwnerCredential } from '#libs/auth/sign-token.ts';
import { type Drive, startDrive } from '#libs/durable/drive.ts';
import { leisurely, startWorkerLoop } from '#libs/durable/worker-loop.ts';
import { connect } from '#libs/grpc/client.ts';
import { bindService } from '#libs/grpc/connect-handlers.ts';
import { logCertificates } from '#libs/grpc/tls.ts';
import { makeComposition } from '#libs/service/composition.ts';
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
import { observeRetention } from './adapters/telemetry/observe-retention.ts';
import type { RetentionSettings } from './config.ts';
import { makeCountExpired } from './use-cases/count-expired.ts';
import { FORECAST_SETTINGS, makeForecastPurge } from './use-cases/forecast-purge.ts';
import { type KeepCatalogue, makeKeepCatalogue } from './use-cases/keep-catalogue.ts';
import { makeKeepExecutionPolicies } from './use-cases/keep-execution-policies.ts';
import { makeKeepPlans } from './use-cases/keep-plans.ts';
import { makeOrderPurge, type OrderPurge, type OrderPurgePorts } from './use-cases/order-purge.ts';
import type { ExecutionPolicyRepository, PlanRepository } from './use-cases/ports.ts';
import type { PurgeRepository, TenantDirectory } from './use-cases/purge-ports.ts';
import { makeRunPurges } from './use-cases/run-purges.ts';
import { makeRunSchedules, type Schedule } from './use-cases/run-schedules.ts';
import { makeStopPurges } from './use-cases/stop-purges.ts';
import { makeSweepTenants, type SweepTenants } from './use-cases/sweep-tenants.ts';
import type { TenantPurgePorts } from './use-cases/tenant-purge.ts';

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

const sleep = (ms: number, signal: AbortSignal): Promise<void> => delay(ms, undefined, { signal });

/** RetentionService, composed. */
export async function composeRetentionService(
  settings: RetentionSettings,
  { database, log, metrics }: ServiceFoundation,
): Promise<ComposedService> {
  let workers: Drive | undefined;
  const wake = (): void => workers?.wake();
  const credential = makeOwnerCredential(
    { key: await openSigningKey(settings.serviceKey), issuer: settings.jwtIssuer },
    'retention',
  );
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
  const observed = observeRetention({ log, metrics });
  const { given, made, madeOf, get } = makeComposition();

  const ofDatabase = [given(database)] as const;
  const { purgeRowsPerCall: rowsPerCall, ownerTimeoutMs: timeoutMs } = settings;
  const owners = given(makeOwnerClients({ connections, credential, rowsPerCall, timeoutMs }));
  const onOwnerSilent = given(observed.onOwnerSilent);
  const graceDays = given(settings.graceDays);
  const plans = made(makePlanRepository, ofDatabase);
  const policies = made(makeExecutionPolicyRepository, ofDatabase);
  const purges = made(makePurgeRepository, ofDatabase);
  const catalogue = made(makeCatalogueRepository, ofDatabase);
  const stops = made(makeStopRepository, ofDatabase);
  const directory = made(makeTenantDirectory, ofDatabase);

  const forecast = made(makeForecastPurge, [made(makeCountExpired, [catalogue, owners]), given(FORECAST_SETTINGS)]);
  const keepPlans = made(makeKeepPlans, [
    plans,
    made(makePlanWindowRepository, ofDatabase),
    policies,
    catalogue,
    forecast,
    graceDays,
  ]);
  const keepPolicies = made(makeKeepExecutionPolicies, [policies, plans, catalogue, forecast, graceDays]);
  const keepCatalogue = made(makeKeepCatalogue, [
    catalogue,
    owners,
    given(settings.observeNights),
    given(observed.onCatalogueEvent),
    onOwnerSilent,
  ]);
  const stopPurges = made(makeStopPurges, [
    stops,
    given((stop) => {
      observed.onStopSwitched(stop);
      wake();
    }),
  ]);
  const sweepTenants = made(makeSweepTenants, [
    catalogue,
    owners,
    directory,
    given({ everyMs: settings.sweepSeconds * 1_000, pauseMs: PAUSE_BETWEEN_PAGES_MS, pages: PAGES_PER_SWEEP }),
    given(sleep),
    onOwnerSilent,
  ]);
  const orderPurge = made(makeOrderPurge, [
    madeOf((ports: OrderPurgePorts) => ports, {
      purges,
      plans,
      windows: keepPlans,
      catalogue,
      directory,
      owners,
      sleep: given(sleep),
      // An owner that takes its time is not waited for: it is asked again every minute.
      refresh: made(
        ({ reconcile }: KeepCatalogue) =>
          () =>
            Promise.race([reconcile().catch(observed.onNotReconciled), delay(REFRESH_MS)]),
        [keepCatalogue],
      ),
      wake: given(wake),
    }),
    given({ share: settings.fleetCeilingShare, tenants: settings.fleetCeilingTenants }),
    given(observed.onRefused),
  ]);
  const runPurges = made(makeRunPurges, [
    madeOf((ports: TenantPurgePorts) => ports, {
      purges,
      plans: keepPlans,
      catalogue,
      owners,
      stops,
      recordCleanup: made(({ recordCleanup }: ExecutionPolicyRepository) => recordCleanup, [policies]),
    }),
    given({
      workerId: settings.workerId,
      leaseMs: settings.ownerTimeoutMs * 2,
      retry: { maxAttempts: settings.purgeAttempts, baseMs: settings.purgeBackoffMs, maxMs: 60_000 },
      maxWaitMs: settings.ownerMaxWaitMs,
      maxPauseMs: settings.ownerMaxPauseMs,
      ceiling: {
        maxShare: settings.ceilingShare,
        maxCount: settings.ceilingRows,
        shareFrom: settings.ceilingShareFrom,
      },
    }),
    given(observed.onFinished),
    given(observed.onError),
  ]);
  const service = madeOf(retentionService, {
    keepPlans,
    keepPolicies,
    orderPurge,
    stopPurges,
    keepCatalogue,
    directory,
  });
  const schedules = madeOf((work: ScheduledWork) => schedulesOf(work, settings, log), {
    orderPurge,
    sweepTenants,
    plans,
    directory,
    purges,
  });

  const { get: getStop } = get(stopPurges);
  const health = makePurgeHealth(database);
  metrics.observe('lethe_last_purge_timestamp_seconds', health.lastPurgeSeconds);
  metrics.observe('lethe_oldest_unfinished_purge_seconds', oldestSeconds(database, 'PURGE'));
  metrics.observe('lethe_held_purges', health.heldPurges);
  metrics.observe('lethe_unplanned_tenants', health.unplannedTenants);
  metrics.observeOverdue(health.overdueSeconds);
  metrics.observe('lethe_purges_stopped', async () => ((await getStop()).isStopped ? 1 : 0));
  metrics.expectDeletions('retention', ['COMPLETE', 'PARTIAL', 'FAILED', 'HELD']);

  return {
    services: [bindService(RetentionService, { ...get(service), ...auditHandlers(database) }, ['purge'])],
    async readyNotes() {
      const { isStopped, last } = await getStop();
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
          await get(keepCatalogue).reconcile();
          return 0;
        },
        onError,
      });
      workers = startDrive({
        name: 'purges',
        concurrency: purgeWorkers,
        pollMs,
        findDue: get(purges).findDue,
        work: get(runPurges),
        onError,
      });
      const all = get(schedules);
      const repository = makeScheduleRepository(database);
      const { findDue, run } = makeRunSchedules(repository, all, nextInstant, { ...SCHEDULES, workerId }, onError);
      const scheduled = startDrive({
        name: 'schedules',
        concurrency: all.length,
        // A pattern has no seconds; nobody waits for the first ones of a night.
        pollMs: leisurely(pollMs),
        findDue,
        work: run,
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

interface ScheduledWork {
  readonly orderPurge: OrderPurge;
  readonly sweepTenants: SweepTenants;
  readonly plans: PlanRepository;
  readonly directory: TenantDirectory;
  readonly purges: PurgeRepository;
}

/** What RetentionService does by the clock. */
const schedulesOf = (
  { orderPurge, sweepTenants, plans, directory, purges }: ScheduledWork,
  { purgeSchedule, receiptDays, graceDays }: RetentionSettings,
  log: Logger,
): readonly Schedule[] => [
  {
    name: 'order-purge',
    // Undefined where others order the purge of every tenant, as Kubernetes' CronJob does.
    pattern: purgeSchedule,
    async work(requestId) {
      const { id } = await orderPurge.order({
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
    work: (_, signal) => sweepTenants(signal),
  },
  {
    name: 'expire-purges',
    pattern: EVERY_HOUR,
    async work() {
      // Few rows: people make them one by one. Whatever is left goes an hour later.
      await plans.expire(Math.max(receiptDays, graceDays), EXPIRED_AT_ONCE);
      await directory.expire(receiptDays, EXPIRED_AT_ONCE);
      while ((await purges.expire(receiptDays, EXPIRED_AT_ONCE)) === EXPIRED_AT_ONCE);
    },
  },
];
