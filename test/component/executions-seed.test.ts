import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import pg from 'pg';
import { migrateDown, migrateUp } from '#libs/postgres/migrate.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { queryOnce, startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { hasProgram, testIfFound } from '#test/support/require.ts';

// The testing checklist of seed 003, for what is in RunService's database, and its statements as they stand there.

interface Context {
  postgres: TestPostgres;
  database: TestDatabase;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
  t.context.database = await t.context.postgres.createDatabase(runMigrations);
});
test.after.always((t) => t.context.postgres?.stop());

const TENANT = '550e8400-e29b-41d4-a716-446655440000';

/** As the owner of the tables, as an operator in psql is. */
const owner = <Row>(t: T, text: string, values: readonly unknown[] = []): Promise<Row[]> =>
  queryOnce(t.context.database.ownerUrl, text, values);

/** As the app role, in the session of a tenant. */
async function asApp<Row>(t: T, tenantId: string, text: string): Promise<Row[]> {
  const client = new pg.Client({ connectionString: t.context.database.appUrl });
  await client.connect();
  try {
    await client.query("select set_config('lethe.tenant', $1, false)", [tenantId]);
    return (await client.query(text)).rows as Row[];
  } finally {
    await client.end();
  }
}

interface Cleanup {
  readonly deleted_count: number;
  readonly execution_summary: Readonly<Record<string, unknown>>;
}

const cleanUp = async (t: T, tenantId: string, days = 90, keep = 0, batch = 1_000): Promise<Cleanup> => {
  const [row] = await owner<Cleanup>(t, 'select * from cleanup_old_executions($1::text, $2, $3, $4)', [
    tenantId,
    days,
    keep,
    batch,
  ]);
  if (!row) throw new Error('the function answered with no row');
  return row;
};

/** Executions that started so many days ago and were inserted now, as a tester does it. */
const insert = (t: T, tenantId: string, days: readonly number[]): Promise<unknown> =>
  owner(
    t,
    "insert into executions (tenant_id, started_at) select $1, now() - d * interval '24 hours' from unnest($2::float8[]) d",
    [tenantId, [...days]],
  );

const agesOf = async (t: T, tenantId: string): Promise<number[]> => {
  const rows = await owner<{ days: string }>(
    t,
    'select round(extract(epoch from now() - age) / 86400) as days from executions where tenant_id = $1 order by age desc',
    [tenantId],
  );
  return rows.map(({ days }) => Number(days));
};

test('the table is there with its indexes, partitions and row-level security', async (t) => {
  const indexes = await owner<{ name: string }>(
    t,
    "select indexrelid::regclass::text as name from pg_index where indrelid = 'executions'::regclass order by 1",
  );
  t.deepEqual(
    indexes.map(({ name }) => name),
    [
      'executions_age',
      'executions_not_running',
      'executions_pkey',
      'idx_executions_null_started_at',
      'idx_executions_retention_cleanup',
    ],
  );
  const [table] = await owner<{ secured: boolean; leaves: number; has_default: boolean }>(
    t,
    `select relrowsecurity as secured, (select count(*)::int from pg_inherits where inhparent = c.oid) as leaves,
            (select partdefid <> 0 from pg_partitioned_table where partrelid = c.oid) as has_default
     from pg_class c where oid = 'executions'::regclass`,
  );
  t.deepEqual(table, { secured: true, leaves: 15, has_default: false });
});

test('old executions go, oldest first and a batch a call, and the summary tells about it', async (t) => {
  const tenantId = 'batches';
  await insert(t, tenantId, [200, 199, 198, 100, 91, 89, 1]);
  const first = await cleanUp(t, tenantId, 90, 0, 2);
  t.like(first, { deleted_count: 2 });
  t.like(first.execution_summary, { tenant_id: tenantId, deleted_count: 2, may_have_more: true, batch_size: 2 });
  t.deepEqual(await agesOf(t, tenantId), [1, 89, 91, 100, 198]);
  t.is((await cleanUp(t, tenantId, 90, 0, 2)).deleted_count, 2);
  t.like(await cleanUp(t, tenantId, 90, 0, 2), { deleted_count: 1 });
  t.like((await cleanUp(t, tenantId, 90, 0, 2)).execution_summary, { deleted_count: 0, may_have_more: false });
  t.deepEqual(await agesOf(t, tenantId), [1, 89]);
});

