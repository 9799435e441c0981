import anyTest, { type TestFn } from 'ava';
import knexOf from 'knex';
import { migrateDown, migrateUp } from '#libs/postgres/migrate.ts';
import { retentionMigrations } from '#services/retention/adapters/postgres/migrations/index.ts';
import { queryOnce, startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

const BEFORE_PLANS = retentionMigrations.findIndex(({ name }) => name === '005-plans-as-data');
const addEntry = (database: TestDatabase, tenant: string, version: number, plan: string | null, effective: string) =>
  database.query(
    `insert into tenant_plans (tenant_id, version, plan, effective_at, actor)
     values ($1, $2, $3, now() + $4::interval, 'ada')`,
    [tenant, version, plan, effective],
  );

test('what is recorded of plans cannot be changed or removed by the service', async (t) => {
  const database = await t.context.postgres.createDatabase(retentionMigrations);
  for (const sql of [
    "update plan_windows set days = 1 where kind = 'DAYS'",
    'delete from plan_windows',
    'truncate plan_windows',
    'delete from plans',
  ]) {
    await t.throwsAsync(queryOnce(database.appUrl, sql), { message: /permission denied/ }, sql);
  }
  t.is((await queryOnce(database.appUrl, 'select from plan_windows')).length, 12);
});

test('a window says either days or why there are none', async (t) => {
  const database = await t.context.postgres.createDatabase(retentionMigrations);
  const add = (kind: string, days: number | null) =>
    database.query(
      `insert into plan_windows (plan, subject, version, kind, days, plan_version, actor)
       values ('PRO', 'drift_checks', 2, $1, $2, 2, 'ada')`,
      [kind, days],
    );
  for (const [kind, days] of [
    ['DAYS', null],
    ['DAYS', 0],
    ['DAYS', 36_501],
    ['KEEP_ALL', 3],
    ['NOT_APPLICABLE', 0],
    ['FOREVER', null],
  ] as const) {
    await t.throwsAsync(add(kind, days), { message: /violates check constraint/ }, `${kind} ${days}`);
  }
});

test('plans of tenants come through, and go down and up again whatever was set meanwhile', async (t) => {
  const database = await t.context.postgres.createDatabase(retentionMigrations.slice(0, BEFORE_PLANS));
  const options = { ownerUrl: database.ownerUrl, appRole: database.appRole, migrations: retentionMigrations };
  await addEntry(database, 'before', 1, 'PRO', '-30 days');
  await migrateUp(options);
  t.deepEqual(await database.query('select tenant_id, plan from tenant_plans'), [{ tenant_id: 'before', plan: 'PRO' }]);
  await addFifthPlan(database);
  await addEntry(database, 'fifth', 1, 'STARTER', '-1 hour');
  await addEntry(database, 'none', 1, null, '-1 day');
  await migrateDown(options);
  await migrateUp(options);
  t.is((await database.query('select from plan_windows')).length, 12);
});

test('what the schema before plans as data cannot tell becomes no narrower window there', async (t) => {
  const database = await t.context.postgres.createDatabase(retentionMigrations);
  await addEntry(database, 'before', 1, 'PRO', '-30 days');
  // A tenant without a plan keeps everything, there as well.
  await addEntry(database, 'none', 1, 'PRO', '-30 days');
  await addEntry(database, 'none', 2, null, '-1 day');
  await addFifthPlan(database);
  await addEntry(database, 'fifth', 1, 'FREE', '-1 day');
  await addEntry(database, 'fifth', 2, 'STARTER', '-1 hour');
  // FREE was replaced before it took effect, and must not take effect there.
  await addEntry(database, 'cancelled', 1, 'PRO', '-30 days');
  await addEntry(database, 'cancelled', 2, 'FREE', '30 days');
  await addEntry(database, 'cancelled', 3, 'ENTERPRISE', '1 hour');
  t.deepEqual((await goDown(database)).toSorted(), ['before PRO', 'cancelled ENTERPRISE', 'cancelled PRO']);
});

const addFifthPlan = (database: TestDatabase) =>
  database.query(
    `with p as (insert into plans (name, version) values ('STARTER', 1) returning name)
     insert into plan_windows (plan, subject, version, kind, days, plan_version, actor)
       select name, 'drift_checks', 1, 'DAYS', 3, 1, 'ada' from p`,
  );

/** Runs the newest migrations' downs by hand as far as 005, and answers what tenants have then. */
async function goDown(database: TestDatabase): Promise<readonly string[]> {
  const knex = knexOf({ client: 'pg', connection: database.ownerUrl, pool: { min: 0, max: 1 } });
  try {
    for (const migration of retentionMigrations.slice(BEFORE_PLANS).toReversed()) {
      await migration.down(knex, database.appRole);
    }
  } finally {
    await knex.destroy();
  }
  const rows = await database.query<{ tenant_id: string; plan: string }>('select tenant_id, plan from tenant_plans');
  return rows.map(({ tenant_id, plan }) => `${tenant_id} ${plan}`);
}
