import anyTest, { type TestFn } from 'ava';
import knexOf from 'knex';
import { migrateUp } from '#libs/postgres/migrate.ts';
import { retentionMigrations } from '#services/retention/adapters/postgres/migrations/index.ts';
import { makePurgeRepository } from '#services/retention/adapters/postgres/purge-repository.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

const NAME = '008-purge-subjects';
const PURGE = '01890000-0000-7000-8000-000000000001';

const at = retentionMigrations.findIndex(({ name }) => name === NAME);
const BEFORE = retentionMigrations.slice(0, at);

/** Takes back, or does again, this one migration and what comes after it. */
async function step(database: TestDatabase, direction: 'up' | 'down'): Promise<void> {
  const knex = knexOf({ client: 'pg', connection: database.ownerUrl, pool: { min: 0, max: 1 } });
  try {
    const moved = retentionMigrations.slice(at);
    for (const migration of direction === 'up' ? moved : moved.toReversed()) {
      await knex.transaction((trx) => migration[direction](trx, database.appRole));
    }
  } finally {
    await knex.destroy();
  }
}

const DAYS = (subject: string, days: number) => ({
  subject,
  window: { kind: 'DAYS', days },
  source: 'PLAN',
  from: { plan: 'PRO', version: 1 },
});
const WINDOWS = [
  DAYS('DRIFT_CHECKS', 30),
  DAYS('APPROVALS', 180),
  { subject: 'EXECUTIONS', window: { kind: 'KEEP_ALL' }, source: 'NONE' },
];
const counts = (type: string, deleted: number, left = 0) => [
  { resourceType: type, found: deleted + left, deleted, left },
];
const operation = (subject: string, type: string, deleted: number, isDone = true, days = 30) => ({
  subject,
  operationId: PURGE,
  retentionDays: days,
  cutoff: '2026-01-01T00:00:00.123456Z',
  counts: counts(type, deleted),
  isDone,
});

interface OldItem {
  readonly tenantId: string;
  readonly state: string;
  readonly validateOnly?: boolean;
  readonly operations?: readonly object[];
  readonly hold?: object;
  readonly subject?: string;
  readonly error?: string;
}

const HOLD = {
  subject: 'DRIFT_CHECKS',
  expired: 9,
  total: 10,
  maxShare: 0.5,
  maxCount: 1_000,
  heldAt: '2026-02-01T00:00:00Z',
};

const ITEMS: readonly OldItem[] = [
  { tenantId: 'pending', state: 'PENDING' },
  {
    tenantId: 'running',
    state: 'RUNNING',
    subject: 'DRIFT_CHECKS',
    operations: [operation('DRIFT_CHECKS', 'drift_check', 5, false)],
  },
  {
    tenantId: 'complete',
    state: 'COMPLETE',
    operations: [
      operation('DRIFT_CHECKS', 'drift_check', 5),
      { ...operation('DRIFT_CHECKS', 'drift_check', 2, true, 60), operationId: '01890000-0000-7000-8000-00000000000b' },
      operation('APPROVALS', 'approval', 1),
    ],
  },
  {
    tenantId: 'partial',
    state: 'PARTIAL',
    error: 'DEPENDENCY_UNAVAILABLE: silent',
    operations: [operation('DRIFT_CHECKS', 'drift_check', 3, false), operation('APPROVALS', 'approval', 4)],
  },
  { tenantId: 'failed', state: 'FAILED', error: 'WORKERS_LOST: 50' },
  { tenantId: 'held', state: 'HELD', hold: HOLD },
  {
    tenantId: 'released',
    state: 'COMPLETE',
    hold: { ...HOLD, approval: { at: '2026-02-02T00:00:00Z', actor: 'ada', reason: 'fine' } },
    operations: [operation('DRIFT_CHECKS', 'drift_check', 9)],
  },
  { tenantId: 'skipped', state: 'SKIPPED' },
  {
    tenantId: 'rehearsed',
    state: 'COMPLETE',
    validateOnly: true,
    operations: [{ ...operation('DRIFT_CHECKS', 'drift_check', 0), counts: counts('drift_check', 0, 7) }],
  },
];

async function addOldItems(database: TestDatabase): Promise<void> {
  await database.query(
    `insert into retention_purges (id, trigger, validate_only, actor, subject, fingerprint)
     values ($1, 'PURGE', false, 'ada', 'ada', '')`,
    [PURGE],
  );
  for (const { tenantId, state, validateOnly = false, operations = [], hold, subject, error } of ITEMS) {
    const hasWindows = state !== 'PENDING' && state !== 'SKIPPED' && state !== 'FAILED';
    const sums = operations.flatMap((each) => (each as { counts: object[] }).counts);
    await database.query(
      `insert into retention_purge_items
         (tenant_id, purge_id, state, validate_only, actor, windows, operations, counts, hold, subject, error, finished_at)
       values ($1, $2, $3, $4, 'ada', $5, $6, $7, $8, $9, $10,
               case when $3 in ('COMPLETE', 'PARTIAL', 'FAILED', 'SKIPPED') then timestamptz '2026-03-01' end)`,
      [
        tenantId,
        PURGE,
        state,
        validateOnly,
        JSON.stringify(hasWindows ? WINDOWS : []),
        JSON.stringify(operations),
        JSON.stringify(sums),
        hold ? JSON.stringify(hold) : null,
        subject ?? null,
        error ?? null,
      ],
    );
  }
}

