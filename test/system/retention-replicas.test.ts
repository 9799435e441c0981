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
        LETHE_OWNER_TIMEOUT_MS: '2000',
        // Not in this test's time: it makes the order itself due.
        RETENTION_JOB_SCHEDULE_CRON: '0 0 1 1 *',
      },
    },
  });
  const replicaLog = join(stack.folder, 'logs', 'retention-2.log');
  const metricsPort = await freePort();
  const replica = await startServiceProcess({
    name: 'retention-2',
    program: 'services/retention/main.ts',
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

test.serial(
  'a replica that is killed in the middle of a tenant is followed by another, and every row is counted once',
  async (t) => {
    const { stack, replica } = t.context;
    const tenantId = 'taken-over';
    await addTenant(t, tenantId, 3_000);
    const before = await census(stack, tenantId);
    const client = new pg.Client({ connectionString: stack.superuserUrl('incident') });
    client.on('error', () => undefined);
    await client.connect();
    await client.query('begin');
    // The second batch waits.
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
      const [held] = await queryOnce<{ lease_owner: string | null }>(
        stack.superuserUrl('retention'),
        'select lease_owner from retention_purge_items where tenant_id = $1',
        [tenantId],
      );
      owner = held?.lease_owner ?? '';
      return owner !== '';
    });
    const holder = Number(owner.split(':').at(-1));
    t.true([stack.pid('retention'), replica.pid()].includes(holder));
    process.kill(holder, 'SIGKILL');
    await client.query('rollback');
    await client.end();
    let ended = await whole;
    await until(
      'the purge has ended',
      async () => {
        ended ??= await purge(stack, request);
        return true;
      },
      60_000,
    );
    t.is(ended?.summary.state, PurgeState.COMPLETE, ended?.items[0]?.error);
    t.is(ended?.items[0]?.attempts, 2);
    const gone = less(before, await census(stack, tenantId));
    t.deepEqual([gone['drift_check'], gone['drift_check_workflow']], [3_000, 6_000]);
    t.deepEqual(removedBy(ended?.summary.resourceCounts ?? []), gone);
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
    queryOnce<{ run_at: Date; due: boolean }>(
      stack.superuserUrl('retention'),
      "select run_at, run_at <= now() as due from graphile_worker._private_jobs where key = 'order-purge'",
    );
  t.is((await due()).length, 1, 'one job for both');
  await queryOnce(
    stack.superuserUrl('retention'),
    "update graphile_worker._private_jobs set run_at = now() where key = 'order-purge'",
  );
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
  t.is(planned?.run_at.toISOString().slice(4), '-01-01T00:00:00.000Z');
});
