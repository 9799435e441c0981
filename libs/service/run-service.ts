import { setFlagsFromString } from 'node:v8';
import { POLICY } from '#libs/auth/policy.ts';
import { makeTokenVerifier } from '#libs/auth/verify-token.ts';
import type { ServiceBinding } from '#libs/grpc/connect-handlers.ts';
import { runUntilSignal } from '#libs/grpc/run-until-signal.ts';
import { type RunningServer, startServer } from '#libs/grpc/server.ts';
import { assertMigrated, type Migration, migrateDown, migrateUp } from '#libs/postgres/migrate.ts';
import { type Database, openDatabase } from '#libs/postgres/open-database.ts';
import { makeTurns, type Turns } from '#libs/saga/turns.ts';
import type { WorkerLoop } from '#libs/saga/worker-loop.ts';
import { type Logger, makeLogger } from '#libs/telemetry/logger.ts';
import { type Metrics, makeMetrics, startMetricsServer } from '#libs/telemetry/metrics.ts';
import type { CommonSettings } from './common-settings.ts';

/** What a service's container is given. */
export interface ServiceFoundation {
  readonly database: Database;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Told of every call but those of other services, whose work can wait. */
  readonly turns: Turns;
}

/** What a service is made of, once it is composed. */
export interface ComposedService {
  readonly services: readonly ServiceBinding[];
  /** Starts the background work; called when the schema is known to be right. */
  startWorkers(): readonly Pick<WorkerLoop, 'stop'>[];
  /** What `/ready` says beside being ready, such as that purges are stopped. Absent: nothing. */
  readyNotes?(): Promise<readonly string[]>;
  /** Gives up what only this service has: clients, stores. */
  close(): void;
}

/** A service that runs. */
export interface RunningService {
  readonly port: number;
  stop(): Promise<void>;
}

/**
 * Runs a composed service until it is stopped: metrics, background work and gRPC, in that order, and the other way
 * round at the end, so that no call is accepted that could not be served.
 */
export async function startService(
  name: string,
  settings: CommonSettings,
  migrations: readonly Migration[],
  compose: (foundation: ServiceFoundation) => ComposedService | Promise<ComposedService>,
): Promise<RunningService> {
  const log = makeLogger(name, settings.logLevel);
  const metrics = makeMetrics(name);
  const database = openDatabase({
    url: settings.databaseUrl,
    poolSize: settings.databasePoolSize,
    applicationName: `lethe-${name}`,
    statementTimeoutMs: settings.statementTimeoutMs,
    lockTimeoutMs: settings.lockTimeoutMs,
  });
  await assertMigrated(database.acrossTenants, migrations);
  const turns = makeTurns();
  const composed = await compose({ database, log, metrics, turns });
  let ready = false;
  const stopMetrics = await startMetricsServer(
    settings.metricsAddress,
    metrics,
    () => ready,
    () => composed.readyNotes?.() ?? Promise.resolve([]),
  );
  const workers = composed.startWorkers();
  const server: RunningServer = await startServer({
    address: settings.grpcAddress,
    services: composed.services,
    verifyToken: makeTokenVerifier({
      jwks: settings.jwks,
      issuer: settings.jwtIssuer,
      audience: settings.jwtAudience,
    }),
    policy: POLICY,
    log,
    metrics,
    onCall({ kind }) {
      if (kind !== 'service') turns.onCall();
    },
    limits: { callsPerSecond: settings.callsPerSecond, drainMs: settings.drainMs },
  });
  ready = true;
  return {
    port: server.port,
    async stop() {
      ready = false;
      await server.stop();
      await Promise.all(workers.map((worker) => worker.stop()));
      composed.close();
      await stopMetrics();
      await database.close();
    },
  };
}

// V8 lets garbage grow to more than what is alive before it collects it. A service's memory is to follow what it holds
// and not its load; what is given up for that is little, since what it holds is small.
const HEAP_GROWING_PERCENT = 50;

/** A service's program: `migrate [up|down]` brings its schema there, and nothing serves until a signal. */
export async function runProgram(
  name: string,
  env: NodeJS.ProcessEnv,
  migrations: readonly Migration[],
  start: () => Promise<RunningService>,
): Promise<void> {
  const [command, direction = 'up'] = process.argv.slice(2);
  const log = makeLogger(name, 'info');
  try {
    if (command === 'migrate') {
      const ownerUrl = env['LETHE_DATABASE_OWNER_URL'];
      const appRole = env['LETHE_DATABASE_APP_ROLE'];
      if (!ownerUrl || !appRole) throw new Error('LETHE_DATABASE_OWNER_URL and LETHE_DATABASE_APP_ROLE are required');
      await (direction === 'down' ? migrateDown : migrateUp)({ ownerUrl, appRole, migrations });
      log.info({ direction }, 'migrated');
      return;
    }
    setFlagsFromString(`--heap-growing-percent=${HEAP_GROWING_PERCENT}`);
    const service = await start();
    runUntilSignal(log, service.stop);
  } catch (error) {
    log.fatal({ err: error }, 'could not start');
    process.exitCode = 1;
  }
}
