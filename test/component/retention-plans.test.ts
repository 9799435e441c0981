import { timestampDate, timestampFromDate } from '@bufbuild/protobuf/wkt';
import { Code } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import { WindowKind, WindowSource } from '#gen/lethe/retention/v1/retention_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { putPlan } from '#test/support/aged-data.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { refusalOf, startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['retention'], env: { LETHE_RETENTION_GRACE_DAYS: '5' } });
});
test.after.always((t) => t.context.stack.dispose());

const platformOf = (stack: TestStack) => stack.clients({ role: 'platform' }).retention;
const DAY_MS = 86_400_000;
const inDays = (days: number) => timestampFromDate(new Date(Date.now() + days * DAY_MS));

test.serial('the plans in force are listed by tenant, page by page, and not those to come', async (t) => {
  const platform = platformOf(t.context.stack);
  for (const [tenantId, planName] of [
    ['list-a', 'FREE'],
    ['list-b', 'PRO'],
    ['list-c', 'PRO'],
    ['list-d', 'ENTERPRISE'],
  ] as const) {
    await platform.setTenantPlan({ tenantId, planName });
  }
  await platform.setTenantPlan({ tenantId: 'list-b', planName: 'FREE', effectiveTime: inDays(3) });
  await platform.setTenantPlan({ tenantId: 'list-e', planName: 'PRO', effectiveTime: inDays(3) });
  const told: [string, string][] = [];
  for (let pageToken = ''; ; ) {
    const page = await platform.listTenantPlans({ pageSize: 3, pageToken });
    told.push(...page.tenantPlans.map(({ tenantId, planName }): [string, string] => [tenantId, planName]));
    pageToken = page.nextPageToken;
    if (pageToken === '') break;
  }
  t.deepEqual(told, [
    ['list-a', 'FREE'],
    ['list-b', 'PRO'],
    ['list-c', 'PRO'],
    ['list-d', 'ENTERPRISE'],
  ]);
  const pro = await platform.listTenantPlans({ planName: 'PRO' });
  t.deepEqual(
    pro.tenantPlans.map(({ tenantId }) => tenantId),
    ['list-b', 'list-c'],
  );
});

test.serial('a tenant’s history is told newest first, past and to come', async (t) => {
  const platform = platformOf(t.context.stack);
  const tenantId = 'history';
  for (const [planName, effectiveTime] of [
    ['PRO', inDays(-90)],
    ['AGENCY', undefined],
    ['FREE', inDays(30)],
  ] as const) {
    const when = effectiveTime ? { effectiveTime } : {};
    await platform.setTenantPlan({ tenantId, planName, ...when, reason: 'a test' });
  }
  const { tenantPlans, nextPageToken } = await platform.listTenantPlans({ tenantId, showHistory: true, pageSize: 2 });
  const rest = await platform.listTenantPlans({ tenantId, showHistory: true, pageSize: 2, pageToken: nextPageToken });
  t.deepEqual(
    [...tenantPlans, ...rest.tenantPlans].map(({ planName, version }) => [planName, Number(version)]),
    [
      ['FREE', 3],
      ['AGENCY', 2],
      ['PRO', 1],
    ],
  );
  const inForce = await platform.listTenantPlans({ tenantId });
  t.deepEqual(
    inForce.tenantPlans.map(({ planName, actor, reason }) => [planName, actor, reason]),
    [['AGENCY', 'platform@platform', 'a test']],
  );
  t.is((await refusalOf(platform.listTenantPlans({ showHistory: true }))).reason, 'FIELD_INVALID');
});

test.serial('a plan may come into force at the last instant of all, and is resolved then', async (t) => {
  const platform = platformOf(t.context.stack);
  const last = { seconds: 253_402_300_799n, nanos: 999_999_999 };
  await platform.setTenantPlan({ tenantId: 'last', planName: 'PRO' });
  const { tenantPlan } = await platform.setTenantPlan({ tenantId: 'last', planName: 'AGENCY', effectiveTime: last });
  t.like(tenantPlan?.effectiveTime, { ...last, nanos: 999_999_000 });
  t.is((await platform.resolveRetention({ tenantId: 'last', atTime: last })).planName, 'AGENCY');
  t.is((await platform.resolveRetention({ tenantId: 'last' })).planName, 'PRO');
});

