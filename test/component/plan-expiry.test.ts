import anyTest, { type TestFn } from 'ava';
import { retentionMigrations } from '#services/retention/adapters/postgres/migrations/index.ts';
import { makePlanRepository } from '#services/retention/adapters/postgres/plan-repository.ts';
import { resolveWindows } from '#services/retention/domain/windows.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

const SUBJECTS = ['approvals', 'drift_checks', 'incident_payloads'].map((name) => ({ name, hasFloor: false }));

const addEntry = (database: TestDatabase, tenant: string, version: number, plan: string | null, age: string) =>
  database.query(
    `insert into tenant_plans (tenant_id, version, plan, effective_at, created_at, actor)
     values ($1, $2, $3, now() - $4::interval, now() - $4::interval, 'ada')`,
    [tenant, version, plan, age],
  );

test('an entry goes when a later one says something of every subject, and not before that is old', async (t) => {
  const created = await t.context.postgres.createDatabase(retentionMigrations);
  const database = created.open();
  t.teardown(() => database.close());
  await addEntry(created, 'replaced', 1, 'PRO', '900 days');
  await addEntry(created, 'replaced', 2, 'AGENCY', '800 days');
  await addEntry(created, 'inherits', 1, 'PRO', '900 days');
  await addEntry(created, 'inherits', 2, 'FREE', '800 days');
  await addEntry(created, 'recently', 1, 'PRO', '900 days');
  await addEntry(created, 'recently', 2, 'AGENCY', '300 days');
  await addEntry(created, 'left', 1, 'PRO', '900 days');
  await addEntry(created, 'left', 2, null, '800 days');
  await addEntry(created, 'only', 1, 'PRO', '900 days');
  await makePlanRepository(database).expire(400, 500);
  const rows = await created.query<{ tenant_id: string; version: string }>(
    'select tenant_id, version from tenant_plans order by tenant_id, version',
  );
  t.deepEqual(
    rows.map(({ tenant_id, version }) => `${tenant_id} ${version}`),
    ['inherits 1', 'inherits 2', 'left 1', 'left 2', 'only 1', 'recently 1', 'recently 2', 'replaced 2'],
  );
});

test('no more goes at a time than was asked for, and answers to requests go as well', async (t) => {
  const created = await t.context.postgres.createDatabase(retentionMigrations);
  const database = created.open();
  t.teardown(() => database.close());
  for (const tenant of ['a', 'b', 'c']) {
    await addEntry(created, tenant, 1, 'PRO', '900 days');
    await addEntry(created, tenant, 2, 'AGENCY', '800 days');
    await created.query(
      `insert into retention_requests (tenant_id, method, request_id, fingerprint, plan_version, created_at)
       values ($1, 'SetTenantPlan', gen_random_uuid(), '', 1, now() - interval '900 days'),
              ($1, 'SetTenantPlan', gen_random_uuid(), '', 2, now() - interval '1 day')`,
      [tenant],
    );
  }
  const left = async () =>
    Promise.all(
      ['tenant_plans', 'retention_requests'].map(async (table) => (await created.query(`select from ${table}`)).length),
    );
  await makePlanRepository(database).expire(400, 2);
  t.deepEqual(await left(), [4, 4]);
  await makePlanRepository(database).expire(400, 2);
  t.deepEqual(await left(), [3, 3]);
});

test('whatever the history, every window is the same after old entries went', async (t) => {
  const created = await t.context.postgres.createDatabase(retentionMigrations);
  const database = created.open();
  t.teardown(() => database.close());
  // Random histories over three years, with scheduled and backdated entries, plans that change and tenants that leave.
  // FREE may lose a subject; the others always say something of each.
  await created.query(`
    select setseed(0.5);
    insert into plan_windows (plan, subject, version, kind, days, plan_version, recorded_at, actor)
      select p, s, v, k, case when k = 'DAYS' then 1 + floor(random() * 400)::int end, v,
             now() - random() * interval '1000 days', 'ada'
      from unnest(array['FREE', 'PRO', 'AGENCY']) p, unnest(array['approvals', 'drift_checks', 'incident_payloads']) s,
           generate_series(2, 3) v,
           lateral (select (array['DAYS', 'DAYS', 'KEEP_ALL',
                                 case when p = 'FREE' then 'NOT_APPLICABLE' else 'DAYS' end])[1 + floor(random() * 4 + 0 * v)::int] as k) k;
    insert into tenant_plans (tenant_id, version, plan, created_at, effective_at, actor)
      select tenant, row_number() over (partition by tenant order by made), plan, made, effective, 'ada' from (
        select 'tenant-' || n as tenant, now() - random() * interval '1000 days' as made,
               now() - random() * interval '1100 days' + interval '50 days' as effective,
               (array['FREE', 'PRO', 'AGENCY', null])[1 + floor(random() * 4)::int] as plan
        from generate_series(1, 60) n, generate_series(1, 8)) e`);
  const plans = makePlanRepository(database);
  const tenants = Array.from({ length: 60 }, (_, index) => `tenant-${index + 1}`);
  const now = Temporal.Instant.from(new Date().toISOString());
  const told = async () => {
    const answers: string[] = [];
    for (const tenantId of tenants) {
      const { entries, planWindows } = await plans.history(tenantId);
      for (const days of [0, 1, 30, 60, 400]) {
        const at = now.add({ hours: days * 24 });
        const input = { entries, planWindows, policies: [], subjects: SUBJECTS, at, graceDays: 100 };
        answers.push(`${tenantId} ${days}: ${JSON.stringify(resolveWindows(input))}`);
      }
    }
    return answers;
  };
  const before = await told();
  await plans.expire(100, 10_000);
  const left = (await created.query('select from tenant_plans')).length;
  t.true(left < 60 * 8 - 50, `${left} are left`);
  t.deepEqual(await told(), before);
});
