import { timestampDate } from '@bufbuild/protobuf/wkt';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { type PurgeForecast, WindowKind } from '#gen/lethe/retention/v1/retention_pb.ts';
import { purge, putPlan } from '#test/support/aged-data.ts';
import { type MemoryOwner, startMemoryOwner } from '#test/support/memory-owner.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

interface Context {
  readonly stack: TestStack;
  readonly incident: MemoryOwner;
  readonly run: MemoryOwner;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

test.before(async (t) => {
  const incident = await startMemoryOwner([{ name: 'drift_checks', resourceType: 'drift_check' }], 'incidents-1');
  const run = await startMemoryOwner([{ name: 'executions', resourceType: 'execution', hasFloor: true }], 'runs-1');
  const stack = await startTestStack({
    services: ['retention'],
    foreignOwners: { incident: incident.address, run: run.address },
    env: { LETHE_PURGE_CEILING_SHARE: 'off', LETHE_PURGE_CEILING_ROWS: 'off', LETHE_CATALOGUE_POLL_MS: '200' },
  });
  Object.assign(t.context, { stack, incident, run });
  // Before the owners have answered for the first time, nothing of theirs can be counted.
  await until('the owners are known', async () => {
    const { subjects } = await platformOf(t).listSubjects({});
    const known = subjects.filter(({ problem }) => problem === '').map(({ name }) => name);
    return ['drift_checks', 'executions'].every((name) => known.includes(name));
  });
});
test.after.always(async (t) => {
  await t.context.stack?.dispose();
  await Promise.all([t.context.incident?.close(), t.context.run?.close()]);
});

const platformOf = (t: T) => t.context.stack.clients({ role: 'platform' }).retention;
const AGES = [1, 10, 40, 100, 200];
const of = (forecasts: readonly PurgeForecast[], subject: string) =>
  forecasts.find((forecast) => forecast.subject === subject);

test.serial('a downgrade that is only tried tells what goes when grace is over, and removes nothing', async (t) => {
  const { stack, incident } = t.context;
  await putPlan(stack, 'downgrade', 'AGENCY');
  incident.add('downgrade', 'drift_checks', AGES);
  const request = { tenantId: 'downgrade', planName: 'FREE', validateOnly: true };
  const checks = of((await platformOf(t).setTenantPlan(request)).forecasts, 'drift_checks');
  t.like(checks, { expiredCount: 4n, currentExpiredCount: 2n, tenantCount: 1, uncountedTenantCount: 0 });
  const ahead = checks?.effectTime && timestampDate(checks.effectTime).getTime() - Date.now();
  t.true(ahead !== undefined && Math.abs(ahead - 7 * 86_400_000) < 60_000);
  t.is(incident.countOf('downgrade', 'drift_checks'), 5);
  const { summary } = await purge(stack, { tenantIds: ['downgrade'] });
  t.is(summary.resourceCounts.find(({ resourceType }) => resourceType === 'drift_check')?.deleted, 2n);
});

test.serial('an upgrade that is only tried tells what it saves, at once', async (t) => {
  const { stack, incident } = t.context;
  await putPlan(stack, 'upgrade', 'FREE');
  incident.add('upgrade', 'drift_checks', AGES);
  const request = { tenantId: 'upgrade', planName: 'ENTERPRISE', validateOnly: true };
  const checks = of((await platformOf(t).setTenantPlan(request)).forecasts, 'drift_checks');
  t.like(checks, { expiredCount: 1n, currentExpiredCount: 4n, effectTime: undefined });
});

test.serial('a window that is only tried is counted over every tenant on the plan', async (t) => {
  const { stack, incident } = t.context;
  for (const tenantId of ['on-a', 'on-b', 'on-c']) {
    await putPlan(stack, tenantId, 'PRO');
    incident.add(tenantId, 'drift_checks', AGES);
  }
  await putPlan(stack, 'other', 'AGENCY');
  incident.add('other', 'drift_checks', AGES);
  const windows = [{ subject: 'drift_checks', kind: WindowKind.DAYS, retentionDays: 5 }];
  const { forecasts } = await platformOf(t).updatePlan({ name: 'PRO', windows, reason: 'tried', validateOnly: true });
  t.like(of(forecasts, 'drift_checks'), { expiredCount: 12n, currentExpiredCount: 9n, tenantCount: 3 });
});

test.serial('a policy that is only tried tells what the next purge takes, above its floor', async (t) => {
  const { stack, run } = t.context;
  run.add('policy', 'executions', AGES);
  const admin = stack.clients({ tenantId: 'policy', role: 'admin' }).retention;
  const request = { retentionDays: 30, minExecutionsToKeep: 3n };
  const { forecast } = await admin.upsertExecutionPolicy({ ...request, validateOnly: true });
  t.like(forecast, { expiredCount: 2n, currentExpiredCount: 0n, tenantCount: 1, effectTime: undefined });
  await admin.upsertExecutionPolicy(request);
  await purge(stack, { tenantIds: ['policy'] });
  t.is(run.countOf('policy', 'executions'), 3);
  const { executionPolicy } = await admin.getExecutionPolicy({});
  t.is(executionPolicy?.lastCleanupDeletedCount, 2n, 'from the owner’s own sums');
  t.truthy(executionPolicy?.lastCleanupTime);
});

test.serial('a tenant whose owner is down is told as uncounted', async (t) => {
  const { stack, incident } = t.context;
  await putPlan(stack, 'uncounted', 'AGENCY');
  incident.add('uncounted', 'drift_checks', AGES);
  await incident.down();
  t.teardown(() => incident.up());
  const startedAt = performance.now();
  const request = { tenantId: 'uncounted', planName: 'FREE', validateOnly: true };
  const checks = of((await platformOf(t).setTenantPlan(request)).forecasts, 'drift_checks');
  t.like(checks, { expiredCount: 0n, tenantCount: 0, uncountedTenantCount: 1 });
  t.true(performance.now() - startedAt < 20_000, 'and the answer does not wait for it for long');
});
