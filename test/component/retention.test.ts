import { toJsonString } from '@bufbuild/protobuf';
import { timestampFromDate } from '@bufbuild/protobuf/wkt';
import { Code } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import { DriftStatus } from '#gen/lethe/incident/v1/incident_pb.ts';
import { PurgeItemState, PurgeState } from '#gen/lethe/retention/v1/retention_pb.ts';
import {
  ResolveRetentionResponseSchema,
  SetTenantPlanResponseSchema,
} from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import {
  addChecks,
  addEnvironment,
  addRunningPurge,
  purge,
  putPlan,
  removedBy,
  rowsOf,
} from '#test/support/aged-data.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

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

test.serial('only what is strictly older than the window goes, over many batches, and the badge stays', async (t) => {
  const { stack } = t.context;
  const tenantId = 'many';
  await putPlan(stack, tenantId, 'FREE');
  const environmentId = await environmentOf(stack, tenantId);
  await addChecks(stack, tenantId, environmentId, ['6 days 23 hours 59 minutes', '7 days 1 second', '400 days', null]);
  await queryOnce(
    stack.superuserUrl('incident'),
    `insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
     select $1, gen_random_uuid(), $2, 'IN_SYNC', now() - interval '30 days' from generate_series(1, 3500)`,
    [tenantId, environmentId],
  );
  await environmentOf(stack, 'bystander').then((id) => addChecks(stack, 'bystander', id, ['900 days']));
  const rehearsal = await purge(stack, { tenantIds: [tenantId], validateOnly: true });
  const told = (counts: { resourceType: string; found: bigint }[] = []) =>
    counts.map((c) => [c.resourceType, Number(c.found)]);
  t.deepEqual(told(rehearsal.summary?.resourceCounts), [['drift_check', 3_502]], 'dependents are not counted');
  t.is(await rowsOf(stack, 'drift_checks', tenantId), 3_505);

  const real = await purge(stack, { tenantIds: [tenantId], reason: 'night' });
  t.is(real.summary?.state, PurgeState.COMPLETE);
  t.deepEqual(told(real.summary?.resourceCounts), [
    ['drift_check', 3_502],
    ['drift_check_workflow', 4],
  ]);
  t.is(await rowsOf(stack, 'drift_checks', tenantId), 3);
  t.is(await rowsOf(stack, 'drift_check_workflows', tenantId), 4);
  t.is(await rowsOf(stack, 'drift_checks', 'bystander'), 2);
  const { environments } = await stack.clients({ tenantId, role: 'viewer' }).incidents.listEnvironments({});
  t.is(environments[0]?.driftStatus, DriftStatus.DRIFT);
  t.truthy(environments[0]?.lastCheckTime);
});

test.serial('a tenant without a plan keeps everything', async (t) => {
  const { stack } = t.context;
  await environmentOf(stack, 'planless').then((id) => addChecks(stack, 'planless', id, ['4000 days']));
  const { summary } = await purge(stack, { tenantIds: ['planless'] });
  t.is(summary?.state, PurgeState.COMPLETE);
  t.is(await rowsOf(stack, 'drift_checks', 'planless'), 2);
});

for (const [ending, expected] of [
  ['COMPLETE', PurgeState.COMPLETE],
  ['PARTIAL', PurgeState.PARTIAL],
] as const) {
  test.serial(
    `a tenant that another purge works on is left to it, and stands as well as that one: ${ending}`,
    async (t) => {
      const { stack } = t.context;
      const tenantId = `left-${ending.toLowerCase()}`;
      const bystander = `not-${tenantId}`;
      await putPlan(stack, tenantId, 'FREE');
      await putPlan(stack, bystander, 'FREE');
      const running = await addRunningPurge(stack, tenantId);
      let hasSummary = false;
      const whole = purge(stack, { tenantIds: [tenantId, bystander] }).then((outcome) => {
        hasSummary = true;
        return outcome;
      });
      const item = async () => (await platformOf(stack).listPurges({ tenantId: bystander, pageSize: 1 })).purges[0];
      await until('the other tenant is done', async () => (await item())?.completeTenantCount === 1);
      t.like(await item(), { state: PurgeState.RUNNING, skippedTenantCount: 1 });
      t.false(hasSummary, 'a purge has not ended before what it was left to');
      await running.end(ending);
      const { summary, items } = await whole;
      t.like(summary, { state: expected, skippedTenantCount: 1, completeTenantCount: 1, failedTenantCount: 0 });
      const skipped = items.find((candidate) => candidate.tenantId === tenantId);
      t.like(skipped, { state: PurgeItemState.SKIPPED, runningPurgeId: running.purgeId });
    },
  );
}

