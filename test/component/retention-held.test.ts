import { Code } from '@connectrpc/connect';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { PurgeItemState, PurgeState, type RetentionPurgeItem } from '#gen/lethe/retention/v1/retention_pb.ts';
import { newId } from '#libs/kernel/id.ts';
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
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;
type T = ExecutionContext<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({
    services: ['incident', 'retention'],
    env: { LETHE_PURGE_CEILING_SHARE: '0.5', LETHE_PURGE_CEILING_ROWS: '20', LETHE_PURGE_CEILING_SHARE_FROM: '4' },
  });
});
test.after.always((t) => t.context.stack.dispose());

const platformOf = (t: T) => t.context.stack.clients({ role: 'platform' }).retention;

async function addTenant(t: T, tenantId: string, { old, young }: { old: number; young: number }): Promise<string> {
  const { stack } = t.context;
  await putPlan(stack, tenantId, 'PRO');
  const environmentId = await addEnvironment(stack, tenantId);
  await addChecks(stack, tenantId, environmentId, [...Array(old).fill('31 days'), ...Array(young).fill('1 day')]);
  return environmentId;
}

const holdOf = (item: RetentionPurgeItem | undefined, subject = 'drift_checks') =>
  item?.subjects.find((found) => found.subject === subject)?.hold;

const itemOf = async (t: T, purgeId: string, tenantId: string) =>
  (await platformOf(t).getPurge({ purgeId })).items.find((item) => item.tenantId === tenantId);

const auditOf = (t: T, tenantId: string) =>
  queryOnce<{ action: string; outcome: string; reason: string | null; actor: string }>(
    t.context.stack.superuserUrl('retention'),
    `select action, outcome, reason, actor from audit_entries where tenant_id = $1 and action <> 'set-plan' order by at`,
    [tenantId],
  );

test.serial(
  'a subject of which too large a share would go is held, and other subjects and tenants are done',
  async (t) => {
    const { stack } = t.context;
    const environmentId = await addTenant(t, 'share', { old: 6, young: 5 });
    await addIncidents(stack, 'share', environmentId, [{ state: 'CLOSED', age: '200 days' }]);
    await addTenant(t, 'within', { old: 5, young: 5 });
    await addTenant(t, 'few', { old: 3, young: 0 });
    const before = await census(stack, 'share');
    const { summary, items } = await purge(stack, { tenantIds: ['share', 'within', 'few'], reason: 'night' });
    t.like(summary, { state: PurgeState.PARTIAL, heldTenantCount: 1, completeTenantCount: 2, failedTenantCount: 0 });
    t.is(summary.finishTime, undefined, 'what is held has not ended');
    const held = items.find(({ tenantId }) => tenantId === 'share');
    t.is(held?.state, PurgeItemState.HELD);
    t.is(held?.finishTime, undefined);
    t.like(holdOf(held), {
      expiredCount: 6n,
      totalCount: 11n,
      maxShare: 0.5,
      maxCount: 20n,
      approveTime: undefined,
    });
    t.deepEqual(
      less(before, await census(stack, 'share')),
      { drift_check: 0, drift_check_workflow: 0, incident_payload: 1, approval: 1 },
      'only what exceeds waits',
    );
    t.deepEqual(
      items
        .filter(({ state }) => state === PurgeItemState.COMPLETE)
        .map(({ tenantId }) => tenantId)
        .toSorted(),
      ['few', 'within'],
    );
    t.deepEqual(await auditOf(t, 'share'), [
      { action: 'retention-purge', outcome: 'HELD', reason: 'night', actor: 'platform@platform' },
    ]);
  },
);

test.serial('more rows than the ceiling lets are held though their share is small', async (t) => {
  await addTenant(t, 'number', { old: 21, young: 100 });
  const { items } = await purge(t.context.stack, { tenantIds: ['number'] });
  t.is(items[0]?.state, PurgeItemState.HELD);
  t.like(holdOf(items[0]), { expiredCount: 21n, totalCount: 42n }, 'no more rows are walked than the share needs');
});