test.serial('a tenant’s people see their own plan, and another’s as one that there is not', async (t) => {
  const { stack } = t.context;
  await platformOf(stack).setTenantPlan({ tenantId: 'own', planName: 'PRO' });
  const viewer = stack.clients({ tenantId: 'own', role: 'viewer' }).retention;
  t.is((await viewer.getTenantPlan({})).tenantPlan?.planName, 'PRO');
  t.is((await viewer.listTenantPlans({})).tenantPlans.length, 1);
  t.deepEqual((await viewer.listTenantPlans({ tenantId: 'history' })).tenantPlans, []);
  const unknown = await refusalOf(viewer.getTenantPlan({ tenantId: 'nobody' }));
  t.is(unknown.reason, 'TENANT_PLAN_NOT_FOUND');
  t.deepEqual(await refusalOf(viewer.getTenantPlan({ tenantId: 'history' })), unknown);
  t.deepEqual(await refusalOf(viewer.resolveRetention({ tenantId: 'history' })), unknown);
  t.deepEqual(await refusalOf(viewer.resolveRetention({ tenantId: 'nobody' })), unknown);
});

test.serial('a repeated request answers with its own entry, whatever came after it', async (t) => {
  const { stack } = t.context;
  const platform = platformOf(stack);
  const request = { tenantId: 'again', planName: 'PRO', requestId: newId(), reason: 'bought' };
  const first = await platform.setTenantPlan(request);
  await platform.setTenantPlan({ tenantId: 'again', planName: 'AGENCY' });
  t.deepEqual((await platform.setTenantPlan(request)).tenantPlan, first.tenantPlan);
  t.is((await platform.getTenantPlan({ tenantId: 'again' })).tenantPlan?.planName, 'AGENCY');
  t.is((await refusalOf(platform.setTenantPlan({ ...request, planName: 'FREE' }))).reason, 'REQUEST_ID_REUSED');
  // The same id of another tenant is another request.
  t.is((await platform.setTenantPlan({ ...request, tenantId: 'again-2' })).tenantPlan?.version, 1n);
  const audit = await queryOnce<{ action: string; outcome: string; reason: string | null }>(
    stack.superuserUrl('retention'),
    'select action, outcome, reason from audit_entries where tenant_id = $1 order by at',
    ['again'],
  );
  t.deepEqual(audit, [
    { action: 'set-plan', outcome: 'PRO', reason: 'bought' },
    { action: 'set-plan', outcome: 'AGENCY', reason: null },
  ]);
});

test.serial('a plan that is scheduled neither blocks an earlier one nor survives it', async (t) => {
  const platform = platformOf(t.context.stack);
  const tenantId = 'scheduled';
  await platform.setTenantPlan({ tenantId, planName: 'PRO' });
  const { tenantPlan: scheduled } = await platform.setTenantPlan({
    tenantId,
    planName: 'FREE',
    effectiveTime: inDays(30),
  });
  const again = await platform.setTenantPlan({
    tenantId,
    planName: 'FREE',
    ...(scheduled?.effectiveTime ? { effectiveTime: scheduled.effectiveTime } : {}),
  });
  t.deepEqual(again.tenantPlan, scheduled, 'the same again adds nothing');
  const { tenantPlan: upgrade } = await platform.setTenantPlan({ tenantId, planName: 'ENTERPRISE' });
  t.is(upgrade?.version, 3n);
  t.is((await platform.getTenantPlan({ tenantId })).tenantPlan?.planName, 'ENTERPRISE');
  t.is((await platform.resolveRetention({ tenantId, atTime: inDays(40) })).planName, 'ENTERPRISE');
});

