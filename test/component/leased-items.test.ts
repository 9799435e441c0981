import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import knexOf from 'knex';
import { newId } from '#libs/kernel/id.ts';
import { migrateUp } from '#libs/postgres/migrate.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { nextInstant } from '#services/retention/adapters/cron/cron-pattern.ts';
import { retentionMigrations } from '#services/retention/adapters/postgres/migrations/index.ts';
import { makePurgeRepository } from '#services/retention/adapters/postgres/purge-repository.ts';
import { makeScheduleRepository } from '#services/retention/adapters/postgres/schedule-repository.ts';
import { makeStopRepository } from '#services/retention/adapters/postgres/stop-repository.ts';
import type { ItemKey, NewPurge } from '#services/retention/use-cases/purge-ports.ts';
import { makeRunSchedules, type Schedule } from '#services/retention/use-cases/run-schedules.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import { until } from '#test/support/test-stack.ts';

// What RetentionService does in the background is rows that a replica leases, and nothing else.

interface Context {
  postgres: TestPostgres;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

async function open(t: T): Promise<{ created: TestDatabase; database: Database }> {
  const created = await t.context.postgres.createDatabase(retentionMigrations);
  const database = created.open();
  t.teardown(() => database.close());
  return { created, database };
}

const NAME = '014-leased-items';
const at = retentionMigrations.findIndex(({ name }) => name === NAME);
const LEASE_MS = 60_000;

/** Takes back, or does again, this migration and what comes after it. */
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

const PURGE = '01890000-0000-7000-8000-000000000001';
const key = (tenantId: string): ItemKey => ({ tenantId, purgeId: PURGE });

interface OldItem {
  readonly state: string;
  /** In seconds from now. */
  readonly nextAttempt?: number;
  readonly leaseEnd?: number;
  readonly attempts?: number;
  readonly overdueDays?: number;
  readonly isOpen?: boolean;
}

const OLD: Readonly<Record<string, OldItem>> = {
  fresh: { state: 'PENDING', nextAttempt: -5, overdueDays: 2 },
  never: { state: 'PENDING', nextAttempt: -5 },
  leased: { state: 'RUNNING', nextAttempt: -9, leaseEnd: 3_600, attempts: 1 },
  crashed: { state: 'RUNNING', nextAttempt: -9, leaseEnd: -1, attempts: 2 },
  waiting: { state: 'RUNNING', nextAttempt: 3_600, attempts: 1 },
  released: { state: 'PENDING', nextAttempt: -900, attempts: 1 },
  cut: { state: 'PARTIAL', attempts: 3, isOpen: true },
  complete: { state: 'COMPLETE', attempts: 1 },
  held: { state: 'HELD', attempts: 1 },
  skipped: { state: 'SKIPPED' },
};

async function addOldItems(database: TestDatabase): Promise<void> {
  await database.query(
    `insert into retention_purges (id, trigger, validate_only, actor, subject, fingerprint)
     values ($1, 'PURGE', false, 'ada', 'ada', '')`,
    [PURGE],
  );
  for (const [tenantId, old] of Object.entries(OLD)) {
    await database.query(
      `insert into retention_purge_items
         (tenant_id, purge_id, state, validate_only, actor, attempts, next_attempt_at, lease_owner, lease_token,
          lease_expires_at, overdue_since, finished_at)
       values ($1, $2, $3, false, 'ada', $4, now() + $5 * interval '1 s', case when $6::int is not null then 'w' end, 7,
               now() + $6 * interval '1 s', now() - $7 * interval '1 day',
               case when $3 in ('COMPLETE', 'PARTIAL', 'SKIPPED') then now() end)`,
      [
        tenantId,
        PURGE,
        old.state,
        old.attempts ?? 0,
        old.nextAttempt ?? 0,
        old.leaseEnd ?? null,
        old.overdueDays ?? null,
      ],
    );
    if (old.state === 'PENDING' || old.state === 'SKIPPED') continue;
    await database.query(
      `insert into retention_purge_subjects
         (tenant_id, purge_id, subject, state, validate_only, kind, days, source, operation_id, is_ended)
       values ($1, $2, 'drift_checks', 'PARTIAL', false, 'DAYS', 30, 'PLAN', gen_random_uuid(), $3)`,
      [tenantId, PURGE, old.isOpen !== true],
    );
  }
  // As the queue has it before it is taken away: some have a job, and some lost it.
  await database.query('select requeue_purge_items()');
  await database.query("delete from graphile_worker._private_jobs where key like '%:crashed'");
}

test('a purge under way goes on after the migration from the queue, and after the way back', async (t) => {
  const created = await t.context.postgres.createDatabase(retentionMigrations.slice(0, at));
  await addOldItems(created);
  await migrateUp({ ownerUrl: created.ownerUrl, appRole: created.appRole, migrations: retentionMigrations });
  t.deepEqual(await created.query("select from pg_namespace where nspname = 'graphile_worker'"), []);
  const opened = created.open();
  const purges = makePurgeRepository(opened);
  const due = (await purges.findDue(10)).map(({ tenantId }) => tenantId);
  t.deepEqual(due, ['never', 'fresh', 'released', 'crashed', 'cut'], 'most overdue first');
  t.is(await purges.claim(key('leased'), 'v', LEASE_MS), undefined);
  t.is(await purges.claim(key('waiting'), 'v', LEASE_MS), undefined);
  for (const tenantId of ['complete', 'held', 'skipped']) {
    t.is(await purges.claim(key(tenantId), 'v', LEASE_MS), undefined, tenantId);
  }
  const crashed = await purges.claim(key('crashed'), 'v', LEASE_MS);
  t.like(crashed, { token: 8n, item: { state: 'RUNNING', attempts: 3 } });
  t.like(await purges.claim(key('cut'), 'v', LEASE_MS), { item: { state: 'PARTIAL', attempts: 3 } });
  await created.query("update retention_purge_items set due_at = now() - interval '1 s' where tenant_id = 'leased'");
  t.like(await purges.claim(key('leased'), 'v', LEASE_MS), { token: 8n, item: { attempts: 2 } });
  await opened.close();

  await step(created, 'down');
  const jobs = await created.query<{ key: string; due: boolean }>(
    `select split_part(key, ':', 1) || ' ' || split_part(key, ':', 3) as key, run_at <= now() as due
     from graphile_worker._private_jobs order by 1`,
  );
  t.deepEqual(jobs, [
    { key: 'purge crashed', due: false },
    { key: 'purge fresh', due: true },
    { key: 'purge leased', due: false },
    { key: 'purge never', due: true },
    { key: 'purge released', due: true },
    { key: 'purge waiting', due: false },
    { key: 'settle cut', due: true },
  ]);
  const leases = await created.query<{ tenant_id: string }>(
    "select tenant_id from retention_purge_items where lease_expires_at > now() + interval '30 s' order by 1",
  );
  t.deepEqual(leases, [{ tenant_id: 'crashed' }, { tenant_id: 'leased' }]);
  await created.query("select graphile_worker.add_job('purge-tenant', json_build_object(), job_key => 'again')");
  await created.query("select graphile_worker.remove_job('again')");

  await step(created, 'up');
  const again = created.open();
  const rest = (await makePurgeRepository(again).findDue(10)).map(({ tenantId }) => tenantId);
  t.deepEqual(rest, ['never', 'fresh', 'released', 'cut']);
  await again.close();
});

const order = (tenantIds: readonly string[], validateOnly = false): NewPurge => ({
  tenantIds,
  isOfAll: false,
  readMsAgo: 0,
  subjects: [],
  trigger: 'PURGE',
  validateOnly,
  actor: 'ada',
  subject: 'ada',
  reason: undefined,
  requestId: undefined,
  requestScope: undefined,
  fingerprint: '',
  fleetHold: undefined,
});

test('however many dry runs a tenant orders, it has one worker, and the others’ turns come', async (t) => {
  const { database } = await open(t);
  const purges = makePurgeRepository(database);
  for (let count = 0; count < 20; count += 1) await purges.create(order(['greedy'], true));
  await purges.create(order(['small'], true));
  await purges.create(order(['small', 'other']));
  const tenants = async () => (await purges.findDue(8)).map(({ tenantId }) => tenantId);
  t.deepEqual(await tenants(), ['greedy', 'small', 'other'], 'one of each');
  const [first] = await purges.findDue(1);
  if (!first) throw new Error('nothing is due');
  t.truthy(await purges.claim(first, 'w', LEASE_MS));
  t.deepEqual(await tenants(), ['small', 'other'], 'nothing more of the one that is being worked on');
});

test('while purges are stopped no item is found or claimed, but ended ones are settled', async (t) => {
  const { created, database } = await open(t);
  const purges = makePurgeRepository(database);
  const purgeId = await purges.create(order(['stopped', 'cut']));
  await created.query(
    "update retention_purge_items set state = 'PARTIAL', finished_at = now(), due_at = now() where tenant_id = 'cut'",
  );
  const change = { actor: 'ada', subject: 'ada', reason: 'why' };
  await makeStopRepository(database).set({ ...change, isStopped: true });
  t.deepEqual(await purges.findDue(8), [{ tenantId: 'cut', purgeId }]);
  t.is(await purges.claim({ tenantId: 'stopped', purgeId }, 'w', LEASE_MS), undefined);
  t.truthy(await purges.claim({ tenantId: 'cut', purgeId }, 'w', LEASE_MS));
  await makeStopRepository(database).set({ ...change, isStopped: false });
  t.deepEqual(await purges.findDue(8), [{ tenantId: 'stopped', purgeId }]);
});

/** Replicas that keep the same schedules, by databases of their own. */
function replicaOf(database: Database, work: Schedule['work'], pattern: string | undefined = '0 3 * * *') {
  const errors: unknown[] = [];
  const schedules = makeRunSchedules(
    makeScheduleRepository(database),
    [{ name: 'nightly', pattern, work }],
    nextInstant,
    { workerId: newId(), leaseMs: LEASE_MS, retry: { baseMs: 1, maxMs: 1 } },
    (_, error) => errors.push(error),
  );
  return {
    errors,
    async pass(): Promise<boolean> {
      const [due] = await schedules.findDue();
      return due !== undefined && (await schedules.run(due, new AbortController().signal));
    },
    findDue: schedules.findDue,
  };
}

const makeDue = (created: TestDatabase, ago = '1 second') =>
  created.query('update schedules set due_at = now() - $1::interval', [ago]);

const nextRun = async (created: TestDatabase) =>
  (
    await created.query<{ at: string }>("select to_char(due_at at time zone 'UTC', 'HH24:MI:SS') as at from schedules")
  )[0]?.at;

test('replicas do the work of an instant once, and an instant that all of them missed is made up for once', async (t) => {
  const { created, database } = await open(t);
  const runs: string[] = [];
  const work = async (runId: string) => void runs.push(runId);
  const replicas = Array.from({ length: 5 }, () => replicaOf(database, work));
  t.deepEqual(await Promise.all(replicas.map(({ pass }) => pass())), Array(5).fill(false), 'the first is planned');
  t.is(await nextRun(created), '03:00:00');
  for (const ago of ['1 second', '40 days']) {
    runs.length = 0;
    await makeDue(created, ago);
    const passes = await Promise.all(replicas.map(({ pass }) => pass()));
    t.is(passes.filter(Boolean).length, 1, ago);
    t.is(runs.length, 1, ago);
    t.is(await nextRun(created), '03:00:00');
    t.deepEqual((await Promise.all(replicas.map(({ pass }) => pass()))).filter(Boolean), []);
  }
});

test('work that fails or whose replica dies is repeated under the same id, and a replica that comes late plans nothing', async (t) => {
  const { created, database } = await open(t);
  const runs: string[] = [];
  const failing = replicaOf(database, async (runId) => {
    runs.push(runId);
    if (runs.length === 1) throw new Error('broken');
  });
  await failing.findDue();
  await makeDue(created);
  t.true(await failing.pass());
  t.is(failing.errors.length, 1);
  await until('it is tried again', failing.pass);
  t.is(new Set(runs).size, 1);
  t.is(runs.length, 2);

  await makeDue(created);
  const { promise: stillness, resolve: goOn } = Promise.withResolvers<void>();
  const late: string[] = [];
  const still = replicaOf(database, async (runId) => {
    late.push(runId);
    await stillness;
  }).pass();
  await until('it has begun', async () => late.length === 1);
  // Its lease has ended.
  await makeDue(created);
  const other: string[] = [];
  t.true(await replicaOf(database, async (runId) => void other.push(runId)).pass());
  t.deepEqual(other, late, 'the same instant');
  const planned = await created.query('select * from schedules');
  goOn();
  t.true(await still);
  t.deepEqual(await created.query('select * from schedules'), planned);
});

test('a changed pattern is planned anew, one that is switched off is removed, and a row that is gone comes back', async (t) => {
  const { created, database } = await open(t);
  const runs: string[] = [];
  const work = async (runId: string) => void runs.push(runId);
  const before = replicaOf(database, work);
  await before.findDue();
  const after = replicaOf(database, work, '30 4 * * *');
  await after.findDue();
  t.is(await nextRun(created), '04:30:00');
  await makeDue(created);
  t.false(await before.pass(), 'a replica that has not heard of it leaves it alone');
  t.true(await after.pass());
  await created.query('delete from schedules');
  await after.findDue();
  await after.findDue();
  t.is(await nextRun(created), '04:30:00');
  const off = makeRunSchedules(
    makeScheduleRepository(database),
    [{ name: 'nightly', pattern: undefined, work }],
    nextInstant,
    { workerId: 'w', leaseMs: LEASE_MS, retry: { baseMs: 1, maxMs: 1 } },
    () => undefined,
  );
  t.deepEqual(await off.findDue(), []);
  t.deepEqual(await created.query('select from schedules'), []);
  t.is(runs.length, 1);
});
