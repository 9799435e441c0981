import { mkdir, readFile, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { JobState } from '#gen/lethe/job/v1/job_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { type CommandLine, makeCommandLine, parsedLine } from '#test/support/command-line.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { readReadmes } from '#test/support/readmes.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; lethe: CommandLine }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({
    services: ['job'],
    env: { LETHE_DELETION_ATTEMPTS: '2', LETHE_DELETION_BACKOFF_MS: '50', LETHE_POLL_MS: '50' },
  });
  t.context.lethe = await makeCommandLine(t.context.stack);
});
test.after.always((t) => t.context.stack?.dispose());

const inputOf = (stack: TestStack, tenantId: string, jobId: string, name: string): string =>
  join(stack.objectFolder, 'objects/tenants', tenantId, 'jobs', jobId, 'input', name);

async function* bytes(...parts: string[]) {
  for (const part of parts) yield Buffer.from(part);
}

test('an artifact goes up from a file or from standard input and comes down whole', async (t) => {
  const { lethe, stack } = t.context;
  const as = ['--tenant', 'files'];
  const { out: id } = await lethe(...as, 'jobs', 'create', '--name', 'call', '--task', 'split', 'transcribe');
  t.is(parsedLine((await lethe(...as, '--json', 'jobs', 'get', id)).out).tasks.length, 2);
  const file = join(stack.folder, 'call.wav');
  await writeFile(file, 'x'.repeat(600_000));
  const up = await lethe.with({ typing: [] })(...as, 'jobs', 'upload', id, file, '--content-type', 'audio/wav');
  t.deepEqual([up.code, up.out], [0, 'call.wav 600000 bytes'], up.err);
  t.regex(up.screen, /600000\/600000 bytes/);
  const piped = await lethe.with({ input: bytes('from ', 'a pipe') })(
    ...as,
    'jobs',
    'upload',
    id,
    '-',
    '--name',
    'piped',
  );
  t.is(piped.out, 'piped 11 bytes');

  const target = join(stack.folder, 'back.wav');
  const down = [...as, 'jobs', 'download', id, 'call.wav', '--kind', 'input', '--out', target];
  t.is((await lethe(...down)).code, 0);
  t.is(await readFile(target, 'utf8'), 'x'.repeat(600_000));
  const again = await lethe(...down);
  t.deepEqual([again.code, again.out], [2, ''], 'what is there is not replaced unasked');
  t.is((await lethe(...down, '--force')).code, 0);
  t.is((await lethe(...as, 'jobs', 'download', id, 'piped', '--kind', 'INPUT', '--out', '-')).out, 'from a pipe');

  const missing = join(stack.folder, 'missing.wav');
  const absent = await lethe(...as, 'jobs', 'download', id, 'no-such', '--kind', 'input', '--out', missing);
  t.is(absent.code, 1);
  t.regex(absent.err, /ARTIFACT_NOT_FOUND/);
  for (const left of [missing, `${missing}.part`]) await t.throwsAsync(stat(left), { code: 'ENOENT' });
});

test('an upload that the service refuses ends at once, with why', async (t) => {
  const { lethe } = t.context;
  const endless = async function* () {
    for (;;) yield Buffer.alloc(65_536);
  };
  const refused = await lethe.with({ input: endless() })(
    ...['--tenant', 'files', 'jobs', 'upload', newId(), '-', '--name', 'endless'],
  );
  t.is(refused.code, 1);
  t.regex(refused.err, /^error: JOB_NOT_FOUND: /);
  for (const args of [
    [newId(), '-'],
    [newId(), '/no/such/file'],
    [newId(), '-', '--name', 'x', '--kind', 'odd'],
  ]) {
    t.is((await lethe('--tenant', 'files', 'jobs', 'upload', ...args)).code, 2, args.join(' '));
  }
});

