import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { makeRefusalRecorder } from '#libs/audit/record-refusals.ts';
import { openTrust } from '#libs/auth/open-trust.ts';
import { POLICY } from '#libs/auth/policy.ts';
import { makeTokenVerifier } from '#libs/auth/verify-token.ts';
import { makeTurns, type Turns } from '#libs/durable/turns.ts';
import type { WorkerLoop } from '#libs/durable/worker-loop.ts';
import type { ServiceBinding } from '#libs/grpc/connect-handlers.ts';
import { endOnSignal, runUntilSignal } from '#libs/grpc/run-until-signal.ts';
import { type RunningServer, startServer } from '#libs/grpc/server.ts';
import { DomainError, hasReason } from '#libs/kernel/domain-error.ts';
import { readSettings } from '#libs/kernel/settings.ts';
import { ignoreDriverVariables, parseDatabaseUrl } from '#libs/postgres/database-url.ts';
import {
  assertBoundByRowSecurity,
  compareSchema,
  type Migration,
  migrateOneDown,
  migrateUp,
  readInstallation,
} from '#libs/postgres/migrate.ts';
import { type Database, openDatabase } from '#libs/postgres/open-database.ts';
import { assertSessionSettings } from '#libs/postgres/session-settings.ts';
import { describeFault, SCHEMA_FAULT } from '#libs/postgres/sql-errors.ts';
import { watchDatabase } from '#libs/postgres/watch-database.ts';
import { type Logger, makeLogger } from '#libs/telemetry/logger.ts';
import { type Metrics, makeMetrics, startMetricsServer } from '#libs/telemetry/metrics.ts';
import type { CommonSettings } from './common-settings.ts';
import { logTrust } from './log-trust.ts';
import { bindStatus, type ServiceCheck } from './status-handlers.ts';
import { type Part, type PartsWatch, watchParts } from './watch-parts.ts';

/** What a service's container is given. */
export interface ServiceFoundation {
  readonly database: Database;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Told of every call but those of other services, whose work can wait. */
  readonly turns: Turns;
}

/** Background work. What has no loop has nothing to resume. */
export type Workers = Pick<WorkerLoop, 'stop'> & Partial<Pick<WorkerLoop, 'resume'>>;

