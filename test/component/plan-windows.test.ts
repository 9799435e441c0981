import { Code } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import { WindowKind, WindowSource } from '#gen/lethe/retention/v1/retention_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { putPlan } from '#test/support/aged-data.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { refusalOf, startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['retention'] });
});
test.after.always((t) => t.context.stack.dispose());

const platformOf = (stack: TestStack) => stack.clients({ role: 'platform' }).retention;
const nameOf = (kind: WindowKind) => Object.entries(WindowKind).find(([, value]) => value === kind)?.[0];
/** As if the plan's windows had been there for long: else they have grace. */
const recordedLongAgo = (stack: TestStack, plan: string) =>
  queryOnce(stack.superuserUrl('retention'), "update plan_windows set recorded_at = 'epoch' where plan = $1", [plan]);
const windowOf = (subject: string, retentionDays: number) => ({ subject, kind: WindowKind.DAYS, retentionDays });

test.serial("a new installation has the seed's plans and windows", async (t) => {
  const { plans } = await platformOf(t.context.stack).listPlans({});
  const told = plans.map(({ name, windows }) => [
    name,
    Object.fromEntries(windows.map(({ subject, kind, retentionDays }) => [subject, retentionDays ?? nameOf(kind)])),
  ]);
  // The table of the seed "Drift Retention + Deletion".
  t.deepEqual(Object.fromEntries(told), {
    FREE: { drift_checks: 7, incident_payloads: 'NOT_APPLICABLE', approvals: 'NOT_APPLICABLE' },
    PRO: { drift_checks: 30, incident_payloads: 180, approvals: 180 },
    AGENCY: { drift_checks: 90, incident_payloads: 365, approvals: 365 },
    ENTERPRISE: { drift_checks: 180, incident_payloads: 2_555, approvals: 2_555 },
  });
});

test.serial('a fifth plan is made by RPC, bought and resolved', async (t) => {
  const { stack } = t.context;
  const platform = platformOf(stack);
  const request = { name: 'STARTER', windows: [windowOf('drift_checks', 14)], reason: 'a fifth plan' };
  t.is((await refusalOf(platform.updatePlan(request))).reason, 'PLAN_NOT_FOUND');
  const { plan } = await platform.updatePlan({ ...request, allowMissing: true });
  t.like(plan, { name: 'STARTER', tenantCount: 0 });
  t.like(plan?.windows[0], {
    plan: 'STARTER',
    subject: 'drift_checks',
    version: 1n,
    retentionDays: 14,
    actor: 'platform@platform',
    reason: 'a fifth plan',
  });
  await recordedLongAgo(stack, 'STARTER');
  await putPlan(stack, 'starter', 'STARTER');
  const { windows } = await platform.resolveRetention({ tenantId: 'starter' });
  const kept = Object.fromEntries(windows.map(({ subjectName, ...window }) => [subjectName, window]));
  t.like(kept['drift_checks'], {
    retentionDays: 14,
    source: WindowSource.PLAN,
    planName: 'STARTER',
    windowVersion: 1n,
  });
  t.like(kept['approvals'], { kind: WindowKind.KEEP_ALL, source: WindowSource.NONE });
  t.is((await platform.getPlan({ name: 'STARTER' })).plan?.tenantCount, 1);
});

test.serial(
  'a window that is narrowed gives grace to the tenants on the plan, and one that is widened holds at once',
  async (t) => {
    const { stack } = t.context;
    const platform = platformOf(stack);
    await platform.updatePlan({
      name: 'CHANGED',
      windows: [windowOf('drift_checks', 30)],
      reason: 'new',
      allowMissing: true,
    });
    // As if it had been there for long.
    await recordedLongAgo(stack, 'CHANGED');
    await putPlan(stack, 'changed', 'CHANGED');
    const resolve = async () =>
      (await platform.resolveRetention({ tenantId: 'changed' })).windows.find((w) => w.subjectName === 'drift_checks');
    t.like(await resolve(), { retentionDays: 30, source: WindowSource.PLAN });
    await platform.updatePlan({ name: 'CHANGED', windows: [windowOf('drift_checks', 10)], reason: 'narrower' });
    t.like(await resolve(), {
      retentionDays: 30,
      source: WindowSource.GRACE,
      windowVersion: 1n,
      nextRetentionDays: 10,
    });
    await platform.updatePlan({ name: 'CHANGED', windows: [windowOf('drift_checks', 60)], reason: 'wider' });
    t.like(await resolve(), { retentionDays: 60, source: WindowSource.PLAN, windowVersion: 3n, changeTime: undefined });
  },
);

