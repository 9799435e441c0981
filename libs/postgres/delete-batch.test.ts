import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import type { Knex } from 'knex';
import pg from 'pg';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { type BatchDelete, deleteBatch } from './delete-batch.ts';
import type { Migration } from './migrate.ts';
import type { Database } from './open-database.ts';
import { createTenantFunction, dropTenantFunction, secureTable } from './tenant-security.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;

const lines: Migration = {
  name: '001-lines',
  async up(knex: Knex, appRole: string) {
    await createTenantFunction(knex);
    await knex.raw('create table lines (tenant_id text, id int, age int not null, primary key (tenant_id, id))');
    await knex.raw('create index lines_by_age on lines (tenant_id, age)');
    await secureTable(knex, 'lines', appRole);
  },
  async down(knex: Knex) {
    await knex.raw('drop table lines');
    await dropTenantFunction(knex);
  },
};

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

/** A table with `count` rows of age 1 to `count` for each of two tenants. */
async function fixture(
  t: ExecutionContext<{ postgres: TestPostgres }>,
  count: number,
): Promise<{ created: TestDatabase; database: Database; left: (tenantId: string) => Promise<number[]> }> {
  const created = await t.context.postgres.createDatabase([lines]);
  const database = created.open();
  t.teardown(() => database.close());
  await created.query(
    `insert into lines select t, i, i from unnest(array['acme', 'globex']) t, generate_series(1, $1::int) i`,
    [count],
  );
  await created.query('analyze lines');
  const left = async (tenantId: string) =>
    (await created.query<{ id: number }>('select id from lines where tenant_id = $1 order by id', [tenantId])).map(
      ({ id }) => id,
    );
  return { created, database, left };
}

const upTo = (age: number, limit: number): BatchDelete => ({
  table: 'lines',
  tenantId: 'acme',
  where: 'age <= :age',
  bindings: { age },
  limit,
});

const collect = (database: Database, batch: BatchDelete): Promise<number[]> =>
  Array.fromAsync(deleteBatch(database, batch));

const sum = (counts: readonly number[]): number => counts.reduce((total, count) => total + count, 0);

for (const { limit, batches } of [
  { limit: 1, batches: [1, 1, 1, 1, 1, 1] },
  { limit: 4, batches: [4, 2] },
  { limit: 6, batches: [6] },
  { limit: 7, batches: [6] },
]) {
  test(`six rows in batches of ${limit} go in [${batches}], and no other row does`, async (t) => {
    const { database, left } = await fixture(t, 10);
    t.deepEqual(await collect(database, upTo(6, limit)), batches);
    t.deepEqual(await left('acme'), [7, 8, 9, 10]);
    t.is((await left('globex')).length, 10);
  });
}

test('nothing to delete yields nothing', async (t) => {
  const { database } = await fixture(t, 3);
  t.deepEqual(await collect(database, upTo(0, 2)), []);
});

for (const limit of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
  test(`a limit of ${limit} is refused instead of called done`, async (t) => {
    const { database, left } = await fixture(t, 3);
    await t.throwsAsync(collect(database, upTo(3, limit)), { instanceOf: RangeError });
    t.is((await left('acme')).length, 3);
  });
}

test('a batch whose work fails deletes nothing, and those before it stay deleted', async (t) => {
  const { database, left } = await fixture(t, 6);
  let passes = 0;
  const inBatch = async () => {
    passes += 1;
    if (passes === 2) throw new Error('the claim was lost');
  };
  await t.throwsAsync(collect(database, { ...upTo(6, 2), inBatch }), { message: 'the claim was lost' });
  t.is((await left('acme')).length, 4);
});

test('an aborted signal ends it between two batches', async (t) => {
  const { database, left } = await fixture(t, 6);
  const stopping = new AbortController();
  const inBatch = async () => stopping.abort();
  t.deepEqual(await collect(database, { ...upTo(6, 2), inBatch, signal: stopping.signal }), [2]);
  t.is((await left('acme')).length, 4);
});

test('two at once delete every row once, count it once, and neither ends while a row is left', async (t) => {
  const { database, left } = await fixture(t, 2_000);
  const own = async (): Promise<{ counts: number[]; rest: number }> => {
    const counts = await collect(database, upTo(1_900, 100));
    const [row] = await database.readForTenant<{ rest: number }>('acme', {
      text: 'select count(*) as rest from lines where tenant_id = $1 and age <= 1900',
      values: ['acme'],
    });
    return { counts, rest: row?.rest ?? Number.NaN };
  };
  const [one, other] = await Promise.all([own(), own()]);
  t.is(sum(one.counts) + sum(other.counts), 1_900);
  t.deepEqual([one.rest, other.rest], [0, 0]);
  t.is((await left('acme')).length, 100);
});

/** Runs the delete against a session that holds row locks, lets it wait for them, then commits that session. */
async function whileLocked(
  created: TestDatabase,
  lock: string,
  run: () => Promise<number[]>,
): Promise<readonly number[]> {
  const holder = new pg.Client({ connectionString: created.superuserUrl });
  await holder.connect();
  try {
    await holder.query('begin');
    await holder.query(lock);
    const running = run();
    const deadline = Date.now() + 60_000;
    for (;;) {
      const waiting = await created.query(
        `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
      );
      if (waiting.length > 0) break;
      if (Date.now() > deadline) throw new Error('the delete never waited for the lock');
    }
    await holder.query('commit');
    return await running;
  } finally {
    await holder.end();
  }
}

test('a batch that another took away is not the end: the rows behind it go too', async (t) => {
  const { created, database, left } = await fixture(t, 6);
  const taken = `delete from lines where tenant_id = 'acme' and id <= 3`;
  t.is(sum(await whileLocked(created, taken, () => collect(database, upTo(6, 3)))), 3);
  t.deepEqual(await left('acme'), []);
});

test('a row that stopped matching while the batch waited for it stays', async (t) => {
  const { created, database, left } = await fixture(t, 6);
  const renewed = `update lines set age = 100 where tenant_id = 'acme' and id = 2`;
  t.is(sum(await whileLocked(created, renewed, () => collect(database, upTo(6, 3)))), 5);
  t.deepEqual(await left('acme'), [2]);
});

test('a row that changed and still matches goes in a later batch', async (t) => {
  const { created, database, left } = await fixture(t, 6);
  const touched = `update lines set age = 5 where tenant_id = 'acme' and id = 2`;
  t.is(sum(await whileLocked(created, touched, () => collect(database, upTo(6, 10)))), 6);
  t.deepEqual(await left('acme'), []);
});
