import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, mkdir, mkdtemp, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { promisify } from 'node:util';
import anyTest, { type TestFn } from 'ava';
import type { Command } from 'commander';
import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import { makeProgram } from '#libs/cli/make-program.ts';
import { newId } from '#libs/kernel/id.ts';
import { type CommandLine, makeCommandLine, parsedLine } from '#test/support/command-line.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { bundleOf } from '#test/support/programs.ts';
import { startOnTerminal } from '#test/support/pseudo-terminal.ts';
import { hasProgram, testIfFound } from '#test/support/require.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; lethe: CommandLine }>;

const PROGRAM = await bundleOf('libs/cli/lethe.ts');
const run = promisify(execFile);

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['run', 'job', 'retention', 'incident'] });
  t.context.lethe = await makeCommandLine(t.context.stack);
});
test.after.always((t) => t.context.stack?.dispose());

/** What is listed for a whole installation, and not for the tenant that acts. */
const OF_PLATFORM = new Set(['plans', 'tenants', 'purges', 'subjects', 'participants', 'profiles']);

const quietTerminal = { env: {}, configFolder: '/nowhere', out: () => undefined, err: () => undefined } as never;

/** The names of what has a verb `list`. */
const listsOf = (program: Command): string[] =>
  program.commands.filter(({ commands }) => commands.some((verb) => verb.name() === 'list')).map((each) => each.name());

const profileOf = ({ folder }: TestStack): string[] => ['--profile', join(folder, 'cli.json')];

/** Of all that can be set on a terminal, what a program that is interrupted must not leave set. */
function assertLeftAsItWas(t: { false(value: boolean, message?: string): void }, shown: string): void {
  for (const [name, set, reset] of [
    ['a hidden cursor', '\x1b[?25l', '\x1b[?25h'],
    ['lines that do not wrap', '\x1b[?7l', '\x1b[?7h'],
  ] as const) {
    t.false(shown.lastIndexOf(set) > shown.lastIndexOf(reset), `${name} is left behind`);
  }
}