test.serial('a dry run tells what would go and is not held', async (t) => {
  await addTenant(t, 'rehearsed', { old: 21, young: 0 });
  const { summary } = await purge(t.context.stack, { tenantIds: ['rehearsed'], validateOnly: true });
  t.is(summary.state, PurgeState.COMPLETE);
  t.is(summary.resourceCounts.find(({ resourceType }) => resourceType === 'drift_check')?.found, 21n);
});

test.serial('what a person released goes, once, by windows read anew, and the audit says who and why', async (t) => {
  const { stack } = t.context;
  await addTenant(t, 'released', { old: 8, young: 1 });
  const { summary } = await purge(stack, { tenantIds: ['released'] });
  const approval = { purgeId: summary.id, tenantId: 'released', reason: 'their backlog' };
  const before = await census(stack, 'released');
  const { item } = await platformOf(t).approveHeldPurge(approval);
  t.is(holdOf(item)?.approvedBy, 'platform@platform');
  t.is(holdOf(item)?.approveReason, 'their backlog');
  await until('it is done', async () => (await itemOf(t, summary.id, 'released'))?.state === PurgeItemState.COMPLETE);
  const done = await itemOf(t, summary.id, 'released');
  t.deepEqual(less(before, await census(stack, 'released')), removedBy(done?.resourceCounts ?? []));
  t.is(removedBy(done?.resourceCounts ?? [])['drift_check'], 8);
  const { purge: ended } = await platformOf(t).getPurge({ purgeId: summary.id });
  t.like(ended, { state: PurgeState.COMPLETE, heldTenantCount: 0, completeTenantCount: 1 });
  t.truthy(ended?.finishTime);
  const again = await platformOf(t).approveHeldPurge({ ...approval, reason: 'again' });
  t.is(holdOf(again.item)?.approveReason, 'their backlog', 'a second release changes nothing');
  t.deepEqual(
    (await auditOf(t, 'released')).map(({ action, outcome }) => [action, outcome]),
    [
      ['retention-purge', 'HELD'],
      ['approve-held-purge', 'PENDING'],
      ['retention-purge', 'COMPLETE'],
    ],
  );
});

test.serial('a tenant that was upgraded while it was held keeps what its new plan keeps', async (t) => {
  const { stack } = t.context;
  await addTenant(t, 'upgraded', { old: 8, young: 1 });
  const { summary } = await purge(stack, { tenantIds: ['upgraded'] });
  await platformOf(t).setTenantPlan({ tenantId: 'upgraded', planName: 'ENTERPRISE' });
  const before = await census(stack, 'upgraded');
  await platformOf(t).approveHeldPurge({ purgeId: summary.id, tenantId: 'upgraded', reason: 'looked at it' });
  await until('it is done', async () => (await itemOf(t, summary.id, 'upgraded'))?.state === PurgeItemState.COMPLETE);
  t.deepEqual(await census(stack, 'upgraded'), before);
  t.like(await itemOf(t, summary.id, 'upgraded'), { planName: 'ENTERPRISE', planVersion: 2n });
});

test.serial('only what is held can be released, by the platform, with a reason', async (t) => {
  const { stack } = t.context;
  await addTenant(t, 'refused', { old: 8, young: 1 });
  await addTenant(t, 'fine', { old: 1, young: 9 });
  const { summary } = await purge(stack, { tenantIds: ['refused', 'fine'] });
  const approve = (request: { purgeId?: string; tenantId?: string; reason?: string }) =>
    refusalOf(platformOf(t).approveHeldPurge({ purgeId: summary.id, tenantId: 'refused', reason: 'why', ...request }));
  t.is((await approve({ reason: ' ' })).reason, 'REASON_REQUIRED');
  t.is((await approve({ tenantId: 'fine' })).reason, 'PURGE_NOT_HELD');
  t.is((await approve({ tenantId: 'nobody' })).reason, 'PURGE_NOT_FOUND');
  t.is((await approve({ purgeId: newId() })).reason, 'PURGE_NOT_FOUND');
  const owner = stack.clients({ tenantId: 'refused', role: 'owner' }).retention;
  const denied = await refusalOf(owner.approveHeldPurge({ purgeId: summary.id, tenantId: 'refused', reason: 'mine' }));
  t.is(denied.code, Code.PermissionDenied);
  t.is((await itemOf(t, summary.id, 'refused'))?.state, PurgeItemState.HELD);
});