test.serial('a plan that is dated back counts from now, so that grace is never cut short', async (t) => {
  const platform = platformOf(t.context.stack);
  const tenantId = 'dated-back';
  await putPlan(t.context.stack, tenantId, 'AGENCY');
  const { tenantPlan } = await platform.setTenantPlan({ tenantId, planName: 'FREE', effectiveTime: inDays(-8) });
  t.deepEqual(tenantPlan?.effectiveTime, tenantPlan?.createTime);
  const { windows } = await platform.resolveRetention({ tenantId });
  const checks = windows.find(({ subjectName }) => subjectName === 'drift_checks');
  t.like(checks, { retentionDays: 90, source: WindowSource.GRACE, planName: 'AGENCY', nextRetentionDays: 7 });
});

test.serial('a tenant can have no plan from some day on, and keeps everything at once', async (t) => {
  const platform = platformOf(t.context.stack);
  const tenantId = 'left';
  await putPlan(t.context.stack, tenantId, 'PRO');
  const { tenantPlan } = await platform.setTenantPlan({ tenantId, noPlan: true, reason: 'they left' });
  t.like(tenantPlan, { planName: '', version: 2n });
  t.deepEqual((await platform.setTenantPlan({ tenantId, noPlan: true })).tenantPlan, tenantPlan);
  t.is((await refusalOf(platform.getTenantPlan({ tenantId }))).reason, 'TENANT_PLAN_NOT_FOUND');
  t.deepEqual((await platform.listTenantPlans({ tenantId })).tenantPlans, []);
  const { planName, planVersion, windows } = await platform.resolveRetention({ tenantId });
  t.deepEqual([planName, planVersion], ['', 2n]);
  for (const window of windows) t.is(window.kind, WindowKind.KEEP_ALL);
  const history = await platform.listTenantPlans({ tenantId, showHistory: true });
  t.deepEqual(
    history.tenantPlans.map((entry) => [entry.planName, entry.reason]),
    [
      ['', 'they left'],
      ['PRO', ''],
    ],
  );
  const both = { tenantId, noPlan: true, planName: 'PRO' };
  t.is((await refusalOf(platform.setTenantPlan(both))).reason, 'FIELD_INVALID');
});

test.serial('only a plan that there is can be set', async (t) => {
  const platform = platformOf(t.context.stack);
  const unknown = await refusalOf(platform.setTenantPlan({ tenantId: 'typo', planName: 'PROO' }));
  t.deepEqual([unknown.code, unknown.reason, unknown.metadata], [Code.NotFound, 'PLAN_NOT_FOUND', { plan: 'PROO' }]);
  for (const planName of ['', 'pro', 'P RO', '1PRO', 'P'.repeat(64)]) {
    t.is((await refusalOf(platform.setTenantPlan({ tenantId: 'typo', planName }))).reason, 'FIELD_INVALID');
  }
  t.deepEqual((await platform.listTenantPlans({ tenantId: 'typo', showHistory: true })).tenantPlans, []);
});

test.serial('two that set a plan at once make two entries, or one when they say the same', async (t) => {
  const platform = platformOf(t.context.stack);
  const both = (plans: readonly string[], tenantId: string) =>
    Promise.all(plans.map((planName) => platform.setTenantPlan({ tenantId, planName })));
  await both(['PRO', 'PRO', 'PRO'], 'gate-same');
  await both(['PRO', 'AGENCY'], 'gate-other');
  const count = async (tenantId: string) =>
    (await platform.listTenantPlans({ tenantId, showHistory: true })).tenantPlans.length;
  t.deepEqual([await count('gate-same'), await count('gate-other')], [1, 2]);
});

test.serial('a stale etag is refused', async (t) => {
  const platform = platformOf(t.context.stack);
  const { tenantPlan } = await platform.setTenantPlan({ tenantId: 'etag', planName: 'PRO' });
  const etag = tenantPlan?.etag ?? '';
  await platform.setTenantPlan({ tenantId: 'etag', planName: 'AGENCY', etag });
  t.is((await refusalOf(platform.setTenantPlan({ tenantId: 'etag', planName: 'FREE', etag }))).reason, 'ETAG_MISMATCH');
});

