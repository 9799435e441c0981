import assert from 'node:assert/strict';
import test, { type ExecutionContext } from 'ava';
import { makeBulkDeletionRepository } from '#libs/bulk-deletion/bulk-deletion-repository.ts';
import { jobTargets } from '#services/job/adapters/postgres/bulk-targets.ts';
import { jobMigrations } from '#services/job/adapters/postgres/migrations/index.ts';
import { makeDeletionWork } from '#services/run/adapters/postgres/deletion-work.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { makeSagaRepository } from '#services/run/adapters/postgres/saga-repository.ts';
import { LEASED_TABLES } from '#test/support/leased-tables.ts';
import { startTestPostgres, type TestPostgres } from '#test/support/postgres.ts';
import { readsBy } from '#test/support/table-reads.ts';
import { type Declare, FAULTS, FAULTS_OF_PARKING, type Fault, leasedWorkContract, plant } from './leased-work.ts';

let postgres: TestPostgres;

test.before(async () => {
  postgres = await startTestPostgres();
});
test.after.always(() => postgres.stop());

/** What the suite uses of AVA's assertions, throwing. */
const throwing = {
  is: (value: unknown, expected: unknown) => assert.equal(value, expected),
  true: (value: unknown) => assert.equal(value, true),
  false: (value: unknown) => assert.equal(value, false),
  deepEqual: (value: unknown, expected: unknown) => assert.deepEqual(value, expected),
  like: (value: object, expected: object) => assert.deepEqual({ ...value, ...expected }, value),
} as unknown as ExecutionContext<unknown>;

// One after the other: some of them turn the clock of this process.
const declare: Declare = (title, body) => test.serial(title, body);

for (const [name, { open, parks }] of Object.entries(LEASED_TABLES)) {
  leasedWorkContract(declare, name, () => open(postgres), parks);

  for (const [fault, catching] of Object.entries(FAULTS) as [Fault, string][]) {
    if (FAULTS_OF_PARKING.has(fault) && !parks) continue;
    test.serial(`${name}: the suite catches a repository that ${fault}`, async (t) => {
      const tests: { title: string; body: Parameters<Declare>[1] }[] = [];
      leasedWorkContract(
        (title, body) => tests.push({ title, body }),
        name,
        async () => plant(fault, await open(postgres)),
        parks,
      );
      const caught = tests.filter(({ title }) => title.startsWith(`${name}: ${catching}`));
      t.is(caught.length, 1);
      await t.throwsAsync(async () => caught[0]?.body(throwing), { instanceOf: assert.AssertionError });
    });
  }
}

test.serial(
  'runs and their deletions that are due are found by an index, among many tenants and what waits or has ended',
  async (t) => {
    const created = await postgres.createDatabase(runMigrations);
    // Of each tenant, one in a hundred is due; the others wait, are held or have ended.
    const dueAt = (column: string) =>
      `case n % 100 when 0 then now() - interval '1 min' when 1 then null else now() + interval '1 hour' end as ${column}`;
    await created.query(`
    insert into workflow_runs (tenant_id, id, workflow, display_name, state, driver, claim_owner, due_at)
    select 'tenant-' || m, gen_random_uuid(), 'w', '', 'RUNNING', 'ENGINE', case n % 100 when 2 then 'w' end, ${dueAt('due')}
    from generate_series(1, 20) m, generate_series(1, 500) n;
    insert into deletions (tenant_id, id, run_id, mode, state, actor, subject, fingerprint, next_attempt_at)
    select 'tenant-' || m, gen_random_uuid(), gen_random_uuid(), 'PURGE',
           case n % 100 when 1 then 'COMPLETE' else 'CASCADING' end, 'a', 'a', '', ${dueAt('due')}
    from generate_series(1, 20) m, generate_series(1, 500) n`);
    await created.query('vacuum analyze workflow_runs, deletions');
    const reads = await readsBy(created, async (database) => {
      t.is((await makeSagaRepository(database, []).findDue(32)).length, 32);
      t.is((await makeDeletionWork(database).findDue(32)).length, 32);
    });
    for (const table of ['workflow_runs', 'deletions']) {
      t.is(reads.get(table)?.scanned, 0, table);
      t.true((reads.get(table)?.looked ?? 0) < 1_000, `${table}: ${reads.get(table)?.looked}`);
    }
  },
);

test.serial(
  'tenants take turns also while what their bulk deletions match is written down, and that is found by an index',
  async (t) => {
    const created = await postgres.createDatabase(jobMigrations);
    const seed = (tenants: string, states: string, count: number, secondsAgo: number) =>
      created.query(
        `insert into bulk_deletions (tenant_id, id, mode, state, actor, subject, reason, fingerprint, force, filter,
           counts, next_attempt_at)
         select ${tenants}, gen_random_uuid(), 'PURGE', s.state, 'a', 'a', '', '', false, '{}',
                case s.state when 'COMPLETE' then '[]'::jsonb end,
                case s.state when 'COMPLETE' then null else now() - $3 * interval '1 s' end
         from generate_series(1, $2::int) n, unnest($1::text[]) s (state)`,
        [states.split(' '), count, secondsAgo],
      );
    await seed("'tenant-' || n % 20", 'COMPLETE', 10_000, 0);
    await seed("'large'", 'SELECTING CANCELLING RUNNING', 12, 60);
    await seed("'small'", 'SELECTING', 1, 1);
    await created.query('vacuum analyze bulk_deletions');
    const reads = await readsBy(created, async (database) => {
      const bulks = makeBulkDeletionRepository(database, jobTargets);
      const tenantsDue = async (limit: number) => (await bulks.findDue(limit)).map(({ tenantId }) => tenantId);
      t.deepEqual(await tenantsDue(2), ['large', 'small']);
      const [first] = await bulks.findDue(1);
      await bulks.claim('large', first?.bulkDeletionId ?? '', 'w', 60_000);
      t.deepEqual(await tenantsDue(2), ['small', 'large'], 'large has a worker');
    });
    t.is(reads.get('bulk_deletions')?.scanned, 0);
    t.true((reads.get('bulk_deletions')?.looked ?? 0) < 1_000, `${reads.get('bulk_deletions')?.looked}`);
  },
);