test.serial(
  'a second PurgeNow is told which purge is running, in the audit too, and a dry run is not in the way',
  async (t) => {
    const { stack } = t.context;
    const tenantId = 'in-progress';
    await putPlan(stack, tenantId, 'FREE');
    const running = await addRunningPurge(stack, tenantId);
    const admin = stack.clients({ tenantId, role: 'admin' }).retention;
    for (const requestId of ['', newId()]) {
      const refusal = await refusalOf(admin.purgeNow({ requestId, reason: 'now' }));
      t.like(refusal, { code: Code.Aborted, reason: 'OPERATION_IN_PROGRESS' });
      t.deepEqual(refusal.metadata, { operation_id: running.purgeId });
    }
    const refusals = await queryOnce<{ outcome: string; reason: string }>(
      stack.superuserUrl('retention'),
      "select outcome, reason from audit_entries where tenant_id = $1 and action = 'retention-purge'",
      [tenantId],
    );
    t.deepEqual(refusals, Array(2).fill({ outcome: 'OPERATION_IN_PROGRESS', reason: 'now' }));
    t.truthy((await admin.purgeNow({ validateOnly: true })).purge);
    await running.end('COMPLETE');
  },
);

test.serial(
  'a request id is one’s own: another tenant, another method and the platform may use the same',
  async (t) => {
    const { stack } = t.context;
    const requestId = newId();
    const ids = new Set<string | undefined>();
    for (const tenantId of ['mine', 'yours']) {
      await putPlan(stack, tenantId, 'FREE');
      const admin = stack.clients({ tenantId, role: 'admin' }).retention;
      const first = await admin.purgeNow({ requestId });
      await until('it is done', async () => {
        const { purge: now } = await admin.getPurge({ purgeId: first.purge?.id ?? '' });
        return now?.state === PurgeState.COMPLETE;
      });
      t.is((await admin.purgeNow({ requestId })).purge?.id, first.purge?.id, 'a repetition is the same purge');
      t.is((await refusalOf(admin.purgeNow({ requestId, reason: 'other' }))).reason, 'REQUEST_ID_REUSED');
      ids.add(first.purge?.id);
    }
    ids.add((await purge(stack, { tenantIds: ['mine'], requestId })).summary.id);
    t.is(ids.size, 3);
  },
);

test.serial('purges are listed newest first, by state and tenant, each to whom it concerns', async (t) => {
  const { stack } = t.context;
  for (const tenantId of ['listed-a', 'listed-b']) await putPlan(stack, tenantId, 'FREE');
  const both = (await purge(stack, { tenantIds: ['listed-a', 'listed-b'] })).summary.id;
  const own = (await purge(stack, { tenantIds: ['listed-a'] })).summary.id;
  const listed = async (request: Parameters<ReturnType<typeof platformOf>['listPurges']>[0]) =>
    (await platformOf(stack).listPurges(request)).purges.map(({ id }) => id);
  t.deepEqual(await listed({ tenantId: 'listed-a' }), [own, both]);
  t.deepEqual(await listed({ tenantId: 'listed-b' }), [both]);
  t.deepEqual(await listed({ tenantId: 'listed-a', state: PurgeState.PARTIAL }), []);
  const first = await platformOf(stack).listPurges({ tenantId: 'listed-a', pageSize: 1 });
  t.deepEqual(await listed({ tenantId: 'listed-a', pageSize: 1, pageToken: first.nextPageToken }), [both]);
  const viewer = stack.clients({ tenantId: 'listed-b', role: 'viewer' }).retention;
  const { purges } = await viewer.listPurges({ state: PurgeState.COMPLETE });
  t.deepEqual(
    purges.map(({ id, tenantCount }) => [id, tenantCount]),
    [[both, 1]],
    'of a purge over two tenants they see their part',
  );
  t.deepEqual((await viewer.listPurges({ tenantId: 'listed-a' })).purges, []);
  const operator = stack.clients({ tenantId: 'listed-a', role: 'platform' }).retention;
  const listedBy = async (tenantId: string) => (await operator.listPurges({ tenantId })).purges.map(({ id }) => id);
  t.deepEqual(await listedBy('listed-b'), [both], 'of the tenant that is named, and not of the credential’s');
  t.deepEqual(await listedBy(''), [own, both]);
  t.is((await refusalOf(viewer.getPurge({ purgeId: own }))).reason, 'PURGE_NOT_FOUND');
  const { items } = await viewer.getPurge({ purgeId: both });
  t.deepEqual(
    items.map(({ tenantId }) => tenantId),
    ['listed-b'],
  );
});

