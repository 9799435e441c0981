import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { makeTemporaryFolder } from '#deploy/local/end-with-me.ts';
import { freePort } from '#deploy/local/free-port.ts';
import { startPostgresServer } from '#deploy/local/postgres-server.ts';
import { type Migration, migrateUp } from '#libs/postgres/migrate.ts';
import { type Database, type DatabaseOptions, openDatabase } from '#libs/postgres/open-database.ts';
import { ownerRoleOf, type ProvisionedDatabase, provisionDatabase } from '#libs/postgres/provision.ts';
import { poolerOfThisFile, waitForFirstSession } from './pooler.ts';
import { copyTemplate, type TemplateFolder } from './template-folder.ts';

/** A throwaway server for the tests of one file. */
export interface TestPostgres {
  readonly url: string;
  /**
   * A database of its own for one test, migrated; without migrations an empty one. Migrations run once for a list: what
   * a test gets is a copy. All databases of a server have the same two roles. The app role reaches them through a pooler
   * where the test file has one: see `poolerOfThisFile`.
   */
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

const SUPERUSER = { password: 'test', throwaway: true } as const;

/** A server that was started for the first time, and stopped. */
const STARTED_ONCE: TemplateFolder = {
  name: 'postgres',
  sources: ['deploy/local/postgres-server.ts'],
  async make(folder) {
    const server = await startPostgresServer({ folder, port: await freePort(), ...SUPERUSER });
    await server.stop();
  },
};

/** Starts PostgreSQL in a folder of its own; a benchmark has it made anew, with segments of the usual size. */
export async function startTestPostgres(segments: 'small' | 'usual' = 'small'): Promise<TestPostgres> {
  const { path: folder, remove } = await makeTemporaryFolder('lethe-test-pg-');
  if (segments === 'small') await copyTemplate(STARTED_ONCE, folder);
  const server = await startPostgresServer({ folder, port: await freePort(), segments, ...SUPERUSER });
  const superuser = new pg.Pool({ connectionString: server.url, max: 4 }).on('error', () => undefined);
  const copyDatabase = makeDatabaseCopier(server.url, superuser);
  const pooler = await (await poolerOfThisFile())?.(server.url);
  let firstSession: Promise<void> | undefined;
  let opened = 0;
  return {
    url: server.url,
    async createDatabase(migrations) {
      const copied = await copyDatabase(migrations);
      const database = { ...copied, appUrl: pooler?.urlOf(copied.appUrl) ?? copied.appUrl };
      const superuserUrl = inDatabase(server.url, database.name);
      // In another database: a session in this one would not know the settings that a test gives it next.
      if (pooler) firstSession ??= waitForFirstSession(inDatabase(database.appUrl, 'postgres'));
      await firstSession;
      return {
        ...database,
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
      await superuser.end();
      await pooler?.stop();
      await server.stop();
      await remove();
      if (opened !== 0) throw new Error(`${opened} databases were left open`);
    },
  };
}

type CopiedDatabase = ProvisionedDatabase & Pick<TestDatabase, 'name'>;

// The database that every other one of a server is a copy of, and whose roles they have.
const FIRST = 'lethe_test';

/** Makes databases by copying one that was migrated; owner, grants and policies are copied with the tables. */
function makeDatabaseCopier(
  superuserUrl: string,
  superuser: pg.Pool,
): (migrations: readonly Migration[]) => Promise<CopiedDatabase> {
  let first: Promise<ProvisionedDatabase> | undefined;
  const templates: { readonly migrations: readonly Migration[]; readonly name: Promise<string> }[] = [];

  const copy = async (template: string): Promise<CopiedDatabase> => {
    first ??= provisionDatabase({ superuserUrl, database: FIRST, ownerPassword: 'owner', appPassword: 'app' });
    const { appRole, ownerUrl, appUrl } = await first;
    const name = `lethe_${randomBytes(6).toString('hex')}`;
    await superuser.query(
      `create database ${name} template ${template} strategy file_copy owner ${ownerRoleOf(FIRST)}`,
    );
    // Rights on the database itself are not copied.
    await superuser.query(
      `revoke all on database ${name} from public; grant connect on database ${name} to ${appRole}`,
    );
    return { name, appRole, ownerUrl: inDatabase(ownerUrl, name), appUrl: inDatabase(appUrl, name) };
  };
  const migrated = async (migrations: readonly Migration[]): Promise<string> => {
    const { name, ownerUrl, appRole } = await copy(FIRST);
    await migrateUp({ ownerUrl, appRole, migrations });
    return name;
  };
  return async (migrations) => {
    if (migrations.length === 0) return copy(FIRST);
    const isSame = (other: readonly Migration[]): boolean =>
      other.length === migrations.length && other.every((migration, index) => migration === migrations[index]);
    let template = templates.find((known) => isSame(known.migrations));
    if (!template) {
      template = { migrations: [...migrations], name: migrated(migrations) };
      templates.push(template);
    }
    return copy(await template.name);
  };
}

function inDatabase(serverUrl: string, database: string): string {
  const url = new URL(serverUrl);
  url.pathname = `/${database}`;
  return url.toString();
}

/** Runs one statement on a connection of its own. */
export async function queryOnce<Row>(url: string, sql: string, values: readonly unknown[] = []): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  // What ends the session is told by the statement.
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query(sql, [...values])).rows as Row[];
  } finally {
    await client.end();
  }
}

/** Takes the advisory lock 1 of a database, and answers how to release it: what waits for it meanwhile is slow for sure. */
export async function holdLock(url: string): Promise<() => Promise<void>> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query('select pg_advisory_lock(1)');
  let released: Promise<void> | undefined;
  return () => {
    released ??= client.end();
    return released;
  };
}

/** What is locked by the statement until it is released, and whether somebody waits for it. */
export async function holdRows(url: string, sql: string, values: readonly unknown[] = []) {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  await client.query('begin');
  await client.query(sql, [...values]);
  const [{ pid } = { pid: 0 }] = (await client.query<{ pid: number }>('select pg_backend_pid() as pid')).rows;
  return {
    async isAwaited(): Promise<boolean> {
      const blocked = 'select from pg_stat_activity where $1 = any(pg_blocking_pids(pid))';
      return (await queryOnce(url, blocked, [pid])).length > 0;
    },
    async release(): Promise<void> {
      await client.query('rollback');
      await client.end();
    },
  };
}
