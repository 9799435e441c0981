import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import type { Browser, Page } from 'playwright-core';
import type { Identity } from '#deploy/local/stack.ts';
import { PurgeState, SubjectState, WindowKind } from '#gen/lethe/retention/v1/retention_pb.ts';
import { ExecutionState } from '#gen/lethe/run/v1/run_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { addChecks, addEnvironment, addIncidents, purge, putPlan, rowsOf } from '#test/support/aged-data.ts';
import {
  assertUsable,
  assertUsableInEveryLook,
  CHROMIUM,
  goWithin,
  hasChromium,
  keepScreenshot,
  openWindow,
  startBrowser,
} from '#test/support/browser.ts';
import { type MemoryOwner, startMemoryOwner } from '#test/support/memory-owner.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { testIfFound } from '#test/support/require.ts';
import { startTestConsole } from '#test/support/start-console.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

interface Context {
  stack: TestStack;
  browser: Browser;
  /** An owner of somebody else's, which lists nothing to begin with. */
  desk: MemoryOwner;
  consoleUrl: string;
  stopConsole: () => Promise<void>;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

const PURGED = 'Incident drift details were purged per retention policy.';
const DAY_MS = 86_400_000;
const MANY = 100_000;

if (hasChromium) {
  test.before(async (t) => {
    // First, since it throws where the page is not built.
    t.context.browser = await startBrowser();
    const desk = await startMemoryOwner([], 'desk-1');
    t.context.desk = desk;
    const stack = await startTestStack({
      foreignOwners: { desk: desk.address },
      env: {
        LETHE_PURGE_CEILING_SHARE: '0.5',
        LETHE_PURGE_CEILING_SHARE_FROM: '100',
        LETHE_FLEET_CEILING_TENANTS: '3',
        LETHE_CATALOGUE_POLL_MS: '200',
        LETHE_OBSERVE_NIGHTS: 'run=0,incident=0,desk=0',
      },
    });
    t.context.stack = stack;
    const { url, stop } = await startTestConsole(stack);
    Object.assign(t.context, { consoleUrl: url, stopConsole: stop });
  });
  test.after.always(async (t) => {
    await t.context.browser?.close();
    await t.context.stopConsole?.();
    await t.context.stack?.dispose();
    await t.context.desk?.close();
  });
}

/**
 * Declares a test of the page; it fails also on anything that the browser's console complained of, but for answers with
 * the status `refused`, which the browser reports although the page expects them.
 */
function pageTest(title: string, body: (t: T, visit: Visit) => Promise<void>, refused?: number): void {
  testIfFound<Context>(test.serial, hasChromium, CHROMIUM, title, async (t) => {
    const { browser, stack, consoleUrl } = t.context;
    const visitors: Awaited<ReturnType<typeof openWindow>>[] = [];
    const visit: Visit = async (identity, path) => {
      const visitor = await openWindow(browser, { stack, consoleUrl }, identity);
      visitors.push(visitor);
      await visitor.page.goto(path);
      return visitor.page;
    };
    try {
      await body(t, visit);
      t.deepEqual(
        visitors.flatMap(({ problems }) => problems).filter((problem) => !problem.includes(`status of ${refused} `)),
        [],
        'nothing in the console of the browser',
      );
    } finally {
      for (const visitor of visitors) await visitor.close();
    }
  });
}

type Visit = (identity: Identity, path: string) => Promise<Page>;

const shown = (page: Page, text: string | RegExp) => page.getByText(text).first().waitFor();
const isDisabled = async (page: Page, name: string) =>
  (await page.getByRole('button', { name, exact: true }).getAttribute('aria-disabled')) === 'true';
const clients = (t: T, tenantId: string) => t.context.stack.clients({ tenantId, role: 'admin' });
const platform = (t: T) => t.context.stack.clients({ role: 'platform' }).retention;

/** A tenant on PRO whose closed incidents are so old; the newest purge of it has run. */
async function purgedTenant(t: T, tenantId: string): Promise<{ environmentId: string; incidentIds: string[] }> {
  const { stack } = t.context;
  await putPlan(stack, tenantId, 'PRO');
  const environmentId = await addEnvironment(stack, tenantId);
  const incidentIds = await addIncidents(stack, tenantId, environmentId, [
    { state: 'CLOSED', age: '200 days' },
    { state: 'CLOSED', age: '2 days' },
  ]);
  await purge(stack, { tenantIds: [tenantId] });
  return { environmentId, incidentIds };
}

pageTest('an environment keeps its badge and "Checked 5 minutes ago" when every check is purged', async (t, visit) => {
  const { stack } = t.context;
  await putPlan(stack, 'badges', 'FREE');
  const environmentId = await addEnvironment(stack, 'badges', 'production');
  await queryOnce(
    stack.superuserUrl('incident'),
    `update environments set last_checked_at = now() - interval '5 minutes 10 seconds' where id = $1`,
    [environmentId],
  );
  await addChecks(stack, 'badges', environmentId, ['8 days', '9 days']);
  await purge(stack, { tenantIds: ['badges'] });
  t.is(await rowsOf(stack, 'drift_checks', 'badges'), 0);
  const page = await visit({ tenantId: 'badges', role: 'viewer' }, '/environments');
  const row = page.getByRole('row', { name: /production/ });
  t.regex((await row.textContent()) ?? '', /Drift.*Checked 5 minutes ago/);
  await row.getByRole('button', { name: 'production' }).click();
  await shown(page, 'No check is kept any more');
});

pageTest('an incident says whether its details were purged or never there; all else stays', async (t, visit) => {
  const { stack } = t.context;
  const { environmentId, incidentIds } = await purgedTenant(t, 'payloads');
  const { incident } = await clients(t, 'payloads').incidents.openIncident({ environmentId, title: 'bare' });
  const viewer = { tenantId: 'payloads', role: 'viewer' } as const;

  const purged = await visit(viewer, `/incidents/${incidentIds[0]}`);
  t.is(await purged.getByText(PURGED, { exact: true }).count(), 0, 'not before it is loaded');
  await purged.getByText(PURGED, { exact: true }).waitFor();
  await purged.getByRole('region', { name: 'Timeline' }).getByText('Detected').waitFor();
  await purged.getByRole('link', { name: 'production' }).waitFor();
  await purged.locator('main header').getByText('Closed').waitFor();
  await shown(purged, 'Approvals of this incident were purged per retention policy.');

  const kept = await visit(viewer, `/incidents/${incidentIds[1]}`);
  await kept.getByRole('region', { name: 'Drift summary' }).getByText('call').waitFor();
  t.is(await kept.getByText(PURGED).count(), 0);

  const bare = await visit(viewer, `/incidents/${incident?.id}`);
  await shown(bare, 'No drift details were recorded with this incident.');
  t.is(await bare.getByText(PURGED).count(), 0);

  await queryOnce(
    stack.superuserUrl('incident'),
    `update incidents set payload_purge_cause = 'RUN_PURGE' where tenant_id = 'payloads' and id = $1`,
    [incidentIds[0]],
  );
  await purged.reload();
  await shown(purged, 'Incident drift details were purged together with their run.');
});

pageTest(
  'an incident is moved through its states with a note, and approvals are asked for and decided',
  async (t, visit) => {
    const { stack } = t.context;
    const environmentId = await addEnvironment(stack, 'moves');
    const { incidents } = clients(t, 'moves');
    const { incident } = await incidents.openIncident({ environmentId, title: 'Billing drifted' });
    const incidentId = incident?.id ?? '';
    const page = await visit({ tenantId: 'moves', role: 'admin', subject: 'ada' }, `/incidents/${incidentId}`);

    await page.getByRole('button', { name: 'Request approval' }).click();
    await page.getByRole('dialog').getByLabel('Notes').fill('it is harmless');
    await page.getByRole('dialog').getByRole('button', { name: 'Request approval' }).click();
    await shown(page, 'Waiting for a decision');
    await page.getByRole('button', { name: 'Decide' }).click();
    await page.getByRole('dialog').getByLabel('Notes').fill('looked at it');
    await page.getByRole('dialog').getByRole('button', { name: 'Approve', exact: true }).click();
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    await shown(page, 'looked at it');
    t.is((await incidents.listApprovals({ incidentId })).approvals[0]?.decidedBy, 'ada');

    await page.getByRole('button', { name: 'Mark as acknowledged' }).click();
    await page.getByRole('dialog').getByLabel('Note').fill('on my way');
    await page.getByRole('dialog').getByRole('button', { name: 'Mark as acknowledged' }).click();
    await page.getByRole('region', { name: 'Timeline' }).getByText('on my way').waitFor();

    // Somebody else is faster: the dialog says so and changes nothing.
    await page.getByRole('button', { name: 'Mark as stabilized' }).click();
    const etag = (await incidents.getIncident({ incidentId })).incident?.etag;
    t.truthy(etag);
    await incidents.transitionIncident({ incidentId, state: 3, note: 'by another' });
    await incidents.transitionIncident({ incidentId, state: 4 });
    await page.getByRole('dialog').getByRole('button', { name: 'Mark as stabilized' }).click();
    await page.getByRole('dialog').getByRole('alert').waitFor();
    t.is((await incidents.getIncident({ incidentId })).incident?.state, 4);
  },
  409,
);

pageTest(
  'a plan is changed only after a preview, and a change made meanwhile is shown first',
  async (t, visit) => {
    const { stack } = t.context;
    await platform(t).updatePlan({
      name: 'TEAM',
      allowMissing: true,
      reason: 'a new offer',
      windows: [{ subject: 'drift_checks', kind: WindowKind.DAYS, retentionDays: 30 }],
    });
    await queryOnce(
      stack.superuserUrl('retention'),
      `update plan_windows set recorded_at = recorded_at - interval '60 days' where plan = 'TEAM'`,
    );
    await putPlan(stack, 'team', 'TEAM');
    await addChecks(stack, 'team', await addEnvironment(stack, 'team'), ['25 days', '26 days', '31 days', '1 day']);
    const page = await visit({ role: 'platform' }, '/retention?tab=plans');
    await page.getByRole('button', { name: 'Change TEAM' }).click();
    const dialog = page.getByRole('dialog');
    const save = dialog.getByRole('button', { name: 'Save' });
    t.true(await save.isDisabled());
    await dialog.getByRole('textbox', { name: 'Drift checks: days' }).fill('20');
    await dialog.getByLabel('Reason').fill('cheaper');

    await platform(t).updatePlan({
      name: 'TEAM',
      reason: 'a colleague',
      windows: [{ subject: 'drift_checks', kind: WindowKind.DAYS, retentionDays: 40 }],
    });
    await dialog.getByRole('button', { name: 'Preview' }).click();
    await dialog.getByText(/Drift checks: now 40 days, by platform@platform/).waitFor();
    t.true(await save.isDisabled());
    await dialog.getByRole('button', { name: 'Go on from there' }).click();
    await dialog.getByRole('button', { name: 'Preview' }).click();
    const forecast = dialog.getByRole('row', { name: /^Drift checks/ });
    await forecast.waitFor();
    const [would, asIs, from = ''] = await forecast.getByRole('cell').allTextContents();
    await assertUsableInEveryLook(t, page, 'plan-dialog');
    t.deepEqual([would, asIs], ['3', '0']);
    t.regex(from, /^(next week|in [67] days)/);
    t.is(await rowsOf(stack, 'drift_checks', 'team'), 4, 'a preview takes nothing');

    await dialog.getByRole('textbox', { name: 'Drift checks: days' }).fill('21');
    t.true(await save.isDisabled(), 'the preview was of another change');
    await dialog.getByRole('button', { name: 'Preview' }).click();
    await save.and(page.locator(':enabled')).click();
    await dialog.waitFor({ state: 'detached' });
    const { plan } = await platform(t).getPlan({ name: 'TEAM' });
    t.like(
      plan?.windows.find(({ subject }) => subject === 'drift_checks'),
      { retentionDays: 21, reason: 'cheaper' },
    );
  },
  409,
);

pageTest('purge now says in numbers what will go, and its progress is live', async (t, visit) => {
  const { stack } = t.context;
  await putPlan(stack, 'now', 'PRO');
  await addChecks(stack, 'now', await addEnvironment(stack, 'now'), ['31 days', '32 days', '33 days', '1 day']);
  const page = await visit({ tenantId: 'now', role: 'admin' }, '/retention');
  await page.getByRole('button', { name: 'Purge now…' }).click();
  const confirm = page.getByRole('dialog').getByRole('button', { name: 'Purge 3 rows' });
  await confirm.waitFor();
  // Held back by the stop switch, so that it can be seen before and after without a reload.
  await platform(t).stopPurges({ reason: 'to look at it' });
  try {
    await confirm.click();
    await shown(page, 'It waits, as purges are stopped by platform@platform: to look at it');
    t.is(await rowsOf(stack, 'drift_checks', 'now'), 4);
  } finally {
    await platform(t).resumePurges({ reason: 'seen' });
  }
  const drawer = page.getByRole('dialog', { name: 'Retention purge' });
  await drawer.getByText('3 expired, 9 rows removed').waitFor();
  await drawer.getByRole('status').getByText('Complete').waitFor();
  await assertUsableInEveryLook(t, page, 'purge-drawer');
  t.is(await rowsOf(stack, 'drift_checks', 'now'), 1);
});

pageTest('a held purge shows its numbers and is approved by an operator alone', async (t, visit) => {
  const { stack } = t.context;
  await putPlan(stack, 'held', 'PRO');
  await addChecks(stack, 'held', await addEnvironment(stack, 'held'), Array(120).fill('31 days'));
  const { summary } = await purge(stack, { tenantIds: ['held'], reason: 'nightly' });
  const path = `/retention?tab=purges&purge=${summary.id}`;

  const admin = await visit({ tenantId: 'held', role: 'admin' }, path);
  await shown(admin, '120 of the 120 rows seen would go (100%); the ceiling is 50% or 1,000,000 rows.');
  t.true(await isDisabled(admin, 'Approve…'));

  const page = await visit({ role: 'platform', subject: 'grace' }, path);
  await page.getByRole('button', { name: 'Approve…' }).click();
  const dialog = page.getByRole('dialog', { name: 'Purge what is held of held?' });
  await dialog.getByText('Drift checks: 120 rows').waitFor();
  t.true(await dialog.getByRole('button', { name: 'Approve and purge' }).isDisabled(), 'not without a reason');
  await dialog.getByLabel('Reason').fill('their backlog');
  await dialog.getByRole('button', { name: 'Approve and purge' }).click();
  await shown(page, /Approved by grace .*: their backlog/);
  await until('they are gone', async () => (await rowsOf(stack, 'drift_checks', 'held')) === 0);
  await page.getByRole('dialog', { name: 'Retention purge' }).getByText('360 rows removed').waitFor();
});

pageTest('a purge that is held as a whole says why, and goes on once an operator approves it', async (t, visit) => {
  const { stack } = t.context;
  const tenantIds = ['fleet-a', 'fleet-b', 'fleet-c'];
  for (const tenantId of tenantIds) {
    await putPlan(stack, tenantId, 'AGENCY');
    await addChecks(stack, tenantId, await addEnvironment(stack, tenantId), ['40 days', '1 day']);
  }
  await purge(stack, { tenantIds });
  for (const tenantId of tenantIds) await putPlan(stack, tenantId, 'PRO', '8 days');
  const { summary } = await purge(stack, { tenantIds, reason: 'nightly' });
  t.is(summary.state, PurgeState.HELD);

  const page = await visit({ role: 'platform', subject: 'grace' }, '/retention?tab=purges');
  await shown(page, 'The purge of 3 tenants was not begun');
  await page.getByRole('button', { name: 'Look at it' }).first().click();
  const drawer = page.getByRole('dialog', { name: 'Retention purge' });
  await drawer.getByText('3 of its 3 tenants have a narrower window than in their last purge.').waitFor();
  await drawer.getByRole('button', { name: 'Approve…' }).click();
  const dialog = page.getByRole('dialog', { name: 'Release the whole purge?' });
  t.true(await dialog.getByRole('button', { name: 'Approve' }).isDisabled(), 'not without a reason');
  await dialog.getByLabel('Reason').fill('we sold them PRO');
  await assertUsable(t, page, 'approving a fleet');
  await dialog.getByRole('button', { name: 'Approve' }).click();
  await shown(page, /Approved by grace .*: we sold them PRO/);
  await drawer.getByRole('status').getByText('Complete').waitFor();
  for (const tenantId of tenantIds) t.is(await rowsOf(stack, 'drift_checks', tenantId), 1, tenantId);
});

pageTest(
  'a tenant gets another plan only after a preview, and whoever was slower is shown the plan as it is now',
  async (t, visit) => {
    const { stack } = t.context;
    await putPlan(stack, 'planned', 'AGENCY');
    await addChecks(stack, 'planned', await addEnvironment(stack, 'planned'), ['40 days', '50 days', '1 day']);
    const page = await visit({ role: 'platform', subject: 'grace' }, '/retention?tenant=planned');
    await page.getByRole('heading', { name: 'Plan AGENCY' }).waitFor();
    const dialog = page.getByRole('dialog');
    const change = dialog.getByRole('button', { name: 'Change plan' });
    const choosePro = async () => {
      await page.getByRole('button', { name: 'Change plan…' }).click();
      await dialog.getByRole('combobox', { name: 'Plan' }).click();
      await page.getByRole('option', { name: 'PRO', exact: true }).click();
      await dialog.getByLabel('Reason').fill('they pay less');
      t.true(await change.isDisabled(), 'not without a preview');
      await dialog.getByRole('button', { name: 'Preview' }).click();
    };
    await choosePro();
    const forecast = dialog.getByRole('row', { name: /^Drift checks/ });
    await forecast.waitFor();
    t.deepEqual((await forecast.getByRole('cell').allTextContents()).slice(0, 2), ['2', '0']);
    await assertUsable(t, page, 'the plan of a tenant');
    await keepScreenshot(page, 'tenant-plan-dialog-light');

    await platform(t).setTenantPlan({ tenantId: 'planned', planName: 'ENTERPRISE', reason: 'a colleague' });
    await change.click();
    await dialog.getByText('ETAG_MISMATCH').waitFor();
    await dialog.getByText('The plan was changed meanwhile, by somebody else.').waitFor();
    await dialog.getByRole('button', { name: 'Show it as it is now' }).click();
    await page.getByRole('heading', { name: 'Plan ENTERPRISE' }).waitFor();

    await choosePro();
    await change.and(page.locator(':enabled')).click();
    await dialog.waitFor({ state: 'detached' });
    await page.getByRole('table', { name: 'History of plans' }).getByText('they pay less').waitFor();
    t.is(await rowsOf(stack, 'drift_checks', 'planned'), 3, 'nothing goes before its grace is over');
  },
  409,
);

pageTest(
  'a plan that a colleague changes while the dialog is open is not overwritten unseen, also where the page is read again',
  async (t, visit) => {
    for (const [tenantId, before] of [
      ['replanned', 'AGENCY'],
      ['unplanned', undefined],
    ] as const) {
      if (before) await putPlan(t.context.stack, tenantId, before);
      const page = await visit({ role: 'platform', subject: 'grace' }, `/retention?tenant=${tenantId}`);
      await page.getByRole('heading', { name: before ? `Plan ${before}` : 'No plan', exact: true }).waitFor();
      await page.getByRole('button', { name: 'Change plan…' }).click();
      const dialog = page.getByRole('dialog');
      await dialog.getByRole('combobox', { name: 'Plan' }).click();
      await page.getByRole('option', { name: 'PRO', exact: true }).click();
      await platform(t).setTenantPlan({ tenantId, planName: 'ENTERPRISE', reason: 'a colleague' });
      // As if somebody came back to the window a minute later.
      await page.evaluate(
        `const now = Date.now; Date.now = () => now() + 60_000; window.dispatchEvent(new Event('visibilitychange'))`,
      );
      await page.locator('#tenant-plan', { hasText: 'Plan ENTERPRISE' }).waitFor();
      await page.waitForLoadState('networkidle');
      await dialog.getByRole('button', { name: 'Preview' }).click();
      await dialog.getByText('The plan was changed meanwhile, by somebody else.').waitFor();
      const { tenantPlan } = await platform(t).getTenantPlan({ tenantId });
      t.is(tenantPlan?.planName, 'ENTERPRISE');
    }
  },
  409,
);

pageTest(
  'who saves or deletes a policy that changed meanwhile is told so, and what it is now',
  async (t, visit) => {
    const { retention } = clients(t, 'contested');
    const set = (retentionDays: number, minExecutionsToKeep: bigint) =>
      retention.upsertExecutionPolicy({ retentionDays, minExecutionsToKeep });
    await set(30, 5n);
    const page = await visit({ tenantId: 'contested', role: 'admin' }, '/executions');
    const policy = page.getByRole('region', { name: 'Retention policy' });
    const dialog = page.getByRole('dialog');
    await page.getByRole('button', { name: 'Change…' }).click();
    await dialog.getByLabel('Days to keep').fill('20');
    await set(40, 6n);
    await dialog.getByRole('button', { name: 'Preview' }).click();
    await dialog.getByText('Now 40 days, at least the newest 6.').waitFor();
    t.true(await dialog.getByRole('button', { name: 'Save' }).isDisabled());
    await dialog.getByRole('button', { name: 'Go on from there' }).click();
    await dialog.getByRole('button', { name: 'Preview' }).click();
    await dialog.getByRole('button', { name: 'Save' }).and(page.locator(':enabled')).click();
    await policy.getByText('20 days', { exact: true }).waitFor();

    await set(50, 7n);
    await page.getByRole('button', { name: 'Delete…' }).click();
    await dialog.getByRole('button', { name: 'Delete policy' }).click();
    await dialog.getByText('Somebody changed it meanwhile.').waitFor();
    t.is((await retention.getExecutionPolicy({})).executionPolicy?.retentionDays, 50, 'it stays');
    await dialog.getByRole('button', { name: 'Cancel' }).click();
    await policy.getByText('50 days', { exact: true }).waitFor();
    await page.getByRole('button', { name: 'Delete…' }).click();
    await dialog.getByRole('button', { name: 'Delete policy' }).click();
    await shown(page, 'This tenant has no policy of its own.');
  },
  409,
);

pageTest('an operator confirms a subject whose owner moved, and retires one that nobody lists', async (t, visit) => {
  const { desk } = t.context;
  const stateOf = async (name: string) =>
    (await platform(t).listSubjects({ pageSize: 200 })).subjects.find((subject) => subject.name === name)?.state;
  const untilState = (state: SubjectState) =>
    until(`tickets are ${state}`, async () => (await stateOf('tickets')) === state);
  desk.subjects = [{ name: 'tickets', resourceType: 'ticket' }];
  await untilState(SubjectState.ACTIVE);
  desk.dataId = 'desk-2';
  await untilState(SubjectState.OWNER_CHANGED);
  const page = await visit({ role: 'platform', subject: 'grace' }, '/retention?tab=catalogue');
  const row = page.getByRole('row', { name: /^Tickets/ });
  await row.getByText(/OWNER_CHANGED/).waitFor();
  await row.getByRole('button', { name: 'Confirm…' }).click();
  const dialog = page.getByRole('dialog');
  const confirm = dialog.getByRole('button', { name: 'Confirm' });
  t.true(await confirm.isDisabled(), 'not without a reason');
  await dialog.getByLabel('Reason').fill('they moved');
  await assertUsable(t, page, 'confirming a subject');
  await confirm.click();
  await row.getByText('Purged', { exact: true }).waitFor();
  t.is(await stateOf('tickets'), SubjectState.ACTIVE);

  desk.subjects = [];
  await untilState(SubjectState.UNLISTED);
  await page.reload();
  await row.getByRole('button', { name: 'Retire…' }).click();
  await dialog.getByLabel('Reason').fill('they closed');
  await dialog.getByRole('button', { name: 'Retire', exact: true }).click();
  await row.getByText(/By grace .*: they closed/).waitFor();
  t.is(await stateOf('tickets'), SubjectState.RETIRED);
});

pageTest('a purge whose count failed is told as not counted, with the reason, and not as nothing', async (t, visit) => {
  const { desk, stack } = t.context;
  const untilState = (state: SubjectState) =>
    until(`calls are ${state}`, async () =>
      (await platform(t).listSubjects({ pageSize: 200 })).subjects.some(
        (subject) => subject.name === 'calls' && subject.state === state,
      ),
    );
  desk.subjects = [{ name: 'calls', resourceType: 'call' }];
  await untilState(SubjectState.ACTIVE);
  const windows = [{ subject: 'calls', kind: WindowKind.DAYS, retentionDays: 10 }];
  await platform(t).updatePlan({ name: 'CALLS', allowMissing: true, reason: 'calls age', windows });
  await queryOnce(
    stack.superuserUrl('retention'),
    "update plan_windows set recorded_at = 'epoch' where plan = 'CALLS'",
  );
  await putPlan(stack, 'uncounted', 'CALLS');
  desk.dataId = `${desk.dataId}-moved`;
  await untilState(SubjectState.OWNER_CHANGED);
  const page = await visit({ tenantId: 'uncounted', role: 'admin' }, '/retention');
  await page.getByRole('button', { name: 'Purge now…' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByText('could not be counted').waitFor();
  await dialog.getByText(/Calls: OWNER_CHANGED: /).waitFor();
  t.is(await dialog.getByText('Nothing has expired').count(), 0);
  t.true(await dialog.getByRole('button', { name: 'Purge', exact: true }).isDisabled());
  await assertUsable(t, page, 'a purge that could not be counted');
  await platform(t).confirmSubject({ name: 'calls', reason: 'they moved' });
});

pageTest('an execution policy is saved only after a preview, and deleted', async (t, visit) => {
  const { runs, retention } = clients(t, 'history');
  const ages = [1, 2, 40, 50, 60];
  await runs.recordExecutions({
    executions: ages.map((days) => {
      const at = timestampFromMs(Date.now() - days * DAY_MS);
      return {
        id: newId(),
        workflow: 'sync',
        status: 'success',
        state: ExecutionState.ENDED,
        createTime: at,
        startTime: at,
        finishTime: at,
      };
    }),
  });
  const page = await visit({ tenantId: 'history', role: 'admin' }, '/executions');
  await page.getByRole('button', { name: 'Set a policy…' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Days to keep').fill('30');
  await dialog.getByLabel('Always keep the newest').fill('1');
  await dialog.getByRole('button', { name: 'Preview' }).click();
  const forecast = dialog.getByRole('row', { name: /^Executions/ });
  await forecast.waitFor();
  t.deepEqual((await forecast.getByRole('cell').allTextContents()).slice(0, 2), ['3', '0']);
  await t.throwsAsync(retention.getExecutionPolicy({}), undefined, 'a preview sets nothing');
  await dialog.getByRole('button', { name: 'Save' }).click();
  await page.getByRole('region', { name: 'Retention policy' }).getByText('30 days', { exact: true }).waitFor();
  await page.waitForLoadState('networkidle');
  await assertUsableInEveryLook(t, page, 'executions-by-day');
  t.like((await retention.getExecutionPolicy({})).executionPolicy, { retentionDays: 30, minExecutionsToKeep: 1n });

  await page.getByRole('radiogroup').getByText('Table').click();
  await page.getByRole('table', { name: 'Executions by day' }).waitFor();
  await page.getByRole('button', { name: 'Delete…' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete policy' }).click();
  await shown(page, 'This tenant has no policy of its own.');
  await t.throwsAsync(retention.getExecutionPolicy({}));
});

pageTest(
  'lists of 100,000 incidents and 100,000 executions are quick to show and to page through',
  async (t, visit) => {
    const { stack } = t.context;
    const environmentId = await addEnvironment(stack, 'piles');
    await queryOnce(
      stack.superuserUrl('incident'),
      `insert into incidents (tenant_id, id, environment_id, title, state, created_at)
     select 'piles', gen_random_uuid(), $1, 'drift ' || n, 'DETECTED', now() - interval '2 days' + n * interval '1 ms'
     from generate_series(1, $2) n`,
      [environmentId, MANY],
    );
    await queryOnce(
      stack.superuserUrl('run'),
      `insert into executions (tenant_id, workflow, state, started_at, created_at)
     select 'piles', 'sync-' || n, 'ENDED', at, at
     from generate_series(1, $1) n, lateral (select now() - interval '2 days' + n * interval '1 ms' as at) a`,
      [MANY],
    );
    const admin = { tenantId: 'piles', role: 'admin' } as const;
    const page = await visit(admin, '/environments');
    await shown(page, 'production');
    for (const [path, newest] of [
      ['/incidents', `drift ${MANY}`],
      ['/executions', `sync-${MANY}`],
    ] as const) {
      const began = performance.now();
      await page.goto(path);
      await page.getByRole('row').filter({ hasText: newest }).waitFor();
      t.log(`the first of ${MANY} rows of ${path} after ${Math.round(performance.now() - began)} ms`);
      await page.getByRole('button', { name: 'Load more' }).click();
      await shown(page, 'The first 100 are shown');
    }
  },
);

pageTest('purges are stopped and resumed, and everybody sees who did it and why', async (t, visit) => {
  const page = await visit({ role: 'platform', subject: 'grace' }, '/retention');
  await page.getByRole('button', { name: 'Stop all purges' }).click();
  await page.getByRole('dialog').getByLabel('Reason').fill('the counts look wrong');
  await page.getByRole('dialog').getByRole('button', { name: 'Stop all purges' }).click();
  await shown(page, /Stopped by grace .*: the counts look wrong/);
  const viewer = await visit({ tenantId: 'anybody', role: 'viewer' }, '/retention');
  await shown(viewer, /Stopped by grace .*: the counts look wrong/);
  t.true(await isDisabled(viewer, 'Resume purges'));
  await page.getByRole('button', { name: 'Resume purges' }).click();
  await page.getByRole('dialog').getByLabel('Reason').fill('they were right');
  await page.getByRole('dialog').getByRole('button', { name: 'Resume purges' }).click();
  await page.getByRole('button', { name: 'Stop all purges' }).waitFor();
  t.false((await platform(t).getPurgeStop({})).stop?.isStopped);
});

pageTest('what a role may not do is disabled, and says why to the keyboard too', async (t, visit) => {
  await putPlan(t.context.stack, 'reader', 'PRO');
  const page = await visit({ tenantId: 'reader', role: 'viewer' }, '/retention');
  const purgeNow = page.getByRole('button', { name: 'Purge now…' });
  await purgeNow.waitFor();
  for (const name of ['Purge now…', 'Change plan…', 'Stop all purges']) t.true(await isDisabled(page, name), name);
  await purgeNow.focus();
  await page.getByRole('tooltip', { name: 'This needs the role admin; yours is viewer.' }).waitFor();
  await page.keyboard.press('Enter');
  t.is(await page.getByRole('dialog').count(), 0);
});

pageTest(
  'every page can be used by everybody: light, dark and on a phone',
  async (t, visit) => {
    const tenantId = 'looks';
    const { environmentId, incidentIds } = await purgedTenant(t, tenantId);
    await addChecks(t.context.stack, tenantId, environmentId, ['1 day', '2 days']);
    const bare = await clients(t, tenantId).incidents.openIncident({ environmentId, title: 'bare' });
    const admin = { tenantId, role: 'admin' } as const;
    const operator = { role: 'platform' } as const;
    const pages = [
      ['environments', admin, '/environments', 'production'],
      ['checks', admin, `/environments?env=${environmentId}`, 'Its incidents'],
      ['incidents', admin, '/incidents', 'Mean time to close'],
      ['incident', admin, `/incidents/${incidentIds[1]}`, 'workflow'],
      ['incident-purged', admin, `/incidents/${incidentIds[0]}`, PURGED],
      ['retention', admin, '/retention', 'Incident payloads'],
      ['purges', admin, '/retention?tab=purges', 'Rows removed by night'],
      ['plans', operator, '/retention?tab=plans', 'ENTERPRISE'],
      ['tenants', operator, '/retention?tab=tenants', tenantId],
      ['catalogue', operator, '/retention?tab=catalogue', 'Age counts from'],
      ['executions', admin, '/executions', 'No execution has been recorded.'],
      ['nothing', { ...admin, tenantId: 'nobody-yet' }, '/incidents', 'No incident has been opened yet.'],
      ['incident-bare', admin, `/incidents/${bare.incident?.id}`, 'No drift details were recorded with this incident.'],
      ['not-found', admin, `/incidents/${newId()}`, 'Not found'],
    ] as const;
    // One window a person: what it has loaded is loaded.
    const windows = new Map<Identity, Page>();
    for (const [name, identity, path, text] of pages) {
      const page = windows.get(identity) ?? (await visit(identity, path));
      if (windows.has(identity)) await goWithin(page, path);
      windows.set(identity, page);
      await shown(page, text);
      await page.waitForLoadState('networkidle');
      await assertUsableInEveryLook(t, page, name);
    }
  },
  404,
);