test.serial(
  'windows that are in force add nothing, the others stay, and every one ever recorded is told',
  async (t) => {
    const platform = platformOf(t.context.stack);
    const name = 'HISTORY';
    const first = [windowOf('drift_checks', 5), { subject: 'approvals', kind: WindowKind.KEEP_ALL }];
    const { plan: made } = await platform.updatePlan({ name, windows: first, reason: 'one', allowMissing: true });
    const { plan: same } = await platform.updatePlan({ name, windows: first, reason: 'the same' });
    t.deepEqual(same, made);
    const change = [windowOf('drift_checks', 6), { subject: 'approvals', kind: WindowKind.KEEP_ALL }];
    const { plan: changed } = await platform.updatePlan({ name, windows: change, reason: 'two' });
    t.not(changed?.etag, made?.etag);
    t.deepEqual(
      changed?.windows.map(({ subject, version, reason }) => [subject, version, reason]),
      [
        ['approvals', 1n, 'one'],
        ['drift_checks', 2n, 'two'],
      ],
    );
    const told: [string, bigint][] = [];
    for (let pageToken = ''; ; ) {
      const page = await platform.listPlanWindows({ name, pageSize: 1, pageToken });
      told.push(...page.windows.map(({ subject, version }): [string, bigint] => [subject, version]));
      pageToken = page.nextPageToken;
      if (pageToken === '') break;
    }
    t.deepEqual(told[0], ['drift_checks', 2n]);
    t.deepEqual(told.slice(1).toSorted(), [
      ['approvals', 1n],
      ['drift_checks', 1n],
    ]);
    t.is((await refusalOf(platform.listPlanWindows({ name: 'NO_SUCH' }))).reason, 'PLAN_NOT_FOUND');
    t.is((await refusalOf(platform.getPlan({ name: 'NO_SUCH' }))).reason, 'PLAN_NOT_FOUND');
  },
);

test.serial('the audit says who changed which windows and why, once for each change', async (t) => {
  const { stack } = t.context;
  const name = 'AUDITED';
  const windows = [windowOf('drift_checks', 5), { subject: 'approvals', kind: WindowKind.NOT_APPLICABLE }];
  await platformOf(stack).updatePlan({ name, windows, reason: 'a new offer', allowMissing: true });
  await platformOf(stack).updatePlan({ name, windows, reason: 'again' });
  const audit = await queryOnce(
    stack.superuserUrl('retention'),
    `select actor, action, target_type, reason, outcome from installation_audit where target_id = 'AUDITED'`,
  );
  t.deepEqual(audit, [
    {
      actor: 'platform@platform',
      action: 'update-plan',
      target_type: 'plan',
      reason: 'a new offer',
      outcome: 'drift_checks=5 approvals=NOT_APPLICABLE',
    },
  ]);
});

test.serial('a stale etag is refused, and a repeated request is answered as it was', async (t) => {
  const platform = platformOf(t.context.stack);
  const name = 'REPEATED';
  const request = {
    name,
    windows: [windowOf('drift_checks', 5)],
    reason: 'one',
    allowMissing: true,
    requestId: newId(),
  };
  const { plan: first } = await platform.updatePlan(request);
  const etag = first?.etag ?? '';
  const { plan: second } = await platform.updatePlan({
    name,
    windows: [windowOf('drift_checks', 6)],
    reason: 'two',
    etag,
  });
  t.is(second?.windows[0]?.retentionDays, 6);
  const stale = { name, windows: [windowOf('drift_checks', 7)], reason: 'three', etag };
  t.is((await refusalOf(platform.updatePlan(stale))).reason, 'ETAG_MISMATCH');
  t.deepEqual((await platform.updatePlan(request)).plan, first);
  const other = { ...request, windows: [windowOf('drift_checks', 8)] };
  t.is((await refusalOf(platform.updatePlan(other))).reason, 'REQUEST_ID_REUSED');
  t.is((await refusalOf(platform.updatePlan({ ...request, name: 'OTHER' }))).reason, 'REQUEST_ID_REUSED');
  t.is((await platform.getPlan({ name })).plan?.windows[0]?.retentionDays, 6);
});

test.serial('of two that change a plan at once by the same etag one gets through', async (t) => {
  const platform = platformOf(t.context.stack);
  const name = 'RACED';
  const { plan } = await platform.updatePlan({
    name,
    windows: [windowOf('drift_checks', 5)],
    reason: 'one',
    allowMissing: true,
  });
  const outcomes = await Promise.allSettled(
    [6, 7, 8].map((days) =>
      platform.updatePlan({ name, windows: [windowOf('drift_checks', days)], reason: 'raced', etag: plan?.etag ?? '' }),
    ),
  );
  t.is(outcomes.filter(({ status }) => status === 'fulfilled').length, 1);
  t.is((await platform.listPlanWindows({ name })).windows.length, 2);
});

