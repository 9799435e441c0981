import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import pg from 'pg';
import type { Browser, Page } from 'playwright-core';
import { BulkDeletionItemState } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { RunState, StepState } from '#gen/lethe/run/v1/run_pb.ts';
import { SCOPES } from '#libs/auth/policy.ts';
import { newId } from '#libs/kernel/id.ts';
import {
  assertFits,
  assertUsable,
  assertUsableInEveryLook,
  CHROMIUM,
  goWithin,
  hasChromium,
  keepScreenshot,
  type Look,
  openForStranger,
  openWindow,
  startBrowser,
  type Visitor,
} from '#test/support/browser.ts';
import { type ForeignParticipant, startForeignParticipant } from '#test/support/foreign-participant.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { testIfFound } from '#test/support/require.ts';
import { evidenceOf, makeRunGraph, NOTHING, settled } from '#test/support/run-graph.ts';
import { startTestConsole } from '#test/support/start-console.ts';
import { makeTcpGate } from '#test/support/tcp-gate.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const DIST = fileURLToPath(new URL('../../services/console/page/dist/', import.meta.url));
const FIRST_LOAD_LIMIT = 300_000;
const MANY = 100_000;

interface Context {
  stack: TestStack;
  browser: Browser;
  foreign: ForeignParticipant;
}
const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

test.before(async (t) => {
  if (!hasChromium) return;
  // First, since it throws where the page is not built.
  t.context.browser = await startBrowser();
  t.context.foreign = await startForeignParticipant(0);
  const { foreign } = t.context;
  const stack = await startTestStack({
    console: true,
    foreignParticipants: { notes: foreign.address },
    envOf: {
      run: {
        LETHE_DELETION_ATTEMPTS: '3',
        LETHE_DELETION_BACKOFF_MS: '20',
        LETHE_DELETION_BACKOFF_MAX_MS: '100',
      },
    },
  });
  t.context.stack = stack;
});
test.after.always(async (t) => {
  await t.context.browser?.close();
  await t.context.stack?.dispose();
  await t.context.foreign?.close();
});

const flow = (title: string, body: (t: T) => Promise<void>) =>
  testIfFound(test.serial, hasChromium, CHROMIUM, title, body);

const consoleUrlOf = ({ context }: T): string => context.stack.consoleUrl ?? '';

/** Opens the page for an admin of a tenant, or for somebody else of it. */
async function visit(
  t: T,
  tenantId: string,
  role: 'viewer' | 'member' | 'admin' | 'owner' = 'admin',
  look: Look = 'light',
): Promise<Visitor> {
  const { browser, stack } = t.context;
  const identity = { tenantId, role, subject: `${role}@${tenantId}` };
  const visitor = await openWindow(browser, { stack, consoleUrl: consoleUrlOf(t), look }, identity);
  t.teardown(async () => {
    if (!t.passed) await keepScreenshot(visitor.page, `failed-${tenantId}`).catch(() => undefined);
    await visitor.close();
  });
  return visitor;
}

const row = (page: Page, text: string) => page.getByRole('row').filter({ hasText: text });
const toast = (page: Page, text: string) => page.getByRole('alert').filter({ hasText: text });

/** Ends a visit, and fails on anything that the browser complained of but refusals that were to be seen. */
function leave(t: T, { page, problems }: Visitor, expected?: RegExp): void {
  const left = problems.filter((problem) => !expected?.test(problem));
  t.deepEqual(left, [], `at ${page.url()}`);
}

/** Waits until the newest bulk deletion of a tenant's runs has ended; its items that did not complete are in the message. */
async function endOfBulk(t: T, tenantId: string, counts: { completed: bigint; skipped: bigint }): Promise<void> {
  const { runs } = t.context.stack.clients({ tenantId, role: 'admin' });
  const newestOne = async () => (await runs.listBulkDeletions({ pageSize: 1 })).bulkDeletions[0];
  await until('the bulk deletion has ended', async () => (await newestOne())?.finishTime !== undefined, 240_000);
  const bulk = await newestOne();
  const { items } = await runs.listBulkDeletionItems({ bulkDeletionId: bulk?.id ?? '', pageSize: 100 });
  const open = items.filter(({ state }) => state !== BulkDeletionItemState.COMPLETE);
  t.like(
    bulk?.counts,
    counts,
    JSON.stringify(open.map(({ state, skipReason, lastError }) => [state, skipReason, lastError])),
  );
}

/** So many ended runs of a workflow by SQL, a millisecond apart. */
const seedRuns = ({ context: { stack } }: T, tenantId: string, count: number, workflow: string, state = 'COMPLETED') =>
  queryOnce(
    stack.superuserUrl('run'),
    `insert into workflow_runs (tenant_id, id, workflow, display_name, state, created_at, finished_at)
     select $1, gen_random_uuid(), $2, '', $3, at, case when $3 <> 'RUNNING' then at end
     from generate_series(1, $4) n, lateral (select now() - interval '2 days' + n * interval '1 ms' as at) a`,
    [tenantId, workflow, state, count],
  );

