import { setTimeout as delay } from 'node:timers/promises';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { MAX_MATCHES } from '#libs/bulk-deletion/bulk-deletion.ts';
import { makeBulkDeletionRepository } from '#libs/bulk-deletion/bulk-deletion-repository.ts';
import { reopenItem, takeItem } from '#libs/bulk-deletion/item-rows.ts';
import { makeOrderBulkDeletion } from '#libs/bulk-deletion/order-bulk-deletion.ts';
import type { BulkClaim, BulkOrder, OrderItem } from '#libs/bulk-deletion/ports.ts';
import { makeRunBulkDeletions } from '#libs/bulk-deletion/run-bulk-deletions.ts';
import type { Caller } from '#libs/kernel/caller.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { makeRunTargets } from '#services/run/adapters/postgres/bulk-targets.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import type { RunFilter } from '#services/run/domain/run-filter.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { readsBy } from '#test/support/table-reads.ts';
import { until } from '#test/support/test-stack.ts';

interface Context {
  readonly postgres: TestPostgres;
}
const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

test.before(async (t) => Object.assign(t.context, { postgres: await startTestPostgres() }));
test.after.always((t) => t.context.postgres?.stop());

const TENANT = 'acme';
const FILTER: RunFilter = { states: [], workflow: 'sync', showDeleted: false };
const CALLER: Caller = {
  subject: 'ann',
  actor: 'ann',
  kind: 'user',
  tenantId: TENANT,
  role: 'admin',
  scopes: new Set(),
};
const ITEMS = 3_000;
const SETTINGS = {
  name: 'test',
  workerId: 'worker',
  leaseMs: 30_000,
  maxUnderWay: 64,
  chunkSize: 1_000,
  turnMs: 60_000,
  pollMs: 1,
  retry: { maxAttempts: 3, baseMs: 10, maxMs: 50 },
};
const sleep = (ms: number, signal: AbortSignal) => delay(ms, undefined, { signal });
const ignore = (): void => undefined;
const OBSERVER = { onEnded: ignore, onItemsEnded: ignore, onItemFailed: ignore };
const NEVER = new AbortController().signal;

/** A database of runs, and its bulk deletions as the app role. */
async function open(t: T) {
  const created = await t.context.postgres.createDatabase(runMigrations);
  const database = created.open();
  t.teardown(() => database.close());
  return { created, database, repository: makeBulkDeletionRepository(database, makeRunTargets(0)) };
}

const seed = (created: TestDatabase, count: number, tenantId = TENANT): Promise<unknown> =>
  created.query(
    `insert into workflow_runs (tenant_id, id, workflow, display_name, state, created_at, finished_at)
     select $1, gen_random_uuid(), 'sync', '', 'COMPLETED', now() - interval '2 days' + n * interval '1 ms', now()
     from generate_series(1, $2::int) n`,
    [tenantId, count],
  );

const orderOf = (more: Partial<BulkOrder<RunFilter>> = {}): BulkOrder<RunFilter> => ({
  tenantId: TENANT,
  caller: CALLER,
  mode: 'PURGE',
  filter: FILTER,
  force: false,
  reason: 'x',
  requestId: undefined,
  fingerprint: '',
  expectedCount: undefined,
  ...more,
});

/** In the place of the real order: commits a deletion that stands in that state at once. */
const orderAs =
  (database: Database, state: 'COMPLETE' | 'PENDING'): OrderItem<RunFilter> =>
  async ({ tenantId }, { targetId }, item) => {
    const id = newId();
    await database.forTenant(tenantId, async (trx) => {
      await trx.raw(
        `insert into deletions (tenant_id, id, run_id, mode, state, actor, subject, fingerprint, bulk_deletion_id)
         values (:tenantId, :id, :targetId, 'PURGE', :state, 'ann', 'ann', '', :bulkDeletionId)`,
        { tenantId, id, targetId, state, bulkDeletionId: item.bulkDeletionId },
      );
      await takeItem(trx, tenantId, item, id);
    });
    return true;
  };

