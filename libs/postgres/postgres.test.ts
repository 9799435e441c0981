import { fork } from 'node:child_process';
import anyTest, { type TestFn } from 'ava';
import type { Knex } from 'knex';
import pg from 'pg';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { holdLock, queryOnce, startTestPostgres, type TestPostgres } from '#test/support/postgres.ts';
import {
  assertBoundByRowSecurity,
  compareSchema,
  type Migration,
  migrateDown,
  migrateOneDown,
  migrateUp,
  readInstallation,
} from './migrate.ts';
import { parseInt8 } from './open-database.ts';
import { provisionDatabase } from './provision.ts';
import { createTenantFunction, dropTenantFunction, secureTable } from './tenant-security.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;

const notes: Migration = {
  name: '001-notes',
  async up(knex: Knex, appRole: string) {
    await createTenantFunction(knex);
    await knex.raw('create table notes (tenant_id text, id int, at timestamptz, primary key (tenant_id, id))');
    await secureTable(knex, 'notes', appRole);
  },
  async down(knex: Knex) {
    await knex.raw('drop table notes');
    await dropTenantFunction(knex);
  },
};

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

test('a tenant sees and writes its own rows alone, also by hand-written SQL', async (t) => {
  const created = await t.context.postgres.createDatabase([notes]);
  const database = created.open();
  t.teardown(() => database.close());
  await database.forTenant('acme', (trx) => trx.raw("insert into notes values ('acme', 1, now())"));
  await database.forTenant('globex', (trx) => trx.raw("insert into notes values ('globex', 1, now())"));

  const seen = await database.readForTenant('acme', { text: 'select tenant_id from notes', values: [] });
  t.deepEqual(seen, [{ tenant_id: 'acme' }]);
  const update = await database.forTenant('acme', (trx) =>
    trx.raw("update notes set at = null where tenant_id = 'globex'"),
  );
  t.is(update.rowCount, 0);
  await t.throwsAsync(database.forTenant('acme', (trx) => trx.raw("insert into notes values ('globex', 2, now())")));
  await t.throwsAsync(queryOnce(created.appUrl, 'select * from notes'), { message: /no tenant was named/ });
  await t.throwsAsync(database.acrossTenants({ text: 'select * from notes', values: [] }), { message: /no tenant/ });
  t.is((await created.query<{ count: string }>('select count(*) from notes'))[0]?.count, '2');
});

test('a transaction of the installation sees no tenant’s table, commits whole and rolls back whole', async (t) => {
  const created = await t.context.postgres.createDatabase([notes]);
  await created.query('create table plans (name text primary key)');
  await created.query(`grant select, insert on plans to ${created.appRole}`);
  const database = created.open();
  t.teardown(() => database.close());
  await database.forTenant('acme', (trx) => trx.raw("insert into notes values ('acme', 1, now())"));
  await database.forInstallation(async (trx) => {
    await trx.raw("insert into plans values ('FREE')");
    await trx.raw("insert into plans values ('PRO')");
  });
  await t.throwsAsync(
    database.forInstallation(async (trx) => {
      await trx.raw("insert into plans values ('AGENCY')");
      await trx.raw('select * from notes');
    }),
    { message: /no tenant was named/ },
  );
  t.deepEqual(await created.query('select name from plans order by name'), [{ name: 'FREE' }, { name: 'PRO' }]);
});

test('the tenant is forgotten with its transaction', async (t) => {
  const created = await t.context.postgres.createDatabase([notes]);
  const client = new pg.Client({ connectionString: created.appUrl });
  await client.connect();
  t.teardown(() => client.end());
  await client.query("begin; select set_config('lethe.tenant', 'acme', true); select * from notes; commit");
  await t.throwsAsync(client.query('select * from notes'), { message: /no tenant was named/ });
});

test('a failed reading statement leaves a clean connection behind', async (t) => {
  const database = (await t.context.postgres.createDatabase([notes])).open();
  t.teardown(() => database.close());
  await Promise.all(
    Array.from({ length: 20 }, async (_, index) => {
      if (index % 2) await t.throwsAsync(database.readForTenant('acme', { text: 'select 1/0', values: [] }));
      else
        t.deepEqual(await database.readForTenant('acme', { text: 'select $1::int as n', values: [index] }), [
          { n: index },
        ]);
    }),
  );
  await t.throwsAsync(database.readForTenant('acme', { text: "insert into notes values ('acme', 1)", values: [] }));
});

