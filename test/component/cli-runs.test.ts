import anyTest, { type TestFn } from 'ava';
import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import { type CommandLine, makeCommandLine, parsedLine } from '#test/support/command-line.ts';
import { type ForeignParticipant, startForeignParticipant } from '#test/support/foreign-participant.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; lethe: CommandLine; foreign: ForeignParticipant }>;

test.before(async (t) => {
  t.context.foreign = await startForeignParticipant(1_000);
  t.context.stack = await startTestStack({
    services: ['run', 'job'],
    foreignParticipants: { notes: t.context.foreign.address },
    envOf: { run: { LETHE_DELETION_ATTEMPTS: '2', LETHE_DELETION_BACKOFF_MS: '50' } },
  });
  t.context.lethe = await makeCommandLine(t.context.stack);
});
test.after.always(async (t) => {
  await t.context.stack?.dispose();
  await t.context.foreign.close();
});

/** A finished run of the tenant. */
async function finishedRun(lethe: CommandLine, tenant: string, state = 'COMPLETED'): Promise<string> {
  const { out: id } = await lethe('--tenant', tenant, 'runs', 'create', 'review');
  const error = state === 'FAILED' ? ['--error', 'broke'] : [];
  await lethe('--tenant', tenant, 'runs', 'finish', id, '--state', state, ...error);
  return id;
}

test('runs are created, found by state, workflow and time, and ended', async (t) => {
  const { lethe } = t.context;
  const as = ['--tenant', 'lists'];
  const before = Temporal.Now.instant().subtract({ hours: 1 }).toString();
  const first = (await lethe(...as, 'runs', 'create', 'review', '--name', 'first', '--input', '{"pages": 3}')).out;
  const second = await finishedRun(lethe, 'lists', 'FAILED');
  const third = (await lethe(...as, 'runs', 'create', 'intake')).out;
  const ids = async (...args: string[]): Promise<string[]> => {
    const { out, code } = await lethe(...as, '--json', 'runs', 'list', ...args);
    t.is(code, 0, out);
    return parsedLine(out).map(({ id }: { id: string }) => id);
  };
  t.deepEqual(await ids(), [third, second, first]);
  t.deepEqual(await ids('--limit', '1'), [third]);
  t.deepEqual(await ids('--state', 'failed'), [second]);
  t.deepEqual(await ids('--workflow', 'intake'), [third]);
  t.deepEqual(await ids('--since', before), [third, second, first]);
  t.deepEqual(await ids('--until', before), []);
  const shown = await lethe(...as, 'runs', 'get', second);
  t.regex(shown.out, new RegExp(`${second} +FAILED +review`));
  t.deepEqual(parsedLine((await lethe(...as, '--json', 'runs', 'get', first)).out).input, { pages: 3 });
  const unknown = await lethe(...as, 'runs', 'get', '018f6b1e-7c1a-7000-8000-000000000001');
  t.is(unknown.code, 1);
  t.regex(unknown.err, /^error: RUN_NOT_FOUND: /);
  t.is((await lethe('--tenant', 'elsewhere', 'runs', 'get', first)).code, 1);
});

test('a run is hidden and brought back, and a rehearsal changes nothing', async (t) => {
  const { lethe } = t.context;
  const as = ['--tenant', 'hides'];
  const id = await finishedRun(lethe, 'hides');
  t.is((await lethe(...as, 'runs', 'delete', id, '--dry-run')).code, 0);
  t.is((await lethe(...as, 'runs', 'get', id)).code, 0);
  const hidden = await lethe(...as, 'runs', 'delete', id, '--reason', 'by mistake');
  t.is(hidden.code, 0, hidden.err);
  t.regex(hidden.out, new RegExp(`SOFT_DELETE +COMPLETE +run +${id}`));
  t.is((await lethe(...as, 'runs', 'get', id)).code, 1);
  t.is((await lethe(...as, 'runs', 'get', id, '--show-deleted')).code, 0);
  t.false((await lethe(...as, 'runs', 'list')).out.includes(id));
  t.true((await lethe(...as, 'runs', 'list', '--show-deleted')).out.includes(id));
  const begun = await lethe(...as, '--json', 'runs', 'undelete', id, '--no-wait');
  t.is(begun.code, 0);
  t.is(parsedLine(begun.out).mode, 'DELETION_MODE_UNDELETE');
  await until('it is back', async () => (await lethe(...as, 'runs', 'get', id)).code === 0);
  const again = await lethe(...as, 'runs', 'undelete', id);
  t.is(again.code, 0);
  t.is(again.out, 'nothing to do');
});