test('thousands of items end without a scan of what there is already, and each was ordered once', async (t) => {
  const created = await t.context.postgres.createDatabase(runMigrations);
  await seed(created, ITEMS);
  let ms = 0;
  // No statistics are there yet, as when a real one begins.
  const reads = await readsBy(created, async (database) => {
    const repository = makeBulkDeletionRepository(database, makeRunTargets(0));
    const { bulkDeletionId } = await repository.begin(orderOf(), ignore);
    const startedAt = performance.now();
    const run = makeRunBulkDeletions(repository, orderAs(database, 'COMPLETE'), SETTINGS, sleep, OBSERVER);
    while ((await run(NEVER)) > 0);
    ms = performance.now() - startedAt;
    const bulk = await repository.get(TENANT, bulkDeletionId);
    t.is(bulk?.state, 'COMPLETE');
    t.like(bulk?.counts, { matched: ITEMS, completed: ITEMS, pending: 0 });
  });
  t.log(`${ITEMS} items in ${Math.round(ms)} ms, their own deletions aside`);
  for (const [table, { scanned }] of reads) t.true(scanned <= 5 * ITEMS, `${scanned} of ${table} are scanned`);
  const [counted] = await created.query<{ targets: number; deletions: number }>(
    'select count(distinct run_id)::int as targets, count(*)::int as deletions from deletions',
  );
  t.deepEqual(counted, { targets: ITEMS, deletions: ITEMS });
});

test('more than a hundred thousand are counted no further, and refused', async (t) => {
  const { created, repository } = await open(t);
  await seed(created, MAX_MATCHES);
  const order = makeOrderBulkDeletion('test', repository, ignore, ignore);
  const command = { caller: CALLER, mode: 'PURGE' as const, filter: FILTER, force: false };
  t.like(await order.preview(command), { matched: MAX_MATCHES, exceedsCeiling: false });
  await seed(created, 5);
  t.like(await order.preview(command), { matched: MAX_MATCHES, exceedsCeiling: true, skips: [] });
  const ordered = order.order({ ...command, reason: 'x', requestId: undefined, expectedCount: undefined });
  t.like(await t.throwsAsync(ordered), { reason: 'TOO_MANY_MATCHES', metadata: { ceiling: '100000' } });
  t.deepEqual(await created.query('select from bulk_deletions'), []);
});

test('where more than expected match while items are written down, nothing is deleted', async (t) => {
  const { created, database, repository } = await open(t);
  await seed(created, 5);
  const { bulkDeletionId } = await repository.begin(orderOf({ expectedCount: 5 }), ignore);
  // Committed only now, and older than the order.
  await seed(created, 2);
  const run = makeRunBulkDeletions(repository, orderAs(database, 'COMPLETE'), SETTINGS, sleep, OBSERVER);
  while ((await run(NEVER)) > 0);
  const bulk = await repository.get(TENANT, bulkDeletionId);
  t.is(bulk?.state, 'CANCELLED');
  t.regex(bulk?.lastError ?? '', /^COUNT_CHANGED: 7 match now/);
  t.like(bulk?.counts, { matched: 7, cancelled: 7, pending: 0 });
  t.deepEqual(await created.query('select from deletions'), []);
});

test('each item is told of once when it ends, whichever way, and what is left is counted', async (t) => {
  const { created, database, repository } = await open(t);
  await seed(created, 8);
  await created.query(
    "update workflow_runs set state = 'RUNNING', finished_at = null where id in (select id from workflow_runs limit 2)",
  );
  const { bulkDeletionId } = await repository.begin(orderOf(), ignore);
  t.true((await repository.oldestUnfinishedSeconds()) > 0);
  const told = new Map<string, number>();
  const observer = {
    ...OBSERVER,
    onItemsEnded: (outcome: string, count: number) => void told.set(outcome, (told.get(outcome) ?? 0) + count),
  };
  let left = 0;
  let begun = 0;
  const run = makeRunBulkDeletions<RunFilter>(
    repository,
    async (...order) => {
      begun += 1;
      if (begun === 1) left = await repository.itemsLeft();
      if (begun === 3) await repository.cancel(TENANT, bulkDeletionId, CALLER, undefined);
      return orderAs(database, 'COMPLETE')(...order);
    },
    { ...SETTINGS, maxUnderWay: 1 },
    sleep,
    observer,
  );
  while ((await run(NEVER)) > 0);
  t.is(left, 6);
  t.deepEqual(Object.fromEntries(told), { SKIPPED: 2, COMPLETE: 2, CANCELLED: 4 });
  t.like((await repository.get(TENANT, bulkDeletionId))?.counts, { skipped: 2, completed: 2, cancelled: 4 });
  t.is(await repository.itemsLeft(), 0);
  t.is(await repository.oldestUnfinishedSeconds(), 0);
});