flow('the first load of the page is less than 300 kB, compressed', async (t) => {
  const index = await readFile(join(DIST, 'index.html'), 'utf8');
  const names = [...index.matchAll(/(?:src|href)="\/(assets\/[^"]+)"/g)].map(([, name]) => name ?? '');
  t.true(names.length >= 2, 'the scripts and styles that index.html loads');
  const sizes = await Promise.all(
    names.map(async (name) => [name, gzipSync(await readFile(join(DIST, name))).length] as const),
  );
  const total = gzipSync(index).length + sizes.reduce((sum, [, size]) => sum + size, 0);
  t.log(`first load: ${total} bytes gzipped`, ...sizes.map(([name, size]) => `${name} ${size}`));
  t.true(total < FIRST_LOAD_LIMIT, `${total} bytes`);
});

flow('a run is deleted at once, comes back by Undo, and is found under Recently deleted', async (t) => {
  const { runId } = await makeRunGraph(t.context.stack, 'undo', { jobs: 1, objectsPerJob: 1 });
  const visitor = await visit(t, 'undo');
  const { page } = visitor;
  await page.goto('/');
  await page.waitForURL('**/runs');
  await until('the page has its title', async () => (await page.title()) === 'Runs · Lethe');
  await row(page, 'a run').getByRole('button', { name: 'Delete' }).click();
  await toast(page, 'a run was deleted.').getByRole('button', { name: 'Undo' }).click();
  await toast(page, 'a run is back.').waitFor();
  await row(page, 'a run').waitFor();

  // Brought back once more, and deleted while JobService has not brought its part back yet.
  await row(page, 'a run').getByRole('button', { name: 'Delete' }).click();
  await toast(page, 'a run was deleted.').waitFor();
  const { runs } = t.context.stack.clients({ tenantId: 'undo', role: 'admin' });
  const jobs = new pg.Client(t.context.stack.superuserUrl('job'));
  await jobs.connect();
  t.teardown(() => jobs.end());
  await jobs.query('begin');
  await jobs.query("select from jobs where tenant_id = 'undo' for update");
  await toast(page, 'a run was deleted.').getByRole('button', { name: 'Undo' }).click();
  await toast(page, 'a run is back.').first().waitFor();
  await row(page, 'a run').getByRole('button', { name: 'Delete' }).click();
  const { deletions } = await runs.listDeletions({ runId });
  t.true(
    deletions.some(({ state }) => state !== DeletionState.COMPLETE),
    'it is under way',
  );
  await jobs.query('rollback');
  await toast(page, 'a run was deleted.').waitFor();
  await page.getByText('There are no runs yet').waitFor();
  await page.getByRole('tab', { name: 'Recently deleted' }).click();
  await row(page, 'by admin@undo').waitFor();
  await assertFits(t, page, 'recently deleted runs');
  await row(page, 'a run')
    .getByRole('button', { name: /^Undelete/ })
    .click();
  await page.getByText('No run is deleted at the moment.').waitFor();
  t.is((await runs.getRun({ runId })).run?.deleteTime, undefined);
  leave(t, visitor, /409 \(Conflict\).*DeleteRun/);
});