for (const [what, args] of [
  ['the watch of a run', (id: string) => ['runs', 'watch', id]],
  ['the watch of a job', (_: string, job: string) => ['jobs', 'watch', job]],
] as const) {
  testIfFound(
    test,
    hasProgram('python3'),
    'python3',
    `Ctrl-C ends ${what} with 130, says how to go on, and leaves the terminal as it was`,
    async (t) => {
      const { stack, lethe } = t.context;
      const as = ['--tenant', 'interrupts'];
      const id = (await lethe(...as, 'runs', 'create', 'review')).out;
      const job = (await lethe(...as, 'jobs', 'create')).out;
      const command = [PROGRAM, ...profileOf(stack), ...as, ...args(id, job)];
      const terminal = startOnTerminal(80, process.execPath, command);
      await terminal.shows(/RUNNING|PENDING/);
      terminal.type('\x03');
      t.is(await terminal.ended, 130, terminal.shown());
      t.regex(terminal.shown(), /interrupted\. The (run|job) goes on: `lethe (runs watch|jobs cancel)/);
      assertLeftAsItWas(t, terminal.shown());
      const { run: left } = await stack.clients({ tenantId: 'interrupts', role: 'viewer' }).runs.getRun({ runId: id });
      t.is(left?.state, RunState.RUNNING, 'nothing was cancelled');
    },
  );
}

testIfFound(
  test,
  hasProgram('python3'),
  'python3',
  'a question is asked on a terminal, and Ctrl-C is a no',
  async (t) => {
    const { stack, lethe } = t.context;
    const as = ['--tenant', 'asked'];
    const job = (await lethe(...as, 'jobs', 'create')).out;
    await lethe(...as, 'jobs', 'cancel', job);
    const command = [PROGRAM, ...profileOf(stack), ...as, 'jobs', 'delete', job];
    const refused = startOnTerminal(80, process.execPath, command);
    await refused.shows('to go on:');
    refused.type('\x03');
    t.is(await refused.ended, 2, refused.shown());
    assertLeftAsItWas(t, refused.shown());
    t.is((await lethe(...as, 'jobs', 'get', job)).code, 0);
    const meant = startOnTerminal(80, process.execPath, command);
    await meant.shows('to go on:');
    meant.type(`${job}\r`);
    t.is(await meant.ended, 0, meant.shown());
    t.is((await lethe(...as, 'jobs', 'get', job)).code, 1);
  },
);

testIfFound(
  test,
  hasProgram('python3'),
  'python3',
  'bash completes a command, a verb, an option and a value by Tab, and evaluates nothing that was typed',
  async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'lethe-test-completion-'));
    t.teardown(() => rm(folder, { recursive: true, force: true }));
    const start = join(folder, 'rc');
    const own = `lethe() { '${process.execPath}' '${PROGRAM}' "$@"; }`;
    // Read in twice, as a new shell in a shell does.
    const source = 'source <(lethe completion bash)';
    await writeFile(start, `${own}\n${source}\n${source}\nPS1='ready> '\nbind 'set bell-style none'\n`);
    const shell = startOnTerminal(200, '/bin/bash', ['--noprofile', '--rcfile', start, '-i']);
    // Ctrl-U clears the line; Ctrl-C would also drop what is typed after it.
    t.teardown(async () => {
      shell.type('\x15exit\r');
      await shell.ended;
    });
    await shell.shows('ready> ');
    t.notRegex(shell.shown(), /readonly|error|not found/);
    for (const [typed, shown] of [
      ['lethe deleti\t', 'lethe deletions '],
      ['redr\t', 'redrive '],
      ['--rea\t', '--reason '],
      ['\x15lethe deletions list --state STU\t', '--state STUCK '],
      ['--state=CASC\t', '--state=CASCADING '],
      ['\x15lethe --tenant acme jobs can\t', 'jobs cancel '],
      ['\x15lethe --output js\t', '--output json '],
      [`\x15lethe jobs get "$(touch ${folder}/evaluated)" --sh\t`, '--show-deleted '],
    ] as const) {
      const before = shell.shown().length;
      shell.type(typed);
      await until(`${JSON.stringify(typed)} is completed`, async () => shell.shown().slice(before).includes(shown));
    }
    await t.throwsAsync(access(join(folder, 'evaluated')), { code: 'ENOENT' });
  },
);

test('every wait is ended by Ctrl-C at once, with 130 and what goes on', async (t) => {
  const { stack, lethe } = t.context;
  const as = ['--tenant', 'waits'];
  const ask = async (...args: string[]): Promise<string> => (await lethe(...as, ...args)).out;
  const newRun = async (workflow = 'review') => {
    const runId = await ask('runs', 'create', workflow);
    const jobId = await ask('jobs', 'create', '--run', runId);
    await ask('jobs', 'cancel', jobId);
    await ask('runs', 'finish', runId, '--state', 'COMPLETED');
    return runId;
  };
  const id = await ask('runs', 'create', 'review');
  const job = await ask('jobs', 'create');
  const held = await ask('jobs', 'create');
  await ask('jobs', 'cancel', held);
  const purged = await newRun();
  await newRun('bulk');
  for (const tenant of ['waits', 'waits-too']) await lethe('plans', 'set', 'PRO', '--of', tenant);
  // Nothing ends: purges by age are stopped, and no job of the tenant goes.
  await queryOnce(
    stack.superuserUrl('job'),
    `create function hold() returns trigger language plpgsql as $$ begin raise 'held'; end $$;
     create trigger hold before delete on jobs for each row when (old.tenant_id = 'waits') execute function hold()`,
  );
  await lethe('stop', '--reason', 'the test');
  const begun = await lethe('--json', 'purge', '--of', 'waits');
  const purge = parsedLine(begun.out.split('\n').at(-1) ?? '').id;
  const ofBulk = ['runs', 'purge', '--all-matching', '--workflow', 'bulk', '--reason', 'x'];
  const bulkId = parsedLine(await ask('--json', ...ofBulk, '--yes')).id;
  const forever = async function* () {
    yield Buffer.from('a');
    await new Promise(() => undefined);
  };
  for (const [args, shown, advice] of [
    [[...as, 'runs', 'watch', id], /RUNNING/, `lethe runs cancel ${id}`],
    [[...as, 'jobs', 'watch', job], /PENDING/, `lethe jobs cancel ${job}`],
    [['purge', '--of', 'waits-too', '--wait', '--yes'], /This purge waits/, 'lethe purges watch'],
    [['purges', 'watch', purge], /0\/1/, `lethe purges get ${purge}`],
    [[...as, 'jobs', 'upload', job, '-', '--name', 'a'], /1\/1 bytes/, ''],
    [[...as, 'jobs', 'delete', held, '--yes'], /deleting/, `lethe deletions list --target ${held}`],
    [[...as, 'runs', 'purge', purged, '--reason', 'x', '--yes', '--wait'], /CASCADING/, 'lethe deletions watch'],
    [[...as, 'bulk', 'watch', bulkId], /0\/1/, `lethe bulk cancel ${bulkId}`],
  ] as const) {
    const waiting = lethe.with({ interruptOn: shown, input: forever(), typing: [] });
    const { code, err, screen } = await waiting(...args);
    t.is(code, 130, `${args.join(' ')}: ${err}`);
    t.true(err.includes('interrupted') && err.includes(advice), err);
    assertLeftAsItWas(t, screen);
  }
  const [deletion] = parsedLine(await ask('--json', 'deletions', 'list', '--target', purged));
  const watching = lethe.with({ interruptOn: /CASCADING/, typing: [] });
  const watched = await watching(...as, 'deletions', 'watch', deletion.id);
  t.deepEqual([watched.code, watched.err.includes(`lethe deletions watch ${deletion.id}`)], [130, true], watched.err);
  t.is((await lethe('resume', '--reason', 'the test')).code, 0);
  t.is((await lethe(...as, 'runs', 'get', id)).code, 0);
  t.is((await lethe(...as, 'deletions', 'get', deletion.id)).code, 0);
  await queryOnce(stack.superuserUrl('job'), 'drop trigger hold on jobs');
});

test('a reader that has seen enough is no error', async (t) => {
  const { stack, lethe } = t.context;
  const as = ['--tenant', 'heads'];
  for (let count = 0; count < 3; count += 1) await lethe(...as, 'jobs', 'create');
  const command = [process.execPath, PROGRAM, ...profileOf(stack), ...as, 'jobs', 'list', '--all'];
  const piped = `set -o pipefail; ${command.map((word) => `'${word}'`).join(' ')} | head -1`;
  const { stdout, stderr } = await run('bash', ['-c', piped]);
  t.regex(stdout, /^JOB +STATE/);
  t.is(stderr, '');
});

/** Runs a command whose output is read by nobody. */
async function unread(stack: TestStack, ...args: string[]): Promise<{ code: number | null; err: string }> {
  const child = spawn(process.execPath, [PROGRAM, ...profileOf(stack), ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  child.stdout.destroy();
  const [[code], err] = await Promise.all([once(child, 'exit'), text(child.stderr)]);
  return { code, err };
}

test('what changes something goes on to its own end and exit code when its reader has gone', async (t) => {
  const { stack, lethe } = t.context;
  const objectOf = (tenantId: string, name: string) =>
    join(stack.objectFolder, 'objects/tenants', tenantId, 'jobs', newId(), 'input', name);
  const loop = objectOf('unread-broken', 'z');
  await mkdir(dirname(loop), { recursive: true });
  await symlink('z', loop);
  await lethe('--tenant', 'unread-orphaned', 'jobs', 'create');
  const orphan = objectOf('unread-orphaned', 'a');
  await mkdir(dirname(orphan), { recursive: true });
  await writeFile(orphan, 'orphan');
  const old = new Date(Date.now() - 3 * 86_400_000);
  await utimes(orphan, old, old);
  const tenants = ['unread-broken', 'unread-orphaned'];
  const swept = await unread(stack, 'orphans', '--of', ...tenants, '--sweep', '--reason', 'monthly', '--yes');
  t.deepEqual(swept, { code: 3, err: '' });
  await t.throwsAsync(stat(orphan), { code: 'ENOENT' });
});

test('what only shows something ends as done when its reader has gone', async (t) => {
  const { stack, lethe } = t.context;
  const as = ['--tenant', 'unread'];
  const job = (await lethe(...as, 'jobs', 'create')).out;
  const sound = async function* () {
    for (let part = 0; part < 64; part += 1) yield Buffer.alloc(65_536, part);
  };
  const uploaded = await lethe.with({ input: sound() })(
    ...as,
    'jobs',
    'upload',
    job,
    '-',
    '--kind',
    'INPUT',
    '--name',
    'call.wav',
  );
  t.is(uploaded.code, 0, uploaded.err);
  for (const args of [
    ['jobs', 'watch', job],
    ['jobs', 'download', job, 'call.wav', '--kind', 'INPUT', '--out', '-'],
    ['jobs', 'list', '--all'],
  ]) {
    t.deepEqual(await unread(stack, ...as, ...args), { code: 0, err: '' }, args.join(' '));
  }
});

testIfFound(
  test,
  hasProgram('tmux'),
  'tmux',
  'a terminal of 80 columns shows whole tables, and no id is cut',
  async (t) => {
    const { stack, lethe } = t.context;
    const as = ['--tenant', 'narrow'];
    const job = (await lethe(...as, 'jobs', 'create', '--name', 'a call with a long name, as people give them')).out;
    const runId = (await lethe(...as, 'runs', 'create', 'review', '--name', 'another long name, as people give them'))
      .out;
    await lethe(...as, 'runs', 'finish', runId, '--state', 'FAILED', '--error', 'the store did not answer for long');
    await lethe(...as, 'runs', 'delete', runId, '--reason', 'it was created by mistake and nobody wants it');
    const deletion = parsedLine((await lethe(...as, '--json', 'deletions', 'list')).out)[0].id;
    const folder = await mkdtemp(join(tmpdir(), 'lethe-test-tmux-'));
    const socket = join(folder, 'socket');
    const tmux = (...args: string[]) => run('tmux', ['-S', socket, '-f', '/dev/null', ...args]);
    t.teardown(async () => {
      await tmux('kill-server').catch(() => undefined);
      await rm(folder, { recursive: true, force: true });
    });
    // A server without a session ends itself, also while it is asked for the next one.
    await tmux('new-session', '-d', '-s', 'stays', 'cat');
    // Something to list where one command makes it; the lists of the rest are headings.
    await lethe(...as, 'environments', 'create', 'the production environment of the whole company, in the north');
    const shown: Readonly<Record<string, readonly string[]>> = { jobs: [job], deletions: [deletion, runId] };
    const lists = listsOf(makeProgram(quietTerminal, async () => undefined)).map(
      (of) => [[...(OF_PLATFORM.has(of) ? [] : as), of, 'list'], shown[of] ?? []] as const,
    );
    t.true(lists.length > 14, 'every list that there is');
    for (const [args, ids] of [
      ...lists,
      [[...as, 'runs', 'list', '--show-deleted'], [runId]],
      [
        [...as, 'deletions', 'get', deletion],
        [deletion, runId],
      ],
      [[...as, 'audit'], [runId]],
      [['plans', 'list', '--help'], []],
      [['plans', 'history', 'PRO'], []],
      [['tenants', 'unplanned'], []],
      [['doctor'], []],
    ] as const) {
      const script = join(folder, 'script.sh');
      const command = [process.execPath, PROGRAM, ...profileOf(stack), ...args];
      await writeFile(script, `${command.map((word) => `'${word}'`).join(' ')}\necho the end\ncat\n`);
      await tmux('new-session', '-d', '-x', '80', '-y', '400', '-s', 'narrow', `sh ${script}`);
      let screen = '';
      await until(`tmux shows ${args.join(' ')}`, async () => {
        screen = (await tmux('capture-pane', '-p', '-t', 'narrow')).stdout;
        return screen.includes('the end');
      });
      const unwrapped = (await tmux('capture-pane', '-p', '-J', '-t', 'narrow')).stdout;
      const lines = (text: string) => text.split('\n').map((line) => line.trimEnd());
      t.deepEqual(lines(screen), lines(unwrapped), `${args.join(' ')}: no line is wrapped by the terminal`);
      t.notRegex(screen, /^error:/m, args.join(' '));
      for (const id of ids) t.true(screen.includes(id), `${args.join(' ')} shows ${id}\n${screen}`);
      await tmux('kill-session', '-t', 'narrow');
    }
  },
);