test('the newest executions stay whatever their age, also where all are old or there are fewer', async (t) => {
  await insert(t, 'floor', [400, 300, 200, 100, 95]);
  t.is((await cleanUp(t, 'floor', 90, 3)).deleted_count, 2);
  t.deepEqual(await agesOf(t, 'floor'), [95, 100, 200]);
  for (const keep of [3, 4, 1_000_000]) t.is((await cleanUp(t, 'floor', 90, keep)).deleted_count, 0);
  t.is((await cleanUp(t, 'floor', 90, 0)).deleted_count, 3);
  t.is((await cleanUp(t, 'floor', 90, 0)).deleted_count, 0);
  t.is((await cleanUp(t, 'nobody', 90, 100)).deleted_count, 0);
});

test('of executions that share their instant exactly the floor stays', async (t) => {
  await owner(
    t,
    "insert into executions (tenant_id, started_at) select 'ties', timestamptz '2026-01-01' from generate_series(1, 10)",
  );
  await owner(
    t,
    `insert into executions (tenant_id, id, started_at, created_at)
     select 'ties', '00000000-0000-7000-8000-000000000000', '2026-01-01', now() - n * interval '1 day'
     from generate_series(1, 5) n`,
  );
  for (const expected of [4, 4, 2, 0]) t.is((await cleanUp(t, 'ties', 90, 5, 4)).deleted_count, expected);
  t.is((await agesOf(t, 'ties')).length, 5);
});

test('one that never started ages by its creation, and a running one stays until it is stale', async (t) => {
  await owner(
    t,
    `insert into executions (tenant_id, state, started_at, created_at) values
       ('states', 'QUEUED', null, now() - interval '91 days'), ('states', 'ENDED', null, now() - interval '92 days'),
       ('states', 'QUEUED', null, now() - interval '89 days'), ('states', 'RUNNING', now() - interval '119 days', now()),
       ('states', 'RUNNING', now() - interval '121 days', now())`,
  );
  t.is((await cleanUp(t, 'states', 90, 0)).deleted_count, 3);
  t.deepEqual(await agesOf(t, 'states'), [89, 119]);
});

test('an execution goes when it is older than the window by a microsecond, not when it is exactly as old', async (t) => {
  const client = new pg.Client({ connectionString: t.context.database.ownerUrl });
  await client.connect();
  try {
    const {
      rows: [row],
    } = await client.query(
      `select (execution_summary->>'cutoff')::text as cutoff from cleanup_old_executions('edge', 30, 0)`,
    );
    const cutoff = Temporal.Instant.from(row.cutoff);
    // The cutoff moves on; whatever went was older than the cutoff that the call told.
    await client.query(
      `insert into executions (tenant_id, started_at)
       select 'edge', $1::timestamptz + n * interval '25 microseconds' from generate_series(0, 8000) n`,
      [cutoff.add({ milliseconds: 200 }).toString()],
    );
    let told = cutoff;
    for (let deleted = 1; deleted > 0 || Temporal.Instant.compare(told, cutoff.add({ milliseconds: 400 })) < 0; ) {
      const { rows } = await client.query("select * from cleanup_old_executions('edge', 30, 0, 777)");
      deleted = rows[0].deleted_count;
      told = Temporal.Instant.from(rows[0].execution_summary.cutoff);
      const left = await client.query(
        "select min(age) < $1::timestamptz as is_left from executions where tenant_id = 'edge'",
        [told.toString()],
      );
      if (deleted < 777) t.not(left.rows[0].is_left, true);
      const early = await client.query(
        'select age >= $1::timestamptz as is_early from execution_watermarks where tenant_id = $2',
        [told.toString(), 'edge'],
      );
      t.not(early.rows[0]?.is_early, true);
    }
  } finally {
    await client.end();
  }
});

