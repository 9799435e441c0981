import knexOf, { type Knex } from 'knex';
import pg from 'pg';
import { isTenantId } from '#libs/kernel/id.ts';
import { endConnection, type GuardedConnection, guardConnection } from './guard-connection.ts';
import { prepareAnew } from './prepare-anew.ts';
import { type SessionTimeouts, timeoutSettings, withSettings } from './session-settings.ts';
import { shareConnections } from './share-connections.ts';
import { type DatabaseFault, DatabaseSilent, isReadOnlyViolation, toDomainError, unreachable } from './sql-errors.ts';
import { assertColumnsNamed, type Statement } from './statement.ts';
import { sendBatch } from './tenant-batch.ts';
import { sendRead } from './tenant-read.ts';
import { runInTransactions, SILENT, type TenantTransaction } from './tenant-transaction.ts';

export type { Statement } from './statement.ts';
export type { TenantTransaction } from './tenant-transaction.ts';

/** How a service reaches its database. */
export interface DatabaseOptions extends SessionTimeouts {
  /** As the app role, which is under row-level security. */
  readonly url: string;
  readonly poolSize: number;
  /** Shown in pg_stat_activity. */
  readonly applicationName: string;
}

/** A service's database. Every row that it shows belongs to the one tenant that was named. */
export interface Database {
  /**
   * Runs `work` in one transaction that sees and writes the rows of this tenant alone, and commits what it did; an
   * error rolls everything back. Must not be open during a call to another service or store.
   */
  forTenant<T>(tenantId: string, work: (trx: TenantTransaction) => Promise<T>): Promise<T>;
  /** One reading statement under the tenant's row-level security, in a round trip; shared by named ones. */
  readForTenant<Row>(tenantId: string, statement: Statement): Promise<Row[]>;
  /**
   * Statements under the tenant's row-level security, in one transaction and a single round trip; the rows of each.
   * None can depend on what another answers, but each sees what those before it did. An error rolls back all of them.
   * Where all have names, the round trip is shared with others': never to be waited for inside of `forTenant`.
   */
  writeForTenant(tenantId: string, statements: readonly Statement[]): Promise<readonly (readonly unknown[])[]>;
  /**
   * Runs `work` in one transaction that belongs to no tenant, for tables of the whole installation: a tenant's table
   * raises there. Commits what it did; an error rolls everything back.
   */
  forInstallation<T>(work: (trx: TenantTransaction) => Promise<T>): Promise<T>;
  /**
   * One statement outside of any tenant. Tables are blind here (a query on one raises); it is for the narrow
   * functions that tell whose work is due.
   */
  acrossTenants<Row>(statement: Statement): Promise<Row[]>;
  /** Resolves when the database answers; DEPENDENCY_UNAVAILABLE otherwise. */
  check(): Promise<void>;
  /** Calls the listener each time that a connection meets a fault of the database. There is one listener at most. */
  onFault(listener: (fault: DatabaseFault) => void): void;
  /**
   * Tells what a watch found, when a fault begins, changes or is over. Connections that exist now are not used again,
   * since their sessions may differ from new ones; work in progress on them may finish. While the database is SILENT,
   * new work fails at once. Around SILENT and CONNECTION_LOST, a connection that receives nothing for a second although
   * an answer is due is cut: the answer may be lost.
   */
  setFault(fault: DatabaseFault | undefined): void;
  /** Waits for running work and closes all connections; after five seconds, cuts them. */
  close(): Promise<void>;
}

// As many as make the cost of waking each other up small, and no more than one slow statement may hold up. Writes wait
// for locks, and for the log at their commit, which several connections do at the same time.
const MOST_READS = 16;
const MOST_WRITES = 4;

// On top of the server's statement timeout: the round trip, on a busy machine.
const SILENCE_MS = 2_000;
const KEEPALIVE_MS = 10_000;
const CONNECT_MS = 3_000;
const ACQUIRE_MS = 5_000;
const CLOSE_MS = 5_000;
const LOST_ANSWER_MS = 1_000;

const NO_TENANT = "set local lethe.tenant = ''";

const TIMESTAMPTZ = 1184;
const INT8 = 20;

/** timestamptz as an instant: a Date would lose the microseconds. */
export const parseTimestamp = (text: string): Temporal.Instant => Temporal.Instant.from(text.replace(' ', 'T'));

/** int8 as a number while that is exact; a RangeError beyond 2^53 rather than a wrong count. */
export function parseInt8(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw new RangeError(`int8 ${text} is beyond the safe integers`);
  return value;
}

/** Parses timestamptz to Temporal.Instant and int8 to number, and leaves the rest to pg. */
export const typeParsers: pg.CustomTypesConfig = {
  getTypeParser(oid: number, format?: string) {
    if (format === 'binary') return pg.types.getTypeParser(oid, 'binary');
    if (oid === TIMESTAMPTZ) return parseTimestamp;
    if (oid === INT8) return parseInt8;
    return pg.types.getTypeParser(oid, 'text');
  },
};

