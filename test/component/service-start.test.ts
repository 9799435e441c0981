import { spawn } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { freePort } from '#deploy/local/free-port.ts';
import { migrateUp, readInstallation } from '#libs/postgres/migrate.ts';
import { jobMigrations } from '#services/job/adapters/postgres/migrations/index.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { bundleOf } from '#test/support/programs.ts';
import { until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;
const PROGRAM = await bundleOf('services/job/main.ts');
const stores: string[] = [];
test.after.always(() => Promise.all(stores.map((folder) => rm(folder, { recursive: true, force: true }))));

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

/** JobService's program, with these words and settings, and a store of its own. */
function startProgram(words: readonly string[], env: Readonly<Record<string, string>>) {
  const store = mkdtempSync(join(tmpdir(), 'lethe-test-store-'));
  stores.push(store);
  const trustFile = join(store, 'trust.json');
  writeFileSync(trustFile, '{"trust": []}');
  const child = spawn(process.execPath, [PROGRAM, ...words], {
    env: {
      PATH: process.env['PATH'],
      LETHE_TRUST_FILE: trustFile,
      LETHE_FILE_STORE_ROOT: join(store, 'objects'),
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk));
  const code = new Promise<number | null>((resolve) => child.once('close', resolve));
  return { output: () => output, code, kill: () => child.kill('SIGKILL') };
}

const migrate = async (words: string, database: TestDatabase, env: Readonly<Record<string, string>> = {}) => {
  const { code, output } = startProgram(['migrate', ...words.split(' ').filter(Boolean)], {
    LETHE_DATABASE_OWNER_URL: database.ownerUrl,
    LETHE_DATABASE_APP_ROLE: database.appRole,
    ...env,
  });
  return { code: await code, output: output() };
};

test('a word that migrate does not know, or a step back without its installation, changes nothing', async (t) => {
  const database = await t.context.postgres.createDatabase([]);
  for (const words of ['donw', 'up down', 'down', 'down --yes-delete-data', 'up --yes-delete-data', 'down --al']) {
    const { code, output } = await migrate(words, database);
    t.is(code, 1, words);
    t.regex(output, /migrate down|Unknown option/, words);
  }
  t.deepEqual(await database.query("select from pg_tables where tablename = 'jobs'"), []);
});

test('a half-written URL reaches no database by the variables of the driver', async (t) => {
  const target = await t.context.postgres.createDatabase(jobMigrations);
  const { hostname, port, username, password, pathname } = new URL(target.ownerUrl);
  const installation = await readInstallation(target);
  const env = { PGHOST: hostname, PGPORT: port, PGUSER: username, PGPASSWORD: password, PGDATABASE: pathname.slice(1) };
  for (const url of [`${username}:${password}@${hostname}/x`, 'postgres:/', `postgres://${hostname}:${port}`]) {
    const words = `down --installation ${installation.id} --yes-delete-data`;
    const { code, output } = await migrate(words, target, { ...env, LETHE_DATABASE_OWNER_URL: url });
    t.is(code, 1);
    t.regex(output, /LETHE_DATABASE_OWNER_URL (must be|lacks)/);
  }
  t.deepEqual((await readInstallation(target)).migrations, installation.migrations);
});

test('migrate down takes one migration back, and says which', async (t) => {
  const database = await t.context.postgres.createDatabase(jobMigrations);
  const { id, migrations } = await readInstallation(database);
  t.regex((await migrate('status', database)).output, new RegExp(id));
  const { code, output } = await migrate(`down --installation ${id}`, database);
  t.is(code, 0, output);
  t.regex(output, new RegExp(migrations.at(-1) ?? 'none'));
  t.deepEqual((await readInstallation(database)).migrations, migrations.slice(0, -1));
});

test('a service that starts before its schema is there says so, waits, and then serves', async (t) => {
  const database = await t.context.postgres.createDatabase([]);
  const metrics = `127.0.0.1:${await freePort()}`;
  const service = startProgram([], {
    LETHE_DATABASE_URL: database.appUrl,
    LETHE_GRPC_ADDRESS: `127.0.0.1:${await freePort()}`,
    LETHE_METRICS_ADDRESS: metrics,
  });
  t.teardown(service.kill);
  const ready = async () => (await fetch(`http://${metrics}/ready`)).status;
  await until('it waits', async () => /the schema is behind/.test(service.output()), 60_000);
  t.is(await ready(), 503);
  await migrateUp({ ...database, migrations: jobMigrations });
  await until('it serves', async () => (await ready()) === 200, 60_000);
  t.notRegex(service.output(), /permission denied/);
});

test('a service says when the schema is newer than itself, and serves', async (t) => {
  const future = { name: '999-later', up: async () => undefined, down: async () => undefined };
  const database = await t.context.postgres.createDatabase([...jobMigrations, future]);
  const metrics = `127.0.0.1:${await freePort()}`;
  const service = startProgram([], {
    LETHE_DATABASE_URL: database.appUrl,
    LETHE_GRPC_ADDRESS: `127.0.0.1:${await freePort()}`,
    LETHE_METRICS_ADDRESS: metrics,
  });
  t.teardown(service.kill);
  await until('it serves', async () => (await fetch(`http://${metrics}/ready`)).ok, 60_000);
  t.regex(service.output(), /999-later.*newer than this version|newer than this version.*999-later/);
});

test('a service that connects as the owner or a superuser, or to other sessions than it needs, refuses to start and says why', async (t) => {
  const database = await t.context.postgres.createDatabase(jobMigrations);
  for (const [url, why] of [
    [database.ownerUrl, /owns the tables/],
    [database.superuserUrl, /bypasses row-level security/],
    [`${database.appUrl}?options=-c%20bytea_output=escape`, /bytea_output is 'escape', not 'hex'/],
  ] as const) {
    const service = startProgram([], {
      LETHE_DATABASE_URL: url,
      LETHE_GRPC_ADDRESS: `127.0.0.1:${await freePort()}`,
      LETHE_METRICS_ADDRESS: `127.0.0.1:${await freePort()}`,
    });
    t.teardown(service.kill);
    t.is(await service.code, 1);
    t.regex(service.output(), why);
  }
});

test('a service whose password or database is wrong does not wait: it ends and says why', async (t) => {
  const database = await t.context.postgres.createDatabase([]);
  const wrongPassword = new URL(database.appUrl);
  wrongPassword.password = 'wrong';
  const wrongDatabase = new URL(database.appUrl);
  wrongDatabase.pathname = '/nowhere';
  for (const [url, why] of [
    [wrongPassword, /password authentication failed/],
    [wrongDatabase, /database \\"nowhere\\" does not exist/],
  ] as const) {
    const service = startProgram([], {
      LETHE_DATABASE_URL: url.toString(),
      LETHE_METRICS_ADDRESS: `127.0.0.1:${await freePort()}`,
    });
    t.teardown(service.kill);
    t.is(await service.code, 1);
    t.regex(service.output(), /the database refuses the connection; check LETHE_DATABASE_URL/);
    t.regex(service.output(), why);
  }
});

test('a service without a trust file that can be used does not start, and says which entry and field is wrong', async (t) => {
  const database = await t.context.postgres.createDatabase(jobMigrations);
  const folder = mkdtempSync(join(tmpdir(), 'lethe-test-trust-'));
  stores.push(folder);
  const bad = join(folder, 'trust.json');
  writeFileSync(bad, JSON.stringify({ trust: [{ name: 'run', issuer: 'lethe', jwks: { keys: [] }, allow: [{}] }] }));
  for (const [trustFile, expected] of [
    [join(folder, 'none.json'), /none\.json cannot be read: ENOENT/],
    [bad, /trust\.json cannot be used: .*trust\[0\] \(run\): allow\[0\]\.roles must be a list/],
  ] as const) {
    const { code, output } = startProgram([], { LETHE_DATABASE_URL: database.appUrl, LETHE_TRUST_FILE: trustFile });
    t.is(await code, 1);
    t.regex(output(), expected);
  }
});
