import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { makeTurns } from '#libs/durable/turns.ts';
import { makeOwner } from '#libs/owner/make-owner.ts';
import type { Migration } from '#libs/postgres/migrate.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { incidentMigrations } from '#services/incident/adapters/postgres/migrations/index.ts';
import { makeCatalogueRepository } from '#services/retention/adapters/postgres/catalogue-repository.ts';
import { makeExecutionPolicyRepository } from '#services/retention/adapters/postgres/execution-policy-repository.ts';
import { retentionMigrations } from '#services/retention/adapters/postgres/migrations/index.ts';
import { makePlanRepository } from '#services/retention/adapters/postgres/plan-repository.ts';
import { makePlanWindowRepository } from '#services/retention/adapters/postgres/plan-window-repository.ts';
import { makePurgeRepository } from '#services/retention/adapters/postgres/purge-repository.ts';
import { makeStopRepository } from '#services/retention/adapters/postgres/stop-repository.ts';
import { makeTenantDirectory } from '#services/retention/adapters/postgres/tenant-directory.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { readsBy } from '#test/support/table-reads.ts';

// What Postgres counts of each table and index says more than a plan: how many rows the app role's statements read, those
// within functions too, with the planner free to choose.

interface Context {
  readonly postgres: TestPostgres;
  readonly created: TestDatabase;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

const TENANTS = 10_000;
const PURGES = 400;
// A page or a batch of 50 rows, with what has to be looked up for each of them; a scan would read ten times as much.
const LIMIT = 50;
const MOST_READ = 1_500;
// All windows of all plans are needed to tell which plans say something of every subject; only people add any.
const MAY_BE_SCANNED = new Map([['old requests and plans', 'plan_windows']]);

test.before(async (t) => {
  const postgres = await startTestPostgres();
  const created = await postgres.createDatabase(retentionMigrations);
  Object.assign(t.context, { postgres, created });
  await created.query(`
    insert into plans (name, version) select 'PLAN_' || n, 1 from generate_series(1, 200) n;
    insert into plan_windows (plan, subject, version, kind, days, plan_version, recorded_at, actor)
      select 'PLAN_' || n, s, v, 'DAYS', 30, 1, now() - (21 - v) * interval '50 days', 'ada'
      from generate_series(1, 200) n, unnest(array['approvals', 'drift_checks', 'incident_payloads']) s,
           generate_series(1, 20) v;
    insert into plan_requests (request_id, fingerprint, plan, plan_version, created_at)
      select gen_random_uuid(), '', 'PRO', 1, now() - n * interval '1 hour' from generate_series(1, 20000) n;
    insert into tenant_plans (tenant_id, version, plan, effective_at, created_at, actor)
      select 'tenant-' || lpad(n::text, 6, '0'), v, case when v % 2 = 0 then 'PRO' else 'AGENCY' end, a, a, 'ada'
      from generate_series(1, ${TENANTS}) n, generate_series(1, 3) v,
           lateral (select now() - (4 - v) * interval '200 days' - n * interval '1 second' as a) a;
    insert into retention_requests (tenant_id, method, request_id, fingerprint, plan_version, created_at)
      select 'tenant-' || lpad((n % ${TENANTS})::text, 6, '0'), 'SetTenantPlan', gen_random_uuid(), '', 1,
             now() - n * interval '1 hour' from generate_series(1, 20000) n;
    insert into execution_retention_policies (tenant_id)
      select 'tenant-' || lpad(n::text, 6, '0') from generate_series(1, ${TENANTS}) n;
    insert into tenants_with_data (tenant_id, subject, last_seen_at)
      select 'tenant-' || lpad(n::text, 6, '0'), s, now() - n * interval '1 minute'
      from generate_series(1, ${TENANTS + 300}) n, unnest(array['drift_checks', 'approvals']) s;
    insert into tenant_sweeps (subject, started_at) values ('drift_checks', now() - interval '9970 minutes');
    insert into retention_purges (id, trigger, validate_only, actor, subject, fingerprint, created_at)
      select cast(lpad(n::text, 32, '0') as uuid), 'PURGE', false, 'a', 'a', '', now() - n * interval '1 day'
      from generate_series(1, ${PURGES}) n;
    insert into retention_purge_items (tenant_id, purge_id, state, validate_only, actor, finished_at, updated_at)
      select 'tenant-' || lpad(i::text, 6, '0'), cast(lpad(n::text, 32, '0') as uuid), 'COMPLETE', false, 'a', a, a
      from generate_series(1, ${PURGES}) n, generate_series(1, 100) i,
           lateral (select now() - n * interval '1 day' as a) a;
    insert into retention_purge_items (tenant_id, purge_id, state, validate_only, actor, due_at)
      select 'tenant-' || lpad(n::text, 6, '0'), cast(lpad('250', 32, '0') as uuid), 'PENDING', false, 'a',
             now() - n * interval '1 minute' from generate_series(101, ${TENANTS}) n;
    insert into retention_purge_subjects (tenant_id, purge_id, subject, state, validate_only, kind, days, source)
      select tenant_id, purge_id, s, 'COMPLETE', false, 'DAYS', 30, 'PLAN'
      from retention_purge_items, unnest(array['drift_checks', 'approvals']) s;
    insert into last_purges (tenant_id, subject, days, completed_at)
      select 'tenant-' || lpad(n::text, 6, '0'), s, 30, now()
      from generate_series(1, ${TENANTS}) n, unnest(array['drift_checks', 'approvals']) s;
    insert into subject_nights (subject, purge_id, counted_at)
      select s, cast(lpad(n::text, 32, '0') as uuid), now() - n * interval '1 hour'
      from generate_series(1, 10000) n, unnest(array['drift_checks', 'approvals']) s;
    insert into installation_audit (at, actor, subject, action, target_type, target_id, outcome)
      select now() - n * interval '1 hour', 'a', 'a', 'a', 'subject', 'a', 'A' from generate_series(1, 20000) n;
    insert into purge_stops (version, is_stopped, actor, subject, reason, changed_at)
      select n, n % 2 = 1, 'a', 'a', 'r', now() - (20001 - n) * interval '1 hour' from generate_series(1, 20000) n`);
  await created.query('analyze');
});
test.after.always((t) => t.context.postgres?.stop());

/** Does it as the app role, and checks what was read of each table. */
async function assertByIndex(
  t: T,
  created: TestDatabase,
  name: string,
  work: (database: Database) => Promise<unknown>,
  most = MOST_READ,
): Promise<void> {
  for (const [table, { scanned, looked }] of await readsBy(created, work)) {
    if (MAY_BE_SCANNED.get(name) === table) continue;
    t.true(scanned <= most, `${name} scans ${scanned} of ${table}`);
    t.true(looked <= most, `${name} looks up ${looked} of ${table}`);
  }
}

const PAGE = { limit: LIMIT, after: undefined };
const TENANT = 'tenant-000050';
const PURGE = '00000000-0000-0000-0000-000000000200';
const LATE_TENANT = `tenant-${String(TENANTS - 100).padStart(6, '0')}`;

const QUERIES: Readonly<Record<string, (database: Database) => Promise<unknown>>> = {
  'a tenant’s history of plans': (database) => makePlanRepository(database).listHistory(TENANT, PAGE),
  'a tenant’s plans and their windows': (database) => makePlanRepository(database).history(TENANT),
  'the first tenants with plans': (database) => makePlanRepository(database).listInForce(undefined, PAGE),
  'late tenants with plans': (database) =>
    makePlanRepository(database).listInForce(undefined, { limit: LIMIT, after: [LATE_TENANT] }),
  'the windows of a plan': (database) => makePlanWindowRepository(database).listWindows('PLAN_7', PAGE),
  'the first policies': (database) => makeExecutionPolicyRepository(database).list(PAGE),
  'late policies': (database) => makeExecutionPolicyRepository(database).list({ limit: LIMIT, after: [LATE_TENANT] }),
  purges: (database) =>
    makePurgeRepository(database).list({ tenantId: undefined, state: undefined }, { limit: 5, after: undefined }),
  'a purge': (database) => makePurgeRepository(database).get(PURGE),
  'a tenant’s part of a purge': (database) => makePurgeRepository(database).getItem(TENANT, PURGE),
  'a tenant’s parts': (database) => makePurgeRepository(database).listParts(TENANT, undefined, PAGE),
  'the tenants of a purge': (database) => makePurgeRepository(database).findItems(PURGE, PAGE),
  'late tenants of a purge': (database) =>
    makePurgeRepository(database).findItems(PURGE, { limit: LIMIT, after: ['tenant-000060'] }),
  'the last windows of tenants': (database) => makePurgeRepository(database).findLastDays([TENANT, LATE_TENANT]),
  'what is due of a purge under way': (database) => makePurgeRepository(database).findDue(LIMIT),
  'subjects that are observed': (database) => makeCatalogueRepository(database).findObserved(PURGE),
  'tenants that are known': (database) => makeTenantDirectory(database).findKnown([TENANT, 'nobody']),
  'late tenants without a plan': (database) =>
    makeTenantDirectory(database).listUnplanned({ limit: LIMIT, after: [LATE_TENANT] }),
  'the stop switch': (database) => makeStopRepository(database).get(),
};

const DELETES: Readonly<Record<string, (database: Database) => Promise<unknown>>> = {
  'old purges, their audit and old switches': (database) => makePurgeRepository(database).expire(300, LIMIT),
  'purges of which none is old': (database) => makePurgeRepository(database).expire(36_000, LIMIT),
  'old requests and plans': (database) => makePlanRepository(database).expire(300, LIMIT),
  'plans of which none is old': (database) => makePlanRepository(database).expire(36_000, LIMIT),
  'tenants whose data nobody lists any more': (database) => makeTenantDirectory(database).expire(6, LIMIT),
  'tenants that no longer have data': (database) =>
    makeTenantDirectory(database).recordSweep('drift_checks', [], undefined),
};

for (const [name, work] of Object.entries(QUERIES)) {
  test.serial(`the app role reads ${name} by an index`, (t) => assertByIndex(t, t.context.created, name, work));
}
for (const [name, work] of Object.entries(DELETES)) {
  test.serial(`the app role forgets ${name} by an index`, (t) => assertByIndex(t, t.context.created, name, work));
}

test.serial('nights and tenants that nobody sees any more are forgotten, and no others', async (t) => {
  const created = await t.context.postgres.createDatabase(retentionMigrations);
  await created.query(`
    insert into subject_nights (subject, purge_id, counted_at)
      select 'drift_checks', gen_random_uuid(), now() - days * interval '1 day' from unnest(array[1, 399, 401, 402]) days;
    insert into tenants_with_data (tenant_id, subject, last_seen_at)
      select 'seen-' || days, 'retired', now() - days * interval '1 day' from unnest(array[1, 399, 401, 402]) days`);
  const database = created.open();
  await makePurgeRepository(database).expire(400, 10);
  await makeTenantDirectory(database).expire(400, 1);
  await database.close();
  const nights = await created.query<{ days: number }>(
    'select extract(day from now() - counted_at)::int as days from subject_nights order by 1',
  );
  t.deepEqual(nights, [{ days: 1 }, { days: 399 }]);
  const tenants = await created.query<{ id: string }>('select tenant_id as id from tenants_with_data order by 1');
  t.deepEqual(
    tenants.map(({ id }) => id),
    ['seen-1', 'seen-399', 'seen-401'],
    'the oldest first, and no more than were asked for',
  );
});

for (const [service, migrations] of Object.entries({ incident: incidentMigrations, run: runMigrations }) as [
  string,
  readonly Migration[],
][]) {
  test.serial(`the app role of ${service} forgets old operations of owners by an index`, async (t) => {
    const created = await t.context.postgres.createDatabase(migrations);
    await created.query(
      `insert into owner_operations (tenant_id, operation_id, subject, actor, updated_at)
       select 'tenant-' || n % 1000, gen_random_uuid(), 'subject', 'a', now() - n * interval '5 minutes'
       from generate_series(1, 50000) n`,
    );
    await created.query('analyze');
    const left = async () => (await created.query('select from owner_operations')).length;
    const before = await left();
    // A hundred tenants, each with all of its old operations, of which it has two dozen.
    const most = 100 * 24 * 4;
    await assertByIndex(
      t,
      created,
      'owner_operations',
      (database) =>
        makeOwner({
          database,
          subjects: [],
          turns: makeTurns(),
          onPurged: () => undefined,
          maxPauseMs: 1,
          snapshotAgeMs: 1,
        }).expireOperations(),
      most,
    );
    t.true((await left()) < before);
  });
}
