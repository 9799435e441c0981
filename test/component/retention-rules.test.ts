import { timestampDate, timestampFromDate } from '@bufbuild/protobuf/wkt';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { WindowKind, WindowSource } from '#gen/lethe/retention/v1/retention_pb.ts';
import {
  addChecks,
  addEnvironment,
  addIncidents,
  census,
  less,
  purge,
  putPlan,
  removedBy,
} from '#test/support/aged-data.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;
type T = ExecutionContext<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['incident', 'retention'] });
});
test.after.always((t) => t.context.stack.dispose());

const platformOf = (t: T) => t.context.stack.clients({ role: 'platform' }).retention;
const inDays = (days: number) => timestampFromDate(new Date(Date.now() + days * 86_400_000));

const never = (): never => {
  throw new Error('the field is absent');
};

/** Checks and closed incidents of every age; all of them are older than FREE keeps checks. */
async function fill(t: T, tenantId: string): Promise<void> {
  const { stack } = t.context;
  const environmentId = await addEnvironment(stack, tenantId);
  await addChecks(stack, tenantId, environmentId, ['10 days', '40 days', '100 days', '200 days']);
  await addIncidents(
    stack,
    tenantId,
    environmentId,
    ['100 days', '200 days', '400 days'].map((age) => ({ state: 'CLOSED', age })),
  );
}

/** What one purge takes of a tenant. */
async function taken(t: T, tenantId: string): Promise<Record<string, number>> {
  const { stack } = t.context;
  const before = await census(stack, tenantId);
  await purge(stack, { tenantIds: [tenantId] });
  const { drift_check = 0, incident_payload = 0, approval = 0 } = less(before, await census(stack, tenantId));
  return { drift_check, incident_payload, approval };
}

const NOTHING = { drift_check: 0, incident_payload: 0, approval: 0 };

test.serial('AGENCY to FREE dated eight days back takes what AGENCY would, and no more', async (t) => {
  await putPlan(t.context.stack, 'dated-back', 'AGENCY');
  await fill(t, 'dated-back');
  await platformOf(t).setTenantPlan({ tenantId: 'dated-back', planName: 'FREE', effectiveTime: inDays(-8) });
  t.deepEqual(await taken(t, 'dated-back'), { drift_check: 2, incident_payload: 1, approval: 1 });
});

test.serial('a first plan takes nothing before its grace is over, dated back or not', async (t) => {
  for (const [tenantId, when] of [
    ['first', {}],
    ['first-dated-back', { effectiveTime: inDays(-300) }],
  ] as const) {
    await fill(t, tenantId);
    await platformOf(t).setTenantPlan({ tenantId, planName: 'FREE', ...when });
    t.deepEqual(await taken(t, tenantId), NOTHING, tenantId);
  }
});

test.serial('FREE scheduled for next month neither blocks an upgrade today nor counts after it', async (t) => {
  const tenantId = 'scheduled';
  await putPlan(t.context.stack, tenantId, 'PRO');
  await fill(t, tenantId);
  await platformOf(t).setTenantPlan({ tenantId, planName: 'FREE', effectiveTime: inDays(30) });
  await platformOf(t).setTenantPlan({ tenantId, planName: 'ENTERPRISE' });
  t.deepEqual(await taken(t, tenantId), { drift_check: 1, incident_payload: 0, approval: 0 });
  const { planName } = await platformOf(t).resolveRetention({ tenantId, atTime: inDays(60) });
  t.is(planName, 'ENTERPRISE');
});

test.serial('a scheduled plan is cancelled by setting the present one again', async (t) => {
  const tenantId = 'cancelled';
  await putPlan(t.context.stack, tenantId, 'AGENCY');
  await platformOf(t).setTenantPlan({ tenantId, planName: 'FREE', effectiveTime: inDays(30) });
  const checks = async () => {
    const { windows } = await platformOf(t).resolveRetention({ tenantId });
    return windows.find(({ subjectName }) => subjectName === 'drift_checks');
  };
  t.like(await checks(), { retentionDays: 90, nextRetentionDays: 7 });
  await platformOf(t).setTenantPlan({ tenantId, planName: 'AGENCY' });
  t.like(await checks(), { retentionDays: 90, source: WindowSource.PLAN, changeTime: undefined });
});