test('a worker whose lease ran out orders and writes nothing more', async (t) => {
  const { created, database, repository } = await open(t);
  await seed(created, 3);
  const { bulkDeletionId } = await repository.begin(orderOf(), ignore);
  const stale = (await repository.claim(TENANT, bulkDeletionId, 'first', 1)) as BulkClaim<RunFilter>;
  t.deepEqual(await repository.selectItems(stale, 10, ignore), { state: 'RUNNING', skipped: 0 });
  const [item] = await repository.dueItems(stale, 1);
  if (!item) throw new Error('no item is due');
  await delay(5);
  const fresh = await repository.claim(TENANT, bulkDeletionId, 'second', 30_000);
  t.true(fresh !== undefined);
  const ref = { bulkDeletionId, position: item.position, token: stale.token };
  const writes = [
    () => orderAs(database, 'PENDING')(stale.bulk, item, ref, CALLER),
    () => repository.settleItems(stale),
    () => repository.skipItem(stale, item, 'A', 'A: a.'),
    () => repository.deferItem(stale, item, 'A: a.', 1),
    () => repository.cancelItems(stale, 1),
    () => repository.renew(stale, 1),
    () => repository.release(stale, 0),
    () => repository.finish(stale),
  ];
  for (const write of writes) t.like(await t.throwsAsync(write as () => Promise<unknown>), { reason: 'LEASE_LOST' });
  t.deepEqual(await created.query('select from deletions'), []);
  t.like((await repository.get(TENANT, bulkDeletionId))?.counts, { matched: 3, pending: 3, underWay: 0 });
});

test('a cancel waits for the order that is being committed, and refuses the one after it', async (t) => {
  const { created, database, repository } = await open(t);
  await seed(created, 2);
  const { bulkDeletionId } = await repository.begin(orderOf(), ignore);
  const claim = (await repository.claim(TENANT, bulkDeletionId, 'a', 30_000)) as BulkClaim<RunFilter>;
  await repository.selectItems(claim, 10, ignore);
  const [first, second] = await repository.dueItems(claim, 2);
  const refOf = (position = 0) => ({ bulkDeletionId, position, token: claim.token });
  const gate = Promise.withResolvers<void>();
  const taken = Promise.withResolvers<void>();
  const ordering = database.forTenant(TENANT, async (trx) => {
    await takeItem(trx, TENANT, refOf(first?.position), newId());
    taken.resolve();
    await gate.promise;
  });
  await taken.promise;
  let isCancelled = false;
  const cancelling = repository.cancel(TENANT, bulkDeletionId, CALLER, undefined).then(() => {
    isCancelled = true;
  });
  await delay(50);
  t.false(isCancelled, 'it waits');
  gate.resolve();
  await Promise.all([ordering, cancelling]);
  t.like((await repository.get(TENANT, bulkDeletionId))?.counts, { pending: 2, underWay: 1 });
  const late = database.forTenant(TENANT, (trx) => takeItem(trx, TENANT, refOf(second?.position), newId()));
  t.like(await t.throwsAsync(late), { reason: 'LEASE_LOST' });
});