test.serial('the answer names the window, where it comes from and when it changes', async (t) => {
  const { stack } = t.context;
  const tenantId = 'downgraded';
  await putPlan(stack, tenantId, 'AGENCY', '300 days');
  await putPlan(stack, tenantId, 'FREE', '2 days');
  const resolve = async (subject: string, atTime = inDays(0)) => {
    const resolved = await platformOf(stack).resolveRetention({ tenantId, atTime });
    t.is(resolved.planName, 'FREE');
    return resolved.windows.find((window) => window.subjectName === subject);
  };
  const checks = await resolve('drift_checks');
  t.like(checks, {
    kind: WindowKind.DAYS,
    retentionDays: 90,
    source: WindowSource.GRACE,
    planName: 'AGENCY',
    planVersion: 1n,
    windowVersion: 1n,
    nextKind: WindowKind.DAYS,
    nextRetentionDays: 7,
  });
  const graceLeft = checks?.changeTime && timestampDate(checks.changeTime).getTime() - Date.now();
  t.true(
    graceLeft !== undefined && Math.abs(graceLeft - 3 * DAY_MS) < 60_000,
    'five days of grace, of which two are over',
  );
  t.like(await resolve('drift_checks', inDays(4)), {
    retentionDays: 7,
    source: WindowSource.PLAN,
    planName: 'FREE',
    planVersion: 2n,
    changeTime: undefined,
  });
  for (const at of [inDays(0), inDays(4), inDays(4_000)]) {
    t.like(await resolve('incident_payloads', at), {
      retentionDays: 365,
      source: WindowSource.INHERITED,
      planName: 'AGENCY',
      planVersion: 1n,
      changeTime: undefined,
    });
  }
});

test.serial('a first plan keeps everything until grace is over', async (t) => {
  const platform = platformOf(t.context.stack);
  await platform.setTenantPlan({ tenantId: 'first', planName: 'FREE', effectiveTime: inDays(-100) });
  const { windows } = await platform.resolveRetention({ tenantId: 'first' });
  const checks = windows.find(({ subjectName }) => subjectName === 'drift_checks');
  t.like(checks, { kind: WindowKind.KEEP_ALL, source: WindowSource.GRACE, planName: '', nextRetentionDays: 7 });
});

test.serial('a change that is only tried changes nothing, and tells what the next purge would take', async (t) => {
  const { stack } = t.context;
  const platform = platformOf(stack);
  const tenantId = 'tried';
  await putPlan(stack, tenantId, 'PRO');
  const request = { tenantId, planName: 'FREE', validateOnly: true, requestId: newId() };
  const { tenantPlan, forecasts } = await platform.setTenantPlan(request);
  t.like(tenantPlan, { planName: 'FREE', version: 2n });
  t.deepEqual(
    forecasts.map(({ subject }) => subject),
    ['approval_notes', 'approvals', 'drift_checks', 'executions', 'incident_payloads'],
  );
  const checks = forecasts.find(({ subject }) => subject === 'drift_checks');
  const ahead = checks?.effectTime && timestampDate(checks.effectTime).getTime() - Date.now();
  t.true(ahead !== undefined && Math.abs(ahead - 5 * DAY_MS) < 60_000, 'when grace is over');
  t.is(forecasts.find(({ subject }) => subject === 'approvals')?.effectTime, undefined);
  t.is((await platform.getTenantPlan({ tenantId })).tenantPlan?.planName, 'PRO');
  t.is((await platform.setTenantPlan({ ...request, planName: 'AGENCY', validateOnly: false })).tenantPlan?.version, 2n);
  t.is((await refusalOf(platform.setTenantPlan({ ...request, planName: 'NONE' }))).reason, 'PLAN_NOT_FOUND');
  t.is((await refusalOf(platform.setTenantPlan({ ...request, etag: '"1"' }))).reason, 'ETAG_MISMATCH');
});