test('a preview tells what a purge would take, and fails when something forbids it', async (t) => {
  const { lethe, foreign } = t.context;
  const as = ['--tenant', 'previews'];
  const { out: id } = await lethe(...as, 'runs', 'create', 'review');
  await lethe(...as, 'jobs', 'create', '--run', id);
  foreign.put(id, 4);
  const forbidden = await lethe(...as, 'runs', 'preview', id);
  t.is(forbidden.code, 1);
  t.regex(forbidden.out, /^forbidden: RUN_NOT_TERMINAL: /m);
  t.regex(forbidden.out, /^notes +note +4/m);
  const refused = await lethe(...as, 'runs', 'purge', id, '--reason', 'over', '--yes');
  t.is(refused.code, 1);
  t.regex(refused.err, /^error: RUN_NOT_TERMINAL: /);
  const job = parsedLine((await lethe(...as, '--json', 'jobs', 'list', '--run', id)).out)[0].id;
  await lethe(...as, 'jobs', 'cancel', job);
  await lethe(...as, 'runs', 'finish', id, '--state', 'COMPLETED');
  const preview = await lethe(...as, '--json', 'runs', 'preview', id);
  t.is(preview.code, 0);
  t.deepEqual(parsedLine(preview.out).blockers, []);
  const rehearsal = await lethe(...as, 'runs', 'purge', id, '--reason', 'over', '--dry-run');
  t.is(rehearsal.code, 0);
  t.regex(rehearsal.out, /^job +job +1/m);
  t.is((await lethe(...as, 'runs', 'get', id)).code, 0);
});

test('a purge is typed to be meant, shows how it goes and leaves nothing', async (t) => {
  const { lethe, stack, foreign } = t.context;
  const as = ['--tenant', 'purges'];
  const id = await finishedRun(lethe, 'purges');
  foreign.put(id, 2);
  const purge = [...as, 'runs', 'purge', id, '--reason', 'asked for', '--wait'];
  const alone = await lethe(...purge);
  t.is(alone.code, 2);
  t.regex(alone.err, /cannot be undone; add --yes/);
  const mistyped = await lethe.with({ typing: ['yes'] })(...purge);
  t.is(mistyped.code, 2);
  t.regex(mistyped.err, /nothing was done/);
  t.is((await lethe(...as, 'runs', 'get', id)).code, 0);
  const meant = await lethe.with({ typing: [id] })(...purge);
  t.is(meant.code, 0, meant.err);
  t.true(meant.asked[0]?.includes(id));
  t.regex(meant.out, /PURGE +COMPLETE/);
  t.regex(meant.screen, /3\/3 COMPLETE/);
  t.deepEqual(await queryOnce(stack.superuserUrl('run'), 'select 1 from workflow_runs where id = $1', [id]), []);
  t.is((await lethe(...purge, '--yes')).code, 1);
  const missing = await lethe(...purge, '--yes', '--allow-missing');
  t.deepEqual([missing.code, missing.out], [0, 'nothing to do']);
});