test('a watched job that fails is 1, and one that is cancelled or completed is 0', async (t) => {
  const { lethe, stack } = t.context;
  const { jobs } = stack.clients({ tenantId: 'watched', role: 'member' });
  for (const [state, name, code] of [
    [JobState.FAILED, 'JOB_STATE_FAILED', 1],
    [JobState.COMPLETED, 'JOB_STATE_COMPLETED', 0],
  ] as const) {
    const id = (await jobs.createJob({})).job?.id ?? '';
    const { leaseToken } = await jobs.claimJob({ workerId: 'w' });
    const watching = lethe('--tenant', 'watched', '--json', 'jobs', 'watch', id);
    await jobs.finishJob({ jobId: id, leaseToken, state, error: state === JobState.FAILED ? 'no speech' : '' });
    const watched = await watching;
    t.is(watched.code, code, watched.err);
    t.is(parsedLine(watched.out.split('\n').at(-1) ?? '').state, name);
  }
  const { out: cancelled } = await lethe('--tenant', 'watched', 'jobs', 'create');
  t.regex((await lethe('--tenant', 'watched', 'jobs', 'cancel', cancelled, '--reason', 'enough')).out, /CANCELLED/);
  t.is((await lethe('--tenant', 'watched', 'jobs', 'watch', cancelled)).code, 0);
  const ids = async (...args: string[]) =>
    parsedLine((await lethe('--tenant', 'watched', '--json', 'jobs', 'list', ...args)).out).length;
  t.deepEqual([await ids(), await ids('--state', 'FAILED'), await ids('--limit', '2')], [3, 1, 2]);
});

test('a job that cannot be deleted is 3, is found as STUCK, and goes when it is set going again', async (t) => {
  const { lethe, stack } = t.context;
  const as = ['--tenant', 'sticks'];
  const sql = (text: string) => queryOnce(stack.superuserUrl('job'), text);
  const { out: id } = await lethe(...as, 'jobs', 'create');
  await lethe(...as, 'jobs', 'cancel', id);
  await sql(`create function hold() returns trigger language plpgsql as $$ begin raise 'held'; end $$`);
  await sql(`create trigger hold before delete on jobs for each row when (old.id = '${id}') execute function hold()`);
  const deleted = await lethe(...as, '--json', 'jobs', 'delete', id, '--yes');
  t.is(deleted.code, 3, deleted.out);
  const { id: deletion, state } = parsedLine(deleted.out);
  t.is(state, 'DELETION_STATE_STUCK');
  t.regex((await lethe(...as, 'deletions', 'list', '--of', 'job', '--state', 'STUCK')).out, new RegExp(deletion));
  t.is((await lethe(...as, 'deletions', 'watch', deletion, '--of', 'job')).code, 3);
  await sql('drop trigger hold on jobs');
  t.is((await lethe(...as, 'deletions', 'redrive', deletion, '--of', 'job', '--reason', 'mended')).code, 0);
  t.is((await lethe(...as, 'deletions', 'watch', deletion, '--of', 'job')).code, 0);
  t.deepEqual(await sql(`select 1 from jobs where id = '${id}'`), []);
});

test('orphans are shown, and removed when the number of them is typed', async (t) => {
  const { lethe, stack } = t.context;
  await stack.clients({ tenantId: 'orphaned', role: 'member' }).jobs.createJob({});
  const file = inputOf(stack, 'orphaned', newId(), 'a');
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, 'orphan');
  const old = new Date(Date.now() - 3 * 86_400_000);
  await utimes(file, old, old);
  const sweep = ['orphans', '--of', 'orphaned'];
  const shown = await lethe(...sweep);
  t.is(shown.code, 0, shown.err);
  t.regex(shown.out, /^orphaned: 1 objects without a job, 0 jobs without objects$/m);
  t.is((await lethe(...sweep, '--min-age-hours', '100')).out.includes('orphaned: 1'), false);
  t.is((await lethe(...sweep, '--sweep')).code, 2, 'a reason is needed');
  t.is((await lethe(...sweep, '--sweep', '--reason', 'monthly')).code, 2, 'nobody is there to be asked');
  t.is((await lethe.with({ typing: ['2'] })(...sweep, '--sweep', '--reason', 'monthly')).code, 2);
  t.truthy(await stat(file));
  const swept = await lethe.with({ typing: ['1'] })(...sweep, '--sweep', '--reason', 'monthly');
  t.is(swept.code, 0, swept.err);
  t.regex(swept.out, /1 removed/);
  await t.throwsAsync(stat(file), { code: 'ENOENT' });
  const none = await lethe.with({ typing: [] })(...sweep, '--sweep', '--reason', 'monthly');
  t.deepEqual([none.code, none.asked], [0, []], 'where nothing would go nothing is asked');
});