test('reads that share a round trip share nothing else: neither a tenant nor an error', async (t) => {
  const created = await t.context.postgres.createDatabase([notes]);
  const database = created.open({ poolSize: 2 });
  t.teardown(() => database.close());
  const tenants = Array.from({ length: 50 }, (_, index) => `tenant-${index}`);
  for (const tenant of tenants) {
    await database.forTenant(tenant, (trx) => trx.raw('insert into notes values (?, 1, now())', [tenant]));
  }
  const text = 'select tenant_id, 1 / (1 - $1::int) as one from notes where pg_sleep(0) is not null';
  const outcomes = await Promise.allSettled(
    tenants.map((tenant, index) =>
      database.readForTenant(tenant, { name: 'shared', text, values: [index % 7 === 3 ? 1 : 0] }),
    ),
  );
  for (const [index, outcome] of outcomes.entries()) {
    if (index % 7 === 3) t.is(outcome.status, 'rejected');
    else t.deepEqual(outcome, { status: 'fulfilled', value: [{ tenant_id: tenants[index], one: 1 }] });
  }
  const writes = database.readForTenant('acme', {
    name: 'writes',
    text: "insert into notes values ('acme', 2)",
    values: [],
  });
  const reads = database.readForTenant('tenant-0', { name: 'shared', text, values: [0] });
  await t.throwsAsync(writes, { message: /read-only/ });
  t.is((await reads).length, 1);
  t.is((await created.query<{ count: string }>('select count(*) from notes'))[0]?.count, '50');
});

test('reads of one statement that cannot be prepared all fail for the reason of the first', async (t) => {
  const created = await t.context.postgres.createDatabase([notes]);
  const database = created.open({ poolSize: 1, lockTimeoutMs: 200 });
  t.teardown(() => database.close());
  const reasonsOf = async (name: string) => {
    const read = () => database.readForTenant('acme', { name, text: 'select id from notes', values: [] });
    const outcomes = await Promise.allSettled([read(), read(), read()]);
    return outcomes.map((outcome) => (outcome.status === 'rejected' ? outcome.reason.reason : 'answered'));
  };
  const holder = new pg.Client({ connectionString: created.superuserUrl });
  await holder.connect();
  t.teardown(() => holder.end());
  await holder.query('begin; lock table notes in access exclusive mode');
  t.deepEqual(
    await reasonsOf('locked'),
    Array.from({ length: 3 }, () => 'CONCURRENT_UPDATE'),
  );
  await holder.query('commit; alter table notes rename to away');
  t.deepEqual(
    await reasonsOf('away'),
    Array.from({ length: 3 }, () => 'DEPENDENCY_UNAVAILABLE'),
  );
  await holder.query('alter table away rename to notes');
  for (const name of ['locked', 'away']) {
    t.deepEqual(
      await reasonsOf(name),
      Array.from({ length: 3 }, () => 'answered'),
    );
  }
});

test('a statement without a name may be slow: nothing waits behind it', async (t) => {
  const created = await t.context.postgres.createDatabase([notes]);
  const database = created.open({ poolSize: 2 });
  t.teardown(() => database.close());
  const release = await holdLock(created.superuserUrl);
  t.teardown(release);
  const order: string[] = [];
  const slow = database
    .readForTenant('acme', { text: 'select pg_advisory_xact_lock(1)', values: [] })
    .then(() => order.push('slow'));
  await database.readForTenant('acme', { name: 'quick', text: 'select 1', values: [] });
  order.push('quick');
  await release();
  await slow;
  t.deepEqual(order, ['quick', 'slow']);
});

test('reads whose connection is lost are all UNAVAILABLE, and the next one gets a new connection', async (t) => {
  const created = await t.context.postgres.createDatabase([notes]);
  const database = created.open({ poolSize: 1 });
  t.teardown(() => database.close());
  const text = 'select pg_terminate_backend(pg_backend_pid()), $1::int';
  const outcomes = await Promise.allSettled(
    [1, 2, 3].map((value) => database.readForTenant('acme', { name: 'last', text, values: [value] })),
  );
  for (const outcome of outcomes) {
    t.like(outcome, { status: 'rejected', reason: { reason: 'DEPENDENCY_UNAVAILABLE' } });
  }
  t.deepEqual(await database.readForTenant('acme', { name: 'one', text: 'select 1 as one', values: [] }), [{ one: 1 }]);
});