test('a purge that is stuck is 3: it is told, watched, found and set going again', async (t) => {
  const { lethe, foreign } = t.context;
  const as = ['--tenant', 'sticks'];
  const id = await finishedRun(lethe, 'sticks');
  foreign.put(id, 3);
  foreign.treat(id, 'fails');
  const stuck = await lethe(...as, '--json', 'runs', 'purge', id, '--reason', 'over', '--wait', '--yes');
  t.is(stuck.code, 3);
  const { id: deletion, state, lastError } = parsedLine(stuck.out);
  t.is(state, 'DELETION_STATE_STUCK');
  t.regex(lastError, /^DEPENDENCY_UNAVAILABLE/);
  const listed = await lethe(...as, 'deletions', 'list', '--state', 'STUCK');
  t.is(listed.code, 0);
  t.regex(listed.out, new RegExp(`${deletion} +PURGE +STUCK +run +${id} +DEPENDENCY_UNAVAILABLE`));
  t.is((await lethe(...as, 'deletions', 'watch', deletion)).code, 3);
  const again = await lethe(...as, 'runs', 'purge', id, '--reason', 'over', '--yes');
  t.is(again.code, 1);
  t.regex(again.err, /OPERATION_IN_PROGRESS/);
  foreign.treat(id, 'well');
  const redriven = await lethe(...as, '--json', 'deletions', 'redrive', deletion, '--reason', 'unlocked');
  t.is(redriven.code, 0);
  t.is(parsedLine(redriven.out).attempts, 0);
  const ended = await lethe.with({ typing: [] })(...as, 'deletions', 'watch', deletion);
  t.is(ended.code, 0, ended.err);
  t.regex(ended.out, /PURGE +COMPLETE/);
  t.regex((await lethe(...as, 'deletions', 'get', deletion)).out, /PURGE +COMPLETE/);
  const over = await lethe(...as, 'deletions', 'redrive', deletion);
  t.is(over.code, 1);
  t.regex(over.err, /^error: DELETION_FINISHED: /);
});

test('deletions are found by target and state, those of jobs too', async (t) => {
  const { lethe } = t.context;
  const as = ['--tenant', 'finds'];
  const [one, two] = [await finishedRun(lethe, 'finds'), await finishedRun(lethe, 'finds')];
  await lethe(...as, 'runs', 'delete', one);
  await lethe(...as, 'runs', 'delete', two);
  await lethe(...as, 'runs', 'undelete', two);
  const modes = async (...args: string[]) =>
    parsedLine((await lethe(...as, '--json', 'deletions', 'list', ...args)).out).map(({ mode }: { mode: string }) =>
      mode.replace('DELETION_MODE_', ''),
    );
  t.deepEqual(await modes(), ['UNDELETE', 'SOFT_DELETE', 'SOFT_DELETE']);
  t.deepEqual(await modes('--target', two), ['UNDELETE', 'SOFT_DELETE']);
  t.deepEqual(await modes('--limit', '1'), ['UNDELETE']);
  t.deepEqual(await modes('--state', 'STUCK'), []);
  const { out: job } = await lethe(...as, 'jobs', 'create');
  await lethe(...as, 'jobs', 'cancel', job);
  const deleted = await lethe(...as, '--json', 'jobs', 'delete', job, '--yes', '--no-wait');
  const { id } = parsedLine(deleted.out);
  const watched = await lethe(...as, 'deletions', 'watch', id);
  t.is(watched.code, 0, watched.err);
  t.regex(watched.out, new RegExp(`${id} +PURGE +COMPLETE +job +${job}`));
  t.is(parsedLine((await lethe(...as, '--json', 'deletions', 'get', id)).out).state, 'DELETION_STATE_COMPLETE');
  t.deepEqual(await modes(), ['PURGE', 'UNDELETE', 'SOFT_DELETE', 'SOFT_DELETE'], 'both kinds in one list');
  t.deepEqual(await modes('--kind', 'job'), ['PURGE']);
  t.deepEqual(await modes('--target', job), ['PURGE']);
  t.is((await lethe(...as, 'deletions', 'get', id, '--kind', 'run')).code, 1, 'RunService knows nothing of it');
  t.regex((await lethe(...as, 'deletions', 'redrive', id)).err, /^error: DELETION_FINISHED: /);
  t.regex(
    (await lethe(...as, 'deletions', 'get', two)).err,
    new RegExp(`^error: DELETION_NOT_FOUND: ${two} is a run, .*lethe deletions list --target ${two}`),
  );
  const unknown = await lethe(...as, 'deletions', 'get', '018f6b1e-7c1a-7000-8000-000000000009');
  t.regex(unknown.err, /^error: DELETION_NOT_FOUND: /);
});