test('parameters that make no sense are named, all of them at once, and nothing goes', async (t) => {
  await insert(t, 'wrong', [1_000]);
  for (const [call, message] of [
    ['null, 90, 100, 1000', /p_tenant_id is required/],
    ["'', 90, 100, 1000", /p_tenant_id is required/],
    ['null::uuid, 90, 100, 1000', /p_tenant_id is required/],
    ["'wrong', null, 100, 1000", /^p_retention_days must be from 1 to 36500$/],
    ["'wrong', 0, 100, 1000", /p_retention_days/],
    ["'wrong', -1, 100, 1000", /p_retention_days/],
    ["'wrong', 2147483647, 100, 1000", /p_retention_days/],
    ["'wrong', 90, null, 1000", /p_min_executions_to_keep/],
    ["'wrong', 90, -1, 1000", /p_min_executions_to_keep/],
    ["'wrong', 90, 0, null", /p_batch_size/],
    ["'wrong', 90, 0, 0", /p_batch_size/],
    ["'wrong', 90, 0, 100001", /p_batch_size/],
    ['null, null, null, null', /p_tenant_id .*p_retention_days .*p_min_executions_to_keep .*p_batch_size/],
  ] as const) {
    await t.throwsAsync(owner(t, `select * from cleanup_old_executions(${call})`), { message }, call);
  }
  t.is((await agesOf(t, 'wrong')).length, 1);
});

test('under row-level security only the tenant of the session is cleaned up', async (t) => {
  await insert(t, 'mine', [100]);
  await insert(t, 'theirs', [100]);
  await t.throwsAsync(asApp(t, 'mine', "select * from cleanup_old_executions('theirs', 90, 0)"), {
    message: /p_tenant_id must be the tenant of this session/,
  });
  await t.throwsAsync(queryOnce(t.context.database.appUrl, "select * from cleanup_old_executions('mine', 90, 0)"), {
    message: /no tenant was named/,
  });
  const [mine] = await asApp<Cleanup>(t, 'mine', "select * from cleanup_old_executions('mine', 90, 0)");
  t.is(mine?.deleted_count, 1);
  t.deepEqual([(await agesOf(t, 'mine')).length, (await agesOf(t, 'theirs')).length], [0, 1]);
});

test.serial('a call costs what its batch costs, whatever is kept in front of it and behind it', async (t) => {
  // Alone, and without ANALYZE: after a change of the catalogs a session reads thousands of their pages again.
  await t.context.database.query('alter system set autovacuum = off');
  await t.context.database.query('select pg_reload_conf()');
  t.teardown(() => t.context.database.query('alter system reset autovacuum'));
  const client = new pg.Client({ connectionString: t.context.database.appUrl });
  await client.connect();
  t.teardown(() => client.end());
  /** The pages that one call as the app role reads, and how many rows it removes. */
  const call = async (tenantId: string, keep: number): Promise<{ pages: number; removed: number }> => {
    await client.query("select set_config('lethe.tenant', $1, false)", [tenantId]);
    const text = `select * from cleanup_old_executions('${tenantId}', 90, ${keep}, 100)`;
    const { rows } = await client.query(`explain (analyze, buffers, timing off, format json) ${text}`);
    const { Plan: plan } = rows[0]['QUERY PLAN'][0];
    const [left] = await owner<{ count: number }>(
      t,
      'select count(*)::int as count from executions where tenant_id = $1',
      [tenantId],
    );
    const removed = (counts.get(tenantId) ?? 0) - (left?.count ?? 0);
    counts.set(tenantId, left?.count ?? 0);
    return { pages: plan['Shared Hit Blocks'] + plan['Shared Read Blocks'], removed };
  };
  const counts = new Map<string, number>();
  /** 50 stale ones, then `running` that are running and stay, 1,050 that go, and `young` that are not expired. */
  const fill = async (tenantId: string, running: number, young: number): Promise<void> => {
    await owner(
      t,
      `insert into executions (tenant_id, state, started_at, created_at)
       select $1, case when n <= 25 or n between 51 and 50 + $2 then 'RUNNING' else 'ENDED' end, a, a
       from generate_series(1, 1100 + $2::int + $3) n, lateral (
         select now() - case when n <= 50 then interval '121 days'
                             when n <= 50 + $2 then interval '119 days'
                             when n <= 1100 + $2 then interval '100 days' else interval '80 days' end
                + n * interval '1 second' as a) b`,
      [tenantId, running, young],
    );
    counts.set(tenantId, 1_100 + running + young);
  };
  await fill('nothing-kept', 0, 0);
  await fill('much-kept', 20_000, 20_000);
  await owner(t, 'vacuum analyze executions');
  const calls = async (tenantId: string) => {
    const made = [];
    for (let batch = 1; batch <= 12; batch += 1) made.push(await call(tenantId, batch % 2));
    return made;
  };
  const [few, many] = [await calls('nothing-kept'), await calls('much-kept')];
  t.deepEqual(
    many.map(({ removed }) => removed),
    [...Array(11).fill(100), 0],
  );
  // The first call also reads what Postgres looks up once a session.
  const most = Math.max(...few.slice(1).map(({ pages }) => pages));
  for (const [index, { pages }] of many.entries())
    t.true(pages < most + 100, `${pages} pages in call ${index + 1}, ${most} with nothing in front`);
});