test('a tenant that is no slug is refused, and costs no connection', async (t) => {
  const database = (await t.context.postgres.createDatabase([notes])).open({ poolSize: 1 });
  t.teardown(() => database.close());
  const bad = "x'; drop table notes; --";
  await t.throwsAsync(database.readForTenant(bad, { text: 'select 1', values: [] }), { message: 'not a tenant id' });
  await t.throwsAsync(
    database.forTenant(bad, async () => t.fail()),
    { message: 'not a tenant id' },
  );
  // The pool has one connection: it must still answer.
  t.deepEqual(await database.readForTenant('acme', { text: 'select 1 as one', values: [] }), [{ one: 1 }]);
  await database.check();
});

test('the app role can neither create nor drop anything, nor leave its role', async (t) => {
  const { appUrl } = await t.context.postgres.createDatabase([notes]);
  for (const sql of [
    'create table x (a int)',
    'drop table notes',
    'truncate notes',
    'create schema s',
    'set role postgres',
    'alter table notes disable row level security',
  ]) {
    await t.throwsAsync(queryOnce(appUrl, sql), undefined, sql);
  }
});

test('an instant keeps its microseconds on the way in and out', async (t) => {
  const database = (await t.context.postgres.createDatabase([notes])).open();
  t.teardown(() => database.close());
  const at = Temporal.Instant.from('2026-02-28T23:59:59.123457Z');
  await database.forTenant('acme', (trx) => trx.raw('insert into notes values (?, 1, ?)', ['acme', at.toString()]));
  const [row] = await database.readForTenant<{ at: Temporal.Instant }>('acme', {
    text: 'select at from notes',
    values: [],
  });
  t.is(row?.at.epochNanoseconds, at.epochNanoseconds);
  t.throws(() => parseInt8('9007199254740993'), { instanceOf: RangeError });
});

test('a schema goes up, down and up, and it is told what it lacks and what it has beyond', async (t) => {
  const created = await t.context.postgres.createDatabase([]);
  const options = { ownerUrl: created.ownerUrl, appRole: created.appRole, migrations: [notes] };
  await migrateUp(options);
  const tables = () => created.query<{ count: string }>("select count(*) from pg_tables where tablename = 'notes'");
  t.is((await tables())[0]?.count, '1');
  await migrateDown(options);
  t.is((await tables())[0]?.count, '0');
  await migrateUp(options);
  t.is((await tables())[0]?.count, '1');
  const database = created.open();
  t.teardown(() => database.close());
  const more = { ...notes, name: '002-more' };
  t.deepEqual(await compareSchema(database.acrossTenants, [notes]), { missing: [], unknown: [] });
  t.deepEqual(await compareSchema(database.acrossTenants, [notes, more]), { missing: ['002-more'], unknown: [] });
  t.deepEqual(await compareSchema(database.acrossTenants, [more]), { missing: ['002-more'], unknown: [notes.name] });
});

test('a step back takes one migration, and none that holds data unless that is said', async (t) => {
  const named = (name: string, up: string, down: string): Migration => ({
    name,
    up: async (knex) => void (await knex.raw(up)),
    down: async (knex) => void (await knex.raw(down)),
  });
  const migrations = [
    named('001-a', 'create table a (id int)', 'drop table a'),
    named('002-b', 'alter table a add column b text', 'alter table a drop column b'),
    named('003-c', 'create table "c?d" (id int)', 'drop table "c?d"'),
  ];
  const created = await t.context.postgres.createDatabase(migrations);
  const { id } = await readInstallation(created);
  const options = { ...created, migrations, installationId: id, deletesData: false };
  t.is(await migrateOneDown(options), '003-c');
  t.deepEqual((await readInstallation(created)).migrations, ['001-a', '002-b']);
  await created.query("insert into a values (1, 'kept')");
  await t.throwsAsync(migrateOneDown(options), { message: /002-b back would delete data in a\.b/ });
  t.deepEqual(await created.query('select * from a'), [{ id: 1, b: 'kept' }]);
  t.is(await migrateOneDown({ ...options, deletesData: true }), '002-b');
  await t.throwsAsync(migrateOneDown(options), { message: /001-a back would delete data in a;/ });
  t.is(await migrateOneDown({ ...options, deletesData: true }), '001-a');
  t.is(await migrateOneDown(options), undefined);
  t.is((await readInstallation(created)).id, id);
});

