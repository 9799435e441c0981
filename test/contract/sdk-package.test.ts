import { execFile } from 'node:child_process';
import { copyFile, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { builtinModules } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { hasProgram, testIfFound } from '#test/support/require.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const run = promisify(execFile);
interface Context {
  stack: TestStack;
  project: string;
  sdk: string;
  /** What is compiled, and run one after the other. */
  files: string[];
}
const test = anyTest as TestFn<Context>;

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const README = fileURLToPath(new URL('../../libs/sdk/README.md', import.meta.url));
const CONSUMER = fileURLToPath(new URL('../support/sdk-consumer/consumer.ts', import.meta.url));
// What the package may need: the protocol and what the command line prints with. No database, store or server.
const DEPENDENCIES = [
  '@bomb.sh/tab',
  '@bufbuild/protobuf',
  '@connectrpc/connect',
  '@grpc/grpc-js',
  '@inquirer/prompts',
  'cli-progress',
  'cli-table3',
  'commander',
  'env-paths',
  'fast-string-width',
  'fast-wrap-ansi',
  'jose',
  'yaml',
];
const COMPILER_OPTIONS = {
  target: 'es2024',
  lib: ['es2024', 'esnext.array', 'dom'],
  module: 'nodenext',
  types: ['node'],
  strict: true,
  exactOptionalPropertyTypes: true,
  outDir: 'out',
};

/** An example with the addresses of a stack. */
const here = (code: string, { addresses }: TestStack): string =>
  code.replaceAll('127.0.0.1:7401', addresses.run).replaceAll('127.0.0.1:7402', addresses.job);

const packageOf = (specifier: string): string =>
  specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');

test.before(async (t) => {
  const project = await mkdtemp(join(tmpdir(), 'lethe-sdk-consumer-'));
  Object.assign(t.context, { project, sdk: join(project, 'node_modules/@lethe/sdk') });
  await run('npm', ['run', 'pack:sdk'], { cwd: ROOT });
  const { version } = JSON.parse(await readFile(join(ROOT, 'libs/sdk/package.json'), 'utf8'));
  const tarball = join(ROOT, `libs/sdk/dist/lethe-sdk-${version}.tgz`);
  await writeFile(join(project, 'package.json'), JSON.stringify({ name: 'consumer', private: true, type: 'module' }));
  const flags = ['--prefer-offline', '--no-audit', '--no-fund', '--ignore-scripts'];
  const { devDependencies } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8'));
  const types = `@types/node@${devDependencies['@types/node']}`;
  [t.context.stack] = await Promise.all([
    startTestStack(),
    run('npm', ['install', ...flags, tarball, types, 'typescript@5.9.3'], { cwd: project }),
  ]);
  await copyFile(CONSUMER, join(project, 'consumer.ts'));
  const examples = [...(await readFile(README, 'utf8')).matchAll(/```ts\n(.*?)```/gs)].map(([, code = '']) => code);
  t.context.files = ['consumer.ts', ...examples.map((_, index) => `example-${index}.ts`)];
  await Promise.all(
    examples.map((code, index) => writeFile(join(project, `example-${index}.ts`), here(code, t.context.stack))),
  );
  await writeFile(
    join(project, 'tsconfig.json'),
    JSON.stringify({ compilerOptions: COMPILER_OPTIONS, files: t.context.files }),
  );
});
test.after.always(async (t) => {
  await t.context.stack?.dispose();
  await rm(t.context.project, { recursive: true, force: true });
});

test.serial('a project that installed the package type-checks with TypeScript 5.9 and 7', async (t) => {
  const { project } = t.context;
  const tsc = (of: string, ...args: string[]) =>
    run(process.execPath, [join(of, 'node_modules/typescript/bin/tsc'), ...args], { cwd: project });
  await t.notThrowsAsync(tsc(ROOT, '--noEmit'));
  await t.notThrowsAsync(tsc(project));
});

const works = async (t: ExecutionContext<Context>, node: string, tenantId: string): Promise<void> => {
  const { stack, project, files } = t.context;
  const [addresses, tenant, platform] = [
    stack.addresses,
    await stack.token({ role: 'owner', tenantId }),
    await stack.token({ role: 'platform' }),
  ];
  const env = {
    PATH: process.env['PATH'],
    LETHE_TOKEN: tenant,
    PLATFORM_TOKEN: platform,
    LETHE_RUN_ADDRESS: addresses.run,
    LETHE_JOB_ADDRESS: addresses.job,
    LETHE_INCIDENT_ADDRESS: addresses.incident,
    LETHE_RETENTION_ADDRESS: addresses.retention,
  };
  for (const file of files) {
    const { stdout } = await run(node, [`out/${file.replace('.ts', '.js')}`], { cwd: project, env });
    t.regex(stdout, /^done\n$|^$|^[-0-9a-f]{36} waits\n$/, file);
  }
};

test.serial('what it compiled, the examples of the README included, does its work in all services', (t) =>
  works(t, process.execPath, 'sdk-consumer'),
);

testIfFound(test.serial, hasProgram('node22'), 'node22, Node 22', 'it does so on Node 22', (t) =>
  works(t, 'node22', 'sdk-consumer-22'),
);

test('the package depends on the protocol and the terminal, and on no server', async (t) => {
  const { sdk } = t.context;
  const described = JSON.parse(await readFile(join(sdk, 'package.json'), 'utf8'));
  t.deepEqual(Object.keys(described.dependencies), DEPENDENCIES);
  const { dependencies: used } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8'));
  for (const [name, range] of Object.entries(described.dependencies)) t.is(range, `^${used[name]}`, name);
  const names = (await readdir(join(sdk, 'dist'))).filter((name) => /\.(js|d\.ts)$/.test(name));
  const imported = new Set<string>();
  for (const name of names) {
    const text = await readFile(join(sdk, 'dist', name), 'utf8');
    t.notRegex(text, /\bTemporal\b|["']#(libs|gen)\//, `${name} runs on Node 22, outside of the repository`);
    for (const [, specifier = ''] of text.matchAll(/\bfrom "([^".][^"]*)"/g)) imported.add(packageOf(specifier));
  }
  for (const name of imported) {
    t.true(name.startsWith('node:') || builtinModules.includes(name) || DEPENDENCIES.includes(name), name);
  }
});

test('publint and attw find nothing wrong with the package', async (t) => {
  const { sdk } = t.context;
  const inRoot = (program: string, ...args: string[]) =>
    run(process.execPath, [join(ROOT, 'node_modules', program), ...args], { cwd: sdk });
  await t.notThrowsAsync(inRoot('publint/src/cli.js', '--strict', sdk));
  await t.notThrowsAsync(inRoot('@arethetypeswrong/cli/dist/index.js', '--pack', sdk, '--profile', 'esm-only'));
});

test('lethe runs from the package in any folder', async (t) => {
  const { stack, project } = t.context;
  const bin = join(project, 'node_modules/.bin/lethe');
  const env = {
    ...process.env,
    LETHE_RUN_ADDRESS: stack.addresses.run,
    LETHE_TOKEN: await stack.token({ role: 'owner', tenantId: 'sdk-bin' }),
  };
  const lethe = (...args: string[]) => run(process.execPath, [bin, ...args], { cwd: tmpdir(), env });
  t.regex((await lethe('--version')).stdout, /^\d+\.\d+\.\d+\n$/);
  t.regex((await lethe('--help')).stdout, /^Usage: lethe /);
  t.is((await lethe('--json', 'runs', 'list')).stdout, '[]\n');
  const error = await t.throwsAsync<Error & { stderr: string }>(lethe('owner', 'check', 'mail.yaml'));
  t.regex(error?.stderr ?? '', /^error: USAGE: .*no database driver/);
});