for (const [state, again] of [
  ['STUCK', 'RUNNING'],
  ['CANCELLED', 'CANCELLING'],
] as const) {
  test(`a redrive while a bulk deletion ends as ${state} makes it ${again} again`, async (t) => {
    const { created, database, repository } = await open(t);
    await seed(created, 1);
    const { bulkDeletionId } = await repository.begin(orderOf(), ignore);
    const claim = (await repository.claim(TENANT, bulkDeletionId, 'a', 30_000)) as BulkClaim<RunFilter>;
    await repository.selectItems(claim, 10, ignore);
    for (const item of await repository.dueItems(claim, 1))
      await orderAs(database, 'PENDING')(claim.bulk, item, { ...item, bulkDeletionId, token: claim.token }, CALLER);
    await created.query("update deletions set state = 'STUCK'");
    await repository.settleItems(claim);
    if (state === 'CANCELLED') await repository.cancel(TENANT, bulkDeletionId, CALLER, undefined);
    const [deletion] = await created.query<{ id: string }>('select id from deletions');
    const gate = Promise.withResolvers<void>();
    const written = Promise.withResolvers<void>();
    const finishing = makeBulkDeletionRepository(
      {
        ...database,
        forTenant: (tenantId, work) =>
          database.forTenant(tenantId, async (trx) => {
            const result = await work(trx);
            written.resolve();
            await gate.promise;
            return result;
          }),
      },
      makeRunTargets(0),
    ).finish(claim);
    await written.promise;
    let isOver = false;
    const redriving = database
      .forTenant(TENANT, (trx) => reopenItem(trx, TENANT, bulkDeletionId, deletion?.id ?? ''))
      .finally(() => {
        isOver = true;
      });
    const waits = () => created.query('select from pg_locks where not granted');
    await until('the redrive waits, or does not', async () => isOver || (await waits()).length > 0);
    gate.resolve();
    t.is((await finishing)?.state, state);
    await redriving;
    const bulk = await repository.get(TENANT, bulkDeletionId);
    t.is(bulk?.state, again);
    t.like(bulk?.counts, { matched: 1, underWay: 1, stuck: 0 });
    t.is((await repository.findDue(1)).length, 1);
  });
}

test('an item whose soft delete was given up is skipped as UNDELETED', async (t) => {
  const { created, database, repository } = await open(t);
  await seed(created, 1);
  const { bulkDeletionId } = await repository.begin(orderOf({ mode: 'SOFT_DELETE' }), ignore);
  const claim = (await repository.claim(TENANT, bulkDeletionId, 'a', 30_000)) as BulkClaim<RunFilter>;
  await repository.selectItems(claim, 10, ignore);
  for (const item of await repository.dueItems(claim, 1))
    await orderAs(database, 'PENDING')(claim.bulk, item, { ...item, bulkDeletionId, token: claim.token }, CALLER);
  t.deepEqual(await repository.settleItems(claim), { state: 'RUNNING', underWay: 1, ended: new Map() });
  await created.query("update deletions set state = 'CANCELLED'");
  t.deepEqual(await repository.settleItems(claim), { state: 'RUNNING', underWay: 0, ended: new Map([['SKIPPED', 1]]) });
  const ended = await repository.finish(claim);
  t.is(ended?.state, 'COMPLETE');
  t.deepEqual(ended?.skips, [{ reason: 'UNDELETED', count: 1 }]);
});

test('what ended longer ago than receipts are kept is forgotten, unless it is STUCK; the receipts of items stay', async (t) => {
  const { created, repository } = await open(t);
  for (const [state, age] of [
    ['COMPLETE', 401],
    ['CANCELLED', 401],
    ['STUCK', 401],
    ['COMPLETE', 399],
  ] as const) {
    await created.query(
      `with b as (
         insert into bulk_deletions (tenant_id, id, mode, state, actor, subject, reason, fingerprint, force, filter, counts,
                                     finished_at)
         values ('acme', gen_random_uuid(), 'PURGE', $1, 'a', 'a', $1 || $2, '', false, '{}', '[]',
                 now() - $2::int * interval '1 day') returning tenant_id, id),
       i as (
         insert into bulk_deletion_items (tenant_id, bulk_deletion_id, position, target_id, etag, state, deletion_id)
         select tenant_id, id, n, gen_random_uuid(), '', 'COMPLETE', gen_random_uuid()
         from b, generate_series(1, 1500) n returning *)
       insert into deletions (tenant_id, id, run_id, mode, state, actor, subject, fingerprint, bulk_deletion_id)
       select tenant_id, deletion_id, target_id, 'PURGE', 'COMPLETE', 'a', 'a', '', bulk_deletion_id from i where position < 3`,
      [state, age],
    );
  }
  t.is(await repository.expire(400), 2 * 1_501);
  t.is(await repository.expire(400), 0);
  const left = await created.query<{ reason: string }>('select reason from bulk_deletions order by reason');
  t.deepEqual(
    left.map(({ reason }) => reason),
    ['COMPLETE399', 'STUCK401'],
  );
  t.is((await created.query('select from bulk_deletion_items')).length, 3_000);
  t.is((await created.query('select from deletions')).length, 8);
});