test('a step back whose record cannot be taken back is not done either, and can be done again', async (t) => {
  const created = await t.context.postgres.createDatabase([notes]);
  const { id } = await readInstallation(created);
  const options = { ...created, migrations: [notes], installationId: id, deletesData: true };
  const superuser = (sql: string) => queryOnce(created.superuserUrl, sql);
  await superuser(`
    create function refuse() returns trigger language plpgsql as $$ begin raise 'it stays'; end $$;
    create trigger refuse before delete on lethe_migrations for each row execute function refuse()`);
  for (const undo of [() => migrateOneDown(options), () => migrateDown(options)]) {
    await t.throwsAsync(undo, { message: /it stays/ });
    t.deepEqual(await created.query('select * from notes'), []);
    t.deepEqual((await readInstallation(created)).migrations, [notes.name]);
  }
  await superuser('drop trigger refuse on lethe_migrations');
  t.is(await migrateOneDown(options), notes.name);
});

test('a step back whose process is killed leaves what was there, and a schema that can be migrated', async (t) => {
  const created = await t.context.postgres.createDatabase([notes]);
  const child = fork(new URL('./migrate-down.fixture.ts', import.meta.url), [created.ownerUrl, created.appRole]);
  t.is(await new Promise((resolve) => child.once('message', resolve).once('exit', resolve)), 'dropped');
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await ended;
  await migrateUp({ ...created, migrations: [notes] });
  t.deepEqual(await created.query('select * from notes'), []);
});

test('a step back of another installation, or of a database that is none, changes nothing', async (t) => {
  const created = await t.context.postgres.createDatabase([notes]);
  const installationId = '00000000-0000-4000-8000-000000000000';
  const options = { ...created, migrations: [notes], installationId, deletesData: true };
  await t.throwsAsync(migrateOneDown(options), { message: /is installation .*, not the one named/ });
  t.is((await readInstallation(created)).migrations.length, 1);
  const elsewhere = { ...options, ownerUrl: t.context.postgres.url };
  await t.throwsAsync(migrateOneDown(elsewhere), { message: /nothing was ever migrated/ });
});

test('a role that row-level security does not bind is refused by its reason', async (t) => {
  const created = await t.context.postgres.createDatabase([notes]);
  for (const [url, message] of [
    [created.ownerUrl, /owns the tables/],
    [created.superuserUrl, /bypasses row-level security/],
  ] as const) {
    const database = created.open({ url });
    await t.throwsAsync(assertBoundByRowSecurity(database.acrossTenants), { message });
    await database.close();
  }
  const database = created.open();
  t.teardown(() => database.close());
  await t.notThrowsAsync(assertBoundByRowSecurity(database.acrossTenants));
});

test('four processes that migrate at once do not collide', async (t) => {
  const created = await provisionDatabase({
    superuserUrl: t.context.postgres.url,
    database: 'lethe_race',
    ownerPassword: 'owner',
    appPassword: 'app',
  });
  const program = new URL('../../test/support/migrate-race.ts', import.meta.url);
  const codes = await Promise.all(
    Array.from({ length: 4 }, () => {
      const child = fork(program, [created.ownerUrl, created.appRole], { stdio: 'inherit' });
      return new Promise((resolve) => child.once('exit', resolve));
    }),
  );
  t.deepEqual(codes, [0, 0, 0, 0]);
});

test('a database that is not there is UNAVAILABLE, with nothing of the driver in the message', async (t) => {
  const created = await t.context.postgres.createDatabase([notes]);
  const database = created.open();
  t.teardown(() => database.close());
  await database.check();
  await queryOnce(
    t.context.postgres.url,
    `select pg_terminate_backend(pid) from pg_stat_activity where datname = '${created.name}'`,
  );
  await queryOnce(t.context.postgres.url, `alter database ${created.name} allow_connections false`);
  const error = await t.throwsAsync(database.check(), { instanceOf: DomainError });
  t.is(error?.message, 'The database is unavailable; try again later.');
});
