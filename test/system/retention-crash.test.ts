import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import pg from 'pg';
import { PurgeItemState, PurgeState } from '#gen/lethe/retention/v1/retention_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import {
  addChecks,
  addEnvironment,
  addIncidents,
  census,
  hasEnded,
  less,
  purge,
  putPlan,
  removedBy,
} from '#test/support/aged-data.ts';
import { armCrash } from '#test/support/arm-crash.ts';
import { PURGE_CRASH_POINTS } from '#test/support/crash-points.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { makeTcpGate } from '#test/support/tcp-gate.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

// Wherever a replica is killed, and whoever calls at the same time: each row is counted once.

interface Context {
  readonly stack: TestStack;
  readonly crashFile: string;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

test.before(async (t) => {
  const crashFile = join(tmpdir(), `lethe-crash-${newId()}`);
  const stack = await startTestStack({
    services: ['run', 'incident', 'retention'],
    env: { LETHE_CRASH_FILE: crashFile },
    // The lease of a dead worker is over after twice the owner's timeout.
    envOf: {
      retention: {
        LETHE_OWNER_TIMEOUT_MS: '1000',
        LETHE_PURGE_CEILING_SHARE: 'off',
        RETENTION_JOB_SCHEDULE_CRON: '0 3 29 2 *',
      },
    },
  });
  Object.assign(t.context, { crashFile, stack });
});
test.after.always(async (t) => {
  await t.context.stack.dispose();
  for (const file of [t.context.crashFile, `${t.context.crashFile}.struck`]) await rm(file, { force: true });
});

async function addTenant(t: T, tenantId: string, checks = 2_500): Promise<void> {
  const { stack } = t.context;
  await putPlan(stack, tenantId, 'PRO');
  const environmentId = await addEnvironment(stack, tenantId);
  await addChecks(stack, tenantId, environmentId, [...Array(checks).fill('31 days'), '1 day']);
  await addIncidents(stack, tenantId, environmentId, [
    { state: 'CLOSED', age: '181 days' },
    { state: 'CLOSED', age: '179 days' },
    { state: 'RECONCILED', age: '181 days' },
  ]);
}

const GONE = { drift_check: 2_500, drift_check_workflow: 5_000, incident_payload: 1, approval: 1 };

const OWNER_CRASH_POINTS = ['owner.purge.after-intent', 'owner.purge.after-batch', 'owner.end.after-fence'];

/** The same request joins what was begun, whoever goes on with it. */
async function purgeToEnd(t: T, request: Parameters<typeof purge>[1]): Promise<Awaited<ReturnType<typeof purge>>> {
  let ended: Awaited<ReturnType<typeof purge>> | undefined;
  await until('the purge has ended', async () => {
    ended = await purge(t.context.stack, request);
    return true;
  });
  if (!ended) throw new Error('the purge has not ended');
  return ended;
}

for (const point of ['retention.purge.after-intent', ...PURGE_CRASH_POINTS, ...OWNER_CRASH_POINTS]) {
  test.serial(
    `a replica that is killed at ${point} leaves a purge that ends, with every row counted once`,
    async (t) => {
      const { stack, crashFile } = t.context;
      const tenantId = `crash-${point.replaceAll(/[^a-z]+/g, '-')}`;
      await addTenant(t, tenantId);
      const before = await census(stack, tenantId);
      const hasStruck = await armCrash(crashFile, point);
      const request = { tenantIds: [tenantId], requestId: newId() };
      await purge(stack, request).catch(() => undefined);
      await until('the process was killed', hasStruck);
      const ended = await purgeToEnd(t, request);
      t.is(ended.summary.state, PurgeState.COMPLETE, ended.items[0]?.error);
      t.deepEqual(less(before, await census(stack, tenantId)), GONE);
      t.deepEqual(removedBy(ended.summary.resourceCounts), GONE);
      const audit = await queryOnce<{ outcome: string; counts: object }>(
        stack.superuserUrl('retention'),
        "select outcome, counts from audit_entries where tenant_id = $1 and action = 'retention-purge'",
        [tenantId],
      );
      t.deepEqual(audit, [{ outcome: 'COMPLETE', counts: GONE }], 'one receipt, and it is exact');
    },
  );
}

/** Expired executions a microsecond apart on both sides of a month's border, half of them made long after they began. */
async function addExecutions(t: T, tenantId: string, count: number): Promise<void> {
  await queryOnce(
    t.context.stack.superuserUrl('run'),
    `insert into executions (tenant_id, workflow, started_at, created_at)
     select $1, 'seeded', case when n % 2 = 0 then age end, case when n % 2 = 0 then now() else age end
     from generate_series(1, $2::int) n,
          lateral (select date_trunc('month', now() at time zone 'UTC' - interval '3 months') at time zone 'UTC'
                          + (n - $2 / 2) * interval '1 microsecond' as age) a
     union all
     select $1, 'young', now(), now() from generate_series(1, 3)`,
    [tenantId, count],
  );
  await queryOnce(
    t.context.stack.superuserUrl('retention'),
    `insert into execution_retention_policies (tenant_id, retention_days, min_executions_to_keep) values ($1, 30, 5)`,
    [tenantId],
  );
}

const EXECUTIONS = 2_502;

for (const point of [...OWNER_CRASH_POINTS, 'retention.purge.before-save', 'retention.purge.after-end']) {
  test.serial(
    `executions are counted once, in the receipt and the policy, when a process is killed at ${point}`,
    async (t) => {
      const { stack, crashFile } = t.context;
      const tenantId = `executions-${point.replaceAll(/[^a-z]+/g, '-')}`;
      await addExecutions(t, tenantId, EXECUTIONS);
      const hasStruck = await armCrash(crashFile, point);
      const request = { tenantIds: [tenantId], subjects: ['executions'], requestId: newId() };
      await purge(stack, request).catch(() => undefined);
      await until('the process was killed', hasStruck);
      const { summary, items } = await purgeToEnd(t, request);
      t.is(summary.state, PurgeState.COMPLETE, items[0]?.error);
      t.deepEqual(removedBy(summary.resourceCounts, ['execution']), { execution: 2_500 });
      const left = await queryOnce<{ workflow: string; place: number }>(
        stack.superuserUrl('run'),
        `select workflow, (extract(epoch from age - date_trunc('month', age at time zone 'UTC') at time zone 'UTC')
                           * 1000000)::double precision as place
         from executions where tenant_id = $1 order by age desc limit 10`,
        [tenantId],
      );
      // The floor of five: the young ones, and the two newest of the others.
      t.deepEqual(
        left.map(({ workflow, place }) => (workflow === 'young' ? workflow : place)),
        ['young', 'young', 'young', EXECUTIONS / 2, EXECUTIONS / 2 - 1],
      );
      const { executionPolicy: policy } = await stack
        .clients({ tenantId, role: 'admin' })
        .retention.getExecutionPolicy({});
      t.is(policy?.lastCleanupDeletedCount, 2_500n);
      t.truthy(policy?.lastCleanupTime);
    },
  );
}

test.serial(
  'an owner’s database that goes silent in the middle of a purge is waited for, and every row is counted once',
  async (t) => {
    const { stack } = t.context;
    const tenantId = 'silent-database';
    await addTenant(t, tenantId);
    const before = await census(stack, tenantId);
    const url = new URL(stack.environment('incident')['LETHE_DATABASE_URL'] ?? '');
    const database = url.host;
    const gate = await makeTcpGate();
    gate.open(database);
    t.teardown(() => gate.close());
    url.host = gate.address;
    await stack.restart('incident', { LETHE_DATABASE_URL: url.href });
    // The second batch waits until the answers are lost.
    const client = new pg.Client({ connectionString: stack.superuserUrl('incident') });
    await client.connect();
    await client.query('begin');
    await client.query(
      `select from drift_checks where tenant_id = $1 and id = (
         select id from drift_checks where tenant_id = $1 order by checked_at, id offset 1200 limit 1) for update`,
      [tenantId],
    );
    const request = { tenantIds: [tenantId], requestId: newId() };
    const whole = purge(stack, request);
    await until('the first batch is gone', async () => ((await census(stack, tenantId))['drift_check'] ?? 0) <= 1_501);
    const isLost = gate.loseAnswers();
    await client.query('rollback');
    await client.end();
    await isLost;
    await until('the purge waits for the owner', async () => {
      const [item] = await queryOnce<{ waits: boolean }>(
        stack.superuserUrl('retention'),
        `select waiting_since is not null as waits from retention_purge_items where tenant_id = $1 and state = 'RUNNING'`,
        [tenantId],
      );
      return item?.waits === true;
    });
    gate.shut();
    gate.open(database);
    const { summary, items } = await whole;
    t.is(summary.state, PurgeState.COMPLETE, items[0]?.error);
    t.deepEqual(less(before, await census(stack, tenantId)), GONE);
    t.deepEqual(removedBy(summary.resourceCounts), GONE);
    await stack.restart('incident');
  },
);

test.serial(
  'five calls of Purge, the CronJob’s and a tenant’s own at once, and a kill: every row is counted once',
  async (t) => {
    const { stack, crashFile } = t.context;
    const tenants = ['five-a', 'five-b', 'five-c', 'five-d'];
    for (const tenantId of tenants) await addTenant(t, tenantId);
    const before = await Promise.all(tenants.map((tenantId) => census(stack, tenantId)));
    const hasStruck = await armCrash(crashFile, 'retention.purge.before-save');
    const requests = Array.from({ length: 5 }, (_, index) => ({
      ...(index === 0 ? { allTenants: true } : { tenantIds: tenants }),
      requestId: newId(),
    }));
    const admin = stack.clients({ tenantId: 'five-a', role: 'admin' }).retention;
    const [outcomes, now] = await Promise.all([
      Promise.all(requests.map((request) => purgeToEnd(t, request))),
      admin.purgeNow({}).then(
        ({ purge: begun }) => begun?.id,
        () => undefined,
      ),
    ]);
    t.true(await hasStruck());
    for (const outcome of outcomes) t.is(outcome?.summary.state, PurgeState.COMPLETE);
    const items = outcomes.flatMap((outcome) => outcome?.items ?? []);
    if (now !== undefined) {
      await until('the tenant’s own has ended', async () => {
        const { purge: own } = await admin.getPurge({ purgeId: now });
        return own !== undefined && hasEnded(own);
      });
      items.push(...(await admin.getPurge({ purgeId: now })).items);
    }
    for (const item of items) {
      t.true(item.state === PurgeItemState.COMPLETE || item.state === PurgeItemState.SKIPPED);
      if (item.state === PurgeItemState.SKIPPED) t.deepEqual(item.resourceCounts, []);
    }
    for (const [index, tenantId] of tenants.entries()) {
      const removed = removedBy(
        items.filter((item) => item.tenantId === tenantId).flatMap(({ resourceCounts }) => resourceCounts),
      );
      t.deepEqual(removed, GONE, tenantId);
      t.deepEqual(less(before[index] ?? {}, await census(stack, tenantId)), GONE, tenantId);
    }
  },
);

test.serial(
  'a replica that is killed after it ordered the purge of a night leaves one purge of that night',
  async (t) => {
    const { stack, crashFile } = t.context;
    const database = stack.superuserUrl('retention');
    const ordered = () => queryOnce(database, `select id from retention_purges where trigger = 'SCHEDULE'`);
    await until('the schedule is kept', async () => {
      const rows = await queryOnce(database, `select 1 from schedules where name = 'order-purge'`);
      return rows.length === 1;
    });
    // Others have the same point.
    await queryOnce(database, `update schedules set due_at = now() + interval '1 hour' where name <> 'order-purge'`);
    const wasStruck = await armCrash(crashFile, 'retention.schedule.after-work');
    await queryOnce(database, `update schedules set due_at = now() where name = 'order-purge'`);
    await until('a replica was killed', wasStruck);
    t.is((await ordered()).length, 1);
    await until('another one has planned the next night', async () => {
      const [row] = await queryOnce<{ planned: boolean }>(
        database,
        `select lease_owner is null and due_at > now() + interval '1 day' as planned from schedules
       where name = 'order-purge'`,
      );
      return row?.planned === true;
    });
    t.is((await ordered()).length, 1);
  },
);
