import { access, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { PurgeItemState, PurgeState } from '#gen/lethe/retention/v1/retention_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { PURGE_CRASH_POINTS } from '#services/retention/use-cases/run-purges.ts';
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
import { queryOnce } from '#test/support/postgres.ts';
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
    services: ['incident', 'retention'],
    env: { LETHE_CRASH_FILE: crashFile },
    // The lease of a dead worker is over after twice the owner's timeout.
    envOf: { retention: { LETHE_OWNER_TIMEOUT_MS: '1000', LETHE_PURGE_CEILING_SHARE: 'off' } },
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

for (const point of [
  'retention.purge.after-intent',
  ...PURGE_CRASH_POINTS,
  'owner.purge.after-intent',
  'owner.purge.after-batch',
  'owner.end.after-fence',
]) {
  test.serial(
    `a replica that is killed at ${point} leaves a purge that ends, with every row counted once`,
    async (t) => {
      const { stack, crashFile } = t.context;
      const tenantId = `crash-${point.replaceAll(/[^a-z]+/g, '-')}`;
      await addTenant(t, tenantId);
      const before = await census(stack, tenantId);
      await rm(`${crashFile}.struck`, { force: true });
      await writeFile(crashFile, point);
      const requestId = newId();
      const request = { tenantIds: [tenantId], requestId };
      await purge(stack, request).catch(() => undefined);
      await until('the process was killed', () => access(`${crashFile}.struck`).then(() => true));
      // The same request joins what was begun, whoever goes on with it.
      let ended: Awaited<ReturnType<typeof purge>> | undefined;
      await until(
        'the purge has ended',
        async () => {
          ended = await purge(stack, request);
          return true;
        },
        60_000,
      );
      t.is(ended?.summary.state, PurgeState.COMPLETE, ended?.items[0]?.error);
      t.deepEqual(less(before, await census(stack, tenantId)), GONE);
      t.deepEqual(removedBy(ended?.summary.resourceCounts ?? []), GONE);
      const audit = await queryOnce<{ outcome: string; counts: object }>(
        stack.superuserUrl('retention'),
        "select outcome, counts from audit_entries where tenant_id = $1 and action = 'retention-purge'",
        [tenantId],
      );
      t.deepEqual(audit, [{ outcome: 'COMPLETE', counts: GONE }], 'one receipt, and it is exact');
    },
  );
}

test.serial(
  'five calls of Purge, the CronJob’s and a tenant’s own at once, and a kill: every row is counted once',
  async (t) => {
    const { stack, crashFile } = t.context;
    const tenants = ['five-a', 'five-b', 'five-c', 'five-d'];
    for (const tenantId of tenants) await addTenant(t, tenantId);
    const before = await Promise.all(tenants.map((tenantId) => census(stack, tenantId)));
    await rm(`${crashFile}.struck`, { force: true });
    await writeFile(crashFile, 'retention.purge.before-save');
    const requests = Array.from({ length: 5 }, (_, index) => ({
      ...(index === 0 ? { allTenants: true } : { tenantIds: tenants }),
      requestId: newId(),
    }));
    const untilEnded = async (request: (typeof requests)[number]) => {
      let outcome: Awaited<ReturnType<typeof purge>> | undefined;
      await until(
        'the purge has ended',
        async () => {
          outcome = await purge(stack, request);
          return true;
        },
        90_000,
      );
      return outcome;
    };
    const admin = stack.clients({ tenantId: 'five-a', role: 'admin' }).retention;
    const [outcomes, now] = await Promise.all([
      Promise.all(requests.map(untilEnded)),
      admin.purgeNow({}).then(
        ({ purge: begun }) => begun?.id,
        () => undefined,
      ),
    ]);
    await access(`${crashFile}.struck`);
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
