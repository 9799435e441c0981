import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { newId } from '#libs/kernel/id.ts';
import { type CommandLine, makeCommandLine, parsedLine } from '#test/support/command-line.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; lethe: CommandLine }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['run'], foreignParticipants: { nobody: '127.0.0.1:1' } });
  t.context.lethe = await makeCommandLine(t.context.stack);
});
test.after.always((t) => t.context.stack?.dispose());

const hoursAgo = (hours: number): string =>
  Temporal.Now.instant()
    .subtract({ milliseconds: Math.round(hours * 3_600_000) })
    .toString();
async function* bytesOf(...texts: string[]) {
  for (const text of texts) yield Buffer.from(text);
}

test('executions are recorded from a file, listed by filter and counted by day', async (t) => {
  const { lethe, stack } = t.context;
  const as = ['--tenant', 'history'];
  const lines = Array.from({ length: 2_500 }, (_, n) =>
    JSON.stringify({
      id: newId(),
      workflow: n % 2 ? 'sync' : 'report',
      status: n % 100 ? 'success' : 'error',
      startTime: hoursAgo(1 + n / 1_000),
    }),
  );
  const file = join(stack.folder, 'executions.ndjson');
  await writeFile(file, `${lines.join('\n')}\n\n`);
  const recorded = await lethe(...as, 'executions', 'record', file);
  t.deepEqual([recorded.code, recorded.out], [0, '2500 created, 0 updated, 0 expired'], recorded.err);
  const again = await lethe('--json', ...as, 'executions', 'record', file);
  t.deepEqual(parsedLine(again.out), { created: 0, updated: 0, expired: 0 });

  const errors = await lethe('--json', ...as, 'executions', 'list', '--status', 'error', '--workflow', 'report');
  t.is(parsedLine(errors.out).length, 25);
  const some = await lethe(...as, 'executions', 'list', '--limit', '3');
  t.is(some.out.split('\n').length, 4);
  t.regex(some.out, / ENDED +error +report /);
  t.is(parsedLine((await lethe('--json', ...as, 'executions', 'list', '--since', hoursAgo(0.5))).out).length, 0);
  const counts: { count: string }[] = parsedLine((await lethe('--json', ...as, 'executions', 'count')).out);
  t.is(
    counts.reduce((sum, { count }) => sum + Number(count), 0),
    2_500,
  );
  t.regex((await lethe(...as, 'executions', 'count', '--workflow', 'sync')).out, /^\d{4}-\d\d-\d\d +ENDED +\d+$/m);
});

test('standard input is recorded line by line, wherever its bytes are parted, and states go by their short names', async (t) => {
  const { lethe } = t.context;
  const line = JSON.stringify({ workflow: 'größer', state: 'RUNNING', startTime: hoursAgo(1) });
  const bytes = Buffer.from(`${line}\n${line}`);
  const middle = bytes.indexOf(Buffer.from('ö')) + 1;
  const input = (async function* () {
    yield bytes.subarray(0, middle);
    yield bytes.subarray(middle);
  })();
  const outcome = await lethe.with({ input })('--tenant', 'piped', 'executions', 'record', '-');
  t.deepEqual([outcome.code, outcome.out], [0, '2 created, 0 updated, 0 expired'], outcome.err);
  const listed = await lethe('--tenant', 'piped', 'executions', 'list', '--state', 'running');
  t.is(listed.out.match(/größer/g)?.length, 2);
});

test('a line that is no execution is named and not shown; what went before it is told', async (t) => {
  const { lethe } = t.context;
  const record = (...texts: string[]) =>
    lethe.with({ input: bytesOf(...texts) })('--tenant', 'bad', 'executions', 'record', '-');
  const first = await record('{"workflow": "a"}\nsecret\n');
  t.deepEqual([first.code, first.err], [2, 'error: USAGE: line 2 is no execution as a JSON object']);
  t.is((await record('{"workflow": "a", "nobody": 1}\n')).code, 2);
  t.is((await lethe('--tenant', 'bad', 'executions', 'list')).out.split('\n').length, 1);
  const many = Array.from({ length: 1_500 }, () => JSON.stringify({ id: newId(), workflow: 'a' })).join('\n');
  const part = await record(`${many}\n[]\n`);
  t.deepEqual([part.code, part.out], [3, '1000 created, 0 updated, 0 expired']);
  const refused = await record('{"workflow": ""}\n');
  t.deepEqual([refused.code, /FIELD_INVALID: executions\[0\]\.workflow is required/.test(refused.err)], [1, true]);
  t.is((await lethe('--tenant', 'bad', 'executions', 'record', '/nowhere')).code, 2);
  t.is((await lethe('--tenant', 'bad', 'executions', 'count', '--from', 'monday')).code, 1);
});