/** What a service is made of, once it is composed. */
export interface ComposedService {
  readonly services: readonly ServiceBinding[];
  /** Starts the background work; called when the schema is known to be right. */
  startWorkers(): readonly Workers[];
  /** What the service stands on beside its database and schema; `/ready` has a line for each. Absent: nothing. */
  readonly parts?: readonly Part[];
  /** What `/ready` says beside being ready, such as that purges are stopped. Absent: nothing. */
  readyNotes?(): Promise<readonly string[]>;
  /** What GetStatus tells beside version, clocks and schema; it must not throw. Absent: nothing. */
  checks?(): Promise<readonly ServiceCheck[]>;
  /** Whether the schema has what `createParkedWork` and `createOldestWork` make. Absent: it has no work of its own. */
  readonly hasWork?: true;
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
  const trust = await openTrust(settings.trustFile, logTrust(log));
  const metrics = makeMetrics(name);
  const database = openDatabase({
    url: settings.databaseUrl,
    poolSize: settings.databasePoolSize,
    applicationName: `lethe-${name}`,
    statementTimeoutMs: settings.statementTimeoutMs,
    lockTimeoutMs: settings.lockTimeoutMs,
  });
  let workers: readonly Workers[] = [];
  const watch = watchDatabase({
    url: settings.databaseUrl,
    applicationName: `lethe-${name}-watch`,
    database,
    onChange(fault, error) {
      if (fault === undefined) {
        log.info('the database serves again');
        for (const { resume } of workers) resume?.();
      } else log.error({ fault, err: error }, describeFault(fault));
      metrics.partChanged(DATABASE, fault === undefined);
    },
  });
  metrics.partChanged(DATABASE, true);
  const onPart = (part: string, why: string | undefined): void => {
    metrics.partChanged(part, why === undefined);
    if (why === undefined) log.info({ part }, 'a part that the service stands on is well again');
    else log.warn({ part, why }, 'a part that the service stands on is not well');
  };
  let phase: string | undefined = 'Starting.';
  let composed: ComposedService | undefined;
  let parts: PartsWatch | undefined;
  const stopMetrics = await startMetricsServer(settings.metricsAddress, metrics, {
    isReady: () => phase === undefined && watch.fault() === undefined && parts?.isVitalAway() === false,
    async lines() {
      const fault = watch.fault();
      const states = [[DATABASE, fault && `${describeFault(fault)} (${fault}).`] as const, ...(parts?.states() ?? [])];
      return [
        ...(phase === undefined ? [] : [phase]),
        ...states.map(([name, problem]) => `${name}: ${problem ?? 'ok'}`),
        ...(fault === undefined ? await withinPatience(composed?.readyNotes) : []),
      ];
    },
  });
  await waitForDatabase(database, migrations, log, (why) => {
    phase = why;
  });
  phase = 'Starting.';
  await assertBoundByRowSecurity(database.acrossTenants);
  await assertSessionSettings(database.acrossTenants, settings);
  const turns = makeTurns();
  composed = await compose({ database, log, metrics, turns });
  workers = composed.startWorkers();
  const refusals = makeRefusalRecorder({ database, log, metrics });
  const server: RunningServer = await startServer({
    address: settings.grpcAddress,
    services: [
      ...composed.services,
      bindStatus({
        service: name,
        database,
        migrations,
        checks: async () => (await composed?.checks?.()) ?? [],
        hasWork: composed.hasWork === true,
      }),
    ],
    verifyToken: makeTokenVerifier({
      trust,
      names: { owner: settings.ownerName ?? name, participant: settings.participantName ?? name },
    }),
    policy: POLICY,
    log,
    metrics,
    onCall({ kind }) {
      if (kind !== 'service') turns.onCall();
    },
    onRefused: refusals.record,
    limits: settings,
    tls: settings.tls,
    reflection: settings.reflection,
  });
  const standsOn = [schemaPart(database, migrations), ...(composed.parts ?? [])];
  for (const { name: part } of standsOn) metrics.partChanged(part, true);
  parts = watchParts(standsOn, onPart);
  phase = undefined;
  return {
    port: server.port,
    async stop() {
      phase = 'Stopping.';
      await server.stop();
      parts?.stop();
      await Promise.all(workers.map((worker) => worker.stop()));
      composed.close();
      await refusals.stop();
      await stopMetrics();
      await watch.stop();
      await database.close();
    },
  };
}

const DATABASE = 'database';
const UNREADABLE = 'It cannot be read: it was dropped, or the rights to it were taken away.';

/** The service's own schema: without it nothing can be served. While the database has a fault, that is what is told. */
const schemaPart = (database: Database, migrations: readonly Migration[]): Part => ({
  name: 'schema',
  isVital: true,
  async look() {
    try {
      const { missing } = await compareSchema(database.acrossTenants, migrations);
      if (missing.length === 0) return undefined;
      return missing.length === migrations.length ? UNREADABLE : `It lacks the migrations ${missing.join(', ')}.`;
    } catch (error) {
      // A database that is away is a part of its own, and one that is busy or locked tells nothing of the schema.
      return error instanceof DomainError && error.metadata['fault'] !== SCHEMA_FAULT ? undefined : UNREADABLE;
    }
  },
});

const NOTES_PATIENCE_MS = 1_000;

/** The notes, if they come within a second; a note that cannot be read must not make the service unready. */
async function withinPatience(read: ComposedService['readyNotes']): Promise<readonly string[]> {
  const over = new AbortController();
  const patience = delay(NOTES_PATIENCE_MS, [], { signal: over.signal, ref: false });
  const notes = await Promise.race([read?.() ?? [], patience]).catch(() => []);
  over.abort();
  await patience.catch(() => undefined);
  return notes;
}

const SCHEMA_POLL_MS = 500;
const MIN_WAIT_MS = 100;
const MAX_WAIT_MS = 1_000;
const SAY_SO_EVERY_MS = 10_000;

/**
 * Waits until the database serves and its schema has every migration that this version needs; tells and logs what it
 * waits for. An Error if the database refuses the credentials or does not exist: waiting would not help.
 */
