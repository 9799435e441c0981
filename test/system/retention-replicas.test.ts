import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import pg from 'pg';
import { freePort } from '#deploy/local/free-port.ts';
import { type ServiceProcess, startServiceProcess } from '#deploy/local/service-process.ts';
import { PurgeState } from '#gen/lethe/retention/v1/retention_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { addChecks, addEnvironment, census, less, purge, putPlan, removedBy } from '#test/support/aged-data.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { bundleOf } from '#test/support/programs.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

interface Context {
  readonly stack: TestStack;
  readonly replica: ServiceProcess;
  readonly replicaLog: string;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

test.before(async (t) => {
  const stack = await startTestStack({
    services: ['incident', 'retention'],
    env: { LETHE_LOCK_TIMEOUT_MS: '30000', LETHE_STATEMENT_TIMEOUT_MS: '30000' },
    envOf: {
      retention: {
        LETHE_PURGE_CEILING_SHARE: 'off',
        LETHE_PURGE_WORKERS: '1',
        LETHE_OWNER_TIMEOUT_MS: '5000',
        // Not in this test's time: it makes the order itself due.
        RETENTION_JOB_SCHEDULE_CRON: '0 0 1 1 *',
      },
    },
  });
  const replicaLog = join(stack.folder, 'logs', 'retention-2.log');
  const metricsPort = await freePort();
  const replica = await startServiceProcess({
    name: 'retention-2',
    program: await bundleOf('services/retention/main.ts'),
    env: {
      ...stack.environment('retention'),
      LETHE_GRPC_ADDRESS: `127.0.0.1:${await freePort()}`,
      LETHE_METRICS_ADDRESS: `127.0.0.1:${metricsPort}`,
    },
    logFile: replicaLog,
    onGivingUp: () => undefined,
  });
  Object.assign(t.context, { stack, replica, replicaLog });
  await until('the second replica is there', async () => (await fetch(`http://127.0.0.1:${metricsPort}/ready`)).ok);
});
test.after.always(async (t) => {
  await t.context.replica?.stop();
  await t.context.stack.dispose();
});

async function addTenant(t: T, tenantId: string, checks = 1_500): Promise<void> {
  const { stack } = t.context;
  await putPlan(stack, tenantId, 'FREE');
  await addChecks(stack, tenantId, await addEnvironment(stack, tenantId), Array(checks).fill('8 days'));
}

const purgedBy = async (logFile: string): Promise<string[]> =>
  (await readFile(logFile, 'utf8'))
    .split('\n')
    .filter((line) => line.includes('"tenant purged"'))
    .map((line) => String(JSON.parse(line).tenantId));

test.serial('two replicas share the tenants of one purge, and neither does what the other did', async (t) => {
  const { stack, replicaLog } = t.context;
  const tenants = Array.from({ length: 20 }, (_, index) => `shared-${index}`);
  for (const tenantId of tenants) await addTenant(t, tenantId);
  const { summary } = await purge(stack, { tenantIds: tenants });
  t.is(summary.state, PurgeState.COMPLETE);
  t.is(removedBy(summary.resourceCounts)['drift_check'], 20 * 1_500);
  const first = await purgedBy(join(stack.folder, 'logs', 'retention.log'));
  const second = await purgedBy(replicaLog);
  t.true(first.length > 0 && second.length > 0, `${first.length} and ${second.length}`);
  t.deepEqual([...first, ...second].toSorted(), tenants.toSorted());
});

interface ItemRow {
  readonly state: string;
  readonly attempts: number;
  readonly lease_owner: string | null;
}

const itemOf = async (t: T, tenantId: string): Promise<ItemRow | undefined> => {
  const [row] = await queryOnce<ItemRow>(
    t.context.stack.superuserUrl('retention'),
    'select state, attempts, lease_owner from retention_purge_items where tenant_id = $1',
    [tenantId],
  );
  return row;
};

/** Begins a purge of a tenant, and waits until its first batch is gone and its second one waits for a lock. */
async function purgeHalf(t: T, tenantId: string) {
  const { stack, replica } = t.context;
  await addTenant(t, tenantId, 3_000);
  const before = await census(stack, tenantId);
  const client = new pg.Client({ connectionString: stack.superuserUrl('incident') });
  client.on('error', () => undefined);
  await client.connect();
  await client.query('begin');
  await client.query(
    `select from drift_checks where tenant_id = $1 and id = (
       select id from drift_checks where tenant_id = $1 order by checked_at, id offset 1200 limit 1) for update`,
    [tenantId],
  );
  const request = { tenantIds: [tenantId], requestId: newId() };
  const whole = purge(stack, request).catch(() => undefined);
  await until('the first batch is gone', async () => ((await census(stack, tenantId))['drift_check'] ?? 0) < 3_000);
  let owner = '';
  await until('a replica has it', async () => {
    owner = (await itemOf(t, tenantId))?.lease_owner ?? '';
    return owner !== '';
  });
  const holder = Number(owner.split(':').at(-1));
  t.true([stack.pid('retention'), replica.pid()].includes(holder));
  return {
    before,
    holder,
    async release() {
      await client.query('rollback');
      await client.end();
    },
    /** The outcome; the same request joins what was begun where the stream was cut. */
    async ended() {
      let outcome = await whole;
      await until('the purge has ended', async () => {
        outcome ??= await purge(stack, request);
        return true;
      });
      if (!outcome) throw new Error('the purge has not ended');
      return outcome;
    },
  };
}

/** Each row was removed once, and the receipt says so. */
async function assertCountedOnce(t: T, tenantId: string, { before, ended }: Awaited<ReturnType<typeof purgeHalf>>) {
  const { summary, items } = await ended();
  t.is(summary.state, PurgeState.COMPLETE, items[0]?.error);
  t.is(items[0]?.attempts, 2);
  const gone = less(before, await census(t.context.stack, tenantId));
  t.deepEqual([gone['drift_check'], gone['drift_check_workflow']], [3_000, 6_000]);
  t.deepEqual(removedBy(summary.resourceCounts), gone);
  const operations = await queryOnce<{ removed: number; open: boolean }>(
    t.context.stack.superuserUrl('incident'),
    `select sum(removed)::int as removed, bool_or(ended_at is null) as open from owner_operations
     where tenant_id = $1 and subject = 'drift_checks'`,
    [tenantId],
  );
  t.deepEqual(
    operations,
    [{ removed: 3_000, open: false }],
    'the owner has counted the same, and every operation ended',
  );
  const receipts = await queryOnce<{ outcome: string }>(
    t.context.stack.superuserUrl('retention'),
    "select outcome from audit_entries where tenant_id = $1 and action like '%retention-purge'",
    [tenantId],
  );
  t.deepEqual(receipts, [{ outcome: 'COMPLETE' }], 'there is one receipt');
}

test.serial(
  'a replica that is killed in the middle of a tenant is followed by another, and every row is counted once',
  async (t) => {
    const half = await purgeHalf(t, 'taken-over');
    process.kill(half.holder, 'SIGKILL');
    await half.release();
    await assertCountedOnce(t, 'taken-over', half);
  },
);

test.serial(
  'a replica that stands still beyond its lease is followed by another, and does nothing twice when it goes on',
  async (t) => {
    const tenantId = 'stood-still';
    const half = await purgeHalf(t, tenantId);
    process.kill(half.holder, 'SIGSTOP');
    await half.release();
    try {
      await until('the other replica has finished it', async () => (await itemOf(t, tenantId))?.state === 'COMPLETE');
    } finally {
      process.kill(half.holder, 'SIGCONT');
    }
    await assertCountedOnce(t, tenantId, half);
    // The one that stood still works again, and has changed nothing of what the other one did.
    const tenants = Array.from({ length: 12 }, (_, index) => `after-standing-still-${index}`);
    for (const each of tenants) await addTenant(t, each, 100);
    t.is((await purge(t.context.stack, { tenantIds: tenants })).summary.state, PurgeState.COMPLETE);
    await assertCountedOnce(t, tenantId, half);
    const purged = [
      ...(await purgedBy(join(t.context.stack.folder, 'logs', 'retention.log'))),
      ...(await purgedBy(t.context.replicaLog)),
    ];
    t.is(purged.filter((each) => each === tenantId).length, 1, 'one replica has finished it');
  },
);

test.serial('the schedule orders one purge of every tenant, however many replicas keep it', async (t) => {
  const { stack } = t.context;
  await addTenant(t, 'scheduled', 10);
  const orders = () =>
    queryOnce<{ id: string; actor: string }>(
      stack.superuserUrl('retention'),
      "select id, actor from retention_purges where trigger = 'SCHEDULE'",
    );
  t.deepEqual(await orders(), []);
  const due = () =>
    queryOnce<{ due_at: Date; due: boolean }>(
      stack.superuserUrl('retention'),
      "select due_at, due_at <= now() or lease_owner is not null as due from schedules where name = 'order-purge'",
    );
  t.is((await due()).length, 1, 'one row for both');
  await queryOnce(stack.superuserUrl('retention'), "update schedules set due_at = now() where name = 'order-purge'");
  await until('the purge was ordered and the next one is planned', async () => {
    const [next] = await due();
    return (await orders()).length === 1 && next !== undefined && !next.due;
  });
  const [ordered] = await orders();
  t.is(ordered?.actor, 'system:retention');
  const platform = stack.clients({ role: 'platform' }).retention;
  await until('it is done', async () => {
    const { purge: now } = await platform.getPurge({ purgeId: ordered?.id ?? '' });
    return now?.state === PurgeState.COMPLETE;
  });
  t.is((await census(stack, 'scheduled'))['drift_check'], 0);
  const [planned] = await due();
  t.is(planned?.due_at.toISOString().slice(4), '-01-01T00:00:00.000Z');
});