test.serial('payloads and approvals of a tenant that went to FREE go by the last window that applied', async (t) => {
  const tenantId = 'went-to-free';
  await putPlan(t.context.stack, tenantId, 'PRO', '500 days');
  await putPlan(t.context.stack, tenantId, 'FREE', '300 days');
  await fill(t, tenantId);
  t.deepEqual(await taken(t, tenantId), { drift_check: 4, incident_payload: 2, approval: 2 });
});

test.serial(
  'notes of approvals go first where a plan says so: the approval tells it, and the incident when it went',
  async (t) => {
    const { stack } = t.context;
    const tenantId = 'notes';
    await platformOf(t).updatePlan({
      name: 'NOTES',
      allowMissing: true,
      reason: 'notes are bulky',
      windows: [
        { subject: 'approval_notes', kind: WindowKind.DAYS, retentionDays: 30 },
        { subject: 'approvals', kind: WindowKind.DAYS, retentionDays: 180 },
      ],
    });
    await queryOnce(
      stack.superuserUrl('retention'),
      "update plan_windows set recorded_at = 'epoch' where plan = 'NOTES'",
    );
    await putPlan(stack, tenantId, 'NOTES');
    const environmentId = await addEnvironment(stack, tenantId);
    const [gone = '', bare = '', young = ''] = await addIncidents(
      stack,
      tenantId,
      environmentId,
      ['200 days', '40 days', '20 days'].map((age) => ({ state: 'CLOSED', age })),
    );
    await queryOnce(
      stack.superuserUrl('incident'),
      "update approvals set request_notes = 'why', decision_notes = 'fine' where tenant_id = $1",
      [tenantId],
    );
    const { incidents } = stack.clients({ tenantId, role: 'admin' });
    const approvalOf = async (incidentId: string) => (await incidents.listApprovals({ incidentId })).approvals[0];
    const incidentOf = async (incidentId: string) => (await incidents.getIncident({ incidentId })).incident;
    const before = await Promise.all([bare, young].map(approvalOf));
    const { summary } = await purge(stack, { tenantIds: [tenantId] });
    t.deepEqual(removedBy(summary.resourceCounts, ['approval', 'approval_note']), { approval: 1, approval_note: 2 });

    const { notesPurgeTime, etag, ...rest } = (await approvalOf(bare)) ?? {};
    t.true(timestampDate(notesPurgeTime ?? never()).getTime() > Date.now() - 60_000);
    t.not(etag, before[0]?.etag, 'who holds an older etag reads it again');
    t.like(rest, { requestNotes: '', decisionNotes: '', state: before[0]?.state, decideTime: before[0]?.decideTime });
    t.like(await incidentOf(bare), { approvalsNotice: '', approvalsPurgeTime: undefined }, 'the approval is there');
    t.deepEqual(await approvalOf(young), before[1]);

    t.is(await approvalOf(gone), undefined);
    const told = await incidentOf(gone);
    t.is(told?.approvalsNotice, 'Approvals of this incident were purged per retention policy.');
    t.true(timestampDate(told?.approvalsPurgeTime ?? never()).getTime() > Date.now() - 60_000);
    const again = await purge(stack, { tenantIds: [tenantId] });
    t.deepEqual(removedBy(again.summary.resourceCounts, []), {}, 'a second purge takes nothing');
  },
);

test.serial('payloads and approvals of a tenant that was always on FREE stay', async (t) => {
  await putPlan(t.context.stack, 'always-free', 'FREE');
  await fill(t, 'always-free');
  t.deepEqual(await taken(t, 'always-free'), { drift_check: 4, incident_payload: 0, approval: 0 });
});

test.serial('a tenant without a plan any more keeps everything from that day on', async (t) => {
  await putPlan(t.context.stack, 'left', 'FREE');
  await fill(t, 'left');
  await platformOf(t).setTenantPlan({ tenantId: 'left', noPlan: true, reason: 'they left' });
  t.deepEqual(await taken(t, 'left'), NOTHING);
});

test.serial('a plan whose window was narrowed a moment ago takes what it would have taken before', async (t) => {
  const tenantId = 'narrowed';
  await putPlan(t.context.stack, tenantId, 'ENTERPRISE');
  await fill(t, tenantId);
  const windows = [{ subject: 'drift_checks', kind: WindowKind.DAYS, retentionDays: 5 }];
  await platformOf(t).updatePlan({ name: 'ENTERPRISE', windows, reason: 'a test' });
  t.deepEqual(await taken(t, tenantId), { drift_check: 1, incident_payload: 0, approval: 0 });
});
