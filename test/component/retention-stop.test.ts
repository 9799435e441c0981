import { Code, ConnectError } from '@connectrpc/connect';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { RetryInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { PurgeItemState, PurgeState, PurgeSubjectState } from '#gen/lethe/retention/v1/retention_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { purge, putPlan } from '#test/support/aged-data.ts';
import { type MemoryOwner, startMemoryOwner } from '#test/support/memory-owner.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

interface Context {
  readonly stack: TestStack;
  readonly incident: MemoryOwner;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

const SUBJECTS = [
  { name: 'drift_checks', resourceType: 'drift_check' },
  { name: 'incident_payloads', resourceType: 'incident_payload' },
  { name: 'approvals', resourceType: 'approval' },
];
const TENANTS = Array.from({ length: 30 }, (_, index) => `fleet-${String(index).padStart(2, '0')}`);

test.before(async (t) => {
  const incident = await startMemoryOwner(SUBJECTS, 'incidents-1');
  const stack = await startTestStack({
    services: ['retention'],
    foreignOwners: { incident: incident.address },
    env: { LETHE_PURGE_BACKOFF_MS: '50', LETHE_PURGE_CEILING_SHARE: 'off' },
  });
  Object.assign(t.context, { stack, incident });
});
test.afterEach.always((t) => {
  t.context.incident.onCall = () => undefined;
  t.context.incident.rowsPerCall = 1_000;
});
test.after.always(async (t) => {
  await t.context.stack.dispose();
  await t.context.incident.close();
});

const platformOf = (t: T) => t.context.stack.clients({ role: 'platform' }).retention;

const metricsOf = (t: T, path: string) =>
  fetch(`http://${t.context.stack.environment('retention')['LETHE_METRICS_ADDRESS']}${path}`);

const times = (count: number, age: number): number[] => Array(count).fill(age);

test.serial(
  'a stop takes effect within a batch, outlives a restart, is shown everywhere, and what waited goes on',
  async (t) => {
    const { stack, incident } = t.context;
    const platform = platformOf(t);
    await putPlan(stack, 'stopped', 'PRO');
    await putPlan(stack, 'later', 'PRO');
    incident.add('stopped', 'drift_checks', [...times(20, 31), ...times(20, 1)]);
    incident.add('later', 'drift_checks', [31, 1]);
    incident.rowsPerCall = 2;
    incident.onCall = async ({ rpc }) => {
      if (rpc === 'purge' && incident.countOf('stopped', 'drift_checks') === 36) {
        await platform.stopPurges({ reason: 'something is wrong' });
      }
      return undefined;
    };
    t.is((await refusalOf(platform.stopPurges({ reason: ' ' }))).reason, 'REASON_REQUIRED');
    const request = { tenantIds: ['stopped'], requestId: newId() };
    const whole = purge(stack, request).catch(() => undefined);
    await until('purges are stopped', async () => (await platform.getPurgeStop({})).stop?.isStopped === true);
    // The batch that was under way is done, and no other one begins.
    await until('the worker has given it up', async () => {
      const rows = await queryOnce(
        stack.superuserUrl('retention'),
        "select from retention_purge_items where tenant_id = 'stopped' and lease_owner is null and state = 'RUNNING'",
      );
      return rows.length === 1;
    });
    t.is(incident.countOf('stopped', 'drift_checks'), 34);
    const again = await platform.stopPurges({ reason: 'again' });
    t.like(again.stop, { isStopped: true, reason: 'something is wrong', actor: 'platform@platform', version: 1n });

    const pid = stack.pid('retention');
    if (pid !== undefined) process.kill(pid, 'SIGKILL');
    await until('it serves again', async () => (await metricsOf(t, '/ready')).ok && stack.pid('retention') !== pid);
    await until('it is called again', async () => (await platform.getPurgeStop({})).stop?.isStopped === true);
    const ready = await metricsOf(t, '/ready');
    t.is(ready.status, 200);
    t.regex(await ready.text(), /Purges by age are stopped by platform@platform .*: something is wrong/);
    t.regex(await (await metricsOf(t, '/metrics')).text(), /lethe_purges_stopped\{[^}]*\} 1/);

    let started: boolean | undefined;
    const later = purge(stack, { tenantIds: ['later'] }, (event) => {
      if (event.case === 'started') started = event.value.purge?.stop?.isStopped;
    });
    await until('the stream says why it waits', async () => started === true);
    const { purges } = await platform.listPurges({ tenantId: 'stopped' });
    t.like(purges[0], { state: PurgeState.RUNNING, stop: { isStopped: true } });
    t.is(incident.countOf('later', 'drift_checks'), 2);
    t.is(incident.countOf('stopped', 'drift_checks'), 34);

    const resumed = await platform.resumePurges({ reason: 'it was nothing' });
    t.like(resumed.stop, { isStopped: false, version: 2n });
    t.is((await later).summary.state, PurgeState.COMPLETE);
    const { summary, items } = (await whole) ?? (await purge(stack, request));
    t.is(summary.state, PurgeState.COMPLETE);
    t.is(summary.stop, undefined);
    t.is(items[0]?.attempts, 1, 'waiting is no attempt');
    t.is(incident.countOf('stopped', 'drift_checks'), 20);
    t.notRegex(await (await metricsOf(t, '/ready')).text(), /stopped/);
    const audit = await queryOnce<{ action: string; reason: string }>(
      stack.superuserUrl('retention'),
      "select action, reason from installation_audit where target_type = 'purge_stop' order by at",
    );
    t.deepEqual(audit, [
      { action: 'stop-purges', reason: 'something is wrong' },
      { action: 'resume-purges', reason: 'it was nothing' },
    ]);
  },
);

test.serial('only platform stops purges, and anybody who reads may know', async (t) => {
  const owner = t.context.stack.clients({ tenantId: 'stopped', role: 'owner' }).retention;
  t.is((await refusalOf(owner.stopPurges({ reason: 'mine' }))).reason, 'ROLE_TOO_LOW');
  t.is((await owner.getPurgeStop({})).stop?.isStopped, false);
});

test.serial(
  'too many tenants with a narrower window hold the whole purge, and approving releases it as ordered',
  async (t) => {
    const { stack, incident } = t.context;
    const platform = platformOf(t);
    for (const tenantId of TENANTS) {
      await putPlan(stack, tenantId, 'AGENCY');
      incident.add(tenantId, 'drift_checks', [...times(1, 91), ...times(2, 40), ...times(4, 10), ...times(10, 1)]);
    }
    t.is((await purge(stack, { tenantIds: TENANTS })).summary.state, PurgeState.COMPLETE);
    // Somebody sells PRO instead to most of them, eight days ago.
    for (const tenantId of TENANTS.slice(0, 25)) await putPlan(stack, tenantId, 'PRO', '8 days');
    incident.calls.length = 0;
    const { summary, items } = await purge(stack, { tenantIds: TENANTS });
    t.like(summary, { state: PurgeState.HELD, heldTenantCount: 30, tenantCount: 30 });
    t.like(summary.fleetHold, { narrowedTenantCount: 25, tenantCount: 30, approvedBy: '' });
    t.true(items.every(({ state }) => state === PurgeItemState.HELD));
    // The purge before may still close its operations.
    t.false(
      incident.calls.some(({ rpc }) => rpc === 'count' || rpc === 'purge'),
      'no tenant was begun',
    );
    // Nine days back it is FREE for all: the purge that is approved keeps to the windows it was ordered with.
    for (const tenantId of TENANTS.slice(0, 25)) await putPlan(stack, tenantId, 'FREE', '9 days');
    await platform.setTenantPlan({ tenantId: 'fleet-00', planName: 'ENTERPRISE' });
    const owner = stack.clients({ tenantId: 'fleet-01', role: 'owner' }).retention;
    t.is((await refusalOf(owner.approveHeldPurge({ purgeId: summary.id, reason: 'r' }))).reason, 'ROLE_TOO_LOW');
    const one = await refusalOf(platform.approveHeldPurge({ purgeId: summary.id, tenantId: 'fleet-01', reason: 'r' }));
    t.is(one.reason, 'PURGE_NOT_HELD', 'it is held as a whole');
    const released = await platform.approveHeldPurge({ purgeId: summary.id, reason: 'we meant it' });
    t.is(released.item, undefined);
    t.like(released.purge?.fleetHold, { approvedBy: 'platform@platform', approveReason: 'we meant it' });
    await until('it has ended', async () => {
      const { purge: now } = await platform.getPurge({ purgeId: summary.id });
      return now?.state === PurgeState.COMPLETE;
    });
    t.is(incident.countOf('fleet-00', 'drift_checks'), 16, 'raised meanwhile');
    t.is(incident.countOf('fleet-01', 'drift_checks'), 14, 'by PRO as ordered, not by FREE');
    t.is(incident.countOf('fleet-29', 'drift_checks'), 16);
    const again = await platform.approveHeldPurge({ purgeId: summary.id, reason: 'again' });
    t.is(again.purge?.fleetHold?.approveReason, 'we meant it');
    const refused = await refusalOf(platform.approveHeldPurge({ purgeId: newId(), reason: 'r' }));
    t.is(refused.reason, 'PURGE_NOT_FOUND');
  },
);

test.serial(
  'while a purge is held as a whole the next one looks anew, and PurgeNow of one tenant goes on',
  async (t) => {
    const { stack, incident } = t.context;
    const platform = platformOf(t);
    const held = await purge(stack, { tenantIds: TENANTS });
    t.is(held.summary.state, PurgeState.HELD, 'FREE for most of them');
    const next = await purge(stack, { tenantIds: TENANTS });
    t.is(next.summary.state, PurgeState.HELD);
    const admin = stack.clients({ tenantId: 'fleet-05', role: 'admin' }).retention;
    const { purge: own } = await admin.purgeNow({ reason: 'mine' });
    await until('it has ended', async () => {
      const { items } = await admin.getPurge({ purgeId: own?.id ?? '' });
      return items[0]?.state === PurgeItemState.COMPLETE;
    });
    t.is(incident.countOf('fleet-05', 'drift_checks'), 10);
    const { summary } = await purge(stack, { tenantIds: TENANTS.slice(0, 19) });
    t.is(summary.state, PurgeState.COMPLETE, 'fewer than twenty never hold');
    await platform.approveHeldPurge({ purgeId: held.summary.id, reason: 'late' });
    await until('it has ended', async () => {
      const { purge: now, items } = await platform.getPurge({ purgeId: held.summary.id, pageSize: 200 });
      if (now?.state !== PurgeState.COMPLETE) return false;
      return items.every(({ subjects }) => subjects.every(({ state }) => state !== PurgeSubjectState.PENDING));
    });
  },
);

test.serial('an owner that is down for fifteen seconds leaves no tenant behind', async (t) => {
  const { stack, incident } = t.context;
  const tenants = Array.from({ length: 24 }, (_, index) => `outage-${index}`);
  for (const tenantId of tenants) {
    await putPlan(stack, tenantId, 'PRO');
    incident.add(tenantId, 'drift_checks', [31, 31, 1, 1, 1]);
  }
  await incident.down();
  const downAt = performance.now();
  const whole = purge(stack, { tenantIds: tenants });
  await until('the outage is over', async () => performance.now() - downAt > 15_000);
  await incident.up();
  const { summary, items } = await whole;
  t.like(summary, { state: PurgeState.COMPLETE, completeTenantCount: 24, failedTenantCount: 0 });
  for (const tenantId of tenants) t.is(incident.countOf(tenantId, 'drift_checks'), 3);
  t.true(
    items.every(({ attempts }) => attempts === 1),
    'waiting is no attempt',
  );
});

test.serial('receipts expire by a rule of their own, and what was last purged is still known', async (t) => {
  const { stack } = t.context;
  const database = stack.superuserUrl('retention');
  const { summary } = await purge(stack, { tenantIds: ['later'] });
  await queryOnce(database, "update retention_purges set created_at = now() - interval '401 days' where id = $1", [
    summary.id,
  ]);
  await queryOnce(database, "update schedules set due_at = now() where name = 'expire-purges'");
  await until('it is gone', async () => {
    const rows = await queryOnce(database, 'select from retention_purges where id = $1', [summary.id]);
    return rows.length === 0;
  });
  for (const table of ['retention_purge_items', 'retention_purge_subjects']) {
    t.deepEqual(await queryOnce(database, `select from ${table} where purge_id = $1`, [summary.id]), []);
  }
  const last = await queryOnce(
    database,
    "select days from last_purges where tenant_id = 'later' and subject = 'drift_checks'",
  );
  t.deepEqual(last, [{ days: 30 }]);
});

test.serial(
  'SIGTERM ends an open Purge at once, as UNAVAILABLE with when to try again, and a repeated call joins',
  async (t) => {
    const { stack, incident } = t.context;
    const platform = platformOf(t);
    await putPlan(stack, 'watched', 'PRO');
    incident.add('watched', 'drift_checks', times(4, 31));
    await platform.stopPurges({ reason: 'hold it' });
    const request = { tenantIds: ['watched'], requestId: newId() };
    const watch = platform.purge(request)[Symbol.asyncIterator]();
    const started = (await watch.next()).value?.event;
    const pid = stack.pid('retention') ?? 0;
    const signalledAt = performance.now();
    process.kill(pid, 'SIGTERM');
    const error = await Promise.resolve(watch.next()).then(
      () => t.fail('the stream went on'),
      (reason: unknown) => ConnectError.from(reason),
    );
    t.true(performance.now() - signalledAt < 5_000, 'long before the drain of ten seconds is over');
    t.is(error?.code, Code.Unavailable);
    t.truthy(error?.findDetails(RetryInfoSchema)[0]?.retryDelay);
    await until('it was started anew', async () => (stack.pid('retention') ?? pid) !== pid);
    // The client may wait a while before it tries to connect once more.
    await until('it is reached again', () => platform.listPurges({}).then(() => true));
    await platform.resumePurges({ reason: 'go on' });
    const { summary } = await purge(stack, request);
    t.is(summary.id, started?.case === 'started' ? started.value.purge?.id : undefined);
    t.is(summary.state, PurgeState.COMPLETE);
  },
);
