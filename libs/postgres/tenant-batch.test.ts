import { setTimeout as delay } from 'node:timers/promises';
import anyTest, { type TestFn } from 'ava';
import { holdLock, startTestPostgres, type TestPostgres } from '#test/support/postgres.ts';
import type { Migration } from './migrate.ts';
import type { Database } from './open-database.ts';
import { createTenantFunction, dropTenantFunction, secureTable } from './tenant-security.ts';

const notes: Migration = {
  name: '001-notes',
  async up(knex, appRole) {
    await createTenantFunction(knex);
    await knex.raw(
      'create table notes (tenant_id text not null, id int not null, tags text[], primary key (tenant_id, id))',
    );
    await secureTable(knex, 'notes', appRole);
  },
  async down(knex) {
    await knex.raw('drop table notes');
    await dropTenantFunction(knex);
  },
};

const test = anyTest as TestFn<{ postgres: TestPostgres }>;

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

const INSERT = 'insert into notes (tenant_id, id) values ($1, $2) returning id';

type Context = { context: { postgres: TestPostgres }; teardown(f: () => Promise<void>): void };

async function open(t: Context, poolSize = 1): Promise<Database> {
  const database = (await t.context.postgres.createDatabase([notes])).open({ poolSize });
  t.teardown(() => database.close());
  return database;
}

const idsOf = async (database: Database, tenantId: string): Promise<readonly number[]> =>
  (
    await database.readForTenant<{ id: number }>(tenantId, { text: 'select id from notes order by id', values: [] })
  ).map(({ id }) => id);

test('each statement sees what those before it did, and answers with its own rows', async (t) => {
  const database = await open(t);
  const answers = await database.writeForTenant('acme', [
    { text: INSERT, values: ['acme', 1], name: 'insert' },
    { text: INSERT, values: ['acme', 2], name: 'insert' },
    { text: 'select count(*) as count from notes', values: [] },
    { text: 'select id from notes where id > $1', values: [10] },
  ]);
  t.deepEqual(answers, [[{ id: 1 }], [{ id: 2 }], [{ count: 2 }], []]);
});

test('an error in one rolls back all of them, and the connection serves the next, what it had prepared included', async (t) => {
  const database = await open(t);
  for (const times of [1, 2, 3]) {
    await t.throwsAsync(
      database.writeForTenant('acme', [
        { text: INSERT, values: ['acme', times], name: 'insert' },
        { text: 'select 1 / $1::int as x', values: [0], name: 'divide' },
        { text: INSERT, values: ['acme', times + 10], name: 'insert' },
      ]),
      { message: /division by zero/ },
    );
    t.deepEqual(await idsOf(database, 'acme'), []);
  }
  await t.throwsAsync(database.writeForTenant('acme', [{ text: 'select no_such_column', values: [], name: 'bad' }]));
  await database.writeForTenant('acme', [{ text: INSERT, values: ['acme', 7], name: 'insert' }]);
  t.deepEqual(await idsOf(database, 'acme'), [7]);
});

test('the tenant is the one that was named, for this transaction alone', async (t) => {
  const database = await open(t);
  await database.writeForTenant('acme', [{ text: INSERT, values: ['acme', 1] }]);
  await t.throwsAsync(database.writeForTenant('globex', [{ text: INSERT, values: ['acme', 2] }]), {
    message: /row-level security/,
  });
  t.deepEqual(await database.writeForTenant('globex', [{ text: 'select id from notes', values: [] }]), [[]]);
  await t.throwsAsync(database.acrossTenants({ text: 'select * from notes', values: [] }), { message: /no tenant/ });
});

test('a tenant that is no slug and a parameter that is no value are refused before anything is sent', async (t) => {
  const database = await open(t);
  const insert = { text: INSERT, values: ['acme', 1] };
  await t.throwsAsync(database.writeForTenant("a'; drop table notes", [insert]), { message: 'not a tenant id' });
  await t.throwsAsync(database.writeForTenant('acme', [insert, { text: INSERT, values: ['acme', {}] }]), {
    message: /a parameter must be/,
  });
  t.deepEqual(await idsOf(database, 'acme'), []);
});

test('values come back as they were: nulls, arrays with quotes, numbers and truth', async (t) => {
  const database = await open(t);
  const tags = ['a"b', 'c\\d', 'e,f', '{}', ''];
  const [rows] = await database.writeForTenant('acme', [
    {
      text: 'select $1::text[] as tags, $2::bigint as n, $3::boolean as b, $4::text as nothing',
      values: [tags, 12n, true, null],
    },
  ]);
  t.deepEqual(rows, [{ tags, n: 12, b: true, nothing: null }]);
});

test('many at once over few connections: each gets its own answers', async (t) => {
  const database = await open(t, 3);
  await Promise.all(
    Array.from({ length: 100 }, async (_, index) => {
      const name = `plus-${index % 5}`;
      const text = `select $1::int + ${index % 5} as sum`;
      const [rows] = await database.writeForTenant('acme', [{ text, values: [index], name }]);
      t.deepEqual(rows, [{ sum: index + (index % 5) }]);
    }),
  );
});

