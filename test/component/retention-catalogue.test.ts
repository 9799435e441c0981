import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import {
  PurgeItemState,
  PurgeState,
  PurgeSubjectState,
  SubjectState,
  WindowKind,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import { EXIT } from '#libs/cli/output.ts';
import { purge, putPlan } from '#test/support/aged-data.ts';
import { makeCommandLine } from '#test/support/command-line.ts';
import { type MemoryOwner, startMemoryOwner } from '#test/support/memory-owner.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

interface Context {
  readonly stack: TestStack;
  readonly incident: MemoryOwner;
  readonly desk: MemoryOwner;
  readonly helpdesk: MemoryOwner;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

const DRIFT = { name: 'drift_checks', resourceType: 'drift_check' };
const TICKETS = { name: 'tickets', resourceType: 'ticket' };

test.before(async (t) => {
  const incident = await startMemoryOwner([DRIFT], 'incidents-1');
  const desk = await startMemoryOwner([], 'desk-1');
  const helpdesk = await startMemoryOwner([], 'helpdesk-1');
  const stack = await startTestStack({
    services: ['retention'],
    foreignOwners: { incident: incident.address, desk: desk.address, helpdesk: helpdesk.address },
    env: {
      LETHE_PURGE_CEILING_SHARE: 'off',
      LETHE_PURGE_ATTEMPTS: '1',
      LETHE_PURGE_BACKOFF_MS: '50',
      LETHE_CATALOGUE_POLL_MS: '100',
      LETHE_OBSERVE_NIGHTS: 'incident=0,desk=1,helpdesk=1',
    },
  });
  Object.assign(t.context, { stack, incident, desk, helpdesk });
});
test.after.always(async (t) => {
  const { stack, incident, desk, helpdesk } = t.context;
  await stack.dispose();
  await Promise.all([incident, desk, helpdesk].map((owner) => owner.close()));
});

const platformOf = (t: T) => t.context.stack.clients({ role: 'platform' }).retention;

const subjectOf = async (t: T, name: string) =>
  (await platformOf(t).listSubjects({ pageSize: 200 })).subjects.find((subject) => subject.name === name);

const untilState = (t: T, name: string, state: SubjectState) =>
  until(`${name} is ${state}`, async () => (await subjectOf(t, name))?.state === state);

const auditOf = (t: T, name: string) =>
  queryOnce<{ action: string; actor: string; reason: string | null }>(
    t.context.stack.superuserUrl('retention'),
    "select action, actor, reason from installation_audit where target_type = 'subject' and target_id = $1 order by at",
    [name],
  );

/** A tenant of PRO with two checks that have expired and three that have not. */
async function addTenant(t: T, tenantId: string): Promise<void> {
  await putPlan(t.context.stack, tenantId, 'PRO');
  t.context.incident.add(tenantId, 'drift_checks', [31, 31, 1, 1, 1]);
}

const checksOf = (items: Awaited<ReturnType<typeof purge>>['items']) =>
  items[0]?.subjects.find(({ subject }) => subject === 'drift_checks');

test.serial('what a new installation knows is bound when its owner lists it, and is in the audit', async (t) => {
  await untilState(t, 'drift_checks', SubjectState.ACTIVE);
  await until('it is bound', async () => (await subjectOf(t, 'drift_checks'))?.dataId === 'incidents-1');
  t.like(await subjectOf(t, 'drift_checks'), { owner: 'incident', observeNightsLeft: 0, problem: '' });
  t.deepEqual(
    (await auditOf(t, 'drift_checks')).map(({ action, actor }) => [action, actor]),
    [['subject-bound', 'service:retention']],
  );
  // Its owner is configured and does not list it; another one is not configured at all.
  await untilState(t, 'approvals', SubjectState.UNLISTED);
  t.regex((await subjectOf(t, 'approvals'))?.problem ?? '', /^SUBJECT_UNLISTED: /);
  await untilState(t, 'executions', SubjectState.OWNER_UNKNOWN);
});

test.serial('a tenant is PARTIAL for a subject that nobody holds, until it is retired with a reason', async (t) => {
  await addTenant(t, 'partial');
  const first = await purge(t.context.stack, { tenantIds: ['partial'] });
  t.is(first.summary.state, PurgeState.PARTIAL);
  t.regex(first.items[0]?.error ?? '', /SUBJECT_UNLISTED: The owner incident no longer lists approvals/);
  t.is(t.context.incident.countOf('partial', 'drift_checks'), 3, 'the others are done');
  const noReason = await refusalOf(platformOf(t).retireSubject({ name: 'approvals', reason: ' ' }));
  t.is(noReason.reason, 'REASON_REQUIRED');
  t.is((await refusalOf(platformOf(t).retireSubject({ name: 'drift_checks', reason: 'r' }))).reason, 'SUBJECT_LISTED');
  t.is((await refusalOf(platformOf(t).retireSubject({ name: 'nothing', reason: 'r' }))).reason, 'SUBJECT_NOT_FOUND');
  for (const name of ['approvals', 'approval_notes', 'incident_payloads', 'executions']) {
    const { subject } = await platformOf(t).retireSubject({ name, reason: 'not kept here' });
    t.like(subject, { state: SubjectState.RETIRED, retiredBy: 'platform@platform', retireReason: 'not kept here' });
  }
  t.like((await auditOf(t, 'approvals')).at(-1), { action: 'subject-retired', reason: 'not kept here' });
  const second = await purge(t.context.stack, { tenantIds: ['partial'] });
  t.is(second.summary.state, PurgeState.COMPLETE, second.items[0]?.error);
});

test.serial('two owners of one subject: neither is called, and the tenant says why', async (t) => {
  const { stack, incident, desk } = t.context;
  await addTenant(t, 'doubled');
  desk.subjects = [DRIFT];
  await untilState(t, 'drift_checks', SubjectState.CONFLICT);
  incident.calls.length = 0;
  desk.calls.length = 0;
  const { items } = await purge(stack, { tenantIds: ['doubled'] });
  t.regex(items[0]?.error ?? '', /^SUBJECT_CONFLICT: /);
  t.is(items[0]?.state, PurgeItemState.PARTIAL);
  t.true([...incident.calls, ...desk.calls].every(({ rpc }) => rpc === 'listSubjects'));
  t.is(incident.countOf('doubled', 'drift_checks'), 5);
  desk.subjects = [];
  await untilState(t, 'drift_checks', SubjectState.ACTIVE);
  t.is((await purge(stack, { tenantIds: ['doubled'] })).summary.state, PurgeState.COMPLETE);
});

test.serial('an owner that points at an empty database is not called until a person confirms it', async (t) => {
  const { stack, incident } = t.context;
  await addTenant(t, 'emptied');
  incident.dataId = 'incidents-empty';
  // Without waiting: a purge asks the owners before it begins.
  const { items } = await purge(stack, { tenantIds: ['emptied'] });
  t.regex(items[0]?.error ?? '', /^OWNER_CHANGED: /);
  t.is(incident.countOf('emptied', 'drift_checks'), 5);
  t.like(await subjectOf(t, 'drift_checks'), { state: SubjectState.OWNER_CHANGED, dataId: 'incidents-1' });
  t.is((await refusalOf(platformOf(t).confirmSubject({ name: 'drift_checks', reason: '' }))).reason, 'REASON_REQUIRED');
  const { subject } = await platformOf(t).confirmSubject({ name: 'drift_checks', reason: 'we moved' });
  t.like(subject, { state: SubjectState.ACTIVE, dataId: 'incidents-empty' });
  t.like((await auditOf(t, 'drift_checks')).at(-1), { action: 'subject-confirmed', reason: 'we moved' });
  t.is((await purge(stack, { tenantIds: ['emptied'] })).summary.state, PurgeState.COMPLETE);
});

test.serial(
  'an owner that is pointed elsewhere in the middle of a purge removes nothing there, and nothing is complete',
  async (t) => {
    const { stack, incident } = t.context;
    await addTenant(t, 'moved-meanwhile');
    const { dataId, onCall } = incident;
    incident.onCall = async ({ rpc, tenantId }) => {
      // From its count on it is another database, of which the catalogue may not know yet.
      if (rpc === 'count' && tenantId === 'moved-meanwhile') incident.dataId = 'incidents-elsewhere';
      return undefined;
    };
    const { summary, items } = await purge(stack, { tenantIds: ['moved-meanwhile'] });
    t.is(summary.state, PurgeState.PARTIAL);
    t.regex(items[0]?.error ?? '', /OWNER_CHANGED: /);
    t.is(incident.countOf('moved-meanwhile', 'drift_checks'), 5);
    Object.assign(incident, { dataId, onCall });
    await untilState(t, 'drift_checks', SubjectState.ACTIVE);
    t.is((await purge(stack, { tenantIds: ['moved-meanwhile'] })).summary.state, PurgeState.COMPLETE);
    t.is(incident.countOf('moved-meanwhile', 'drift_checks'), 3);
  },
);

test.serial('an owner under another name with the same data is called from then on', async (t) => {
  const { stack, incident, helpdesk } = t.context;
  await putPlan(stack, 'renamed', 'PRO');
  incident.subjects = [];
  helpdesk.dataId = incident.dataId;
  helpdesk.subjects = [DRIFT];
  helpdesk.add('renamed', 'drift_checks', [31, 1, 1]);
  const { summary, items } = await purge(stack, { tenantIds: ['renamed'] });
  t.is(summary.state, PurgeState.COMPLETE, items[0]?.error);
  t.is(checksOf(items)?.owner, 'helpdesk');
  t.is(helpdesk.countOf('renamed', 'drift_checks'), 2);
  t.is((await auditOf(t, 'drift_checks')).at(-1)?.action, 'subject-rebound');
  helpdesk.subjects = [];
  incident.subjects = [DRIFT];
  await until('it is back', async () => (await subjectOf(t, 'drift_checks'))?.owner === 'incident');
});

test.serial('plans validate and windows resolve while the owner is down', async (t) => {
  const { incident } = t.context;
  await incident.down();
  const { plan } = await platformOf(t).updatePlan({
    name: 'TINY',
    allowMissing: true,
    reason: 'a fifth plan',
    windows: [{ subject: 'drift_checks', kind: WindowKind.DAYS, retentionDays: 3 }],
  });
  t.is(plan?.windows[0]?.retentionDays, 3);
  await incident.up();
});

test.serial('an owner that lists what nobody can store is silent alone: all others are kept, and purged', async (t) => {
  const { stack, incident, desk, helpdesk } = t.context;
  const ofNonsense = [
    { ageOf: 'mail.at\u0000' },
    { resourceType: 'ma\u0000il' },
    { dependentTypes: ['attach\u0000ment'] },
    { ageOf: 'x'.repeat(1_000_000) },
    { dependentTypes: Array.from({ length: 10_000 }, (_, index) => `type${index}`) },
  ];
  await addTenant(t, 'beside-nonsense');
  for (const [index, nonsense] of ofNonsense.entries()) {
    helpdesk.subjects = [{ name: 'mails', resourceType: 'mail', ...nonsense }];
    const name = `notes_${index}`;
    desk.subjects = [{ name, resourceType: 'note' }];
    const { summary, items } = await purge(stack, { tenantIds: ['beside-nonsense'] });
    t.is(summary.state, PurgeState.COMPLETE, items[0]?.error);
    await untilState(t, name, SubjectState.OBSERVED);
    t.is(await subjectOf(t, 'mails'), undefined);
  }
  helpdesk.subjects = [];
  const { dataId } = incident;
  incident.dataId = 'incidents-1\u0000';
  desk.subjects = [{ name: 'letters', resourceType: 'letter' }];
  await untilState(t, 'letters', SubjectState.OBSERVED);
  t.is((await subjectOf(t, 'drift_checks'))?.dataId, dataId);
  incident.dataId = dataId;
  desk.subjects = [];
});

test.serial(
  'an owner that never comes to its last page of subjects is silent, and keeps no other from being heard',
  async (t) => {
    const { desk, helpdesk } = t.context;
    const { onCall } = helpdesk;
    for (const [index, tokenOf] of [() => 'again', (count: number) => `page ${count}`].entries()) {
      helpdesk.onCall = ({ rpc }) =>
        rpc === 'listSubjects' ? { nextPageToken: tokenOf(helpdesk.calls.length) } : undefined;
      const before = helpdesk.calls.length;
      await until('it is asked', async () => helpdesk.calls.length > before);
      desk.subjects = [{ name: `endless_${index}`, resourceType: 'endless' }];
      await untilState(t, `endless_${index}`, SubjectState.OBSERVED);
      t.is((await subjectOf(t, `endless_${index}`))?.owner, 'desk');
    }
    Object.assign(helpdesk, { onCall });
    desk.subjects = [];
  },
);

test.serial('what an owner says in its own words is in the receipt as far as a receipt holds it', async (t) => {
  const { stack, incident } = t.context;
  await addTenant(t, 'worded');
  const { onCall } = incident;
  const count = (resourceType: string) => ({ resourceType, found: 1n, deleted: 1n, left: 0n }) as never;
  incident.onCall = ({ rpc }) =>
    rpc === 'purge' || rpc === 'end'
      ? {
          resourceCounts: ['a\u0000', ...Array.from({ length: 10_000 }, (_, index) => `t${index}`)].map(count),
          waits: Array.from({ length: 500 }, () => ({ cause: '\u0000'.repeat(1_000) })) as never,
          blockers: Array.from({ length: 500 }, () => ({ reason: 'ON\u0000', message: 'x'.repeat(1_000) })) as never,
        }
      : undefined;
  const { summary, items } = await purge(stack, { tenantIds: ['worded'] });
  incident.onCall = onCall;
  t.is(summary.state, PurgeState.PARTIAL);
  t.regex(items[0]?.error ?? '', /^ON\ufffd: x{500}(; ON\ufffd: x{500}){0,9}$/);
  const counts = checksOf(items)?.resourceCounts ?? [];
  t.deepEqual([counts.length <= 101, counts[0]?.resourceType], [true, 'a\ufffd']);
  t.is(
    counts.reduce((sum, { deleted }) => sum + Number(deleted), 0),
    10_001,
    'the sums stay true',
  );
  t.deepEqual(
    checksOf(items)?.waits.map(({ cause }) => cause),
    ['\ufffd'.repeat(100)],
  );
});

test.serial(
  'a new foreign subject is only counted for its nights, says what it would have taken, and then goes',
  async (t) => {
    const { stack, desk } = t.context;
    desk.subjects = [TICKETS];
    await untilState(t, 'tickets', SubjectState.OBSERVED);
    t.is((await subjectOf(t, 'tickets'))?.observeNightsLeft, 1);
    await platformOf(t).updatePlan({
      name: 'DESK',
      allowMissing: true,
      reason: 'tickets age',
      windows: [{ subject: 'tickets', kind: WindowKind.DAYS, retentionDays: 10 }],
    });
    await queryOnce(
      stack.superuserUrl('retention'),
      "update plan_windows set recorded_at = 'epoch' where plan = 'DESK'",
    );
    for (const tenantId of ['observed-a', 'observed-b']) {
      await putPlan(stack, tenantId, 'DESK');
      desk.add(tenantId, 'tickets', [11, 11, 1, 1, 1]);
    }
    const ticketsOf = (items: Awaited<ReturnType<typeof purge>>['items'], tenantId: string) =>
      items.find((item) => item.tenantId === tenantId)?.subjects.find(({ subject }) => subject === 'tickets');
    const named = await purge(stack, { tenantIds: ['observed-a'] });
    t.is(ticketsOf(named.items, 'observed-a')?.state, PurgeSubjectState.OBSERVED);
    t.is((await subjectOf(t, 'tickets'))?.observeNightsLeft, 1, 'a purge of named tenants is no night');
    const night = await purge(stack, { allTenants: true });
    for (const tenantId of ['observed-a', 'observed-b']) {
      t.like(ticketsOf(night.items, tenantId), { state: PurgeSubjectState.OBSERVED, expiredCount: 2n });
      t.is(desk.countOf(tenantId, 'tickets'), 5, 'nothing went');
    }
    t.true(desk.calls.every(({ rpc }) => rpc !== 'purge'));
    await untilState(t, 'tickets', SubjectState.ACTIVE);
    const next = await purge(stack, { allTenants: true });
    for (const tenantId of ['observed-a', 'observed-b']) {
      t.is(ticketsOf(next.items, tenantId)?.state, PurgeSubjectState.COMPLETE);
      t.is(desk.countOf(tenantId, 'tickets'), 3);
    }
  },
);

test.serial(
  'an owner that a restart no longer names leaves its tenants PARTIAL until its subject is retired',
  async (t) => {
    const { stack, incident, desk, helpdesk } = t.context;
    const lethe = await makeCommandLine(stack);
    const night = (...args: string[]) => lethe('purge', '--wait', ...args);
    desk.add('observed-a', 'tickets', [20]);
    const held = desk.countOf('observed-a', 'tickets');
    await stack.restart('retention', {
      LETHE_RETENTION_OWNERS: `incident=${incident.address},helpdesk=${helpdesk.address}`,
      LETHE_OBSERVE_NIGHTS: 'incident=0,helpdesk=1',
    });
    await untilState(t, 'tickets', SubjectState.OWNER_UNKNOWN);
    desk.calls.length = 0;
    for (const again of [1, 2]) {
      const partial = await night('--tenant', 'observed-a');
      t.is(partial.code, EXIT.partial, `night ${again}: ${partial.err || partial.out}`);
      t.regex(partial.out, /observed-a PARTIAL .*OWNER_UNKNOWN: The owner desk of tickets is not configured/);
    }
    t.is((await lethe('subjects', 'retire', 'tickets')).code, EXIT.usage, 'without a reason');
    const retired = await lethe('subjects', 'retire', 'tickets', '--reason', 'the desk is gone');
    t.is(retired.code, EXIT.ok, retired.err);
    t.like((await auditOf(t, 'tickets')).at(-1), { action: 'subject-retired', reason: 'the desk is gone' });
    const complete = await night('--tenant', 'observed-a');
    t.is(complete.code, EXIT.ok, complete.err || complete.out);
    t.deepEqual(desk.calls, [], 'an owner that is not named is not called');
    t.is(desk.countOf('observed-a', 'tickets'), held);
  },
);

test.serial('an owner that lists a retired subject again revives it', async (t) => {
  const { incident } = t.context;
  incident.subjects = [DRIFT, { name: 'approvals', resourceType: 'approval' }];
  await untilState(t, 'approvals', SubjectState.ACTIVE);
  t.is((await auditOf(t, 'approvals')).at(-1)?.action, 'subject-revived');
  incident.subjects = [DRIFT];
});
