import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import anyTest, { type TestFn } from 'ava';
import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import { type CommandLine, makeCommandLine, parsedLine } from '#test/support/command-line.ts';
import { startOnTerminal } from '#test/support/pseudo-terminal.ts';
import { hasProgram, testIfFound } from '#test/support/require.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; lethe: CommandLine }>;

const PROGRAM = fileURLToPath(new URL('../../libs/cli/lethe.ts', import.meta.url));
const run = promisify(execFile);

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['run', 'job', 'retention', 'incident'] });
  t.context.lethe = await makeCommandLine(t.context.stack);
});
test.after.always((t) => t.context.stack?.dispose());

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

test('every wait is ended by Ctrl-C at once, with 130 and what goes on', async (t) => {
  const { lethe } = t.context;
  const as = ['--tenant', 'waits'];
  const id = (await lethe(...as, 'runs', 'create', 'review')).out;
  const job = (await lethe(...as, 'jobs', 'create')).out;
  await lethe('plans', 'set', 'PRO', '--of', 'waits');
  await lethe('stop', '--reason', 'the test');
  const begun = await lethe('--json', 'purge', '--of', 'waits');
  const purge = parsedLine(begun.out.split('\n').at(-1) ?? '').id;
  const forever = async function* () {
    yield Buffer.from('a');
    await new Promise(() => undefined);
  };
  for (const [args, shown, advice] of [
    [[...as, 'runs', 'watch', id], /RUNNING/, `lethe runs cancel ${id}`],
    [[...as, 'jobs', 'watch', job], /PENDING/, `lethe jobs cancel ${job}`],
    [['purge', '--of', 'waits', '--wait', '--yes'], /This purge waits/, 'lethe purges watch'],
    [['purges', 'watch', purge], /0\/1/, `lethe purges get ${purge}`],
    [[...as, 'jobs', 'upload', job, '-', '--name', 'a'], /1\/1 bytes/, ''],
  ] as const) {
    const waiting = lethe.with({ interruptOn: shown, input: forever(), typing: [] });
    const { code, err } = await waiting(...args);
    t.is(code, 130, `${args.join(' ')}: ${err}`);
    t.true(err.includes('interrupted') && err.includes(advice), err);
  }
  t.is((await lethe('resume', '--reason', 'the test')).code, 0);
  t.is((await lethe(...as, 'runs', 'get', id)).code, 0);
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
    for (const [args, ids] of [
      [[...as, 'jobs', 'list'], [job]],
      [[...as, 'runs', 'list', '--show-deleted'], [runId]],
      [
        [...as, 'deletions', 'list'],
        [deletion, runId],
      ],
      [
        [...as, 'deletions', 'get', deletion],
        [deletion, runId],
      ],
      [[...as, 'audit'], [runId]],
      [['plans', 'list'], []],
      [['plans', 'list', '--help'], []],
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
      for (const id of ids) t.true(screen.includes(id), `${args.join(' ')} shows ${id}\n${screen}`);
      await tmux('kill-session', '-t', 'narrow');
    }
  },
);