test('batches that share a round trip share nothing else: neither a tenant nor an error, nor what they had prepared', async (t) => {
  const database = await open(t, 2);
  const tenants = Array.from({ length: 30 }, (_, index) => `tenant-${index}`);
  const isBroken = (index: number): boolean => index % 7 === 3;
  for (const round of [1, 2]) {
    const outcomes = await Promise.allSettled(
      tenants.map((tenant, index) =>
        database.writeForTenant(tenant, [
          { text: INSERT, values: [tenant, round], name: 'insert' },
          { text: 'select 1 / (1 - $1::int) as one', values: [isBroken(index) ? 1 : 0], name: 'divide' },
        ]),
      ),
    );
    for (const [index, outcome] of outcomes.entries()) {
      if (isBroken(index)) t.is(outcome.status, 'rejected');
      else t.deepEqual(outcome, { status: 'fulfilled', value: [[{ id: round }], [{ one: 1 }]] });
    }
  }
  for (const [index, tenant] of tenants.entries()) {
    t.deepEqual(await idsOf(database, tenant), isBroken(index) ? [] : [1, 2]);
  }
});

test('a batch without a name may be slow: nothing waits behind it', async (t) => {
  const created = await t.context.postgres.createDatabase([notes]);
  const database = created.open({ poolSize: 2 });
  t.teardown(() => database.close());
  const release = await holdLock(created.superuserUrl);
  t.teardown(release);
  const order: string[] = [];
  const slow = database
    .writeForTenant('acme', [{ text: 'select pg_advisory_xact_lock(1)', values: [] }])
    .then(() => order.push('slow'));
  await database.writeForTenant('acme', [{ text: INSERT, values: ['acme', 1], name: 'insert' }]);
  order.push('quick');
  await release();
  await slow;
  t.deepEqual(order, ['quick', 'slow']);
});

test('a connection that is lost fails all that shared it, and each is done whole or not at all', async (t) => {
  const database = await open(t);
  const end = { text: 'select pg_terminate_backend(pg_backend_pid())', values: [], name: 'end' };
  const outcomes = await Promise.allSettled(
    [1, 2, 3].map((id) =>
      database.writeForTenant('acme', [
        { text: INSERT, values: ['acme', id], name: 'insert' },
        ...(id === 2 ? [end] : []),
        { text: INSERT, values: ['acme', id + 10], name: 'insert' },
      ]),
    ),
  );
  t.deepEqual(
    outcomes.map(({ status }) => status),
    ['fulfilled', 'rejected', 'rejected'],
  );
  for (const outcome of outcomes.slice(1)) {
    t.like(outcome, { reason: { reason: 'DEPENDENCY_UNAVAILABLE' } });
  }
  t.deepEqual(await idsOf(database, 'acme'), [1, 11]);
});

test('columns that are added and change their type while named statements are sent fail none of them', async (t) => {
  const created = await t.context.postgres.createDatabase([notes]);
  await created.query('alter table notes add column size int not null default 7');
  const database = created.open({ poolSize: 3 });
  t.teardown(() => database.close());
  const READ = { text: 'select id, tags, size from notes where id < $1', values: [10], name: 'read-sizes' };
  const WRITE = 'insert into notes (tenant_id, id) values ($1, $2) returning id, size';
  let ids = 100;
  let isOver = false;
  const read = () => database.readForTenant<object>('acme', READ);
  const write = async () => {
    ids += 1;
    const [rows] = await database.writeForTenant('acme', [
      { text: WRITE, values: ['acme', ids], name: 'write-size' },
      { ...READ, name: 'read-sizes-again' },
    ]);
    return rows as readonly object[];
  };
  const line = async (send: () => Promise<readonly object[]>): Promise<void> => {
    while (!isOver) await send();
  };
  const lines = Promise.all([...Array(6).fill(read), ...Array(3).fill(write)].map(line));
  for (const type of ['bigint', 'numeric', 'text']) {
    await delay(100);
    await created.query(`alter table notes add column as_${type} int, alter column size type ${type}`);
  }
  await delay(100);
  isOver = true;
  await t.notThrowsAsync(lines);
  const [made] = await write();
  t.deepEqual(made, { id: ids, size: '7' }, 'it is told as it is now');
  t.is((await idsOf(database, 'acme')).length, ids - 100, 'each was written once');
  await database.writeForTenant('acme', [{ text: WRITE, values: ['acme', 1], name: 'write-size' }]);
  t.deepEqual(await read(), [{ id: 1, tags: null, size: '7' }]);
});

test('a named statement that asks for all columns is refused before anything is sent', async (t) => {
  const database = await open(t);
  const ALL = { text: 'select * from notes', values: [], name: 'all-columns' };
  await t.throwsAsync(database.readForTenant('acme', ALL), { message: /all-columns asks for all columns/ });
  const writing = database.writeForTenant('acme', [{ text: INSERT, values: ['acme', 1], name: 'insert' }, ALL]);
  await t.throwsAsync(writing, { message: /all-columns asks for all columns/ });
  t.deepEqual(await idsOf(database, 'acme'), []);
});