const subjectsOf = (database: TestDatabase) =>
  database.query<{ tenant_id: string; subject: string; state: string }>(
    `select to_jsonb(s) - 'updated_at' as row, s.tenant_id, s.subject, s.state from retention_purge_subjects s
     order by tenant_id, subject`,
  );

test('what items held in jsonb becomes subjects, in each state, and goes back and forth without loss', async (t) => {
  const database = await t.context.postgres.createDatabase(BEFORE);
  await addOldItems(database);
  const itemsBefore = await database.query(
    'select tenant_id, state, hold, counts, error, subject from retention_purge_items order by 1',
  );
  await migrateUp({ ownerUrl: database.ownerUrl, appRole: database.appRole, migrations: retentionMigrations });
  const first = await subjectsOf(database);
  const states = (tenantId: string) =>
    Object.fromEntries(first.filter((row) => row.tenant_id === tenantId).map(({ subject, state }) => [subject, state]));
  t.deepEqual(states('pending'), {});
  t.deepEqual(states('running'), { approvals: 'PENDING', drift_checks: 'PENDING', executions: 'KEPT' });
  t.deepEqual(states('complete'), { approvals: 'COMPLETE', drift_checks: 'COMPLETE', executions: 'KEPT' });
  t.deepEqual(states('partial'), { approvals: 'COMPLETE', drift_checks: 'PARTIAL', executions: 'KEPT' });
  t.deepEqual(states('held'), { approvals: 'PENDING', drift_checks: 'HELD', executions: 'KEPT' });
  t.deepEqual(states('rehearsed'), { approvals: 'COMPLETE', drift_checks: 'OBSERVED', executions: 'KEPT' });

  const opened = database.open();
  const purges = makePurgeRepository(opened);
  const complete = await purges.getItem('complete', PURGE);
  const checks = complete?.subjects.find(({ subject }) => subject === 'drift_checks');
  t.deepEqual(checks?.counts, counts('drift_check', 7), 'of both operations');
  t.is(checks?.cutoff?.toString(), '2026-01-01T00:00:00.123456Z');
  const held = (await purges.getItem('held', PURGE))?.subjects.find(({ subject }) => subject === 'drift_checks');
  t.like(held?.hold, { expired: 9, total: 10, maxShare: 0.5, maxCount: 1_000, approval: undefined });
  const released = (await purges.getItem('released', PURGE))?.subjects.find(
    ({ subject }) => subject === 'drift_checks',
  );
  t.like(released?.hold?.approval, { actor: 'ada', reason: 'fine' });
  t.deepEqual(
    (await purges.get(PURGE))?.counts.map(({ resourceType, deleted }) => [resourceType, deleted]),
    [
      ['approval', 5],
      ['drift_check', 24],
    ],
  );
  t.deepEqual(
    (await purges.findLastDays(['complete', 'partial', 'rehearsed'])).toSorted((a, b) =>
      `${a.tenantId}${a.subject}` < `${b.tenantId}${b.subject}` ? -1 : 1,
    ),
    [
      { tenantId: 'complete', subject: 'approvals', days: 180 },
      { tenantId: 'complete', subject: 'drift_checks', days: 30 },
      { tenantId: 'partial', subject: 'approvals', days: 180 },
    ],
  );
  // What was held before can be released after.
  const approval = { tenantId: 'held', purgeId: PURGE, subjects: [], actor: 'ada', subject: 'ada', reason: 'fine' };
  await opened.close();

  await step(database, 'down');
  const back = await database.query(
    'select tenant_id, state, hold, counts, error, subject from retention_purge_items order by 1',
  );
  const sumsOf = (rows: unknown[]) =>
    (
      rows as {
        tenant_id: string;
        state: string;
        error: string | null;
        counts: { resourceType: string; deleted: number }[];
      }[]
    ).map((row) => {
      const sums = new Map<string, number>();
      for (const { resourceType, deleted } of row.counts)
        sums.set(resourceType, (sums.get(resourceType) ?? 0) + deleted);
      return [row.tenant_id, row.state, row.error, [...sums].toSorted()];
    });
  t.deepEqual(sumsOf(back), sumsOf(itemsBefore), 'states, errors and counts are as they were');
  await step(database, 'up');
  const second = await subjectsOf(database);
  t.deepEqual(
    second.map(({ tenant_id, subject, state }) => [tenant_id, subject, state]),
    first.map(({ tenant_id, subject, state }) => [tenant_id, subject, state]),
  );
  const again = database.open();
  const item = await makePurgeRepository(again).approve(approval);
  const checksAgain = item.subjects.find(({ subject }) => subject === 'drift_checks');
  t.like(checksAgain, { state: 'PENDING' });
  t.like(checksAgain?.hold?.approval, { rows: 9, days: 30, actor: 'ada' });
  await again.close();
});