test('a list is limited and says so, and hidden runs show since when, by whom and why', async (t) => {
  const { lethe } = t.context;
  const as = ['--tenant', 'limits'];
  const [hidden] = [await finishedRun(lethe, 'limits'), await finishedRun(lethe, 'limits')];
  const first = await lethe(...as, 'runs', 'list', '--limit', '1');
  t.is(first.out.split('\n').length, 2);
  t.is(first.err, 'There are more than these 1: --all shows all, --limit COUNT so many.');
  const all = await lethe(...as, 'runs', 'list', '--all');
  t.deepEqual([all.out.split('\n').length, all.err], [3, '']);
  t.is((await lethe(...as, 'runs', 'list', '--all', '--limit', '1')).code, 2);
  await lethe(...as, 'runs', 'delete', hidden, '--reason', 'by mistake');
  t.false((await lethe(...as, 'runs', 'list')).out.includes(hidden));
  const shown = await lethe(...as, 'runs', 'list', '--show-deleted');
  t.regex(shown.out, /^RUN +STATE +WORKFLOW +NAME +HIDDEN SINCE +BY +REASON$/m);
  t.regex(shown.out, new RegExp(`^${hidden} +COMPLETED +review +\\d{4}-\\S+Z +ada +by mistake$`, 'm'));
  const narrow = await lethe.with({ columns: 80 })(...as, 'runs', 'list', '--show-deleted');
  t.true(
    narrow.out.split('\n').every((line) => line.length <= 80),
    narrow.out,
  );
  t.true(narrow.out.includes(hidden), 'an id is never cut');
});

test('an error names what the user typed, and what to do next', async (t) => {
  const { lethe } = t.context;
  const as = ['--tenant', 'errors'];
  const bad = await lethe(...as, 'runs', 'get', 'no-uuid');
  t.regex(bad.err, /^error: FIELD_INVALID: <run> must be a UUID/);
  const name = await lethe(...as, 'jobs', 'create', '--name', 'x'.repeat(300));
  t.regex(name.err, /^error: FIELD_INVALID: --name must have at most 200 characters/);
  const run = await lethe(...as, 'jobs', 'list', '--run', 'odd');
  t.regex(run.err, /^error: FIELD_INVALID: --run must be a UUID/);
  const json = await lethe(...as, '--output', 'json', 'jobs', 'list', '--run', 'odd');
  t.like(parsedLine(json.out).error.violations[0], { field: 'run_id', option: '--run' });
  const refused = await lethe('runs', 'list');
  t.regex(refused.err, /^error: TENANT_MISSING: .*\nSay in which tenant you act: --tenant TENANT\.$/);
  const guess = await lethe('--tenant', 'ACME', 'runs', 'list');
  t.deepEqual(
    [guess.code, guess.err],
    [
      2,
      "error: USAGE: option '--tenant <tenant>' argument 'ACME' is invalid. A tenant is 1 to 63 of a-z, 0-9 and -, not starting with -.",
    ],
  );
});