test('what is redriven while it is forgotten keeps its items', async (t) => {
  const { created, database } = await open(t);
  const [bulk] = await created.query<{ id: string }>(
    `insert into bulk_deletions (tenant_id, id, mode, state, actor, subject, reason, fingerprint, force, filter, counts,
                                 finished_at)
     values ('acme', gen_random_uuid(), 'PURGE', 'CANCELLED', 'a', 'a', '', '', false, '{}', '[]',
             now() - interval '401 days') returning id`,
  );
  const id = bulk?.id ?? '';
  const deletionId = newId();
  await created.query(
    `insert into bulk_deletion_items (tenant_id, bulk_deletion_id, position, target_id, etag, state, deletion_id)
     select 'acme', $1, n, gen_random_uuid(), '', case n when 1 then 'STUCK' else 'COMPLETE' end,
            case n when 1 then $2::uuid else gen_random_uuid() end
     from generate_series(1, 3) n`,
    [id, deletionId],
  );
  const redriving: Database = {
    ...database,
    async acrossTenants<Row>(statement: Parameters<Database['acrossTenants']>[0]) {
      const rows = await database.acrossTenants<Row>(statement);
      await database.forTenant(TENANT, (trx) => reopenItem(trx, TENANT, id, deletionId));
      return rows;
    },
  };
  t.is(await makeBulkDeletionRepository(redriving, makeRunTargets(0)).expire(400), 0);
  const items = await created.query('select state from bulk_deletion_items order by position');
  t.deepEqual(items, [{ state: 'RUNNING' }, { state: 'COMPLETE' }, { state: 'COMPLETE' }]);
  t.deepEqual(await created.query('select state from bulk_deletions'), [{ state: 'CANCELLING' }]);
});