test('a sweep that leaves a key of somebody else’s is 3, and names it', async (t) => {
  const { lethe, stack } = t.context;
  const { job } = await stack.clients({ tenantId: 'foreign', role: 'member' }).jobs.createJob({});
  const file = join(stack.objectFolder, 'objects/tenants/foreign/jobs', job?.id ?? '', 'readme');
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, 'mine');
  const old = new Date(Date.now() - 3 * 86_400_000);
  await utimes(file, old, old);
  const swept = await lethe('orphans', '--of', 'foreign', '--sweep', '--reason', 'monthly', '--yes');
  t.is(swept.code, 3, swept.err);
  t.regex(
    swept.out,
    /^foreign: 1 objects without a job, 0 removed, .*\n.*\n {2}not removed .*\/readme: FOREIGN_KEY: Lethe makes/m,
  );
  t.truthy(await stat(file));
});

test('a sweep that a tenant’s look-up fails in is 3, and says which', async (t) => {
  const { lethe, stack } = t.context;
  const loop = inputOf(stack, 'broken', newId(), 'z');
  await mkdir(dirname(loop), { recursive: true });
  await symlink('z', loop);
  const swept = await lethe('--json', 'orphans', '--of', 'broken', '--sweep', '--reason', 'monthly', '--yes');
  t.is(swept.code, 3);
  const lines = swept.out.split('\n').map(parsedLine);
  t.regex(lines[0].error, /DEPENDENCY_UNAVAILABLE/);
  t.is(lines.at(-1).progress, 'PROGRESS_PARTIAL');
});

test('what a worker or a stranger wrote cannot steer the terminal', async (t) => {
  const { lethe, stack } = t.context;
  const { jobs } = stack.clients({ tenantId: 'escapes', role: 'member' });
  await jobs.createJob({ displayName: 'two\nlines \u0085 and more' });
  const { out } = await lethe('--tenant', 'escapes', 'jobs', 'list');
  t.is(out.split('\n').length, 2);
  t.false(/[\u0080-\u009f]/.test(out));
  t.true(out.includes('two lines'));
});

test("the README's receipt is what a deletion of such a job prints", async (t) => {
  const { lethe } = t.context;
  const as = ['--tenant', 'receipts'];
  const job = (await lethe(...as, 'jobs', 'create')).out;
  const sound = async function* () {
    yield Buffer.from('sound'.repeat(1_000));
  };
  await lethe.with({ input: sound() })(...as, 'jobs', 'upload', job, '-', '--name', 'call.wav');
  await lethe(...as, 'jobs', 'cancel', job);
  const deleted = await lethe(...as, 'jobs', 'delete', job, '--reason', 'asked for', '--yes');
  const [, id = ''] = /^deletion (\S+)$/m.exec(deleted.out + deleted.err) ?? [];
  const printed = (await lethe.with({ columns: 100 })(...as, 'deletions', 'get', id)).out;
  const shown = /^```\n(DELETION [\s\S]*?)\n```$/m.exec(await readReadmes())?.[1] ?? '';
  const general = (text: string): string[] =>
    text
      .replaceAll(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, 'ID')
      .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME')
      .split('\n')
      .map((line) => line.trimEnd());
  t.deepEqual(general(shown), general(printed));
});
