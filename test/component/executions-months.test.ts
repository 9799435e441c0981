import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import pg from 'pg';
import { migrateUp } from '#libs/postgres/migrate.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { makeExecutionMonths } from '#services/run/adapters/postgres/execution-months.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { queryOnce, startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;
type T = ExecutionContext<{ postgres: TestPostgres }>;

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres?.stop());

/** The first day of the month that began so many months ago in UTC. */
const month = (ago: number): string =>
  Temporal.Now.plainDateISO('UTC').with({ day: 1 }).subtract({ months: ago }).toString();
const leafOf = (day: string): string => `executions_${day.slice(0, 7).replace('-', '_')}`;

async function withDatabase(t: T, work: (created: TestDatabase, database: Database) => Promise<void>): Promise<void> {
  const created = await t.context.postgres.createDatabase(runMigrations);
  const database = created.open();
  try {
    await work(created, database);
  } finally {
    await database.close();
  }
}

async function withClient<R>(url: string, work: (client: pg.Client) => Promise<R>): Promise<R> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** Fills a month with rows of two tenants and removes all but every `keepEach`-th. */
async function fillAndPurge(created: TestDatabase, day: string, rows: number, keepEach: number): Promise<void> {
  await created.query(
    `insert into executions (tenant_id, id, workflow, status, started_at, created_at)
     select 't' || n / 100 % 2, md5($3 || n)::uuid, 'sync', 'success', case when n % 3 > 0 then at end, at
     from generate_series(1, $2::int) n, lateral (select $1::timestamptz + n * interval '1 second' as at) a`,
    [`${day}T00:00:00Z`, rows, day],
  );
  await created.query(
    `delete from executions where created_at >= $1::timestamptz and created_at < $1::timestamptz + interval '1 month'
       and extract(epoch from created_at - $1::timestamptz)::int % $2 <> 0`,
    [`${day}T00:00:00Z`, keepEach],
  );
  // An autovacuum that comes upon it holds a lock that a rewrite does not wait for.
  await created.query(`alter table ${leafOf(day)} set (autovacuum_enabled = false)`);
  await created.query('select pg_stat_force_next_flush()');
}

const contentOf = (created: TestDatabase) =>
  created.query('select e.*, e.tableoid::regclass::text as leaf from executions e order by tenant_id, created_at, id');
const sizeOf = async (created: TestDatabase, leaf: string): Promise<number> => {
  const [row] = await created.query<{ size: string }>('select pg_total_relation_size($1::regclass) as size', [leaf]);
  return Number(row?.size);
};
/** The strongest locks that one transaction as the app role holds, by relation, after these statements. */
const locksOf = (created: TestDatabase, ...statements: readonly string[]): Promise<Record<string, string[]>> =>
  withClient(created.appUrl, async (client) => {
    await client.query('begin');
    for (const statement of statements) await client.query(statement);
    const { rows } = await client.query(
      `select relation::regclass::text as name, array_agg(distinct mode) as modes from pg_locks
       where pid = pg_backend_pid() and relation::regclass::text ~ '^executions' group by 1`,
    );
    await client.query('rollback');
    return Object.fromEntries(rows.map(({ name, modes }) => [name, modes]));
  });

test('a purged month gives its disk back, and what was kept is the same, row for row', (t) =>
  withDatabase(t, async (created, database) => {
    const months = makeExecutionMonths(database);
    await fillAndPurge(created, month(8), 60_000, 20);
    await fillAndPurge(created, month(6), 30_000, 2);
    const before = await contentOf(created);
    const held = await sizeOf(created, leafOf(month(8)));
    const rewritten = await months.rewriteOne();
    t.like(rewritten, { month: month(8), keptRows: 3_000, bytesBefore: held });
    t.is(await sizeOf(created, leafOf(month(8))), Number(rewritten?.bytesAfter));
    t.true(Number(rewritten?.bytesAfter) * 10 < held, `${held} became ${rewritten?.bytesAfter}`);
    t.is(await months.rewriteOne(), undefined, 'neither again, nor a month with more than 10,000 rows');
    t.deepEqual(await contentOf(created), before);
    const seen = await database.readForTenant<{ count: number }>('t1', {
      text: 'select count(*) from executions where created_at < $1',
      values: [month(7)],
    });
    t.is(seen[0]?.count, 1_500);
    await t.throwsAsync(queryOnce(created.appUrl, `select * from ${leafOf(month(8))}`), {
      message: /permission denied/,
    });
  }));

test('neither a new month nor a rewrite locks the table against anything but other changes of months', (t) =>
  withDatabase(t, async (created) => {
    await fillAndPurge(created, month(8), 40_000, 100);
    const made = await locksOf(created, `select make_execution_month('${month(-10)}')`);
    t.deepEqual(made['executions']?.toSorted(), ['AccessShareLock', 'ShareUpdateExclusiveLock']);
    const rewritten = await locksOf(created, 'select * from rewrite_execution_month()');
    t.true(rewritten[leafOf(month(8))]?.includes('AccessExclusiveLock'));
    for (const [relation, modes] of Object.entries(rewritten)) {
      if (!relation.startsWith(leafOf(month(8)))) t.deepEqual(modes, ['AccessShareLock'], relation);
    }
  }));