const STATEMENTS = `
SELECT * FROM cleanup_old_executions(
    p_tenant_id := 'abc-123',
    p_retention_days := 90,
    p_min_executions_to_keep := 100,
    p_batch_size := 1000
);
SELECT * FROM cleanup_old_executions(
    '550e8400-e29b-41d4-a716-446655440000'::UUID,
    90,  -- retention_days
    100, -- min_executions_to_keep
    1000 -- batch_size
);
SELECT COUNT(*)
FROM executions
WHERE tenant_id = '550e8400-e29b-41d4-a716-446655440000'
  AND started_at < NOW() - INTERVAL '90 days';
`;

const ROLLBACK = `
DROP FUNCTION IF EXISTS cleanup_old_executions(UUID, INTEGER, INTEGER, INTEGER);
DROP INDEX IF EXISTS idx_executions_null_started_at;
DROP INDEX IF EXISTS idx_executions_retention_cleanup;
`;

const psql = async (url: string, script: string): Promise<string> => {
  const running = promisify(execFile)('psql', [url, '-v', 'ON_ERROR_STOP=1', '-At', '-f', '-']);
  running.child.stdin?.end(script);
  return (await running).stdout;
};

testIfFound(test, hasProgram('psql'), 'psql', 'the seed’s statements work pasted into psql', async (t) => {
  await insert(t, TENANT, [...Array(150).fill(120), 10]);
  const lines = (await psql(t.context.database.ownerUrl, STATEMENTS)).trim().split('\n');
  t.is(lines[0]?.split('|')[0], '0');
  t.is(lines[1]?.split('|')[0], '51');
  t.is(lines[2], '99');
});

testIfFound(
  test,
  hasProgram('psql'),
  'psql',
  'after the seed’s rollback the migrations still go down and up',
  async (t) => {
    const database = await t.context.postgres.createDatabase(runMigrations);
    await psql(database.ownerUrl, ROLLBACK);
    const options = { ownerUrl: database.ownerUrl, appRole: database.appRole, migrations: runMigrations };
    await database.query("insert into executions (tenant_id, started_at) values ('a', now() - interval '100 days')");
    await database.query("select make_execution_month('2027-09-01')");
    await migrateDown(options);
    await migrateUp(options);
    t.is((await psql(database.ownerUrl, STATEMENTS)).trim().split('\n').length, 3);
    await psql(database.ownerUrl, ROLLBACK);
    await t.notThrowsAsync(migrateUp(options));
  },
);