test('the app role reads and writes bulk deletions by an index', async (t) => {
  const created = await t.context.postgres.createDatabase(runMigrations);
  const bulkId = (n: number) => `00000000-0000-0000-0000-${String(n).padStart(12, '0')}`;
  // 50 tenants with 80 bulk deletions each, one of them RUNNING and eight with 250 items, and 400 runs each.
  await created.query(`
    insert into workflow_runs (tenant_id, id, workflow, display_name, state, created_at, finished_at)
      select 'tenant-' || n % 50, gen_random_uuid(), 'sync', '', 'COMPLETED', now() - n * interval '1 minute', now()
      from generate_series(1, 20000) n;
    insert into bulk_deletions (tenant_id, id, mode, state, actor, subject, reason, request_id, fingerprint, force, filter,
                                counts, created_at, next_attempt_at, finished_at)
      select 'tenant-' || n % 50, cast(lpad(n::text, 32, '0') as uuid), 'PURGE',
             case when n <= 50 then 'RUNNING' else 'COMPLETE' end, 'a', 'a', 'r', gen_random_uuid(), '', false,
             '{"states": [], "workflow": "sync", "showDeleted": false}', case when n > 50 then '[]'::jsonb end,
             now() - n * interval '1 day', case when n <= 50 then now() end,
             case when n > 50 then now() - (4001 - n) * interval '1 hour' end
      from generate_series(1, 4000) n;
    insert into bulk_deletion_items (tenant_id, bulk_deletion_id, position, target_id, etag, state, deletion_id)
      select b.tenant_id, b.id, n, gen_random_uuid(), '', case when b.state = 'COMPLETE' then 'COMPLETE'
             when n <= 4 then 'RUNNING' when n <= 100 then 'COMPLETE' else 'PENDING' end,
             case when n <= 100 or b.state = 'COMPLETE' then gen_random_uuid() end
      from (select * from bulk_deletions order by created_at desc limit 400) b, generate_series(1, 250) n;
    insert into bulk_deletion_items (tenant_id, bulk_deletion_id, position, target_id, etag, state)
      select 'tenant-7', '${bulkId(7)}', n, gen_random_uuid(), '', 'PENDING' from generate_series(251, 5000) n;
    insert into deletions (tenant_id, id, run_id, mode, state, actor, subject, fingerprint, bulk_deletion_id)
      select tenant_id, deletion_id, target_id, 'PURGE', case state when 'RUNNING' then 'CASCADING' else state end, 'a',
             'a', '', bulk_deletion_id
      from bulk_deletion_items where deletion_id is not null;
    analyze`);
  const tenantId = 'tenant-7';
  const id = bulkId(7);
  const page = { limit: 50, after: undefined };
  let claim: BulkClaim<RunFilter> | undefined;
  const held = (): BulkClaim<RunFilter> => claim as BulkClaim<RunFilter>;
  type Repository = ReturnType<typeof makeBulkDeletionRepository<RunFilter>>;
  const item = { position: 120, targetId: id, etag: '', attempts: 0 };
  const steps: readonly [name: string, most: number, work: (of: Repository, database: Database) => Promise<unknown>][] =
    [
      ['what is due', 450, (of) => of.findDue(16)],
      ['the matches of a filter', 900, (of) => of.count(orderOf({ tenantId }))],
      ['samples', 100, (of) => of.sample(orderOf({ tenantId }), 10)],
      ['an order', 900, (of) => of.begin(orderOf({ tenantId, requestId: newId() }), ignore)],
      ['one', 6_000, (of) => of.get(tenantId, id)],
      ['a list', 12_000, (of) => of.list(tenantId, { ...page, state: undefined })],
      ['items', 110, (of) => of.listItems(tenantId, id, { ...page, state: undefined })],
      ['items of a state', 110, (of) => of.listItems(tenantId, id, { ...page, state: 'PENDING' })],
      ['late items', 110, (of) => of.listItems(tenantId, id, { limit: 50, after: ['150'], state: undefined })],
      [
        'a claim',
        20,
        async (of) => {
          claim = await of.claim(tenantId, id, 'a', 30_000);
        },
      ],
      ['what has settled', 60, (of) => of.settleItems(held())],
      ['what is due of it', 20, (of) => of.dueItems(held(), 8)],
      ['a skipped item', 20, (of) => of.skipItem(held(), item, 'A', 'A: a.')],
      ['a deferred item', 20, (of) => of.deferItem(held(), { ...item, position: 121 }, 'A: a.', 1)],
      [
        'an item that is begun',
        20,
        (of, database) =>
          database.forTenant(tenantId, (trx) =>
            takeItem(trx, tenantId, { bulkDeletionId: id, position: 122, token: held().token }, of ? newId() : ''),
          ),
      ],
      ['a cancel', 20, (of) => of.cancel(tenantId, id, CALLER, undefined)],
      ['cancelled items', 120, (of) => of.cancelItems(held(), 50)],
      ['an end that is none', 6_000, (of) => of.finish(held())],
      ['a release', 20, (of) => of.release(held(), 0)],
      ['what has expired', 14_000, (of) => of.expire(160)],
    ];
  for (const [name, most, work] of steps) {
    const reads = await readsBy(created, (database) =>
      work(makeBulkDeletionRepository(database, makeRunTargets(0)), database),
    );
    for (const [table, { scanned, looked }] of reads) {
      t.true(scanned <= 50, `${name} scans ${scanned} of ${table}`);
      t.true(looked <= most, `${name} looks up ${looked} of ${table}`);
    }
  }
});
