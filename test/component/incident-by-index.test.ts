import anyTest, { type TestFn } from 'ava';
import type { Database } from '#libs/postgres/open-database.ts';
import { makeApprovalRepository } from '#services/incident/adapters/postgres/approval-repository.ts';
import { makeDriftRepository } from '#services/incident/adapters/postgres/drift-repository.ts';
import { incidentMigrations } from '#services/incident/adapters/postgres/migrations/index.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { readsBy } from '#test/support/table-reads.ts';

interface Context {
  readonly postgres: TestPostgres;
  readonly created: TestDatabase;
  readonly after: Readonly<Record<'dated' | 'undated', readonly string[]>>;
}

const test = anyTest as TestFn<Context>;

const TENANT = 'acme';
const ENVIRONMENT = '00000000-0000-0000-0000-000000000001';
const RARE_ENVIRONMENT = '00000000-0000-0000-0000-000000000002';
const LIMIT = 50;
// Of each row of the page, and of what is looked up beside it.
const MOST_READ = 250;

// What is filtered for is the oldest of all.
test.before(async (t) => {
  const postgres = await startTestPostgres();
  const created = await postgres.createDatabase(incidentMigrations);
  Object.assign(t.context, { postgres, created });
  await created.query(`
    insert into environments (tenant_id, id, display_name) values
      ('${TENANT}', '${ENVIRONMENT}', 'production'), ('${TENANT}', '${RARE_ENVIRONMENT}', 'staging');
    insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
      select '${TENANT}', gen_random_uuid(),
             cast(case when n > 20000 then '${RARE_ENVIRONMENT}' else '${ENVIRONMENT}' end as uuid),
             case when n > 21900 then 'DRIFT' else 'IN_SYNC' end, now() - n * interval '1 minute'
      from generate_series(1, 22000) n;
    insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
      select '${TENANT}', gen_random_uuid(), '${ENVIRONMENT}', 'IN_SYNC', null from generate_series(1, 2000);
    insert into incidents (tenant_id, id, environment_id, title, state, created_at)
      select '${TENANT}', gen_random_uuid(), '${ENVIRONMENT}', '', 'DETECTED', now() - n * interval '1 minute'
      from generate_series(1, 22000) n;
    insert into approvals (tenant_id, id, incident_id, requested_state, state, requested_by, decided_at, created_at)
      select tenant_id, gen_random_uuid(), id, 'ACKNOWLEDGED',
             case when o.n > 21900 then 'PENDING' else 'APPROVED' end, 'ada',
             case when o.n <= 21900 then o.created_at end, o.created_at
      from (select *, row_number() over (order by created_at desc) as n from incidents) o;
    analyze`);
  const [dated, undated] = await Promise.all([
    keysetOf(created, 'checked_at is not null'),
    keysetOf(created, 'checked_at is null'),
  ]);
  Object.assign(t.context, { after: { dated, undated } });
});
test.after.always((t) => t.context.postgres?.stop());

const PAGE = { limit: LIMIT, after: undefined };

/** A drift check that many are before and behind: its keyset. */
async function keysetOf(created: TestDatabase, where: string): Promise<readonly string[]> {
  const [row] = await created.query<{ at: string; id: string }>(
    `select coalesce(to_json(checked_at) #>> '{}', '') as at, id from drift_checks
     where environment_id = '${ENVIRONMENT}' and status = 'IN_SYNC' and ${where}
     order by checked_at desc nulls last, id desc offset 1000 limit 1`,
  );
  return row ? [row.at, row.id] : [];
}

const checksAfter =
  (filter: { environmentId?: string; status?: 'IN_SYNC' }, key: 'dated' | 'undated'): List =>
  (database, after) => {
    const { environmentId, status } = filter;
    return makeDriftRepository(database).listChecks(
      TENANT,
      { environmentId, status },
      { limit: LIMIT, after: after[key] },
    );
  };

type List = (database: Database, after: Context['after']) => Promise<{ readonly items: readonly unknown[] }>;

const LISTS: Readonly<Record<string, List>> = {
  'drift checks': (database) =>
    makeDriftRepository(database).listChecks(TENANT, { environmentId: undefined, status: undefined }, PAGE),
  'drift checks of a rare status': (database) =>
    makeDriftRepository(database).listChecks(TENANT, { environmentId: undefined, status: 'DRIFT' }, PAGE),
  'drift checks of an environment that has most of them': (database) =>
    makeDriftRepository(database).listChecks(TENANT, { environmentId: ENVIRONMENT, status: undefined }, PAGE),
  'drift checks of an environment that has few': (database) =>
    makeDriftRepository(database).listChecks(TENANT, { environmentId: RARE_ENVIRONMENT, status: undefined }, PAGE),
  'drift checks in the middle': checksAfter({}, 'dated'),
  'drift checks of an environment, in the middle': checksAfter({ environmentId: ENVIRONMENT }, 'dated'),
  'drift checks of a status, in the middle': checksAfter({ status: 'IN_SYNC' }, 'dated'),
  'drift checks without an instant': checksAfter({}, 'undated'),
  'drift checks of an environment without an instant': checksAfter({ environmentId: ENVIRONMENT }, 'undated'),
  approvals: (database) =>
    makeApprovalRepository(database).list(TENANT, { state: undefined, incidentId: undefined }, PAGE),
  'approvals in a rare state': (database) =>
    makeApprovalRepository(database).list(TENANT, { state: 'PENDING', incidentId: undefined }, PAGE),
};

for (const [name, list] of Object.entries(LISTS)) {
  test.serial(`a page of ${name} reads little more than the page`, async (t) => {
    const reads = await readsBy(t.context.created, async (database) => {
      t.is((await list(database, t.context.after)).items.length, LIMIT);
    });
    for (const [table, { scanned, looked }] of reads) {
      t.true(scanned <= LIMIT, `${name} scans ${scanned} of ${table}`);
      t.true(looked <= MOST_READ, `${name} looks up ${looked} of ${table}`);
    }
  });
}