test('everything that matches goes as one operation: shown, typed, watched, and listed with its items', async (t) => {
  const { lethe } = t.context;
  const as = ['--tenant', 'bulks'];
  const ids: string[] = [];
  for (const state of ['FAILED', 'FAILED', 'COMPLETED']) ids.push(await finishedRun(lethe, 'bulks', state));
  const order = [...as, 'runs', 'purge', '--all-matching', '--state', 'FAILED', '--reason', 'old', '--wait'];
  const shown = await lethe(...order, '--dry-run');
  t.regex(shown.out, /^2 runs match$/m, shown.err);
  t.is((await lethe(...order)).code, 2, 'nobody is there to be asked');
  t.is((await lethe.with({ typing: ['3'] })(...order)).code, 2);
  const meant = await lethe.with({ typing: ['2'] })(...order);
  t.is(meant.code, 0, meant.err);
  t.regex(meant.err, /^2 runs match$/m, 'what would go is shown before it is asked');
  t.regex(meant.out, /^completed +2$/m);
  t.regex(meant.out, /PURGE +COMPLETE +runs +2\/2 /);
  const [bulk] = parsedLine((await lethe(...as, '--json', 'bulk', 'list')).out);
  t.regex((await lethe(...as, 'bulk', 'get', bulk.id)).out, /^matched +2$/m);
  t.is((await lethe(...as, 'bulk', 'watch', bulk.id)).code, 0);
  const items = parsedLine((await lethe(...as, '--json', 'bulk', 'items', bulk.id)).out);
  t.deepEqual(new Set(items.map(({ targetId }: { targetId: string }) => targetId)), new Set(ids.slice(0, 2)));
  t.is((await lethe(...as, 'deletions', 'get', items[0].deletionId)).code, 0, 'each item has its receipt');
  t.regex((await lethe(...as, 'bulk', 'cancel', bulk.id)).err, /^error: BULK_DELETION_FINISHED: /);
  const hidden = await lethe(
    ...as,
    'runs',
    'delete',
    '--all-matching',
    '--workflow',
    'review',
    '--reason',
    'x',
    '--yes',
  );
  t.is(hidden.code, 0, hidden.err);
  t.is((await lethe(...as, 'runs', 'get', ids[2] ?? '')).code, 1);

  const job = (await lethe(...as, 'jobs', 'create')).out;
  await lethe(...as, 'jobs', 'create');
  await lethe(...as, 'jobs', 'cancel', job);
  const jobs = [...as, 'jobs', 'delete', '--all-matching', '--state', 'PENDING,CANCELLED', '--reason', 'x', '--yes'];
  const deleted = await lethe(...jobs);
  t.is(deleted.code, 3, 'a pending job is left alone');
  t.regex(deleted.out, /^JOB_NOT_TERMINAL +1$/m);
  const [ofJobs] = parsedLine((await lethe(...as, '--json', 'bulk', 'list', '--kind', 'job')).out);
  t.regex((await lethe(...as, 'bulk', 'get', ofJobs.id)).out, /^skipped +1$/m);
  for (const args of [
    ['runs', 'purge', '--all-matching', '--reason', 'no filter'],
    ['runs', 'purge', '--state', 'FAILED', '--reason', 'not all'],
    ['runs', 'purge', job, '--all-matching', '--state', 'FAILED', '--reason', 'both'],
    ['jobs', 'delete', '--all-matching', '--state', 'FAILED', '--yes'],
  ]) {
    t.is((await lethe(...as, ...args)).code, 2, args.join(' '));
  }
});

test('what is wrong with a command line is 2, and nothing is sent', async (t) => {
  const { lethe, stack } = t.context;
  const id = await finishedRun(lethe, 'wrong');
  for (const args of [
    ['runs'],
    ['runs', 'nothing'],
    ['runs', 'create'],
    ['runs', 'create', 'x', '--input', '[1]'],
    ['runs', 'create', 'x', '--input', 'secret'],
    ['runs', 'list', '--state', 'UNSPECIFIED'],
    ['runs', 'list', '--since', 'yesterday'],
    ['runs', 'list', '--limit', '0'],
    ['runs', 'list', '--limit', '1e9'],
    ['runs', 'finish', id],
    ['runs', 'purge', id],
    ['runs', 'purge', id, '--reason', 'x', '--unknown'],
    ['deletions', 'list', '--kind', 'tenant'],
    ['deletions', 'get'],
  ]) {
    const { code, err } = await lethe('--tenant', 'wrong', ...args);
    t.is(code, 2, args.join(' '));
    t.false(err.includes('secret'));
  }
  t.is((await lethe('--role', 'owner', 'runs', 'list')).code, 2, 'an owner of no tenant');
  const json = await lethe('--json', 'runs', 'list', '--limit', 'x');
  t.like(parsedLine(json.out), { error: { code: 'INVALID_ARGUMENT', reason: 'USAGE' } });
  const state = await stack.clients({ tenantId: 'wrong', role: 'viewer' }).runs.getRun({ runId: id });
  t.is(state.run?.state, RunState.COMPLETED);
});

test('the participants are listed, and one that is configured is not retired', async (t) => {
  const { lethe } = t.context;
  const { out, code } = await lethe('participants', 'list');
  t.is(code, 0);
  t.regex(out, /^job +CONFIGURED /m);
  t.regex(out, /^notes +CONFIGURED /m);
  const refused = await lethe('participants', 'retire', 'notes', '--reason', 'gone');
  t.is(refused.code, 1);
  t.regex(refused.err, /^error: PARTICIPANT_CONFIGURED: /);
});
