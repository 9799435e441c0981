import anyTest, { type TestFn } from 'ava';
import { makeForgetRequests, type RememberedRequests } from '#libs/postgres/forget-requests.ts';
import type { Migration } from '#libs/postgres/migrate.ts';
import { incidentMigrations } from '#services/incident/adapters/postgres/migrations/index.ts';
import { REMEMBERED_REQUESTS as OF_INCIDENTS } from '#services/incident/adapters/postgres/requests.ts';
import { REMEMBERED_REQUESTS as OF_JOBS } from '#services/job/adapters/postgres/job-requests.ts';
import { jobMigrations } from '#services/job/adapters/postgres/migrations/index.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { REMEMBERED_REQUESTS as OF_RUNS } from '#services/run/adapters/postgres/request-ids.ts';
import { queryOnce, startTestPostgres, type TestPostgres } from '#test/support/postgres.ts';
import { startReplica } from '#test/support/replica.ts';
import { readsBy } from '#test/support/table-reads.ts';
import { startTestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;

interface Service {
  readonly migrations: readonly Migration[];
  readonly requests: RememberedRequests;
  /** The column of what the request made. */
  readonly made: string;
}

const SERVICES = {
  run: { migrations: runMigrations, requests: OF_RUNS, made: 'result_id' },
  job: { migrations: jobMigrations, requests: OF_JOBS, made: 'job_id' },
  incident: { migrations: incidentMigrations, requests: OF_INCIDENTS, made: 'target_id' },
} satisfies Readonly<Record<string, Service>>;
const NAMES = Object.keys(SERVICES) as (keyof typeof SERVICES)[];

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

/** Rows of ten tenants, every other one of them a day too old and the others a day too young, under that fingerprint. */
const fill = ({ requests: { table, hasMethod }, made }: Service, rows: number): string => `
  insert into ${table} (tenant_id, request_id, fingerprint, created_at, ${made} ${hasMethod ? ', method' : ''})
  select 'tenant-' || n / 2 % 10, gen_random_uuid(), case when n % 2 = 0 then 'old' else 'young' end,
         now() - case when n % 2 = 0 then interval '401 days' else interval '399 days' end, gen_random_uuid()
         ${hasMethod ? ", 'CreateRun'" : ''}
  from generate_series(1, ${rows}) n`;

const countOf = (table: string): string => `select fingerprint, count(*)::int from ${table} group by 1`;

for (const name of NAMES) {
  test(`${name}: request ids older than receipts are forgotten, in bounded batches by index, and no younger one`, async (t) => {
    const service = SERVICES[name];
    const created = await t.context.postgres.createDatabase(service.migrations);
    await created.query(fill(service, 20_000));
    await created.query('analyze');
    const forgotten: number[] = [];
    const reads = await readsBy(created, async (database) => {
      forgotten.push(await makeForgetRequests(database, service.requests)(400));
    });
    t.deepEqual(forgotten, [1_000]);
    for (const [table, { scanned, looked }] of reads)
      t.true(scanned === 0 && looked <= 4_000, `${scanned} of ${table} are scanned and ${looked} looked up`);
    const database = created.open();
    t.teardown(() => database.close());
    const forget = makeForgetRequests(database, service.requests);
    for (let more = 1; more > 0; forgotten.push(more)) more = await forget(400);
    t.deepEqual(forgotten, [...Array(10).fill(1_000), 0]);
    t.deepEqual(await created.query(countOf(service.requests.table)), [{ fingerprint: 'young', count: 10_000 }]);
  });
}

test('a request id that counts per method is forgotten for the method for which it is old', async (t) => {
  const created = await t.context.postgres.createDatabase(runMigrations);
  const database = created.open();
  t.teardown(() => database.close());
  await created.query(`
    insert into request_ids (tenant_id, method, request_id, fingerprint, created_at)
    select 'acme', m, '00000000-0000-0000-0000-000000000001', '', now() - d * interval '1 day'
    from (values ('CreateRun', 401), ('StartRun', 399)) v(m, d)`);
  t.is(await makeForgetRequests(database, OF_RUNS)(400), 1);
  t.deepEqual(await created.query('select method from request_ids'), [{ method: 'StartRun' }]);
});

test('every service forgets old request ids by itself', async (t) => {
  const stack = await startTestStack({ services: NAMES });
  t.teardown(() => stack.dispose());
  for (const name of NAMES) {
    const service = SERVICES[name];
    const url = stack.superuserUrl(name);
    await queryOnce(url, fill(service, 10));
    const replica = await startReplica(stack, name, `${name}-2`);
    await until(`${name} has forgotten`, async () => {
      const rows = await queryOnce<{ fingerprint: string }>(url, countOf(service.requests.table));
      return rows.length === 1 && rows[0]?.fingerprint === 'young';
    });
    await replica.stop();
  }
  t.pass();
});
