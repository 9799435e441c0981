import { randomBytes } from 'node:crypto';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { freePort } from '#deploy/local/free-port.ts';
import { startPostgresServer } from '#deploy/local/postgres-server.ts';
import { type Migration, migrateUp } from '#libs/postgres/migrate.ts';
import { type Database, type DatabaseOptions, openDatabase } from '#libs/postgres/open-database.ts';
import { type ProvisionedDatabase, provisionDatabase } from '#libs/postgres/provision.ts';

/** A throwaway server for the tests of one file. */
export interface TestPostgres {
  readonly url: string;
  /** A database of its own for one test, with its two roles, migrated. */
  createDatabase(migrations: readonly Migration[]): Promise<TestDatabase>;
  /** Fails when a test has left a connection open. */
  stop(): Promise<void>;
}

/** One test's database. */
export interface TestDatabase extends ProvisionedDatabase {
  readonly name: string;
  /** As the superuser, inside this database: for evidence that shares nothing with the product. */
  readonly superuserUrl: string;
  /** Opens it as the app role; the test closes it. */
  open(options?: Partial<DatabaseOptions>): Database;
  /** Rows by hand-written SQL as the superuser. */
  query<Row>(sql: string, values?: readonly unknown[]): Promise<Row[]>;
}

/** Starts PostgreSQL in a folder of its own. */
export async function startTestPostgres(): Promise<TestPostgres> {
  const folder = await mkdtemp(join(tmpdir(), 'lethe-test-pg-'));
  await chmod(folder, 0o755);
  const server = await startPostgresServer({ folder, port: await freePort(), password: 'test', throwaway: true });
  const onExit = (): void => {
    try {
      process.kill(server.pid, 'SIGKILL');
    } catch {
      // It is gone, as it should be.
    }
  };
  process.once('exit', onExit);
  let opened = 0;
  return {
    url: server.url,
    async createDatabase(migrations) {
      const name = `lethe_${randomBytes(6).toString('hex')}`;
      const database = await provisionDatabase({
        superuserUrl: server.url,
        database: name,
        ownerPassword: 'owner',
        appPassword: 'app',
      });
      await migrateUp({ ownerUrl: database.ownerUrl, appRole: database.appRole, migrations });
      const superuserUrl = server.url.replace(/\/postgres$/, `/${name}`);
      return {
        ...database,
        name,
        superuserUrl,
        open(options = {}) {
          opened += 1;
          const opening = openDatabase({
            url: database.appUrl,
            poolSize: 10,
            applicationName: 'test',
            statementTimeoutMs: 10_000,
            lockTimeoutMs: 5_000,
            ...options,
          });
          return {
            ...opening,
            async close() {
              opened -= 1;
              await opening.close();
            },
          };
        },
        query: (sql, values = []) => queryOnce(superuserUrl, sql, values),
      };
    },
    async stop() {
      await server.stop();
      process.off('exit', onExit);
      await rm(folder, { recursive: true, force: true });
      if (opened !== 0) throw new Error(`${opened} databases were left open`);
    },
  };
}

/** Runs one statement on a connection of its own. */
export async function queryOnce<Row>(url: string, sql: string, values: readonly unknown[] = []): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql, [...values])).rows as Row[];
  } finally {
    await client.end();
  }
}
