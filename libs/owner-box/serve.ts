import { makeRefusalRecorder } from '#libs/audit/record-refusals.ts';
import { openTrust } from '#libs/auth/open-trust.ts';
import { POLICY } from '#libs/auth/policy.ts';
import { makeTokenVerifier } from '#libs/auth/verify-token.ts';
import { makeTurns } from '#libs/durable/turns.ts';
import { startWorkerLoop } from '#libs/durable/worker-loop.ts';
import { runUntilSignal } from '#libs/grpc/run-until-signal.ts';
import { startServer } from '#libs/grpc/server.ts';
import { type Environment, readSettings } from '#libs/kernel/settings.ts';
import { bindOwner } from '#libs/owner/owner-service.ts';
import { readOwnerSettings } from '#libs/owner/settings.ts';
import { type Database, openDatabase } from '#libs/postgres/open-database.ts';
import { parsePeerName, readCommonSettings } from '#libs/service/common-settings.ts';
import { logTrust } from '#libs/service/log-trust.ts';
import { makeLogger } from '#libs/telemetry/logger.ts';
import { makeMetrics, startMetricsServer } from '#libs/telemetry/metrics.ts';
import { type Role, readRole, SCHEMA, withConnection, withOwnerSchema } from './connect.ts';
import { type Inspection, inspectTables } from './inspect-tables.ts';
import { makeBoxOwner } from './make-box-owner.ts';
import { ownerBoxMigrations } from './migrations.ts';
import { OwnerBoxError, type OwnerFile } from './parse-file.ts';
import { prepareOwnerBox } from './prepare.ts';

const EXPIRY_POLL_MS = 3_600_000;

/** What can be served, and as whom. */
export type CheckedBox = Pick<Inspection, 'tables' | 'remarks'> & { readonly role: Role };

/** Compares the file with the database; an OwnerBoxError names everything that keeps it from being served. */
export async function checkOwnerBox(file: OwnerFile, env: Environment): Promise<CheckedBox> {
  return withConnection(env, file.urlFrom, async (query) => {
    const role = await readRole(query);
    const { tables, remarks, problems } = await inspectTables(query, file);
    if (problems.length > 0) throw new OwnerBoxError(`the database ${role.database}`, problems);
    return { tables, remarks, role };
  });
}

/** Serves the file's tables until SIGTERM or SIGINT; then calls that were accepted may end. */
export async function runOwnerBox(file: OwnerFile, env: Environment): Promise<void> {
  const settings = readBoxSettings(file, env);
  const log = makeLogger(settings.ownerName, settings.logLevel);
  if (file.ownerUrlFrom !== undefined && env[file.ownerUrlFrom]) await prepareOwnerBox(file, env);
  const { tables, remarks, role } = await checkOwnerBox(file, env);
  for (const remark of remarks) log.warn(remark);

  const metrics = makeMetrics(settings.ownerName);
  const database = openDatabase({
    url: withOwnerSchema(settings.databaseUrl, role),
    poolSize: settings.databasePoolSize,
    applicationName: 'lethe-owner',
    statementTimeoutMs: settings.statementTimeoutMs,
    lockTimeoutMs: settings.lockTimeoutMs,
  });
  // What was opened, closed the other way round, also where a later step fails.
  const opened: (() => Promise<void>)[] = [database.close];
  const stop = async (): Promise<void> => {
    for (const close of opened.toReversed()) await close();
  };
  try {
    await assertPrepared(database, role);
    const trust = await openTrust(settings.trustFile, logTrust(log));
    let ready = false;
    const readiness = { isReady: () => ready, lines: async () => (ready ? [] : ['Starting or stopping.']) };
    opened.push(await startMetricsServer(settings.metricsAddress, metrics, readiness));
    const owner = makeBoxOwner(tables, role, {
      database,
      turns: makeTurns(),
      maxPauseMs: settings.maxPauseMs,
      snapshotAgeMs: settings.snapshotAgeMs,
      onPurged({ subject: { name }, tenantId, caller }, { operationId, rule, removed, dependents, waits }) {
        const kind = name.replaceAll('_', '-');
        const told = { action: `purge-${kind}`, tenantId, operationId, actor: caller.actor, removed, dependents };
        log.info({ audit: true, ...told, waits, cutoff: rule?.cutoff.toString() }, 'purged by age');
        metrics.deletionFinished(kind, 'COMPLETE');
      },
    });
    const upkeep = startWorkerLoop({
      name: 'owner-operations',
      pollMs: EXPIRY_POLL_MS,
      work: owner.expireOperations,
      onError: (name, error) => log.error({ err: error, loop: name }, 'a background pass failed'),
    });
    opened.push(upkeep.stop);
    const refusals = makeRefusalRecorder({ database, log, metrics, hasInstallationAudit: false });
    opened.push(refusals.stop);
    const server = await startServer({
      address: settings.grpcAddress,
      services: [bindOwner(owner)],
      verifyToken: makeTokenVerifier({
        trust,
        names: { owner: settings.ownerName },
      }),
      policy: POLICY,
      log,
      metrics,
      onRefused: refusals.record,
      limits: settings,
      tls: settings.tls,
      reflection: settings.reflection,
    });
    opened.push(async () => {
      ready = false;
      await server.stop();
    });
    ready = true;
  } catch (error) {
    await stop();
    throw error;
  }
  runUntilSignal(log, stop);
}

/** As of a service, with the database's URL where the file says; an OwnerBoxError that names every problem. */
function readBoxSettings(file: OwnerFile, env: Environment) {
  try {
    return readSettings(env, (reader) => ({
      ...readCommonSettings({
        ...reader,
        parsed: (name, ...rest) => reader.parsed(name === 'LETHE_DATABASE_URL' ? file.urlFrom : name, ...rest),
      }),
      ...readOwnerSettings(reader),
      ownerName: reader.parsed('LETHE_OWNER_NAME', parsePeerName),
    }));
  } catch (error) {
    throw new OwnerBoxError('the environment', [(error as Error).message]);
  }
}

async function assertPrepared({ acrossTenants }: Database, role: Role): Promise<void> {
  const [table] = await acrossTenants<{ is_readable: boolean; is_searched: boolean }>({
    text: `select current_schema() = $1 as is_searched, exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where n.nspname = $1 and c.relname = 'lethe_migrations' and has_schema_privilege(n.oid, 'usage')
               and has_table_privilege(c.oid, 'select')) as is_readable`,
    values: [SCHEMA],
  });
  const applied = table?.is_readable
    ? await acrossTenants<{ name: string }>({ text: `select name from ${SCHEMA}.lethe_migrations`, values: [] })
    : [];
  const missing = ownerBoxMigrations.filter(({ name }) => !applied.some((known) => known.name === name));
  if (missing.length > 0) {
    const problem = `the schema ${SCHEMA} is not ready for ${role.name}; run \`lethe owner prepare\` with this file`;
    throw new OwnerBoxError(`the database ${role.database}`, [problem]);
  }
  if (table?.is_searched !== true) {
    const problem = `sessions do not search the schema ${SCHEMA} first, as through a pooler; connect directly`;
    throw new OwnerBoxError(`the database ${role.database}`, [problem]);
  }
}
