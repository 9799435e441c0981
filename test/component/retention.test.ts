import { Code } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import { DriftStatus } from '#gen/lethe/incident/v1/incident_pb.ts';
import { Plan, PurgeItemState, PurgeState } from '#gen/lethe/retention/v1/retention_pb.ts';
import type { PurgeProgress } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { refusalOf, startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({
    services: ['incident', 'retention'],
    env: { LETHE_PURGE_BACKOFF_MS: '50', LETHE_PURGE_CEILING_SHARE: 'off' },
  });
});
test.after.always((t) => t.context.stack.dispose());

const platformOf = (stack: TestStack) => stack.clients({ role: 'platform' }).retention;

async function environmentOf(stack: TestStack, tenantId: string): Promise<string> {
  const { incidents } = stack.clients({ tenantId, role: 'member' });
  const { environment } = await incidents.createEnvironment({ displayName: 'production' });
  await incidents.recordDriftCheck({ environmentId: environment?.id ?? '', status: DriftStatus.DRIFT });
  return environment?.id ?? '';
}

/** Checks of given ages put in as the superuser, with two workflows each; ages are SQL intervals before now. */
async function addAged(
  stack: TestStack,
  tenantId: string,
  environmentId: string,
  ages: readonly string[],
): Promise<void> {
  for (const age of ages) {
    const id = newId();
    const values = [tenantId, id, environmentId, age];
    await queryOnce(
      stack.superuserUrl('incident'),
      `insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
       values ($1, $2, $3, 'DRIFT', case when $4 = 'null' then null else now() - cast(nullif($4, 'null') as interval) end)`,
      values,
    );
    await queryOnce(
      stack.superuserUrl('incident'),
      "insert into drift_check_workflows values ($1, $2, 'a', 'MODIFIED'), ($1, $2, 'b', 'UNKNOWN')",
      [tenantId, id],
    );
  }
}

const countOf = async (stack: TestStack, table: string, tenantId: string): Promise<number> => {
  const sql = `select count(*)::int as count from ${table} where tenant_id = $1`;
  return (await queryOnce<{ count: number }>(stack.superuserUrl('incident'), sql, [tenantId]))[0]?.count ?? -1;
};

async function purge(stack: TestStack, request: Parameters<ReturnType<typeof platformOf>['purge']>[0]) {
  const events: PurgeProgress['event'][] = [];
  for await (const { event } of platformOf(stack).purge(request)) events.push(event);
  const last = events.at(-1);
  if (last?.case !== 'summary') throw new Error('the stream ended without a summary');
  const items = events.flatMap((event) =>
    event.case === 'tenantFinished' && event.value.item ? [event.value.item] : [],
  );
  return { summary: last.value.purge, items };
}

test.serial('only what is strictly older than the window goes, over many batches, and the badge stays', async (t) => {
  const { stack } = t.context;
  const tenantId = 'many';
  await platformOf(stack).setTenantPlan({ tenantId, plan: Plan.FREE });
  const environmentId = await environmentOf(stack, tenantId);
  await addAged(stack, tenantId, environmentId, ['6 days 23 hours 59 minutes', '7 days 1 second', '400 days', 'null']);
  await queryOnce(
    stack.superuserUrl('incident'),
    `insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
     select $1, gen_random_uuid(), $2, 'IN_SYNC', now() - interval '30 days' from generate_series(1, 3500)`,
    [tenantId, environmentId],
  );
  await environmentOf(stack, 'bystander').then((id) => addAged(stack, 'bystander', id, ['900 days']));
  const rehearsal = await purge(stack, { tenantIds: [tenantId], validateOnly: true });
  const told = (counts: { resourceType: string; found: bigint }[] = []) =>
    counts.map((c) => [c.resourceType, Number(c.found)]);
  t.deepEqual(told(rehearsal.summary?.resourceCounts), [
    ['drift_check', 3_502],
    ['drift_check_workflow', 4],
  ]);
  t.is(await countOf(stack, 'drift_checks', tenantId), 3_505);

  const real = await purge(stack, { tenantIds: [tenantId], reason: 'night' });
  t.is(real.summary?.state, PurgeState.COMPLETE);
  t.deepEqual(told(real.summary?.resourceCounts), told(rehearsal.summary?.resourceCounts));
  t.is(await countOf(stack, 'drift_checks', tenantId), 3);
  t.is(await countOf(stack, 'drift_check_workflows', tenantId), 4);
  t.is(await countOf(stack, 'drift_checks', 'bystander'), 2);
  const { environments } = await stack.clients({ tenantId, role: 'viewer' }).incidents.listEnvironments({});
  t.is(environments[0]?.driftStatus, DriftStatus.DRIFT);
  t.truthy(environments[0]?.lastCheckTime);
});