/** Opens the pool. No connection is made before the first statement. */
export function openDatabase(options: DatabaseOptions): Database {
  const { url, poolSize, applicationName, statementTimeoutMs } = options;
  const guarded = new Map<pg.Client, GuardedConnection & { readonly generation: number }>();
  let generation = 0;
  let fault: DatabaseFault | undefined;
  let onFault: (fault: DatabaseFault) => void = () => undefined;
  const isGood = (client: pg.Client): boolean => {
    const guard = guarded.get(client);
    return guard !== undefined && !guard.isSpent() && guard.generation === generation;
  };
  const knex = knexOf({
    client: 'pg',
    // Otherwise Knex asks the first connection for it, and waits without a time limit.
    version: '18',
    connection: {
      connectionString: withSettings(url),
      application_name: applicationName,
      types: typeParsers,
      ...timeoutSettings(options),
      connectionTimeoutMillis: CONNECT_MS,
      keepAlive: true,
      keepAliveInitialDelayMillis: KEEPALIVE_MS,
      // Statements are sent without waiting for the answer to the one before: see shareConnections.
      pipeline: true,
    } as Knex.PgConnectionConfig,
    pool: {
      min: 0,
      max: poolSize,
      validate: isGood,
      afterCreate(client: pg.Client, done: (error: undefined, client: pg.Client) => void) {
        const guard = guardConnection(client, {
          silenceMs: statementTimeoutMs + SILENCE_MS,
          onFault: (fault) => onFault(fault),
        });
        guarded.set(client, { ...guard, generation });
        client.once('end', () => guarded.delete(client));
        done(undefined, client);
      },
    } as Knex.PoolConfig,
    acquireConnectionTimeout: ACQUIRE_MS,
    asyncStackTraces: false,
    log: SILENT,
  });

  // Knex would wait for ever on a silent connection.
  knex.client.destroyRawConnection = endConnection;

  const acquire = async (): Promise<pg.Client> => {
    if (fault === 'SILENT') throw new DatabaseSilent('the database did not answer lately');
    try {
      return (await knex.client.acquireConnection()) as pg.Client;
    } catch (error) {
      const met = unreachable(error);
      if (met === undefined) throw error;
      onFault(met.fault);
      throw met.error;
    }
  };
  const onConnection = async <T>(work: (client: pg.Client) => Promise<T>): Promise<T> => {
    const client = await acquire();
    try {
      return await work(client);
    } finally {
      // The pool replaces it when it finds it closed.
      if (!isGood(client)) endConnection(client).catch(() => undefined);
      await knex.client.releaseConnection(client);
    }
  };
  const cutAll = (): void => {
    for (const { cut } of guarded.values()) cut(new DatabaseSilent('the database does not answer'));
  };

  const shareToRead = shareConnections(onConnection, MOST_READS);
  const shareToWrite = shareConnections(onConnection, MOST_WRITES);
  const inTransaction = runInTransactions();

  return {
    forTenant: (tenantId, work) =>
      mapErrors(async () => {
        const setting = tenantSetting(tenantId);
        return onConnection((client) => inTransaction(client, setting, work));
      }),
    readForTenant: <Row>(tenantId: string, statement: Statement) =>
      mapErrors(async () => {
        const setting = tenantSetting(tenantId);
        assertColumnsNamed(statement);
        const rows = await shareToRead(isSmall(statement), (client) =>
          prepareAnew(client, [statement], ([it = statement]) => sendRead(client, setting, it)),
        );
        return rows as Row[];
      }, isReadOnlyViolation),
    writeForTenant: (tenantId, statements) =>
      mapErrors(async () => {
        if (!isTenantId(tenantId)) throw new TypeError('not a tenant id');
        for (const statement of statements) assertColumnsNamed(statement);
        return shareToWrite(statements.every(isSmall), (client) =>
          prepareAnew(client, statements, (them) => sendBatch(client, tenantId, them, typeParsers)),
        );
      }),
    forInstallation: (work) => mapErrors(() => onConnection((client) => inTransaction(client, NO_TENANT, work))),
    acrossTenants: <Row>({ text, values }: Statement) =>
      mapErrors(() => onConnection(async (client) => (await client.query(text, [...values])).rows as Row[])),
    check: () => mapErrors(() => onConnection(async (client) => void (await client.query('select 1')))),
    onFault(listener) {
      onFault = listener;
    },
    setFault(found) {
      const mayHaveLostAnswers = [fault, found].some((each) => each === 'SILENT' || each === 'CONNECTION_LOST');
      fault = found;
      generation += 1;
      if (!mayHaveLostAnswers) return;
      const before = [...guarded.values()].map((guard) => ({ guard, bytes: guard.bytesWhileWaiting() }));
      setTimeout(() => {
        for (const { guard, bytes } of before) {
          if (bytes !== undefined && guard.bytesWhileWaiting() === bytes)
            guard.cut(new DatabaseSilent('the database does not answer on this connection'));
        }
      }, LOST_ANSWER_MS).unref();
    },
    async close() {
      const timer = setTimeout(cutAll, CLOSE_MS);
      await knex.destroy();
      clearTimeout(timer);
    },
  };
}

const isSmall = ({ name }: Statement): boolean => name !== undefined;

/** The statement that names the tenant for the rest of the transaction. */
function tenantSetting(tenantId: string): string {
  // It goes into the SQL text, so that it can share a round trip; nothing but a slug gets in.
  if (!isTenantId(tenantId)) throw new TypeError('not a tenant id');
  return `set local lethe.tenant = '${tenantId}'`;
}

/** Runs work and translates errors of the driver, except those that `isOurs` says are mistakes of the program. */
const mapErrors = async <T>(work: () => Promise<T>, isOurs?: (error: unknown) => boolean): Promise<T> => {
  try {
    return await work();
  } catch (error) {
    throw isOurs?.(error) ? error : toDomainError(error);
  }
};