test.serial('bad windows are refused together, and nothing is recorded', async (t) => {
  const platform = platformOf(t.context.stack);
  const update = (windows: NonNullable<Parameters<typeof platform.updatePlan>[0]['windows']>) =>
    refusalOf(platform.updatePlan({ name: 'BAD', windows, reason: 'a test', allowMissing: true }));
  const odd = await update([
    windowOf('drift_checks', 0),
    windowOf('approvals', 36_501),
    { subject: 'executions', kind: WindowKind.UNSPECIFIED },
    { subject: 'incident_payloads', kind: WindowKind.KEEP_ALL, retentionDays: 3 },
  ]);
  t.deepEqual([odd.code, odd.reason], [Code.InvalidArgument, 'FIELD_INVALID']);
  t.is(
    odd.metadata['fields'],
    'windows[0].retention_days,windows[1].retention_days,windows[2].kind,windows[3].retention_days',
  );
  for (const [windows, field] of [
    [[], 'windows'],
    [[windowOf('drift_checks', 1), windowOf('drift_checks', 2)], 'windows'],
    [[windowOf('no_such_subject', 1)], 'windows[0].subject'],
    [[{ ...windowOf('drift_checks', 1), minToKeep: 5n }], 'windows[0].min_to_keep'],
    [[{ ...windowOf('executions', 1), minToKeep: -1n }], 'windows[0].min_to_keep'],
    [[{ ...windowOf('drift_checks', 1), plan: 'PRO' }], 'windows[0].plan'],
  ] as const) {
    t.is((await update([...windows])).metadata['fields'], field);
  }
  t.is(
    (await refusalOf(platform.updatePlan({ name: 'BAD', windows: [windowOf('drift_checks', 1)] }))).reason,
    'REASON_REQUIRED',
  );
  t.is((await refusalOf(platform.getPlan({ name: 'BAD' }))).reason, 'PLAN_NOT_FOUND');
});

test.serial('a plan keeps a floor under what remains of a subject that has one', async (t) => {
  const { stack } = t.context;
  const platform = platformOf(stack);
  const windows = [{ ...windowOf('executions', 60), minToKeep: 500n }];
  await platform.updatePlan({ name: 'FLOORED', windows, reason: 'a test', allowMissing: true });
  await recordedLongAgo(stack, 'FLOORED');
  await putPlan(stack, 'floored', 'FLOORED');
  const executions = async () =>
    (await platform.resolveRetention({ tenantId: 'floored' })).windows.find((w) => w.subjectName === 'executions');
  t.like(await executions(), { retentionDays: 60, source: WindowSource.PLAN, minExecutionsToKeep: 500n });
  await stack.clients({ tenantId: 'floored', role: 'admin' }).retention.upsertExecutionPolicy({ retentionDays: 30 });
  t.like(await executions(), { retentionDays: 30, source: WindowSource.POLICY, minExecutionsToKeep: 500n });
});

test.serial('a change that is only tried records nothing, and tells of every tenant on the plan', async (t) => {
  const { stack } = t.context;
  const platform = platformOf(stack);
  for (const tenantId of ['agency-a', 'agency-b']) await putPlan(stack, tenantId, 'AGENCY');
  const before = (await platform.getPlan({ name: 'AGENCY' })).plan;
  const request = { name: 'AGENCY', windows: [windowOf('drift_checks', 45)], reason: 'tried', validateOnly: true };
  const { plan, forecasts } = await platform.updatePlan(request);
  t.is(plan?.windows.find(({ subject }) => subject === 'drift_checks')?.retentionDays, 45);
  t.deepEqual(
    forecasts.map(({ subject, tenantCount, uncountedTenantCount }) => [subject, tenantCount + uncountedTenantCount]),
    [['drift_checks', 2]],
  );
  t.truthy(forecasts[0]?.effectTime, 'the narrower window waits for grace');
  t.deepEqual((await platform.getPlan({ name: 'AGENCY' })).plan, before);
  const missing = { ...request, name: 'NOT_YET' };
  t.is((await refusalOf(platform.updatePlan(missing))).reason, 'PLAN_NOT_FOUND');
  t.like((await platform.updatePlan({ ...missing, allowMissing: true })).plan, { name: 'NOT_YET', tenantCount: 0 });
  t.is((await refusalOf(platform.getPlan({ name: 'NOT_YET' }))).reason, 'PLAN_NOT_FOUND');
});

test.serial('a tenant’s people read plans, do not learn who else has them, and change none', async (t) => {
  const { stack } = t.context;
  const owner = stack.clients({ tenantId: 'agency-a', role: 'owner' }).retention;
  t.like((await owner.getPlan({ name: 'AGENCY' })).plan, { name: 'AGENCY', tenantCount: 0 });
  const { plans } = await owner.listPlans({ pageSize: 2 });
  t.is(plans.length, 2);
  const update = { name: 'AGENCY', windows: [windowOf('drift_checks', 1)], reason: 'mine' };
  for (const call of [owner.updatePlan(update), owner.listPlanWindows({ name: 'AGENCY' })]) {
    t.is((await refusalOf(call)).code, Code.PermissionDenied);
  }
});
