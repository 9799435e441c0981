import anyTest, { type TestFn } from 'ava';
import knexOf, { type Knex } from 'knex';
import type { TableLocks } from '#libs/postgres/lock-tables.ts';
import { migrateDown, migrateUp } from '#libs/postgres/migrate.ts';
import { incidentMigrations } from '#services/incident/adapters/postgres/migrations/index.ts';
import { jobMigrations } from '#services/job/adapters/postgres/migrations/index.ts';
import { retentionMigrations } from '#services/retention/adapters/postgres/migrations/index.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { queryOnce, startTestPostgres, type TestPostgres } from '#test/support/postgres.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

const ALL = { run: runMigrations, job: jobMigrations, incident: incidentMigrations, retention: retentionMigrations };

// What has a tenant's rows, from the catalogue and not from a list of ours.
const TENANT_TABLES = `select c.relname as table, c.relrowsecurity as secured, c.relispartition as "isPartition" from pg_class c
  where c.relkind in ('r', 'p') and c.relnamespace = 'public'::regnamespace
    and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id') order by 1`;

test('run: text that earlier versions left of compensated runs goes with the migration, that of all others stays', async (t) => {
  const before = runMigrations.slice(
    0,
    runMigrations.findIndex(({ name }) => name.endsWith('compensation-receipts')),
  );
  const created = await t.context.postgres.createDatabase(before);
  await created.query(`
    insert into workflow_runs (tenant_id, id, workflow, display_name, state, ending, driver, parked_reason, input)
    select 'acme', gen_random_uuid(), 'w', state || ending, state, ending, driver, parked, '{"client": "Acme"}'
    from (values ('RUNNING', 'COMPENSATED', 'ENGINE', null), ('COMPLETED', 'COMPENSATED', 'ENGINE', null),
                 ('COMPENSATED', 'COMPENSATED', 'ENGINE', null), ('CANCELLED', 'CANCELLED', 'ENGINE', null),
                 ('CANCELLED', 'COMPENSATED', 'CALLER', null), ('FAILED', 'COMPENSATED', 'ENGINE', 'X: no.'),
                 ('FAILED', 'COMPENSATED', 'CALLER', null)) as v(state, ending, driver, parked);
    insert into workflow_run_steps (tenant_id, run_id, name, position, state, output)
    select tenant_id, id, 'draft', 1, case state when 'COMPLETED' then 'COMPLETED' else 'COMPENSATED' end, '{"a": 1}'
    from workflow_runs where state in ('COMPLETED', 'COMPENSATED')`);
  await migrateUp({ ownerUrl: created.ownerUrl, appRole: created.appRole, migrations: runMigrations });
  const kept = await created.query<{ state: string }>(
    "select state || ' ' || driver as state from workflow_runs where input is not null order by 1",
  );
  t.deepEqual(
    kept.map(({ state }) => state),
    ['CANCELLED CALLER', 'COMPLETED ENGINE', 'FAILED CALLER', 'RUNNING ENGINE'],
  );
  const outputs = await created.query('select state from workflow_run_steps where output is not null');
  t.deepEqual(outputs, [{ state: 'COMPLETED' }]);
});

// What the transaction has locked against calls of the services, of tables that were there before it.
const LOCKED = `
  select coalesce(pg_partition_root(c.oid)::regclass, c.oid::regclass)::text as "table",
         bool_or(l.mode not in ('ShareLock', 'ShareRowExclusiveLock')) as all
  from pg_locks l join pg_class c on c.oid = l.relation
  where l.pid = pg_backend_pid() and l.database = (select oid from pg_database where datname = current_database())
    and l.mode not in ('AccessShareLock', 'RowShareLock', 'ShareUpdateExclusiveLock') and c.oid::text = any(?)
  group by 1 order by 1`;

async function locksOf(knex: Knex, work: (trx: Knex) => Promise<void>): Promise<TableLocks> {
  return knex.transaction(async (trx) => {
    const { rows: before } = await trx.raw(
      `select array_agg(oid::text) as oids from pg_class
       where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm')`,
    );
    await work(trx);
    const { rows } = await trx.raw(LOCKED, [before[0].oids ?? []]);
    return Object.fromEntries(
      (rows as { table: string; all: boolean }[]).map(({ table, all }) => [table, all ? 'all' : 'writes']),
    );
  });
}

