import anyTest, { type TestFn } from 'ava';
import type { Page } from '#libs/kernel/page.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { makeDeletionRecords } from '#services/run/adapters/postgres/deletion-records.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { makeRunRepository } from '#services/run/adapters/postgres/run-repository.ts';
import type { DeletionQuery, RunQuery } from '#services/run/use-cases/ports.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { readsBy } from '#test/support/table-reads.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres; created: TestDatabase }>;

const ROWS = 40_000;
const ROWS_PER_PAGE = 10_000;
const PAGES = ROWS / ROWS_PER_PAGE;
// Where it is not full, the end of a page is looked up anew.
const MOST_READS = 2 * ROWS_PER_PAGE + 500;

test.before(async (t) => {
  const postgres = await startTestPostgres();
  const created = await postgres.createDatabase(runMigrations);
  Object.assign(t.context, { postgres, created });
  // The oldest one alone is unlike the others; of those that are hidden as well.
  await created.query(
    `insert into workflow_runs (tenant_id, id, workflow, display_name, state, created_at, finished_at,
                                deleted_at, deleted_by, deletion_id)
     select tenant, gen_random_uuid(), case n when 0 then 'rare' else 'sync' end, '', case n when 0 then 'FAILED' else 'COMPLETED' end,
            now() - interval '9 days' + n * interval '1 second', now(),
            case tenant when 'hidden' then now() - interval '9 days' + n * interval '1 second' end,
            case tenant when 'hidden' then 'ann' end, case tenant when 'hidden' then gen_random_uuid() end
     from generate_series(0, $1::int - 1) n, unnest(array['acme', 'hidden']) tenant`,
    [ROWS],
  );
  await created.query(
    `insert into deletions (tenant_id, id, run_id, mode, state, actor, subject, fingerprint, created_at)
     select 'acme', gen_random_uuid(), gen_random_uuid(), case n when 0 then 'UNDELETE' else 'PURGE' end,
            case n when 0 then 'CANCELLED' when 1 then 'STUCK' else 'COMPLETE' end, 'ann', 'ann', '',
            now() - interval '9 days' + n * interval '1 second'
     from generate_series(0, $1::int - 1) n`,
    [ROWS],
  );
  await created.query('analyze');
});
test.after.always((t) => t.context.postgres?.stop());

type List = (
  database: Database,
  page: { limit: number; after: readonly string[] | undefined },
) => Promise<Page<unknown>>;

const runsOf =
  (tenantId: string, filter: Partial<RunQuery>): List =>
  (database, page) =>
    makeRunRepository(database).list(tenantId, {
      state: undefined,
      workflow: undefined,
      minCreatedAt: undefined,
      maxCreatedAt: undefined,
      showDeleted: false,
      deletedOnly: false,
      ...filter,
      ...page,
    });
const deletionsOf =
  (filter: Partial<DeletionQuery>): List =>
  (database, page) =>
    makeDeletionRecords(database).list('acme', {
      state: undefined,
      mode: undefined,
      runId: undefined,
      ...filter,
      ...page,
    });

for (const [what, list, found] of [
  ['runs by state', runsOf('acme', { state: 'FAILED' }), 1],
  ['runs by workflow', runsOf('acme', { workflow: 'rare' }), 1],
  ['runs of which all are hidden', runsOf('hidden', {}), 0],
  ['deletions by mode', deletionsOf({ mode: 'UNDELETE' }), 1],
  ['deletions by a state that is over', deletionsOf({ state: 'CANCELLED' }), 1],
] as const) {
  test.serial(`a page of ${what} reads a bounded number of rows, and its token leads to what matches`, async (t) => {
    let after: readonly string[] | undefined;
    let items = 0;
    let pages = 0;
    do {
      const reads = await readsBy(t.context.created, async (database) => {
        const page = await list(database, { limit: 50, after });
        items += page.items.length;
        after = page.next;
      });
      for (const [table, { scanned, looked }] of reads)
        t.true(scanned + looked <= MOST_READS, `${scanned} of ${table} are scanned, ${looked} looked up`);
      pages += 1;
      t.true(pages <= PAGES + 1, 'the list ends');
    } while (after && pages <= PAGES);
    t.is(items, found);
  });
}

test.serial('a hidden run among many of another state is found behind short pages', async (t) => {
  const database = t.context.created.open();
  const list = runsOf('hidden', { state: 'FAILED', showDeleted: true, deletedOnly: true });
  const found: number[] = [];
  for (let after: readonly string[] | undefined, isFirst = true; isFirst || after; isFirst = false) {
    const page = await list(database, { limit: 50, after });
    found.push(page.items.length);
    after = page.next;
  }
  await database.close();
  t.deepEqual(found.slice(0, PAGES), [0, 0, 0, 1]);
});

for (const [what, list] of [
  ['the newest runs', runsOf('acme', {})],
  ['the newest runs of a state', runsOf('acme', { state: 'COMPLETED' })],
  ['the runs that were hidden last', runsOf('hidden', { showDeleted: true, deletedOnly: true })],
  ['the newest deletions', deletionsOf({})],
] as const) {
  test.serial(`a page of ${what} reads what it shows`, async (t) => {
    const reads = await readsBy(t.context.created, async (database) => {
      const { items, next } = await list(database, { limit: 50, after: undefined });
      t.is(items.length, 50);
      t.truthy(next);
    });
    for (const [table, { scanned, looked }] of reads)
      t.true(scanned + looked <= 500, `${scanned} of ${table} are scanned, ${looked} looked up`);
  });
}

test.serial('the deletions that wait for a person are one short look away, however old they are', async (t) => {
  const reads = await readsBy(t.context.created, async (database) => {
    const { items, next } = await deletionsOf({ state: 'STUCK' })(database, { limit: 50, after: undefined });
    t.deepEqual([items.length, next], [1, undefined]);
  });
  const { scanned = 0, looked = 0 } = reads.get('deletions') ?? {};
  t.true(scanned + looked <= 100, `${scanned} are scanned, ${looked} looked up`);
});
