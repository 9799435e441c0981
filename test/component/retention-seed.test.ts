import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { DriftStatus, IncidentState, PayloadState } from '#gen/lethe/incident/v1/incident_pb.ts';
import { PurgeItemState, PurgeState } from '#gen/lethe/retention/v1/retention_pb.ts';
import {
  type AgedIncident,
  addChecks,
  addEnvironment,
  addIncidents,
  census,
  hasEnded,
  less,
  purge,
  putPlan,
  removedBy,
  rowsOf,
} from '#test/support/aged-data.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

// The acceptance criteria and the required tests of the seed "Drift Retention + Deletion", through the services.

const test = anyTest as TestFn<{ stack: TestStack }>;
type T = ExecutionContext<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['incident', 'retention'] });
});
test.after.always((t) => t.context.stack.dispose());

const DAYS = [
  { plan: 'FREE', tenantId: 'seed-free', checks: 7, incidents: undefined },
  { plan: 'PRO', tenantId: 'seed-pro', checks: 30, incidents: 180 },
  { plan: 'AGENCY', tenantId: 'seed-agency', checks: 90, incidents: 365 },
  { plan: 'ENTERPRISE', tenantId: 'seed-enterprise', checks: 180, incidents: 2_555 },
] as const;

const OPEN: readonly AgedIncident[] = (['DETECTED', 'ACKNOWLEDGED', 'STABILIZED', 'RECONCILED'] as const).map(
  (state) => ({ state, age: '9000 days' }),
);

/** A tenant with rows on both sides of every window that any plan has, and open incidents older than all of them. */
async function addSeedTenant(t: T, tenantId: string, planName: string) {
  const { stack } = t.context;
  await putPlan(stack, tenantId, planName);
  const environmentId = await addEnvironment(stack, tenantId);
  const checks = [7, 30, 90, 180].flatMap((days) => [`${days} days -1 hour`, `${days} days 1 hour`]);
  await addChecks(stack, tenantId, environmentId, [...checks, '9000 days', null]);
  const closed = [180, 365, 2_555].flatMap((days): AgedIncident[] => [
    { state: 'CLOSED', age: `${days} days -1 hour` },
    { state: 'CLOSED', age: `${days} days 1 hour`, approval: 'REJECTED' },
  ]);
  const ids = await addIncidents(stack, tenantId, environmentId, [
    ...closed,
    { state: 'CLOSED', age: '9000 days', approval: 'PENDING' },
    ...OPEN,
  ]);
  return { environmentId, closed: ids.slice(0, 7), open: ids.slice(7) };
}

for (const { plan, tenantId, checks, incidents } of DAYS) {
  test.serial(
    `${tenantId}: what its plan no longer keeps goes, all else stays, and every page still loads`,
    async (t) => {
      const { stack } = t.context;
      const { closed, open } = await addSeedTenant(t, tenantId, plan);
      const reader = stack.clients({ tenantId, role: 'admin' }).incidents;
      const dashboard = await reader.getDriftDashboard({});
      const before = await census(stack, tenantId);

      const rehearsal = await purge(stack, { tenantIds: [tenantId], validateOnly: true });
      t.deepEqual(await census(stack, tenantId), before, 'a dry run removes nothing');
      const { summary, items } = await purge(stack, { tenantIds: [tenantId] });
      t.is(summary.state, PurgeState.COMPLETE, items[0]?.error);
      // A dry run counts no dependents.
      const found = (counts: typeof summary.resourceCounts) =>
        counts
          .filter(({ resourceType }) => resourceType !== 'drift_check_workflow')
          .map(({ resourceType, found: count }) => [resourceType, count]);
      t.deepEqual(found(summary.resourceCounts), found(rehearsal.summary.resourceCounts), 'the dry run told the truth');

      const after = await census(stack, tenantId);
      t.deepEqual(removedBy(summary.resourceCounts), less(before, after), 'the receipt is what SQL says disappeared');
      // Of the checks on both sides of each window, those beyond this plan's go; the one without an instant stays.
      const goneChecks = [7, 30, 90, 180].reduce((sum, days) => sum + (days > checks ? 2 : days === checks ? 1 : 0), 1);
      const beyond = (days: number) =>
        incidents === undefined ? 0 : days > incidents ? 2 : days === incidents ? 1 : 0;
      const goneIncidents = [180, 365, 2_555].reduce((sum, days) => sum + beyond(days), 0);
      const goneOldest = incidents === undefined ? 0 : 1;
      t.deepEqual(less(before, after), {
        drift_check: goneChecks,
        drift_check_workflow: goneChecks * 2,
        incident_payload: goneIncidents + goneOldest,
        // The undecided one of the oldest closed incident ages by the incident's closing.
        approval: goneIncidents + goneOldest,
      });
      t.is(await rowsOf(stack, 'incidents', tenantId), 11, 'no incident is ever removed');

      const { environments } = await reader.listEnvironments({});
      t.is(environments[0]?.driftStatus, DriftStatus.DRIFT, 'the badge is still there');
      t.truthy(environments[0]?.lastCheckTime);
      t.deepEqual(await reader.getDriftDashboard({}), dashboard, 'the dashboard tells the same');
      for (const incidentId of open) {
        const { incident } = await reader.getIncident({ incidentId });
        t.not(incident?.state, IncidentState.CLOSED);
        t.is(incident?.payloadState, PayloadState.PRESENT, 'an open incident keeps its payload');
      }
      for (const [index, incidentId] of closed.entries()) {
        const { incident } = await reader.getIncident({ incidentId });
        const isGone = index < 6 ? ([180, 180, 365, 365, 2_555, 2_555][index] ?? 0) : 9_000;
        const expected =
          incidents !== undefined && (isGone > incidents || (isGone === incidents && index % 2 === 1))
            ? PayloadState.PURGED
            : PayloadState.PRESENT;
        t.is(incident?.payloadState, expected, `closed incident ${index}`);
      }
      t.is((await reader.listIncidents({})).incidents.length, 11);
    },
  );
}