flow('a run is purged after its id was typed, with live progress to a receipt', async (t) => {
  const { stack, foreign } = t.context;
  const graph = await makeRunGraph(stack, 'types', { jobs: 2, objectsPerJob: 2, incidents: 1 });
  foreign.put(graph.runId, 3);
  const visitor = await visit(t, 'types');
  const { page } = visitor;
  await page.goto(`/runs/${graph.runId}`);
  await page.getByRole('button', { name: 'Purge…' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByRole('table', { name: 'What goes from notes' }).getByText('3').first().waitFor();
  t.regex((await dialog.textContent()) ?? '', /This takes \d+ things/);
  const confirm = dialog.getByRole('button', { name: 'Purge this run' });
  t.true(await confirm.isDisabled());
  await dialog.getByLabel('Reason').fill('the customer asked');
  t.true(await confirm.isDisabled(), 'a reason is not enough');
  await dialog.getByLabel(/Type the run's id/).fill(graph.runId.slice(1));
  t.true(await confirm.isDisabled(), 'another text is not enough');
  await assertUsableInEveryLook(t, page, 'purge-dialog');
  await dialog.getByLabel(/Type the run's id/).fill(graph.runId);
  await confirm.click();
  await page.waitForURL('**/deletions/*');
  await page.getByText('Gone from every store, and read back as gone').waitFor();
  t.deepEqual(await evidenceOf(stack, graph), NOTHING);
  const text = (await page.locator('main').textContent()) ?? '';
  t.regex(text, /the customer asked/);
  t.regex(text, /admin@types/);
  for (const participant of ['job', 'notes', 'incident', 'run']) {
    await page.getByRole('region', { name: participant, exact: true }).getByText('Read back as gone').waitFor();
  }
  await page.goto(`/runs/${graph.runId}`);
  await page.getByText('This run is not here any more').waitFor();
  leave(t, visitor, /404/);
});

flow('while it goes on, a purge shows how far each service is, without a reload', async (t) => {
  const { stack, foreign } = t.context;
  const graph = await makeRunGraph(stack, 'live', { jobs: 1, objectsPerJob: 1 });
  foreign.put(graph.runId, 5);
  foreign.treat(graph.runId, 'waits');
  const visitor = await visit(t, 'live');
  const { page } = visitor;
  const { runs } = stack.clients({ tenantId: 'live', role: 'admin' });
  const { deletion } = await runs.purgeRun({ runId: graph.runId, reason: 'live' });
  await page.goto(`/deletions/${deletion?.id}?of=run`);
  const progress = page.getByRole('region', { name: 'Progress' });
  await progress.getByText('4 of 4').waitFor();
  await progress.getByRole('progressbar', { name: 'Progress of job' }).waitFor();
  // An empty bar has no width, so it counts as hidden.
  await progress.getByRole('progressbar', { name: 'Progress of notes' }).waitFor({ state: 'attached' });
  await assertUsableInEveryLook(t, page, 'progress');
  foreign.treat(graph.runId, 'well');
  await page.getByText('Gone from every store, and read back as gone').waitFor();
  leave(t, visitor);
});

flow('a stuck deletion says what blocks it and what to do, and is redriven', async (t) => {
  const { stack, foreign } = t.context;
  const graph = await makeRunGraph(stack, 'stuck', { jobs: 1, objectsPerJob: 1 });
  foreign.put(graph.runId, 2);
  foreign.treat(graph.runId, 'fails');
  const { runs } = stack.clients({ tenantId: 'stuck', role: 'admin' });
  const { deletion } = await runs.purgeRun({ runId: graph.runId, reason: 'gdpr' });
  t.is((await settled(stack, 'stuck', deletion?.id)).state, DeletionState.STUCK);
  const visitor = await visit(t, 'stuck');
  const { page } = visitor;
  await page.goto('/deletions');
  const unfinished = page.getByRole('region', { name: 'Unfinished' });
  await unfinished.getByText('Stuck since').waitFor();
  const text = (await unfinished.textContent()) ?? '';
  t.regex(text, /notes: /);
  t.regex(text, /DEPENDENCY_UNAVAILABLE/);
  t.regex(text, /3 failed attempts/);
  t.regex(text, /See to it that this service answers again, then redrive the deletion/);
  await keepScreenshot(page, 'deletions-stuck-light');
  foreign.treat(graph.runId, 'well');
  await unfinished.getByRole('button', { name: /^Redrive/ }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Redrive', exact: true }).click();
  await toast(page, 'The deletion goes on.').waitFor();
  await unfinished.getByText('Everything that was begun has ended.').waitFor();
  t.deepEqual(await evidenceOf(stack, graph), NOTHING);
  leave(t, visitor);
});

flow('a job is deleted after the dialog told in numbers what goes; where it is refused, the row stays', async (t) => {
  const { stack } = t.context;
  const graph = await makeRunGraph(stack, 'jobs', { jobs: 2, objectsPerJob: 3 });
  const { jobs } = stack.clients({ tenantId: 'jobs', role: 'admin' });
  const waiting = await jobs.createJob({ displayName: 'still waiting' });
  const visitor = await visit(t, 'jobs');
  const { page } = visitor;
  await page.goto('/jobs');
  const [first = '', second = ''] = graph.jobIds;
  const deleteButton = (id: string) => page.getByRole('button', { name: new RegExp(`^Delete job .*${id}`) });
  await deleteButton(first).waitFor();
  t.is(await deleteButton(waiting.job?.id ?? '').count(), 0, 'a job that is not over has no delete button');

  await deleteButton(first).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByText('Are you sure? This will permanently delete the job and its transcript.').waitFor();
  await dialog.getByRole('table', { name: 'What will go' }).waitFor();
  t.regex((await dialog.getByRole('table').textContent()) ?? '', /Object version33/);
  await assertUsableInEveryLook(t, page, 'job-dialog');
  await dialog.getByRole('button', { name: 'Delete the job' }).click();
  await toast(page, 'The job was deleted.').waitFor();
  await deleteButton(first).waitFor({ state: 'detached' });
  await toast(page, 'The job was deleted.').getByRole('link', { name: 'Show the receipt' }).click();
  await page.getByText('Gone from every store, and read back as gone').waitFor();

  await page.goto('/jobs');
  await deleteButton(second).click();
  await dialog.getByRole('table', { name: 'What will go' }).waitFor();
  await jobs.deleteJob({ jobId: second });
  await dialog.getByRole('button', { name: 'Delete the job' }).click();
  await dialog.getByText('JOB_NOT_FOUND').waitFor();
  t.true(await dialog.isVisible());
  leave(t, visitor, /404/);
});

flow('while a run id is not whole, its field says so and nothing of other jobs is offered for deletion', async (t) => {
  const graph = await makeRunGraph(t.context.stack, 'whole-id', { jobs: 2, objectsPerJob: 1 });
  const { jobs } = t.context.stack.clients({ tenantId: 'whole-id', role: 'admin' });
  for (let index = 0; index < 3; index += 1) {
    const jobId = (await jobs.createJob({ displayName: 'of no run' })).job?.id ?? '';
    await jobs.cancelJob({ jobId });
  }
  const visitor = await visit(t, 'whole-id');
  const { page } = visitor;
  const bulk = page.getByRole('button', { name: /^All .*matching…$/ });
  const field = page.getByRole('textbox', { name: 'Run id' });
  await page.goto('/jobs?from=2020-01-01');
  await page.getByRole('button', { name: 'All 5 matching…' }).waitFor();
  await field.fill(graph.runId.slice(0, 23));
  await page.getByText('A run id has 36 characters').first().waitFor();
  t.is(await field.getAttribute('aria-invalid'), 'true');
  t.is(await bulk.count(), 0);
  t.is(await row(page, 'of no run').count(), 0, 'what is listed is not of another filter');
  await assertUsableInEveryLook(t, page, 'jobs-odd-run-id');
  await page.getByRole('button', { name: 'Clear' }).click();
  await row(page, 'of no run').first().waitFor();
  t.is(await field.inputValue(), '');
  await field.fill(graph.runId);
  await page.getByRole('button', { name: 'All 2 matching…' }).click();
  const conditions = page.getByRole('dialog').getByRole('list', { name: 'The filter' });
  await conditions.waitFor();
  t.deepEqual(await conditions.getByRole('listitem').allTextContents(), [`Run: ${graph.runId}`]);
  leave(t, visitor);
});

flow('all that match a filter are purged by one operation, with a line per item', async (t) => {
  await seedRuns(t, 'bulk', 60, 'nightly-sync');
  await seedRuns(t, 'bulk', 3, 'nightly-sync', 'RUNNING');
  await seedRuns(t, 'bulk', 5, 'keep');
  const visitor = await visit(t, 'bulk');
  const { page } = visitor;
  const calls: string[] = [];
  page.on('request', (request) => calls.push(new URL(request.url()).pathname));
  await page.goto('/runs?workflow=nightly-sync');
  await page.getByRole('button', { name: 'All 63 matching…' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByText('63 runs match the filter.').waitFor();
  t.deepEqual(await dialog.getByRole('list', { name: 'The filter' }).getByRole('listitem').allTextContents(), [
    'Workflow: nightly-sync',
  ]);
  await dialog.getByText('3 runs have not ended yet.').waitFor();
  await dialog.getByLabel('Reason').fill('spring cleaning');
  await assertUsableInEveryLook(t, page, 'bulk-dialog');
  await dialog.getByRole('button', { name: 'Purge 60 runs' }).click();
  await toast(page, '60 runs are being deleted').waitFor();
  await page.goto('/deletions?tab=bulk');
  await endOfBulk(t, 'bulk', { completed: 60n, skipped: 3n });
  await page.getByText('60 complete, 3 skipped').waitFor();
  await page.getByRole('link', { name: 'Purge of 63 runs' }).click();
  await page.getByRole('table', { name: 'Items' }).waitFor();
  t.is(
    await page.getByRole('table', { name: 'Items' }).getAttribute('aria-rowcount'),
    '64',
    'a line per item and the head',
  );
  await page.getByText('spring cleaning').first().waitFor();
  await assertUsableInEveryLook(t, page, 'bulk-receipt');
  t.is(calls.filter((path) => /PurgeRun$|DeleteRun$/.test(path)).length, 0, 'no run is purged by the browser');
  t.is(calls.filter((path) => /Watch/.test(path)).length, 0, 'no row keeps one of the connections of a browser');
  await page.goto('/runs');
  await row(page, 'keep').first().waitFor();
  t.is(await row(page, 'keep').count(), 5);
  leave(t, visitor);
});

flow(
  '10,000 that match a filter are purged in three clicks, and aborted in their row; what was not begun stays',
  async (t) => {
    const count = 10_000;
    await seedRuns(t, 'abort', count, 'huge');
    await seedRuns(t, 'abort', 3, 'keep');
    const visitor = await visit(t, 'abort');
    const { page } = visitor;
    await page.goto('/runs');
    await page.evaluate("window.clicks = 0; addEventListener('click', () => { window.clicks += 1; }, true)");
    await page.getByLabel('Workflow').fill('huge');
    await page.getByRole('button', { name: 'All 10,000 matching…' }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('Reason').fill('too much');
    await dialog.getByRole('button', { name: 'Purge 10,000 runs' }).click();
    const clicks = await page.evaluate<number>('window.clicks');
    t.true(clicks <= 3, `${clicks} clicks`);
    const region = page.getByRole('region', { name: 'Bulk deletions under way' });
    await region.getByText(/\d+ complete/).waitFor({ timeout: 120_000 });
    await assertUsableInEveryLook(t, page, 'bulk-progress');
    await region.getByRole('button', { name: 'Abort' }).click();
    await dialog.getByRole('button', { name: 'Abort it' }).click();
    await region.waitFor({ state: 'detached', timeout: 120_000 });
    const [left] = await queryOnce<{ count: number }>(
      t.context.stack.superuserUrl('run'),
      `select count(*)::int as count from workflow_runs where tenant_id = 'abort' and workflow = 'huge'`,
    );
    const kept = left?.count ?? 0;
    t.true(kept > 0 && kept < count, `${kept} are left`);
    const inWords = (number: number) => number.toLocaleString('en-GB');
    await page.goto('/deletions?tab=bulk');
    await page.getByText(`${inWords(count - kept)} complete, ${inWords(kept)} not begun`).waitFor();
    leave(t, visitor);
  },
);

flow('a list of 100,000 runs is quick to show, to narrow and to page through', async (t) => {
  await seedRuns(t, 'many', MANY - 1, 'bulk-import');
  await seedRuns(t, 'many', 1, 'needle', 'FAILED');
  const visitor = await visit(t, 'many');
  const { page } = visitor;
  const began = performance.now();
  await page.goto('/runs');
  await row(page, 'bulk-import').first().waitFor();
  t.log(`the first rows of ${MANY} runs after ${Math.round(performance.now() - began)} ms`);
  for (let pages = 1; pages <= 5; pages += 1) {
    await page.getByRole('button', { name: 'Load more' }).click();
    await page.getByText(`The first ${pages + 1}00 are shown`).waitFor();
  }
  t.true((await page.getByRole('row').count()) < 80, 'only the rows near the window are in the document');
  await page.getByRole('combobox', { name: 'State' }).click();
  await page.getByRole('option', { name: 'Failed' }).click();
  await row(page, 'needle').waitFor();
  await page.getByText('1 in all').waitFor();
  leave(t, visitor);
});

flow(
  'lists of 100,000 hidden runs, 100,000 jobs and 100,000 deletions are quick to show and to page through',
  async (t) => {
    const { stack } = t.context;
    const at = `now() - interval '2 days' + n * interval '1 ms'`;
    await queryOnce(
      stack.superuserUrl('job'),
      `insert into jobs (tenant_id, id, display_name, state, created_at, finished_at)
     select 'piles', gen_random_uuid(), 'interview ' || n, 'COMPLETED', ${at}, ${at} from generate_series(1, $1) n`,
      [MANY],
    );
    await queryOnce(
      stack.superuserUrl('run'),
      `insert into deletions (tenant_id, id, run_id, mode, state, actor, subject, reason, fingerprint, created_at,
                            finished_at, next_attempt_at)
     select 'piles', gen_random_uuid(), gen_random_uuid(), 'PURGE', 'COMPLETE', 'ada', 'ada', 'request ' || n, 'f',
            ${at}, ${at}, null from generate_series(1, $1) n`,
      [MANY],
    );
    await queryOnce(
      stack.superuserUrl('run'),
      `insert into workflow_runs (tenant_id, id, workflow, display_name, state, created_at, finished_at, deleted_at,
                                deleted_by, deletion_id)
     select 'piles', gen_random_uuid(), 'hidden ' || n, '', 'COMPLETED', ${at}, ${at}, ${at}, 'ada', gen_random_uuid()
     from generate_series(1, $1) n`,
      [MANY],
    );
    const visitor = await visit(t, 'piles');
    const { page } = visitor;
    for (const [path, newest] of [
      ['/runs?tab=deleted', `hidden ${MANY}`],
      ['/jobs', `interview ${MANY}`],
      ['/deletions', `request ${MANY}`],
    ] as const) {
      const began = performance.now();
      await page.goto(path);
      await row(page, newest).waitFor();
      t.log(`the first of ${MANY} rows of ${path} after ${Math.round(performance.now() - began)} ms`);
      await page.getByRole('button', { name: 'Load more' }).click();
      await page.getByText('The first 200 are shown').waitFor();
      t.true((await page.getByRole('row').count()) < 80, 'only the rows near the window are in the document');
    }
    leave(t, visitor);
  },
);

flow('what a viewer may not do is disabled and says why, and the service refuses it all the same', async (t) => {
  const graph = await makeRunGraph(t.context.stack, 'views', { jobs: 1, objectsPerJob: 1 });
  const visitor = await visit(t, 'views', 'viewer');
  const { page } = visitor;
  await page.goto('/runs');
  const button = row(page, 'a run').getByRole('button', { name: 'Delete' });
  t.is(await button.getAttribute('aria-disabled'), 'true');
  await button.focus();
  await page.getByText('This needs the role admin; yours is viewer.').waitFor();
  await page.keyboard.press('Enter');
  await page.goto(`/runs/${graph.runId}`);
  for (const name of ['Delete', 'Purge…']) {
    t.is(await page.getByRole('button', { name, exact: true }).getAttribute('aria-disabled'), 'true', name);
  }
  const { runs } = t.context.stack.clients({ tenantId: 'views', role: 'admin' });
  t.is((await runs.getRun({ runId: graph.runId })).run?.deleteTime, undefined);
  await assertUsable(t, page, 'a run, as a viewer sees it');
  leave(t, visitor);
});

flow('a run shows what it does while it does it', async (t) => {
  const { runs } = t.context.stack.clients({ tenantId: 'moves', role: 'admin' });
  const { run } = await runs.createRun({ workflow: 'onboard', displayName: 'onboarding', input: { client: 'Acme' } });
  const runId = run?.id ?? '';
  await runs.recordStep({ runId, name: 'draft', state: StepState.RUNNING, participants: ['job'] });
  const visitor = await visit(t, 'moves');
  const { page } = visitor;
  await page.goto(`/runs/${runId}`);
  await page.getByText('draft').waitFor();
  await runs.recordStep({ runId, name: 'draft', state: StepState.COMPLETED });
  await runs.recordStep({ runId, name: 'publish', state: StepState.RUNNING, participants: ['incident'] });
  await page.getByText('publish').waitFor();
  await runs.finishRun({ runId, state: RunState.COMPLETED, output: { pages: 3 } });
  await page.getByRole('heading', { name: 'onboarding' }).locator('..').getByText('Completed').waitFor();
  await page.getByRole('button', { name: 'Output' }).click();
  await page.getByText('"pages": 3').waitFor();
  leave(t, visitor);
});

flow('every page of runs, jobs and deletions can be used by everybody: light, dark and on a phone', async (t) => {
  const tenantId = 'tour';
  const { stack, foreign } = t.context;
  const { runs } = stack.clients({ tenantId, role: 'admin' });
  const graph = await makeRunGraph(stack, tenantId, { steps: 3, jobs: 2, objectsPerJob: 2, incidents: 1 });
  foreign.put(graph.runId, 2);
  const purged = await makeRunGraph(stack, tenantId, { jobs: 1, objectsPerJob: 2 });
  const stuck = await makeRunGraph(stack, tenantId, { jobs: 1, objectsPerJob: 1 });
  foreign.put(stuck.runId, 1);
  foreign.treat(stuck.runId, 'fails');
  const failed = await runs.createRun({ workflow: 'invoice', displayName: 'Invoice 2026-118 of Umbrella' });
  const failedId = failed.run?.id ?? '';
  await runs.recordStep({ runId: failedId, name: 'draft', state: StepState.RUNNING, participants: ['job'] });
  await runs.recordStep({ runId: failedId, name: 'draft', state: StepState.COMPLETED });
  await runs.recordStep({ runId: failedId, name: 'send', state: StepState.RUNNING });
  await runs.recordStep({ runId: failedId, name: 'send', state: StepState.FAILED, error: 'the mailbox is full' });
  await runs.failRun({ runId: failedId, error: 'the mailbox is full' });
  await runs.createRun({ workflow: 'invoice', displayName: 'Invoice 2026-119 of Initech' });
  const done = await runs.purgeRun({ runId: purged.runId, reason: 'contract ended' });
  const { deletion } = await runs.purgeRun({ runId: stuck.runId, reason: 'gdpr request 4711' });
  await settled(stack, tenantId, done.deletion?.id);
  await settled(stack, tenantId, deletion?.id);
  await until('it is compensated', async () => {
    const { run } = await runs.getRun({ runId: failedId });
    return run?.state === RunState.COMPENSATED;
  });
  const visitor = await visit(t, tenantId, 'owner');
  const { page } = visitor;
  const PLACES: Readonly<Record<string, readonly [path: string, text: string]>> = {
    runs: ['/runs', 'Initech'],
    'runs-filtered': ['/runs?workflow=invoice', 'All 2 matching'],
    'runs-deleted': ['/runs?tab=deleted', 'No run is deleted'],
    run: [`/runs/${graph.runId}`, 'step-3'],
    'run-compensated': [`/runs/${failedId}`, 'Undone'],
    jobs: ['/jobs', 'Cancelled'],
    job: [`/jobs?job=${graph.jobIds[0]}`, '1.wav'],
    deletions: ['/deletions', 'Stuck since'],
    'deletions-bulk': ['/deletions?tab=bulk', 'No bulk deletion of jobs'],
    receipt: [`/deletions/${done.deletion?.id}`, 'Gone from every store'],
    'receipt-stuck': [`/deletions/${deletion?.id}`, 'Something may be left'],
    'receipt-unknown': [`/deletions/${newId()}`, 'DELETION_NOT_FOUND'],
    'no-page': ['/nowhere', 'No such page'],
  };
  await page.goto('/environments');
  for (const [name, [path, text]] of Object.entries(PLACES)) {
    await goWithin(page, path);
    await page.getByText(text).first().waitFor();
    await assertUsableInEveryLook(t, page, name);
  }
  leave(t, visitor, /404/);
});

flow('what is overdue is told by its age, for a tenant and for operators, also while a service is away', async (t) => {
  const { stack, browser } = t.context;
  const late = newId();
  const stuck = newId();
  await queryOnce(
    stack.superuserUrl('run'),
    `insert into deletions (tenant_id, id, run_id, mode, state, actor, subject, reason, fingerprint, created_at,
                            next_attempt_at, attempts, last_error)
     values ('late', $1, $1, 'PURGE', 'CASCADING', 'x', 'x', 'private-words', 'x', now() - interval '51 hours',
             now() + interval '1 day', 0, ''),
            ('late', $2, $2, 'PURGE', 'STUCK', 'x', 'x', 'private-words', 'x', now() - interval '2 hours', now(), 10,
             'STORE_REFUSED: private-words')`,
    [late, stuck],
  );
  const { jobs } = stack.clients({ role: 'admin', tenantId: 'late' });
  const jobId = (await jobs.createJob({})).job?.id ?? '';
  await queryOnce(
    stack.superuserUrl('job'),
    `insert into artifact_uploads (tenant_id, job_id, id, kind, name, state, due_at, created_at)
     values ('late', $1, gen_random_uuid(), 'INPUT', 'x', 'OPEN', now() + interval '1 day', now() - interval '5 hours')`,
    [jobId],
  );
  const visitor = await visit(t, 'late');
  const { page } = visitor;
  await page.goto('/');
  await page.getByRole('link', { name: 'Overdue' }).click();
  const oldest = page.getByRole('table', { name: 'Oldest work of each kind' });
  await oldest.getByRole('row').filter({ hasText: 'Upload' }).waitFor();
  const rows = await oldest.getByRole('row').allTextContents();
  t.is(rows.length, 3, rows.join('|'));
  t.regex(rows[1] ?? '', /^Deletion in run2 d 3 h.*Overdue.*late/, 'oldest first');
  t.regex(rows[2] ?? '', /^Upload in job5 h(?!.*Overdue).*late/, 'an upload may take six hours');
  const parked = page.getByRole('table', { name: 'Parked in run' });
  t.regex((await parked.getByRole('row').nth(1).textContent()) ?? '', /STORE_REFUSED.*after 10 attempts/);
  t.notRegex((await page.locator('main').textContent()) ?? '', /private-words/);
  await assertUsableInEveryLook(t, page, 'overdue');
  await oldest.getByRole('link', { name: late }).click();
  await page.waitForURL(`**/deletions/${late}?of=run`);
  await page.goBack();
  await parked.getByRole('link', { name: stuck }).click();
  await page.getByRole('button', { name: 'Redrive' }).first().waitFor();
  leave(t, visitor);

  const other = await visit(t, 'punctual');
  await other.page.goto('/overdue');
  await other.page.getByText('All work is done.').waitFor();
  leave(t, other);
  const viewer = await visit(t, 'late', 'viewer');
  await viewer.page.goto('/overdue');
  await viewer.page.getByText('This needs the role admin').waitFor();
  leave(t, viewer);

  const behindGate = await makeTcpGate();
  const withoutJob = await startTestConsole({ addresses: { ...stack.addresses, job: behindGate.address } });
  t.teardown(async () => {
    await withoutJob.stop();
    await behindGate.close();
  });
  const operator = await openWindow(browser, { stack, consoleUrl: withoutJob.url }, { role: 'platform' });
  t.teardown(operator.close);
  await operator.page.goto('/overdue');
  await operator.page.getByRole('row').filter({ hasText: late }).getByText('Overdue').waitFor();
  await operator.page.getByRole('alert').filter({ hasText: 'Not known of job' }).first().waitFor();
  t.is(await operator.page.getByText('All work is done.').count(), 0);
  t.is(
    await operator.page.getByRole('link', { name: late }).count(),
    0,
    "what is a tenant's has a page for that tenant",
  );
  await assertUsable(t, operator.page, 'overdue, for an operator');
  await keepScreenshot(operator.page, 'overdue-operator');
  leave(t, operator, /503/);
});

flow('on a phone, the navigation opens, leads on and closes', async (t) => {
  const visitor = await visit(t, 'pocket', 'owner', 'phone');
  const { page } = visitor;
  await page.goto('/runs');
  await page.getByRole('button', { name: 'Open the navigation' }).click();
  await page.getByRole('link', { name: 'Deletions' }).waitFor();
  await keepScreenshot(page, 'navigation-phone');
  await assertUsable(t, page, 'the navigation on a phone');
  await page.getByRole('link', { name: 'Deletions' }).click();
  await page.waitForURL('**/deletions');
  await page.getByRole('button', { name: 'Open the navigation' }).waitFor();
  leave(t, visitor);
});

flow(
  'a session is renewed before the calls that come after its time, by one question for all windows at a time',
  async (t) => {
    const visitor = await visit(t, 'renewed');
    const { page } = visitor;
    const context = page.context();
    let [asked, underWay, most] = [0, 0, 0];
    const early: string[] = [];
    const person = { subject: 'admin@renewed', tenant: 'renewed', role: 'admin', scopes: [...SCOPES] };
    await context.route('**/api/session', async (route) => {
      asked += 1;
      underWay += 1;
      most = Math.max(most, underWay);
      await delay(300);
      underWay -= 1;
      await route.fulfill({ json: { ...person, renew_after_seconds: 60 } });
    });
    const windows = [page, await context.newPage(), await context.newPage()];
    await Promise.all(windows.map((each) => each.goto('/overdue')));
    for (const each of windows) await each.getByText('All work is done.').waitFor();
    t.deepEqual([asked, most], [3, 1], 'a question for each window, one after the other');
    await page.waitForLoadState('networkidle');
    page.on('request', (request) => {
      if (underWay > 0 && request.url().includes('/rpc/')) early.push(request.url());
    });
    // A minute and a second later, one window makes many calls at once.
    await page.evaluate('const now = Date.now; Date.now = () => now() + 61_000;');
    await page.getByRole('link', { name: 'Deletions' }).click();
    await page.getByText('Nothing was deleted yet.').waitFor();
    t.is(asked, 4);
    t.deepEqual(early, [], 'no call goes before the answer');
    await page.getByRole('link', { name: 'Jobs' }).click();
    await page.getByText('There are no jobs yet.').waitFor();
    t.is(asked, 4, 'and none asks again before it is time');
    leave(t, visitor);
  },
);

flow('who signs in deletes and undoes as themselves, and is out after signing out', async (t) => {
  const { stack, browser } = t.context;
  await makeRunGraph(stack, 'globex', { jobs: 1, objectsPerJob: 1 });
  const visitor = await openForStranger(browser, { consoleUrl: consoleUrlOf(t) });
  t.teardown(visitor.close);
  const { page } = visitor;
  await page.goto('/runs?state=COMPLETED');
  await page.getByRole('heading', { name: 'Sign in to Lethe' }).waitFor();
  await assertUsableInEveryLook(t, page, 'sign-in');
  await page.getByRole('link', { name: 'Sign in' }).click();
  await page.getByRole('button', { name: /^admin of globex/ }).click();
  await page.waitForURL('**/runs?state=COMPLETED');
  await row(page, 'a run').getByRole('button', { name: 'Delete' }).click();
  await toast(page, 'a run was deleted.').getByRole('button', { name: 'Undo' }).click();
  await toast(page, 'a run is back.').waitFor();
  await row(page, 'a run').waitFor();

  await page.getByRole('button', { name: /Account of admin@globex/ }).click();
  await page.getByText('admin of globex').waitFor();
  await page.getByRole('menuitem', { name: 'Sign out' }).click();
  await page.getByRole('heading', { name: 'Sign in to Lethe' }).waitFor();
  await page.goto('/runs');
  await page.getByRole('heading', { name: 'Sign in to Lethe' }).waitFor();

  // The link that npm start prints: for one person, once.
  const link = stack.provider?.makeLink('viewer@globex') ?? '';
  await page.goto(link);
  await row(page, 'a run').waitFor();
  await page.getByRole('button', { name: /Account of viewer@globex/ }).waitFor();
  leave(t, visitor, /401/);
});

flow('a service that is down is told with what to do, the rest goes on, and Try again recovers', async (t) => {
  const { stack, browser } = t.context;
  const gate = await makeTcpGate();
  const addresses = { ...stack.addresses, job: gate.address };
  const behindGate = await startTestConsole({ addresses });
  t.teardown(async () => {
    await behindGate.stop();
    await gate.close();
  });
  await makeRunGraph(stack, 'down', { jobs: 1, objectsPerJob: 1 });
  const identity = { tenantId: 'down', role: 'admin' } as const;
  const visitor = await openWindow(browser, { stack, consoleUrl: behindGate.url }, identity);
  t.teardown(visitor.close);
  const { page } = visitor;
  await page.goto('/jobs');
  const alert = page.getByRole('alert').filter({ hasText: 'Try again in a moment' });
  await alert.waitFor();
  await alert.getByText('DEPENDENCY_UNAVAILABLE').waitFor();
  await assertUsable(t, page, 'a service is down');
  await keepScreenshot(page, 'service-down-light');
  await page.getByRole('link', { name: 'Runs' }).click();
  await row(page, 'a run').waitFor();
  await page.getByRole('link', { name: 'Jobs' }).click();
  await alert.waitFor();
  gate.open(stack.addresses.job);
  await until('the console reaches the service again', async () => {
    await page.getByRole('button', { name: 'Try again' }).click({ timeout: 5_000 });
    await page.getByRole('table', { name: 'Jobs' }).waitFor({ timeout: 5_000 });
    return true;
  });
  leave(t, visitor, /503/);
});