test.serial('a tenant without a plan keeps everything', async (t) => {
  const { stack } = t.context;
  await environmentOf(stack, 'planless').then((id) => addAged(stack, 'planless', id, ['4000 days']));
  const { summary } = await purge(stack, { tenantIds: ['planless'] });
  t.is(summary?.state, PurgeState.COMPLETE);
  t.is(await countOf(stack, 'drift_checks', 'planless'), 2);
});

test.serial('two purges at once count each row once', async (t) => {
  const { stack } = t.context;
  await platformOf(stack).setTenantPlan({ tenantId: 'raced', plan: Plan.PRO });
  await environmentOf(stack, 'raced').then((id) => addAged(stack, 'raced', id, Array(20).fill('31 days')));
  const outcomes = await Promise.all([1, 2, 3].map(() => purge(stack, { tenantIds: ['raced'] })));
  const items = outcomes.flatMap((outcome) => outcome.items);
  const deleted = items.flatMap((item) => item.resourceCounts.filter((c) => c.resourceType === 'drift_check'));
  t.is(
    deleted.reduce((sum, c) => sum + Number(c.deleted), 0),
    20,
  );
  t.is(await countOf(stack, 'drift_checks', 'raced'), 1);
  for (const item of items) t.true(item.state === PurgeItemState.COMPLETE || item.state === PurgeItemState.SKIPPED);
});

test.serial('a request id joins the purge that it began, and refuses another body', async (t) => {
  const { stack } = t.context;
  const request = { tenantIds: ['raced'], requestId: newId(), reason: 'once' };
  const first = await purge(stack, request);
  t.is((await purge(stack, request)).summary?.id, first.summary?.id);
  t.is((await refusalOf(purge(stack, { ...request, reason: 'twice' }))).reason, 'REQUEST_ID_REUSED');
});

test.serial('only the platform purges all, a tenant’s admin purges its own, and sees no other’s', async (t) => {
  const { stack } = t.context;
  const admin = stack.clients({ tenantId: 'raced', role: 'admin' }).retention;
  const refusal = await refusalOf(
    (async () => {
      for await (const _ of admin.purge({ allTenants: true }));
    })(),
  );
  t.is(refusal.code, Code.PermissionDenied);
  const { purge: own } = await admin.purgeNow({ reason: 'now' });
  t.truthy(own?.id);
  const stranger = stack.clients({ tenantId: 'stranger', role: 'admin' }).retention;
  const unknown = await refusalOf(stranger.getPurge({ purgeId: newId() }));
  t.is(unknown.reason, 'PURGE_NOT_FOUND');
  t.deepEqual(await refusalOf(stranger.getPurge({ purgeId: own?.id ?? '' })), unknown);
});

for (const retentionDays of [0, -1, 36_501, 2_147_483_647]) {
  test.serial(`a window of ${retentionDays} days is refused and removes nothing`, async (t) => {
    const { stack } = t.context;
    const { incidents } = stack.clients({ tenantId: 'bystander', role: 'platform' });
    const refusal = await refusalOf(incidents.purgeDriftChecks({ operationId: newId(), retentionDays }));
    t.is(refusal.reason, 'FIELD_INVALID');
    t.is(await countOf(stack, 'drift_checks', 'bystander'), 2);
  });
}