test.serial('the nightly purge goes over every tenant, and finds nothing more', async (t) => {
  const { stack } = t.context;
  const { summary, items } = await purge(stack, { allTenants: true });
  t.is(summary.state, PurgeState.COMPLETE);
  t.is(summary.completeTenantCount, DAYS.length);
  t.deepEqual(items.map(({ tenantId }) => tenantId).toSorted(), DAYS.map(({ tenantId }) => tenantId).toSorted());
  for (const item of items) {
    t.deepEqual(Object.values(removedBy(item.resourceCounts)), [0, 0, 0, 0]);
    const bought = DAYS.find(({ tenantId }) => tenantId === item.tenantId);
    t.like(item, { planName: bought?.plan, planVersion: 1n });
    t.is(item.subjects.find(({ subject }) => subject === 'drift_checks')?.window?.retentionDays, bought?.checks);
  }
});

test.serial('what a purge removed is in the log of its service, by tenant and table', async (t) => {
  const { stack } = t.context;
  const log = await readFile(join(stack.folder, 'logs/incident.log'), 'utf8');
  const lines = log
    .split('\n')
    .filter((line) => line.includes('"audit":true') && line.includes('"action":"purge-'))
    .map((line) => JSON.parse(line));
  for (const { tenantId, incidents } of DAYS) {
    for (const table of incidents === undefined
      ? ['drift-checks']
      : ['drift-checks', 'incident-payloads', 'approvals']) {
      const told = lines.filter((line) => line.tenantId === tenantId && line.action === `purge-${table}`);
      t.true(
        told.some(({ removed }) => removed > 0),
        `${tenantId}: ${table}`,
      );
    }
  }
});

test.serial('a tenant’s own admin purges now and is answered at once; a member may not', async (t) => {
  const { stack } = t.context;
  const tenantId = 'seed-now';
  await addSeedTenant(t, tenantId, 'PRO');
  const admin = stack.clients({ tenantId, role: 'admin' }).retention;
  await t.throwsAsync(stack.clients({ tenantId, role: 'member' }).retention.purgeNow({}), { message: /role admin/ });
  const { purge: begun, item } = await admin.purgeNow({ reason: 'asked for' });
  t.is(item?.tenantId, tenantId);
  const purgeId = begun?.id ?? '';
  await until('the purge has ended', async () => {
    const { purge: now } = await admin.getPurge({ purgeId });
    return now !== undefined && hasEnded(now);
  });
  const { purge: ended, items } = await admin.getPurge({ purgeId });
  t.like(ended, { state: PurgeState.COMPLETE, reason: 'asked for', tenantCount: 1, completeTenantCount: 1 });
  t.is(items[0]?.state, PurgeItemState.COMPLETE);
  t.is(removedBy(items[0]?.resourceCounts ?? [])['drift_check'], 6);
});