async function waitForDatabase(
  database: Database,
  migrations: readonly Migration[],
  log: Logger,
  onWaiting: (why: string) => void,
): Promise<void> {
  let saidAt = Number.NEGATIVE_INFINITY;
  const say = (details: object, why: string): void => {
    onWaiting(`${why[0]?.toUpperCase()}${why.slice(1)}.`);
    if (performance.now() - saidAt < SAY_SO_EVERY_MS) return;
    saidAt = performance.now();
    log.warn(details, why);
  };
  for (let failures = 0; ; ) {
    try {
      const { missing, unknown } = await compareSchema(database.acrossTenants, migrations);
      failures = 0;
      if (unknown.length > 0) log.warn({ unknown }, 'the schema is newer than this version');
      if (missing.length === 0) return;
      say({ missing }, 'the schema is behind: waiting for `migrate`');
    } catch (error) {
      if (!hasReason(error, 'DEPENDENCY_UNAVAILABLE')) throw error;
      const { fault } = error.metadata;
      if (fault === 'REFUSED')
        throw new Error('the database refuses the connection; check LETHE_DATABASE_URL', { cause: error });
      failures += 1;
      say({ err: error, fault }, 'waiting for the database');
    }
    await delay(failures === 0 ? SCHEMA_POLL_MS : Math.min(MAX_WAIT_MS, MIN_WAIT_MS * 2 ** failures));
  }
}

// V8 lets garbage grow to more than what is alive before it collects it. A service's memory is to follow what it holds
// and not its load; what is given up for that is little, since what it holds is small.
const HEAP_GROWING_PERCENT = 50;

/**
 * A service's program. `migrate` brings its schema up, `migrate status` shows what was applied where, and `migrate down
 * --installation ID` takes the newest migration back, with data only if `--yes-delete-data` is given. Without words it
 * serves until a signal. Words it does not know are refused.
 */
export async function runProgram(
  name: string,
  env: NodeJS.ProcessEnv,
  migrations: readonly Migration[],
  start: () => Promise<RunningService>,
): Promise<void> {
  const log = makeLogger(name, 'info');
  ignoreDriverVariables(env);
  const release = endOnSignal();
  try {
    const { command, direction, installationId, deletesData } = parseProgramArguments(process.argv.slice(2));
    if (command === 'migrate') {
      const settings = readSettings(env, (reader) => ({
        ownerUrl: reader.parsed('LETHE_DATABASE_OWNER_URL', parseDatabaseUrl),
        appRole: reader.text('LETHE_DATABASE_APP_ROLE'),
        distributed: reader.oneOf('LETHE_DATABASE_DISTRIBUTED', ['off', 'citus'], 'off'),
      }));
      const options = { ...settings, migrations };
      if (direction === 'up') {
        await migrateUp(options);
        log.info({ direction }, 'migrated');
      } else if (direction === 'status') {
        log.info(await readInstallation(options), 'the schema');
      } else {
        const undone = await migrateOneDown({ ...options, installationId, deletesData });
        log.info({ direction, undone }, undone ? 'took one migration back' : 'no migration is left');
      }
      return;
    }
    setFlagsFromString(`--heap-growing-percent=${HEAP_GROWING_PERCENT}`);
    const service = await start();
    release();
    runUntilSignal(log, service.stop);
  } catch (error) {
    log.fatal({ err: error }, 'could not start');
    // Whatever had been opened by then must not keep a process alive that serves nothing.
    process.exit(1);
  }
}

const USAGE = 'use: (nothing) | migrate [up] | migrate status | migrate down --installation ID [--yes-delete-data]';

/** What the program is asked to do; an Error with its usage for anything else. */
function parseProgramArguments(args: readonly string[]) {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: { installation: { type: 'string' }, 'yes-delete-data': { type: 'boolean', default: false } },
  });
  const [command, direction = 'up', ...more] = positionals;
  const isDown = command === 'migrate' && direction === 'down';
  const isKnown =
    positionals.length === 0 || (command === 'migrate' && ['up', 'down', 'status'].includes(direction) && !more.length);
  if (!isKnown) throw new Error(`cannot do ${positionals.join(' ')}; ${USAGE}`);
  if (isDown && !values.installation) {
    throw new Error(`migrate down needs the installation's id, which \`migrate status\` shows; ${USAGE}`);
  }
  if (!isDown && (values.installation !== undefined || values['yes-delete-data'])) {
    throw new Error(`--installation and --yes-delete-data are for migrate down; ${USAGE}`);
  }
  return {
    command,
    direction,
    installationId: values.installation ?? '',
    deletesData: values['yes-delete-data'] === true,
  };
}
