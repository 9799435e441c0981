import { setTimeout as delay } from 'node:timers/promises';
import anyTest, { type TestFn } from 'ava';
import pg from 'pg';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { until } from '#test/support/test-stack.ts';
import { type Migration, migrateUp } from './migrate.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

const step = (name: string, sql: string, locks?: Migration['locks']): Migration => ({
  name,
  async up(knex) {
    await knex.raw(sql);
  },
  async down() {},
  ...(locks && { locks }),
});

const TWO_TABLES = [
  step('001-tables', 'create table runs (id int primary key, at int); create table jobs (id int primary key, at int)'),
  step(
    '002-indexes',
    'create index runs_at on runs (at); create index jobs_at on jobs (at); insert into runs values (1, 1)',
  ),
];

/** A service's connection, which is in the middle of a transaction that has read `jobs` for an update. */
async function beginWork(database: TestDatabase): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: database.superuserUrl });
  await client.connect();
  await client.query('begin');
  await client.query('select from jobs where id = 1 for update');
  return client;
}

const isWaiting = async (database: TestDatabase, relation: string): Promise<boolean> => {
  const waiting = await database.query(
    `select from pg_locks where not granted and relation = to_regclass($1) and mode = 'AccessExclusiveLock'`,
    [relation],
  );
  return waiting.length > 0;
};

const CASES: Readonly<Record<string, readonly Migration[]>> = {
  'migrations one after the other': [
    step('003-runs', 'drop index runs_at', { runs: 'all' }),
    step('004-jobs', 'drop index jobs_at', { jobs: 'all' }),
  ],
  'one migration of two tables': [
    step('003-both', 'drop index runs_at; drop index jobs_at', { runs: 'all', jobs: 'all' }),
  ],
  'a migration that locks a table twice': [
    step('003-twice', 'create index jobs_later on jobs (at, id); drop index jobs_at', { jobs: 'all' }),
  ],
};
for (const [what, migrations] of Object.entries(CASES)) {
  test(`a transaction of a service is never cut off as the victim of ${what}`, async (t) => {
    const created = await t.context.postgres.createDatabase(TWO_TABLES);
    const work = await beginWork(created);
    t.teardown(() => work.end());

    const migrating = migrateUp({ ...created, migrations: [...TWO_TABLES, ...migrations] });
    await until('the migration waits for the table that is in use', () => isWaiting(created, 'jobs'));
    // A session looks for a deadlock once, when it has waited for a second: now nobody else will.
    await delay(1_200);
    await t.notThrowsAsync(work.query('select from runs where id = 1 for update'));
    await t.notThrowsAsync(work.query('insert into jobs values (1, 1)'));
    await delay(1_500);
    await t.notThrowsAsync(work.query('update jobs set at = 2'));
    await t.notThrowsAsync(work.query('commit'));

    await t.notThrowsAsync(migrating);
    t.deepEqual(await created.query("select to_regclass('jobs_at')::text as index"), [{ index: null }]);
  });
}

test('calls go on while a migration waits for a table that a long transaction has', async (t) => {
  const created = await t.context.postgres.createDatabase(TWO_TABLES);
  const work = await beginWork(created);
  t.teardown(() => work.end());
  const migrating = migrateUp({
    ...created,
    migrations: [...TWO_TABLES, step('003-jobs', 'drop index jobs_at', { jobs: 'all' })],
  });
  await until('the migration waits', () => isWaiting(created, 'jobs'));

  const began = performance.now();
  for (let calls = 0; calls < 20; calls += 1) await created.query('select from jobs where id = 1');
  t.true(performance.now() - began < 60_000);
  await work.query('commit');
  await t.notThrowsAsync(migrating);
});

test('a migration that gets no table says which, and who has it, and has changed nothing', async (t) => {
  const created = await t.context.postgres.createDatabase(TWO_TABLES);
  const work = await beginWork(created);
  t.teardown(() => work.end());
  await work.query("set application_name = 'nightly report'");
  const migrations = [
    ...TWO_TABLES,
    step('003-both', 'drop index runs_at; drop index jobs_at', { runs: 'all', jobs: 'all' }),
  ];

  await t.throwsAsync(migrateUp({ ...created, migrations, lockWaitMs: 1_000 }), {
    message: /^003-both could not lock runs, jobs within 1 s; they are in use by "nightly report" \(process \d+\)$/,
  });
  t.deepEqual(await created.query("select to_regclass('runs_at')::text as index"), [{ index: 'runs_at' }]);
});

test('each migration is committed by itself, and a later one that fails takes none back', async (t) => {
  const created = await t.context.postgres.createDatabase(TWO_TABLES);
  const migrations = [...TWO_TABLES, step('003-a', 'create table a (id int)'), step('004-b', 'create nothing')];
  await t.throwsAsync(migrateUp({ ...created, migrations }));
  const names = await created.query<{ name: string }>('select name from lethe_migrations order by id');
  t.deepEqual(
    names.map(({ name }) => name),
    ['001-tables', '002-indexes', '003-a'],
  );
  await t.notThrowsAsync(migrateUp({ ...created, migrations: [...migrations.slice(0, 3), step('004-b', 'select')] }));
});