for (const [service, migrations] of Object.entries(ALL)) {
  test(`${service}: each migration names the tables that it locks, so that it waits for none while it holds another`, async (t) => {
    const created = await t.context.postgres.createDatabase([]);
    const knex = knexOf({ client: 'pg', connection: created.ownerUrl, pool: { min: 0, max: 1 } });
    t.teardown(() => knex.destroy());
    await migrateUp({ ...created, migrations: [] });
    const locked = new Map<string, TableLocks>();
    for (const { name, up } of migrations) {
      locked.set(name, await locksOf(knex, (trx) => up(trx, created.appRole)));
    }
    for (const { name, down } of migrations.toReversed()) {
      // What the way back alone locks is locked on both ways.
      const back = Object.keys(await locksOf(knex, (trx) => down(trx, created.appRole)));
      locked.set(name, { ...Object.fromEntries(back.map((table) => [table, 'all'] as const)), ...locked.get(name) });
    }
    t.deepEqual(
      migrations.map(({ name, locks = {} }) => [name, locks]),
      [...locked],
    );
  });

  test(`${service}: the schema goes up, down to nothing, and up to the same`, async (t) => {
    const created = await t.context.postgres.createDatabase([]);
    const options = { ownerUrl: created.ownerUrl, appRole: created.appRole, migrations };
    await migrateUp(options);
    const schema = () =>
      created.query(`select table_name, column_name, data_type, is_nullable, column_default from information_schema.columns
                     where table_schema = 'public' and table_name not like 'lethe_migrations%' and table_name <> 'lethe_installation' order by 1, 2`);
    const objects = () =>
      created.query<{ name: string }>(`select relname as name from pg_class
        where relnamespace = 'public'::regnamespace and relname not like 'lethe_migrations%'
          and relname not like 'lethe_installation%'
        union all select proname from pg_proc where pronamespace = 'public'::regnamespace`);
    const first = await schema();
    t.true(first.length > 10);
    await migrateDown(options);
    t.deepEqual(await objects(), []);
    await migrateUp(options);
    t.deepEqual(await schema(), first);
  });

  test(`${service}: four migrations that start at once do not collide`, async (t) => {
    const created = await t.context.postgres.createDatabase([]);
    const options = { ownerUrl: created.ownerUrl, appRole: created.appRole, migrations };
    await t.notThrowsAsync(Promise.all(Array.from({ length: 4 }, () => migrateUp(options))));
  });

  test(`${service}: every table of a tenant is under row-level security, and the app role has no DDL`, async (t) => {
    const created = await t.context.postgres.createDatabase(migrations);
    const tables = await created.query<{ table: string; secured: boolean; isPartition: boolean }>(TENANT_TABLES);
    t.true(tables.length >= 2);
    for (const { table, secured, isPartition } of tables) {
      t.true(secured, table);
      // A partition is reached through its parent alone.
      await t.throwsAsync(
        queryOnce(created.appUrl, `select * from ${table}`),
        { message: isPartition ? /permission denied/ : /no tenant was named/ },
        table,
      );
      await t.throwsAsync(queryOnce(created.appUrl, `drop table ${table}`), { message: /must be owner/ }, table);
      await t.throwsAsync(queryOnce(created.appUrl, `truncate ${table}`), { message: /permission denied/ }, table);
    }
    await t.throwsAsync(queryOnce(created.appUrl, 'create table mine (a int)'), { message: /permission denied/ });
  });

  test(`${service}: the columns of every foreign key lead an index`, async (t) => {
    const created = await t.context.postgres.createDatabase(migrations);
    const bare = await created.query(
      `select conrelid::regclass as table, conname from pg_constraint k
       where contype = 'f' and not exists (
         select from pg_index i where i.indrelid = k.conrelid
           and (i.indkey::int2[])[0:array_length(k.conkey, 1) - 1] @> k.conkey
           and k.conkey @> (i.indkey::int2[])[0:array_length(k.conkey, 1) - 1])`,
    );
    t.deepEqual(bare, []);
  });
}
