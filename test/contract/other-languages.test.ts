import { execFile, spawnSync } from 'node:child_process';
import { cp, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { hasProgram, testIfFound } from '#test/support/require.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const run = promisify(execFile);
const test = anyTest as TestFn<{ stack: TestStack; folders: string[] }>;

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const CLIENTS = join(ROOT, 'test/support/other-languages');
const hasPython = spawnSync('python3', ['-c', 'import grpc, grpc_tools']).status === 0;
const hasGo = ['go', 'protoc-gen-go', 'protoc-gen-go-grpc'].every(hasProgram);

test.before(async (t) => {
  t.context.folders = [];
  if (hasPython || hasGo) t.context.stack = await startTestStack({ services: ['job'] });
});
test.after.always(async (t) => {
  await t.context.stack?.dispose();
  await Promise.all(t.context.folders.map((folder) => rm(folder, { recursive: true, force: true })));
});

/** Copies the client of a language, generates beside it by the README's command, and runs it. */
async function tryClient(
  t: ExecutionContext<{ stack: TestStack; folders: string[] }>,
  language: string,
  [program, ...args]: [string, ...string[]],
): Promise<string> {
  const { stack, folders } = t.context;
  const folder = await mkdtemp(join(tmpdir(), `lethe-client-${language}-`));
  folders.push(folder);
  await cp(join(CLIENTS, language.toLowerCase()), folder, { recursive: true });
  const readme = await readFile(join(ROOT, 'proto/README.md'), 'utf8');
  const [, command] = new RegExp(`^${language}, into .*?\`\`\`sh\n(.*?)\`\`\``, 'ms').exec(readme) ?? [];
  await run('bash', ['-euc', command ?? 'exit 1'], { cwd: ROOT, env: { ...process.env, OUT: folder } });
  const token = await stack.token({ tenantId: language.toLowerCase(), role: 'member' });
  const env = { ...process.env, LETHE_JOB_ADDRESS: stack.addresses.job, LETHE_TOKEN: token };
  return (await run(program, args, { cwd: folder, env })).stdout;
}

testIfFound(
  test,
  hasPython,
  'python3 with grpcio and grpcio-tools',
  'a client that Python generates by the README calls a service and reads the reason of a refusal',
  async (t) => {
    t.is(await tryClient(t, 'Python', ['python3', 'client.py']), 'from Python JOB_STATE_PENDING\nJOB_NOT_FOUND\n');
  },
);

testIfFound(
  test,
  hasGo,
  'go with protoc-gen-go and protoc-gen-go-grpc',
  'a client that Go generates by the README calls a service and reads the reason of a refusal',
  async (t) => {
    t.is(await tryClient(t, 'Go', ['go', 'run', '.']), 'from Go JOB_STATE_PENDING\nJOB_NOT_FOUND\n');
  },
);