test.serial('the next purge looks anew at what was held, and holds it again', async (t) => {
  const { stack } = t.context;
  await addTenant(t, 'anew', { old: 8, young: 1 });
  const first = await purge(stack, { tenantIds: ['anew'] });
  const second = await purge(stack, { tenantIds: ['anew'] });
  t.is(second.items[0]?.state, PurgeItemState.HELD);
  // The first release does it; the second then finds nothing to take.
  for (const { summary } of [first, second]) {
    await platformOf(t).approveHeldPurge({ purgeId: summary.id, tenantId: 'anew', reason: 'both' });
    await until('it is done', async () => (await itemOf(t, summary.id, 'anew'))?.state === PurgeItemState.COMPLETE);
  }
  const removed = await Promise.all(
    [first, second].map(async ({ summary }) => removedBy((await itemOf(t, summary.id, 'anew'))?.resourceCounts ?? [])),
  );
  t.deepEqual(
    removed.map((counts) => counts['drift_check']),
    [8, 0],
  );
});

test.serial('a release is told which purge is running, and waits for its turn', async (t) => {
  const { stack } = t.context;
  await addTenant(t, 'busy', { old: 8, young: 1 });
  const held = await purge(stack, { tenantIds: ['busy'] });
  const runningId = newId();
  // A purge that a worker has and does not end, as another replica would.
  await queryOnce(
    stack.superuserUrl('retention'),
    `with p as (insert into retention_purges (id, trigger, validate_only, actor, subject, fingerprint)
                values ($1, 'PURGE', false, 'a', 'a', '') returning id)
     insert into retention_purge_items (tenant_id, purge_id, state, validate_only, actor, due_at)
     select 'busy', id, 'RUNNING', false, 'a', now() + interval '1 hour' from p`,
    [runningId],
  );
  const request = { purgeId: held.summary.id, tenantId: 'busy', reason: 'why' };
  const refusal = await refusalOf(platformOf(t).approveHeldPurge(request));
  t.like(refusal, { reason: 'OPERATION_IN_PROGRESS', code: Code.Aborted, metadata: { operation_id: runningId } });
  await queryOnce(
    stack.superuserUrl('retention'),
    `update retention_purge_items set state = 'COMPLETE', finished_at = now() where purge_id = $1`,
    [runningId],
  );
  t.truthy((await platformOf(t).approveHeldPurge(request)).item);
});

test.serial('a ceiling that is lowered after a purge was ordered holds it, and it names that ceiling', async (t) => {
  const { stack } = t.context;
  await addTenant(t, 'lowered', { old: 15, young: 60 });
  const before = await census(stack, 'lowered');
  await platformOf(t).stopPurges({ reason: 'to look first' });
  const { purge: ordered } = await platformOf(t).purgeNow({ tenantId: 'lowered', reason: 'night' });
  const purgeId = ordered?.id ?? '';
  await stack.restart('retention', { LETHE_PURGE_CEILING_ROWS: '10' });
  await platformOf(t).resumePurges({ reason: 'looked' });
  await until('it is held', async () => (await itemOf(t, purgeId, 'lowered'))?.state === PurgeItemState.HELD);
  t.like(holdOf(await itemOf(t, purgeId, 'lowered')), { expiredCount: 15n, maxCount: 10n });
  t.deepEqual(await census(stack, 'lowered'), before);
  await stack.restart('retention');
});
