import { Code } from '@connectrpc/connect';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import pg from 'pg';
import { PurgeItemState, PurgeState, PurgeSubjectState } from '#gen/lethe/retention/v1/retention_pb.ts';
import { exitOfPurge } from '#libs/cli/commands/purges.ts';
import { EXIT } from '#libs/cli/output.ts';
import { createLethe } from '#libs/client/lethe.ts';
import { newId } from '#libs/kernel/id.ts';
import { purge, putPlan } from '#test/support/aged-data.ts';
import { type MemoryOwner, refusal, seconds, startMemoryOwner } from '#test/support/memory-owner.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

interface Context {
  readonly stack: TestStack;
  readonly incident: MemoryOwner;
  readonly run: MemoryOwner;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

test.before(async (t) => {
  const incident = await startMemoryOwner(
    [
      { name: 'drift_checks', resourceType: 'drift_check' },
      { name: 'incident_payloads', resourceType: 'incident_payload' },
      { name: 'approvals', resourceType: 'approval' },
    ],
    'incidents-1',
  );
  const run = await startMemoryOwner([{ name: 'executions', resourceType: 'execution', hasFloor: true }], 'runs-1');
  const stack = await startTestStack({
    services: ['retention'],
    foreignOwners: { incident: incident.address, run: run.address },
    env: {
      LETHE_PURGE_CEILING_SHARE: '0.5',
      LETHE_PURGE_CEILING_ROWS: '1000',
      LETHE_PURGE_CEILING_SHARE_FROM: '4',
      LETHE_PURGE_BACKOFF_MS: '50',
      LETHE_OWNER_TIMEOUT_MS: '2000',
      LETHE_OWNER_MAX_WAIT: '6',
      LETHE_OWNER_MAX_PAUSE: '2',
      LETHE_CATALOGUE_POLL_MS: '200',
    },
  });
  Object.assign(t.context, { stack, incident, run });
});
test.afterEach.always((t) => {
  for (const owner of [t.context.incident, t.context.run]) {
    owner.onCall = () => undefined;
    owner.afterPurge = () => undefined;
    owner.rowsPerCall = 1_000;
  }
});
test.after.always(async (t) => {
  await t.context.stack.dispose();
  await Promise.all([t.context.incident.close(), t.context.run.close()]);
});

const platformOf = (t: T) => t.context.stack.clients({ role: 'platform' }).retention;

const times = (count: number, age: number): number[] => Array(count).fill(age);

const subjectOf = async (t: T, purgeId: string, tenantId: string, subject: string) => {
  const { items } = await platformOf(t).getPurge({ purgeId });
  return items.find((item) => item.tenantId === tenantId)?.subjects.find((candidate) => candidate.subject === subject);
};

/** What Prometheus reads of a metric. */
const metricOf = async (t: T, sample: string): Promise<number> => {
  const address = t.context.stack.environment('retention')['LETHE_METRICS_ADDRESS'];
  const lines = (await (await fetch(`http://${address}/metrics`)).text()).split('\n');
  return Number(
    lines
      .find((line) => line.startsWith(sample))
      ?.split(' ')
      .at(-1),
  );
};

/** The held subjects of a tenant that wait for a person, with the purge that holds each. */
async function heldOf({ context: { stack } }: T, tenantId: string): Promise<readonly string[]> {
  const lethe = createLethe({ ...stack.addresses, token: await stack.token({ role: 'platform' }) });
  try {
    const { items } = await lethe.services.status.retention.listParkedWork({ tenantId, pageSize: 100 });
    return items.map(({ id, targetId }) => `${targetId} ${id}`);
  } finally {
    lethe.close();
  }
}

const itemOf = async (t: T, purgeId: string, tenantId: string) =>
  (await platformOf(t).getPurge({ purgeId })).items.find((item) => item.tenantId === tenantId);

test.serial('every subject is counted before any is removed, and each operation is closed', async (t) => {
  const { stack, incident } = t.context;
  await putPlan(stack, 'plain', 'PRO');
  incident.add('plain', 'drift_checks', [...times(3, 31), ...times(9, 1), null]);
  incident.add('plain', 'approvals', [...times(2, 181), ...times(8, 1)]);
  incident.rowsPerCall = 2;
  incident.calls.length = 0;
  const { summary, items } = await purge(stack, { tenantIds: ['plain'] });
  t.is(summary.state, PurgeState.COMPLETE, items[0]?.error);
  const calls = incident.calls
    .filter(({ tenantId }) => tenantId === 'plain')
    .map(({ rpc, subject }) => `${rpc} ${subject}`);
  t.true(calls.findLastIndex((call) => call.startsWith('count')) < calls.findIndex((call) => call.startsWith('purge')));
  t.deepEqual(
    calls.filter((call) => !call.startsWith('count')),
    ['purge approvals', 'end approvals', 'purge drift_checks', 'purge drift_checks', 'end drift_checks'],
  );
  t.is(incident.countOf('plain', 'drift_checks'), 10);
  t.is(incident.countOf('plain', 'approvals'), 8);
  const states = items[0]?.subjects.map(({ subject, state }) => [subject, state]);
  t.deepEqual(states, [
    ['approval_notes', PurgeSubjectState.KEPT],
    ['approvals', PurgeSubjectState.COMPLETE],
    ['drift_checks', PurgeSubjectState.COMPLETE],
    ['executions', PurgeSubjectState.KEPT],
    ['incident_payloads', PurgeSubjectState.COMPLETE],
  ]);
});

test.serial('tokens name the owner, the actor, the subject and the operation, and no more', async (t) => {
  const { stack, incident } = t.context;
  await putPlan(stack, 'claims', 'PRO');
  incident.add('claims', 'drift_checks', [...times(1, 31), ...times(9, 1)]);
  incident.calls.length = 0;
  await purge(stack, { tenantIds: ['claims'] });
  const call = incident.calls.find(({ rpc }) => rpc === 'purge');
  t.like(call?.claims, {
    aud: 'lethe-owner:incident',
    role: 'service',
    sub: 'platform@platform',
    act: { sub: 'service:retention' },
    scope: 'owner:purge',
    tenant: 'claims',
    subject_name: 'drift_checks',
    operation_id: call?.operationId ?? '',
  });
  t.true(Number(call?.claims['exp']) - Number(call?.claims['iat']) <= 60);
  const count = incident.calls.find(({ rpc }) => rpc === 'count');
  t.like(count?.claims, { scope: 'owner:count', tenant: 'claims', operation_id: undefined });
  t.is(incident.calls.find(({ rpc }) => rpc === 'listSubjects')?.claims['tenant'], undefined);
});

test.serial('an owner may work on a call for less time than its answer is waited for', async (t) => {
  const { stack, incident } = t.context;
  await putPlan(stack, 'budget', 'PRO');
  incident.add('budget', 'drift_checks', [...times(1, 31), ...times(9, 1)]);
  incident.calls.length = 0;
  await purge(stack, { tenantIds: ['budget'] });
  const budgets = incident.calls.filter(({ tenantId }) => tenantId === 'budget').map(({ budgetMs }) => budgetMs);
  t.deepEqual(new Set(budgets), new Set([500]), 'a quarter of LETHE_OWNER_TIMEOUT_MS');
});

test.serial('only what exceeds the ceiling is held, and an approval of it takes no other subject along', async (t) => {
  const { stack, incident } = t.context;
  await putPlan(stack, 'partly', 'PRO');
  incident.add('partly', 'drift_checks', [...times(8, 31), ...times(2, 1)]);
  incident.add('partly', 'incident_payloads', [...times(8, 181), ...times(1, 1)]);
  incident.add('partly', 'approvals', [...times(1, 181), ...times(9, 1)]);
  const { summary, items } = await purge(stack, { tenantIds: ['partly'] });
  t.like(summary, { state: PurgeState.PARTIAL, heldTenantCount: 1 });
  t.is(items[0]?.state, PurgeItemState.HELD);
  t.is(incident.countOf('partly', 'approvals'), 9, 'what does not exceed goes on');
  t.is(incident.countOf('partly', 'drift_checks'), 10);
  const held = await subjectOf(t, summary.id, 'partly', 'drift_checks');
  t.like(held?.hold, { expiredCount: 8n, totalCount: 10n, maxShare: 0.5, maxCount: 1_000n, approveTime: undefined });
  const approval = { purgeId: summary.id, tenantId: 'partly', reason: 'their backlog', subjects: ['drift_checks'] };
  await platformOf(t).approveHeldPurge(approval);
  await until('the checks are gone', async () => incident.countOf('partly', 'drift_checks') === 2);
  await until('it has settled', async () => (await itemOf(t, summary.id, 'partly'))?.state === PurgeItemState.HELD);
  t.is(incident.countOf('partly', 'incident_payloads'), 9, 'payloads were not approved');
  t.like((await subjectOf(t, summary.id, 'partly', 'drift_checks'))?.hold, {
    approvedBy: 'platform@platform',
    approveReason: 'their backlog',
    approvedRows: 8n,
    approvedRetentionDays: 30,
  });
  await platformOf(t).approveHeldPurge({ ...approval, subjects: [] });
  await until('all is done', async () => (await itemOf(t, summary.id, 'partly'))?.state === PurgeItemState.COMPLETE);
  t.is(incident.countOf('partly', 'incident_payloads'), 1);
});

test.serial(
  'expired rows that stay are overdue since the purge that left none, until one leaves none again',
  async (t) => {
    const { stack, incident } = t.context;
    const days = async () =>
      Math.round((await metricOf(t, 'lethe_retention_overdue_seconds{subject="incident_payloads"')) / 86_400);
    await putPlan(stack, 'overdue', 'PRO');
    incident.add('overdue', 'incident_payloads', [...times(1, 181), ...times(9, 1)]);
    t.is((await purge(stack, { tenantIds: ['overdue'] })).summary.state, PurgeState.COMPLETE);
    await queryOnce(
      stack.superuserUrl('retention'),
      "update last_purges set completed_at = now() - interval '3 days' where tenant_id = 'overdue'",
    );
    t.is(await days(), 0, 'nothing is left that anybody knows of');
    incident.add('overdue', 'incident_payloads', times(18, 181));
    const held = await purge(stack, { tenantIds: ['overdue'] });
    t.is(held.items[0]?.state, PurgeItemState.HELD);
    t.is(await days(), 3);
    await purge(stack, { tenantIds: ['overdue'], validateOnly: true });
    t.is(await days(), 3, 'a rehearsal removes nothing');
    await platformOf(t).approveHeldPurge({ purgeId: held.summary.id, tenantId: 'overdue', reason: 'all of them' });
    await until(
      'it is done',
      async () => (await itemOf(t, held.summary.id, 'overdue'))?.state === PurgeItemState.COMPLETE,
    );
    t.is(incident.countOf('overdue', 'incident_payloads'), 9);
    t.is(await days(), 0);
    await queryOnce(
      stack.superuserUrl('retention'),
      "update last_purges set completed_at = now() - interval '3 days' where tenant_id = 'overdue'",
    );
    incident.add('overdue', 'incident_payloads', times(18, 181));
    const heldAgain = await purge(stack, { tenantIds: ['overdue'] });
    t.is(await days(), 3);
    t.deepEqual(await heldOf(t, 'overdue'), [`incident_payloads ${heldAgain.summary.id}`]);
    await putPlan(stack, 'overdue', null, '0 days');
    t.is((await purge(stack, { tenantIds: ['overdue'] })).summary.state, PurgeState.COMPLETE);
    t.is(await days(), 0, 'what is kept now is not overdue');
    t.deepEqual(await heldOf(t, 'overdue'), [], 'nor does it wait for a person');
  },
);

test.serial(
  'an approval in an older purge changes nothing of what its settled subjects have become since',
  async (t) => {
    const { stack, incident } = t.context;
    await putPlan(stack, 'older', 'AGENCY');
    incident.add('older', 'drift_checks', [...times(1, 100), ...times(9, 1)]);
    incident.add('older', 'approvals', [...times(8, 400), ...times(1, 1)]);
    const first = await purge(stack, { tenantIds: ['older'] });
    t.is(first.items[0]?.state, PurgeItemState.HELD);
    await putPlan(stack, 'older', 'PRO', '8 days');
    const subjects = ['drift_checks'];
    t.is((await purge(stack, { tenantIds: ['older'], subjects })).summary.state, PurgeState.COMPLETE);
    incident.add('older', 'drift_checks', times(20, 31));
    const third = await purge(stack, { tenantIds: ['older'], subjects });
    const held = `drift_checks ${third.summary.id}`;
    t.true((await heldOf(t, 'older')).includes(held));
    await platformOf(t).approveHeldPurge({ purgeId: first.summary.id, tenantId: 'older', reason: 'their backlog' });
    await until('it is done', async () => {
      const item = await itemOf(t, first.summary.id, 'older');
      return item?.state === PurgeItemState.COMPLETE;
    });
    t.is(incident.countOf('older', 'approvals'), 1);
    t.deepEqual(await heldOf(t, 'older'), [held]);
    const rows = await queryOnce<{ subject: string; days: number }>(
      stack.superuserUrl('retention'),
      "select subject, days from last_purges where tenant_id = 'older' and subject in ('approvals', 'drift_checks') order by 1",
    );
    t.deepEqual(
      rows.map(({ subject, days }) => [subject, days]),
      [
        ['approvals', 180],
        ['drift_checks', 30],
      ],
    );
  },
);

test.serial('a downgrade after the approval takes no more rows than were approved, and the rest is held', async (t) => {
  const { stack, incident } = t.context;
  await putPlan(stack, 'sneaky', 'AGENCY');
  incident.add('sneaky', 'drift_checks', [...times(21, 100), ...times(100, 40), ...times(3, 1)]);
  incident.add('sneaky', 'approvals', times(5, 1));
  // 121 of 124 would go under PRO; under AGENCY 21 of 124 would, which is little: it is the count that is held here.
  const stopped = await platformOf(t).stopPurges({ reason: 'the test changes the plan before the turn' });
  t.true(stopped.stop?.isStopped);
  await queryOnce(
    stack.superuserUrl('retention'),
    `with p as (insert into retention_purges (id, trigger, validate_only, actor, subject, fingerprint)
                values ($1, 'PURGE', false, 'ada', 'ada', '') returning id),
     i as (insert into retention_purge_items (tenant_id, purge_id, state, validate_only, actor)
           select 'sneaky', id, 'HELD', false, 'ada' from p returning *)
     insert into retention_purge_subjects
       (tenant_id, purge_id, subject, state, validate_only, kind, days, source, expired, seen, cutoff, held_at,
        hold_expired, hold_total)
     select tenant_id, purge_id, 'drift_checks', 'HELD', false, 'DAYS', 90, 'PLAN', 21, 124, now() - interval '90 days',
            now(), 21, 124 from i`,
    ['01890000-0000-7000-8000-00000000aaaa'],
  );
  const purgeId = '01890000-0000-7000-8000-00000000aaaa';
  await platformOf(t).approveHeldPurge({ purgeId, tenantId: 'sneaky', reason: '21 rows are fine' });
  await putPlan(stack, 'sneaky', 'PRO', '300 days');
  await platformOf(t).resumePurges({ reason: 'changed' });
  await until('it is held again', async () => {
    const item = await itemOf(t, purgeId, 'sneaky');
    return item?.state === PurgeItemState.HELD && incident.countOf('sneaky', 'drift_checks') < 124;
  });
  t.is(incident.removedOf('sneaky', 'drift_checks'), 21);
  t.is(incident.countOf('sneaky', 'drift_checks'), 103, 'the oldest went');
  const held = await subjectOf(t, purgeId, 'sneaky', 'drift_checks');
  t.is(held?.expiredCount, 100n);
  t.is(held?.hold?.approveTime, undefined, 'the rest waits for a person');
});

test.serial('what a known window takes anyway is not held after a change between two known windows', async (t) => {
  const { stack, incident } = t.context;
  await putPlan(stack, 'ordinary', 'PRO');
  incident.add('ordinary', 'drift_checks', [...times(6, 10), ...times(4, 1)]);
  t.is((await purge(stack, { tenantIds: ['ordinary'] })).summary.state, PurgeState.COMPLETE);
  await putPlan(stack, 'ordinary', 'FREE', '8 days');
  const { summary } = await purge(stack, { tenantIds: ['ordinary'] });
  t.is(summary.state, PurgeState.COMPLETE, 'six of ten go, since the change and not the clock expired them');
  t.is(incident.countOf('ordinary', 'drift_checks'), 4);
});

test.serial('counting walks no more rows than the share needs, in slices', async (t) => {
  const { stack, incident } = t.context;
  await putPlan(stack, 'large', 'PRO');
  incident.add('large', 'drift_checks', [...times(40, 31), ...times(5_000, 1)]);
  incident.rowsPerCall = 10;
  const { summary } = await purge(stack, { tenantIds: ['large'] });
  t.is(summary.state, PurgeState.COMPLETE);
  const subject = await subjectOf(t, summary.id, 'large', 'drift_checks');
  t.is(subject?.expiredCount, 40n);
  t.is(subject?.seenCount, 80n, '40 / 0.5');
});

test.serial('an owner that is silent for a while makes nobody PARTIAL', async (t) => {
  const { stack, incident } = t.context;
  const tenants = Array.from({ length: 24 }, (_, index) => `silent-${index}`);
  for (const tenantId of tenants) {
    await putPlan(stack, tenantId, 'PRO');
    incident.add(tenantId, 'drift_checks', [...times(2, 31), ...times(3, 1)]);
  }
  await incident.down();
  const whole = purge(stack, { tenantIds: tenants });
  await until('every tenant waits', async () => {
    const waiting = await queryOnce(
      stack.superuserUrl('retention'),
      "select from retention_purge_items where waiting_since is not null and tenant_id like 'silent-%'",
    );
    return waiting.length === 24;
  });
  await incident.up();
  const { summary } = await whole;
  t.like(summary, { state: PurgeState.COMPLETE, completeTenantCount: 24 });
  for (const tenantId of tenants) t.is(incident.countOf(tenantId, 'drift_checks'), 3);
});

test.serial('an owner that stays silent is given up at last, other owners’ subjects are done', async (t) => {
  const { stack, incident, run } = t.context;
  await putPlan(stack, 'dark', 'PRO');
  await stack.clients({ tenantId: 'dark', role: 'admin' }).retention.upsertExecutionPolicy({ minExecutionsToKeep: 2n });
  incident.add('dark', 'drift_checks', [...times(2, 31), ...times(3, 1)]);
  run.add('dark', 'executions', [...times(2, 91), ...times(3, 1)]);
  await incident.down();
  const { summary, items } = await purge(stack, { tenantIds: ['dark'] });
  await incident.up();
  t.is(summary.state, PurgeState.PARTIAL);
  t.regex(items[0]?.error ?? '', /^DEPENDENCY_UNAVAILABLE: The owner incident is unavailable/);
  t.is(run.countOf('dark', 'executions'), 3);
  t.is(incident.countOf('dark', 'drift_checks'), 5);
  t.like(await subjectOf(t, summary.id, 'dark', 'executions'), { state: PurgeSubjectState.COMPLETE });
});

test.serial('a floor goes into the rule, and a cleanup is noted with the owner’s own sums', async (t) => {
  const { stack, run } = t.context;
  const admin = stack.clients({ tenantId: 'floored', role: 'admin' }).retention;
  await admin.upsertExecutionPolicy({ retentionDays: 10, minExecutionsToKeep: 7n });
  run.add('floored', 'executions', [...times(5, 20), ...times(5, 1)]);
  const { summary } = await purge(stack, { tenantIds: ['floored'] });
  t.is(summary.state, PurgeState.COMPLETE);
  t.is(run.countOf('floored', 'executions'), 7);
  const { executionPolicy } = await admin.getExecutionPolicy({});
  t.is(executionPolicy?.lastCleanupDeletedCount, 3n);
  t.truthy(executionPolicy?.lastCleanupTime);
});

test.serial('an owner that has a floor no longer removes nothing under one, and the tenant is PARTIAL', async (t) => {
  const { stack, run } = t.context;
  const { subjects } = run;
  const admin = stack.clients({ tenantId: 'unfloored', role: 'admin' }).retention;
  await admin.upsertExecutionPolicy({ retentionDays: 10, minExecutionsToKeep: 7n });
  run.add('unfloored', 'executions', [...times(5, 20), ...times(5, 1)]);
  const only = { tenantIds: ['unfloored'], subjects: ['executions'] };
  run.subjects = subjects.map((subject) => ({ ...subject, hasFloor: false }));
  const { summary, items } = await purge(stack, only);
  t.is(run.countOf('unfloored', 'executions'), 10);
  t.is(summary.state, PurgeState.PARTIAL);
  t.regex(items[0]?.error ?? '', /^FIELD_INVALID: /);
  t.is(items[0]?.subjects[0]?.window?.minExecutionsToKeep, 7n);
  run.subjects = subjects;
  t.is((await purge(stack, only)).summary.state, PurgeState.COMPLETE);
  t.is(run.countOf('unfloored', 'executions'), 7);
  const changes = await queryOnce<{ action: string }>(
    stack.superuserUrl('retention'),
    "select action from installation_audit where target_id = 'executions' order by at desc limit 2",
  );
  t.deepEqual(
    changes.map(({ action }) => action),
    ['subject-floor-added', 'subject-floor-dropped'],
  );
});

test.serial('an owner that is throttled tells how long it waited and why, and the tenant is PARTIAL', async (t) => {
  const { stack, incident } = t.context;
  await putPlan(stack, 'throttled', 'PRO');
  incident.add('throttled', 'drift_checks', [...times(2, 31), ...times(3, 1)]);
  let calls = 0;
  incident.onCall = ({ rpc }) => {
    if (rpc !== 'purge') return undefined;
    calls += 1;
    const waits = [{ cause: 'OLD_SNAPSHOT', duration: seconds(calls * 60) }] as never;
    if (calls === 1) return { retryDelay: seconds(0.05) as never, waits };
    return { blockers: [{ reason: 'THROTTLED', message: 'An old snapshot is held.' }] as never, waits };
  };
  const { summary, items } = await purge(stack, { tenantIds: ['throttled'] });
  t.is(summary.state, PurgeState.PARTIAL);
  t.is(items[0]?.error, 'THROTTLED: An old snapshot is held.');
  const subject = items[0]?.subjects.find((candidate) => candidate.subject === 'drift_checks');
  t.is(subject?.state, PurgeSubjectState.PARTIAL);
  t.is(subject?.waits[0]?.cause, 'OLD_SNAPSHOT');
  t.is(subject?.waits[0]?.duration?.seconds, 120n);
});

test.serial(
  'an owner that asks for time for ever leaves the tenant PARTIAL, and the next purge has its turn',
  async (t) => {
    const { stack, incident } = t.context;
    await putPlan(stack, 'postponed', 'PRO');
    incident.add('postponed', 'drift_checks', [...times(2, 31), ...times(3, 1)]);
    incident.onCall = ({ rpc, tenantId }) =>
      rpc === 'purge' && tenantId === 'postponed' ? { retryDelay: seconds(0.3) as never } : undefined;
    const { items } = await purge(stack, { tenantIds: ['postponed'] });
    t.is(items[0]?.state, PurgeItemState.PARTIAL);
    t.regex(items[0]?.error ?? '', /^OWNER_STALLED: /);
    t.is(incident.countOf('postponed', 'drift_checks'), 5);
    incident.onCall = () => undefined;
    const next = await purge(stack, { tenantIds: ['postponed'] });
    t.is(next.items[0]?.state, PurgeItemState.COMPLETE);
    t.is(incident.countOf('postponed', 'drift_checks'), 3);
  },
);

test.serial(
  'a plan that is raised on the way ends the operation, and another one goes on by the wider window',
  async (t) => {
    const { stack, incident } = t.context;
    await putPlan(stack, 'raised', 'PRO');
    incident.add('raised', 'drift_checks', [...times(3, 200), ...times(4, 100), ...times(10, 1)]);
    incident.rowsPerCall = 1;
    let raised = false;
    incident.onCall = async ({ rpc, tenantId }) => {
      if (rpc === 'purge' && tenantId === 'raised' && !raised) {
        raised = true;
        await platformOf(t).setTenantPlan({ tenantId, planName: 'ENTERPRISE' });
      }
      return undefined;
    };
    const { summary, items } = await purge(stack, { tenantIds: ['raised'] });
    t.is(summary.state, PurgeState.COMPLETE, items[0]?.error);
    t.is(incident.countOf('raised', 'drift_checks'), 14, 'what is older than 180 days went');
    const calls = incident.calls.filter(
      ({ tenantId, rpc }) => tenantId === 'raised' && (rpc === 'purge' || rpc === 'end'),
    );
    const operations = [...new Set(calls.map(({ operationId }) => operationId))];
    t.is(operations.length, 2);
    t.deepEqual(
      operations.map((id) => calls.filter(({ operationId }) => operationId === id).at(-1)?.rpc),
      ['end', 'end'],
    );
    t.is(items[0]?.resourceCounts.find(({ resourceType }) => resourceType === 'drift_check')?.deleted, 3n);
    t.is(items[0]?.planName, 'ENTERPRISE');
  },
);

test.serial('an owner’s refusal is told with its reason, and stops no other subject', async (t) => {
  const { stack, incident } = t.context;
  await putPlan(stack, 'refused', 'PRO');
  incident.add('refused', 'drift_checks', [...times(1, 31), ...times(9, 1)]);
  incident.add('refused', 'approvals', [...times(1, 181), ...times(9, 1)]);
  incident.onCall = ({ rpc, subject }) => {
    if (rpc === 'count' && subject === 'approvals') throw refusal(Code.FailedPrecondition, 'CLOCKS_DISAGREE');
    return undefined;
  };
  const { items } = await purge(stack, { tenantIds: ['refused'] });
  t.is(items[0]?.state, PurgeItemState.PARTIAL);
  t.regex(items[0]?.error ?? '', /^CLOCKS_DISAGREE: /);
  t.is(items[0]?.attempts, 3);
  t.is(incident.countOf('refused', 'drift_checks'), 9);
  t.is(incident.countOf('refused', 'approvals'), 10);
});

test.serial('a skipped tenant whose own purge fails is counted, so that a held one does not hide it', async (t) => {
  const { stack, incident } = t.context;
  for (const tenantId of ['skipped', 'held']) await putPlan(stack, tenantId, 'PRO');
  incident.add('skipped', 'drift_checks', [...times(1, 31), ...times(9, 1)]);
  incident.add('held', 'drift_checks', [...times(8, 31), ...times(2, 1)]);
  const gate = Promise.withResolvers<void>();
  incident.onCall = async ({ rpc, tenantId }) => {
    if (tenantId !== 'skipped' || rpc !== 'purge') return undefined;
    await gate.promise;
    throw refusal(Code.FailedPrecondition, 'BROKEN');
  };
  const statesOf = async (tenantId: string) => {
    const rows = await queryOnce<{ state: string }>(
      stack.superuserUrl('retention'),
      'select state from retention_purge_items where tenant_id = $1 order by state',
      [tenantId],
    );
    return rows.map(({ state }) => state).join();
  };
  const own = purge(stack, { tenantIds: ['skipped'] });
  await until('its own purge has begun', async () => (await statesOf('skipped')) === 'RUNNING');
  const both = purge(stack, { tenantIds: ['skipped', 'held'] });
  await until('it is skipped', async () => (await statesOf('skipped')) === 'RUNNING,SKIPPED');
  await until('the other one is held', async () => (await statesOf('held')) === 'HELD');
  gate.resolve();
  t.is((await own).summary.state, PurgeState.PARTIAL);
  const { summary } = await both;
  t.like(summary, { state: PurgeState.PARTIAL, heldTenantCount: 1, skippedTenantCount: 1 });
  t.like(summary, { failedTenantCount: 0, skippedFailedTenantCount: 1 });
  t.is(exitOfPurge(summary), EXIT.partial);
});

test.serial('a dry run counts, removes nothing and is never held', async (t) => {
  const { stack, incident } = t.context;
  await putPlan(stack, 'rehearsed', 'PRO');
  incident.add('rehearsed', 'drift_checks', [...times(30, 31), ...times(1, 1)]);
  const { summary, items } = await purge(stack, { tenantIds: ['rehearsed'], validateOnly: true });
  t.is(summary.state, PurgeState.COMPLETE);
  t.like(
    items[0]?.resourceCounts.find(({ resourceType }) => resourceType === 'drift_check'),
    {
      found: 30n,
      deleted: 0n,
      left: 30n,
    },
  );
  t.is(incident.countOf('rehearsed', 'drift_checks'), 31);
});

test.serial('a purge can be limited to subjects of the catalogue', async (t) => {
  const { stack, incident } = t.context;
  await putPlan(stack, 'limited', 'PRO');
  incident.add('limited', 'drift_checks', [...times(1, 31), ...times(9, 1)]);
  incident.add('limited', 'approvals', [...times(1, 181), ...times(9, 1)]);
  const { summary, items } = await purge(stack, { tenantIds: ['limited'], subjects: ['approvals'] });
  t.deepEqual(summary.subjects, ['approvals']);
  t.deepEqual(
    items[0]?.subjects.map(({ subject }) => subject),
    ['approvals'],
  );
  t.is(incident.countOf('limited', 'drift_checks'), 10);
  t.is(incident.countOf('limited', 'approvals'), 9);
  const unknown = await refusalOf(purge(stack, { tenantIds: ['limited'], subjects: ['nonsense'] }));
  t.is(unknown.reason, 'FIELD_INVALID');
});

test.serial(
  'a tenant that no plan, no policy and no owner knows is TENANT_UNKNOWN, unless an owner is silent',
  async (t) => {
    const { stack, incident } = t.context;
    const typo = await refusalOf(purge(stack, { tenantIds: ['nobody-typo'] }));
    t.like(typo, { code: Code.NotFound, reason: 'TENANT_UNKNOWN', metadata: { tenant_ids: 'nobody-typo' } });
    incident.add('planless', 'approvals', times(2, 4_000));
    t.is((await purge(stack, { tenantIds: ['planless'] })).summary.state, PurgeState.COMPLETE);
    t.is(incident.countOf('planless', 'approvals'), 2, 'without a plan everything is kept');
    await incident.down();
    t.is((await purge(stack, { tenantIds: ['nobody-knows'] })).summary.state, PurgeState.COMPLETE);
    await incident.up();
  },
);

test.serial('tenants with data and without a plan are listed', async (t) => {
  const { stack, incident } = t.context;
  incident.add('unplanned', 'approvals', times(2, 4_000));
  incident.add('unplanned', 'drift_checks', times(1, 1));
  // Two pages, at least.
  incident.rowsPerCall = 20;
  await queryOnce(stack.superuserUrl('retention'), "update tenant_sweeps set finished_at = 'epoch'");
  const listed = async () => {
    const { tenants } = await platformOf(t).listUnplannedTenants({ pageSize: 200 });
    return tenants.find(({ tenantId }) => tenantId === 'unplanned');
  };
  await until(
    'it is listed',
    async () => {
      // Its turn comes every minute.
      await queryOnce(
        stack.superuserUrl('retention'),
        "update schedules set due_at = now() where name = 'sweep-tenants' and lease_owner is null",
      );
      return (await listed())?.subjects.length === 2;
    },
    60_000,
  );
  t.deepEqual((await listed())?.subjects, ['approvals', 'drift_checks']);
  const count = () => metricOf(t, 'lethe_unplanned_tenants');
  const before = await count();
  t.true(before >= 1);
  await putPlan(stack, 'unplanned', 'PRO');
  t.is(await listed(), undefined);
  t.is(await count(), before - 1);
});

test.serial('a walk over tenants whose page token the owner refuses begins anew', async (t) => {
  const { stack, incident } = t.context;
  incident.add('swept', 'approvals', times(2, 4_000));
  incident.onCall = ({ rpc, pageToken }) => {
    if (rpc === 'listTenants' && pageToken === 'of an older version') {
      throw refusal(Code.InvalidArgument, 'PAGE_TOKEN_INVALID');
    }
    return undefined;
  };
  await queryOnce(
    stack.superuserUrl('retention'),
    `insert into tenant_sweeps (subject, page_token) values ('approvals', 'of an older version')
     on conflict (subject) do update set page_token = excluded.page_token, finished_at = null`,
  );
  await until(
    'it is listed',
    async () => {
      await queryOnce(
        stack.superuserUrl('retention'),
        "update schedules set due_at = now() where name = 'sweep-tenants' and lease_owner is null",
      );
      const { tenants } = await platformOf(t).listUnplannedTenants({ pageSize: 200 });
      return tenants.some(({ tenantId }) => tenantId === 'swept');
    },
    60_000,
  );
  await putPlan(stack, 'swept', 'PRO');
  t.is((await purge(stack, { tenantIds: ['swept'] })).summary.state, PurgeState.COMPLETE);
});

test.serial('two purges of a tenant at once remove each row once', async (t) => {
  const { stack, incident } = t.context;
  await putPlan(stack, 'twice', 'PRO');
  incident.add('twice', 'drift_checks', [...times(20, 31), ...times(40, 1)]);
  incident.rowsPerCall = 3;
  const outcomes = await Promise.all([1, 2, 3].map(() => purge(stack, { tenantIds: ['twice'], requestId: newId() })));
  const deleted = outcomes.flatMap(({ items }) =>
    items.flatMap((item) => item.resourceCounts.map((c) => Number(c.deleted))),
  );
  t.is(
    deleted.reduce((sum, count) => sum + count, 0),
    20,
  );
  t.is(incident.countOf('twice', 'drift_checks'), 40);
});

test.serial(
  'every connection to the database is ended several times in mid-purge: the process lives, and each row is counted once',
  async (t) => {
    const { stack, incident } = t.context;
    const tenants = Array.from({ length: 6 }, (_, index) => `reset-${index}`);
    for (const tenantId of tenants) {
      await putPlan(stack, tenantId, 'PRO');
      incident.add(tenantId, 'drift_checks', [...times(20, 31), ...times(40, 1)]);
    }
    incident.rowsPerCall = 2;
    const pid = stack.pid('retention');
    let resets = 0;
    incident.onCall = async ({ rpc, tenantId }) => {
      if (rpc === 'purge' && tenantId.startsWith('reset-') && incident.countOf(tenantId, 'drift_checks') % 20 === 0) {
        resets += 1;
        await queryOnce(
          stack.superuserUrl('retention'),
          'select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and usename <> current_user',
        );
      }
      return undefined;
    };
    // A stream may be cut off with a connection, the purge is not; the same request joins it.
    const request = { tenantIds: tenants, requestId: newId() };
    let ended: Awaited<ReturnType<typeof purge>> | undefined;
    await until('it has ended', async () => {
      ended = await purge(stack, request);
      return true;
    });
    t.is(ended?.summary.state, PurgeState.COMPLETE, ended?.items[0]?.error);
    t.true(resets >= tenants.length, `${resets} times`);
    t.is(stack.pid('retention'), pid, 'it was not started anew');
    t.deepEqual(
      ended?.summary.resourceCounts.map(({ resourceType, deleted }) => [resourceType, deleted]),
      [['drift_check', 120n]],
    );
    for (const tenantId of tenants) t.is(incident.removedOf(tenantId, 'drift_checks'), 20);
  },
);

test.serial(
  'a tenant that signs up while a purge of all is judged does not make that purge count as none',
  async (t) => {
    const { stack } = t.context;
    const url = stack.superuserUrl('retention');
    const lastPurge = async () => {
      const [row] = await queryOnce<{ at: number }>(url, 'select last_purge_seconds() as at');
      return row?.at ?? 0;
    };
    const [clock] = await queryOnce<{ now: number }>(
      url,
      'select extract(epoch from clock_timestamp())::float8 as now',
    );
    t.true((await lastPurge()) < (clock?.now ?? 0));
    // Fewer are not judged as a whole.
    for (let index = 0; index < 20; index += 1) await putPlan(stack, `signed-up-before-${index}`, 'PRO');
    const session = new pg.Client({ connectionString: url });
    await session.connect();
    // The ceiling over all tenants looks at every tenant's last purge.
    await session.query('begin; lock table last_purges in access exclusive mode');
    const whole = purge(stack, { allTenants: true });
    await until('it waits', async () => {
      const waiting = await queryOnce(
        url,
        "select from pg_locks where relation = 'last_purges'::regclass and not granted",
      );
      return waiting.length > 0;
    });
    await putPlan(stack, 'signed-up', 'PRO', '0 days');
    await session.query('commit');
    await session.end();
    await whole;
    t.true((await lastPurge()) > (clock?.now ?? Infinity));
  },
);