const DAYS_AGO = (days: number) => timestampFromDate(new Date(Date.now() - days * 86_400_000));

// Of checks that are 1, 10, 40, 100 and 200 days old, so many go.
for (const [tenantId, what, history, gone] of [
  [
    'up',
    'an upgrade before the purge keeps',
    [
      ['FREE', 300],
      ['PRO', 0],
    ],
    3,
  ],
  [
    'graced',
    'a downgrade purges nothing more before grace ends',
    [
      ['AGENCY', 300],
      ['FREE', 6],
    ],
    2,
  ],
  [
    'over',
    'a downgrade purges by the new plan when grace is over',
    [
      ['AGENCY', 300],
      ['FREE', 8],
    ],
    4,
  ],
  [
    'back',
    'a return within grace restores',
    [
      ['AGENCY', 300],
      ['FREE', 6],
      ['AGENCY', 1],
    ],
    2,
  ],
  [
    'coming',
    'a plan that is to come purges nothing yet',
    [
      ['ENTERPRISE', 300],
      ['FREE', -1],
    ],
    1,
  ],
] as const) {
  test.serial(`${what}, and the dry run of the day says the same`, async (t) => {
    const { stack } = t.context;
    for (const [planName, days] of history) {
      if (days < 0) await platformOf(stack).setTenantPlan({ tenantId, planName, effectiveTime: DAYS_AGO(days) });
      else await putPlan(stack, tenantId, planName, `${days} days`);
    }
    const ages = ['1 day', '10 days', '40 days', '100 days', '200 days'];
    await addChecks(stack, tenantId, await addEnvironment(stack, tenantId), ages);
    const rehearsal = await purge(stack, { tenantIds: [tenantId], validateOnly: true });
    const real = await purge(stack, { tenantIds: [tenantId] });
    const found = ({ summary }: typeof real) =>
      summary.resourceCounts
        .filter(({ resourceType }) => resourceType !== 'drift_check_workflow')
        .map(({ resourceType, found: count }) => [resourceType, Number(count)]);
    t.deepEqual(found(real), found(rehearsal));
    t.is(removedBy(real.summary.resourceCounts)['drift_check'], gone);
    t.is(await rowsOf(stack, 'drift_checks', tenantId), ages.length - gone);
    t.is(real.items[0]?.planVersion, BigInt(tenantId === 'coming' ? 1 : history.length));
  });
}

test.serial('a plan that is to come in the last year there is keeps no purge from going on', async (t) => {
  const { stack } = t.context;
  await putPlan(stack, 'farthest', 'PRO');
  const effectiveTime = timestampFromDate(new Date('9999-12-31T00:00:00Z'));
  const change = { tenantId: 'farthest', planName: 'FREE', effectiveTime };
  const foreseen = await platformOf(stack).setTenantPlan({ ...change, validateOnly: true });
  t.notThrows(() => toJsonString(SetTenantPlanResponseSchema, foreseen));
  await platformOf(stack).setTenantPlan(change);
  await addChecks(stack, 'farthest', await addEnvironment(stack, 'farthest'), ['31 days', '1 day']);
  const { summary, items } = await purge(stack, { tenantIds: ['farthest'] });
  t.is(summary.state, PurgeState.COMPLETE, items[0]?.error);
  t.is(await rowsOf(stack, 'drift_checks', 'farthest'), 1);
  const answer = await platformOf(stack).resolveRetention({ tenantId: 'farthest' });
  t.notThrows(() => toJsonString(ResolveRetentionResponseSchema, answer));
});

test.serial('two purges at once count each row once', async (t) => {
  const { stack } = t.context;
  await putPlan(stack, 'raced', 'PRO');
  await environmentOf(stack, 'raced').then((id) => addChecks(stack, 'raced', id, Array(20).fill('31 days')));
  const outcomes = await Promise.all([1, 2, 3].map(() => purge(stack, { tenantIds: ['raced'] })));
  const items = outcomes.flatMap((outcome) => outcome.items);
  const deleted = items.flatMap((item) => item.resourceCounts.filter((c) => c.resourceType === 'drift_check'));
  t.is(
    deleted.reduce((sum, c) => sum + Number(c.deleted), 0),
    20,
  );
  t.is(await rowsOf(stack, 'drift_checks', 'raced'), 1);
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