test('a month that is in use is left for later after 200 ms, and another one is rewritten', (t) =>
  withDatabase(t, async (created, database) => {
    const months = makeExecutionMonths(database);
    await fillAndPurge(created, month(8), 40_000, 100);
    await fillAndPurge(created, month(7), 40_000, 100);
    await withClient(created.superuserUrl, async (client) => {
      await client.query(`begin; select count(*) from executions where created_at < '${month(7)}T00:00:00Z'`);
      const startedAt = performance.now();
      t.is((await months.rewriteOne())?.month, month(7));
      t.true(performance.now() - startedAt < 5_000);
      t.is(await months.rewriteOne(), undefined);
      await client.query('commit');
    });
    t.is((await months.rewriteOne())?.month, month(8));
  }));

test('four that rewrite at once never work on one month, and readers and writers see every row all the while', (t) =>
  withDatabase(t, async (created, database) => {
    const months = makeExecutionMonths(database);
    const purged = [9, 8, 7].map(month);
    for (const day of purged) await fillAndPurge(created, day, 30_000, 100);
    let isOver = false;
    let looks = 0;
    const looking = (async () => {
      for (; !isOver; looks += 1) {
        const [row] = await database.readForTenant<{ count: number }>('t0', {
          text: 'select count(*) from executions where created_at < $1',
          values: [month(6)],
        });
        if (row?.count !== 450) throw new Error(`a reader saw ${row?.count} rows`);
        await database.forTenant('t0', (trx) =>
          trx.raw("insert into executions (tenant_id, created_at) values ('t0', ?)", [`${month(4)}T00:00:00Z`]),
        );
      }
    })();
    // A month that a reader uses is left for later, so each goes on until all are done, and once more.
    const done: string[] = [];
    const deadline = Date.now() + 60_000;
    const rewriting = Array.from({ length: 4 }, async () => {
      for (let isLast = false; !isLast && Date.now() < deadline; ) {
        isLast = done.length >= purged.length;
        const rewritten = await months.rewriteOne();
        if (rewritten) done.push(rewritten.month);
      }
    });
    await Promise.all(rewriting);
    isOver = true;
    await looking;
    t.deepEqual(done.toSorted(), purged);
    t.true(looks > 0);
  }));

test('months are made ahead once, and only within a range that a service can need', (t) =>
  withDatabase(t, async (created, database) => {
    const leaves = () =>
      created.query(
        "select inhrelid::regclass::text as leaf from pg_inherits where inhparent = 'executions'::regclass order by 1",
      );
    const before = await leaves();
    t.deepEqual(await created.query('select make_execution_month($1) as made', [month(-2)]), [{ made: false }]);
    await Promise.all(Array.from({ length: 4 }, () => makeExecutionMonths(database).makeAhead()));
    t.deepEqual(await leaves(), before);
    await created.query(`drop table ${leafOf(month(-2))}`);
    await created.query('delete from execution_months where month = $1', [month(-2)]);
    await Promise.all(Array.from({ length: 4 }, () => makeExecutionMonths(database).makeAhead()));
    t.deepEqual(await leaves(), before);
    for (const day of [month(121), month(-13), '0001-01-01', 'infinity']) {
      await t.throwsAsync(
        database.acrossTenants({ text: 'select make_execution_month($1)', values: [day] }),
        { message: /between ten years ago and one year ahead|out of range/ },
        day,
      );
    }
  }));

test('migrate drops the months that have long been empty, and no other', (t) =>
  withDatabase(t, async (created, database) => {
    const insert = (day: string) =>
      created.query("insert into executions (tenant_id, created_at) values ('t', $1)", [`${day}T00:00:00Z`]);
    await insert(month(7));
    await makeExecutionMonths(database).noteEmpty();
    const noted = await created.query<{ month: string }>(
      "select to_char(month, 'YYYY-MM') as month from execution_months where empty_since is not null order by 1",
    );
    t.is(noted.length, 11, 'all that are over but the one with a row');
    const old = [month(9), month(8), month(1)];
    await created.query(
      "update execution_months set empty_since = now() - interval '31 days' where month = any($1::date[])",
      [old],
    );
    await insert(month(8));
    await migrateUp({ ownerUrl: created.ownerUrl, appRole: created.appRole, migrations: runMigrations });
    const left = await created.query<{ leaf: string | null }>(
      'select to_regclass(leaf)::text as leaf from unnest($1::text[]) leaf',
      [old.map(leafOf)],
    );
    t.deepEqual(
      left.map(({ leaf }) => leaf),
      [null, leafOf(month(8)), leafOf(month(1))],
    );
    await makeExecutionMonths(database).noteEmpty();
    const [used] = await created.query<{ empty: boolean }>(
      'select empty_since is not null as empty from execution_months where month = $1',
      [month(8)],
    );
    t.false(used?.empty);
  }));
