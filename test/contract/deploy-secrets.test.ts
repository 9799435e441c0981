import { execFile } from 'node:child_process';
import { chmod, cp, mkdtemp, readdir, readFile, rm, stat, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import anyTest, { type TestFn } from 'ava';
import { migrateUp } from '#libs/postgres/migrate.ts';
import { appRoleOf } from '#libs/postgres/provision.ts';
import { incidentMigrations } from '#services/incident/adapters/postgres/migrations/index.ts';
import { jobMigrations } from '#services/job/adapters/postgres/migrations/index.ts';
import { retentionMigrations } from '#services/retention/adapters/postgres/migrations/index.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { environmentOf, readBase, workloadsOf } from '#test/support/manifests.ts';
import { queryOnce, startTestPostgres, type TestPostgres } from '#test/support/postgres.ts';
import { readReadmes } from '#test/support/readmes.ts';

const exec = promisify(execFile);
const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const MIGRATIONS = {
  run: runMigrations,
  job: jobMigrations,
  incident: incidentMigrations,
  retention: retentionMigrations,
};

const test = anyTest as TestFn<{ folder: string; postgres: TestPostgres; calls: readonly string[][] }>;

// The README's commands in a folder of their own, with a kubectl that only writes down how it is called.
test.before(async (t) => {
  const postgres = await startTestPostgres();
  const folder = await mkdtemp(join(tmpdir(), 'lethe-test-secrets-'));
  await chmod(folder, 0o700);
  for (const name of ['deploy', 'libs', 'package.json']) {
    await cp(join(REPOSITORY, name), join(folder, name), { recursive: true });
  }
  await symlink(join(REPOSITORY, 'node_modules'), join(folder, 'node_modules'));
  const readme = await readReadmes();
  const [, script = 'false'] =
    /<!-- tested by test\/contract\/deploy-secrets\S+ -->\n```sh\n([\s\S]*?)```/.exec(readme) ?? [];
  const { stdout } = await exec('bash', ['-euc', `kubectl() { printf '%s\\t' "$@"; echo; }\n${script}`], {
    cwd: folder,
    env: {
      ...process.env,
      NAMESPACE: 'lethe',
      SUPERUSER_URL: postgres.url,
      AWS_ACCESS_KEY_ID: 'id',
      AWS_SECRET_ACCESS_KEY: 'secret',
    },
  });
  const calls = stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.split('\t').slice(0, -1));
  Object.assign(t.context, { folder, postgres, calls });
});

test.after.always(async (t) => {
  await t.context.postgres?.stop();
  await rm(t.context.folder, { recursive: true, force: true });
});

test("the README's commands make every secret that the manifests refer to, and no other", async (t) => {
  const made = t.context.calls.flatMap((call) => {
    const name = call[call[3] === 'configmap' ? 4 : 5] ?? '';
    return call.flatMap((word) => {
      const [, key] = /^--from-(?:file|literal)=([\w.-]+)=/.exec(word) ?? [];
      return key === undefined ? [] : [`${name}/${key}`];
    });
  });
  const wanted = new Set<string>();
  const manifests = await readBase();
  for (const workload of workloadsOf(manifests)) {
    const own = { ...workload, container: { ...workload.container, envFrom: [] } };
    const env = environmentOf(manifests, own, (source) => source);
    for (const source of Object.values(env)) if (source.startsWith('secret/')) wanted.add(source.slice(7));
    for (const { secret, configMap } of workload.pod.volumes ?? []) {
      if (secret) wanted.add(`${secret.secretName}/${secret.items?.[0]?.key ?? 'key.json'}`);
      if (configMap) wanted.add(`${configMap.name}/trust.json`);
    }
  }
  t.deepEqual(made.sort(), [...wanted].sort());
});

test('every file that they name is there, and what is secret is for its owner alone', async (t) => {
  const { folder, calls } = t.context;
  for (const word of calls.flat()) {
    const [, path] = /^--from-file=[\w.-]+=(.+)$/.exec(word) ?? [];
    if (path) t.true((await stat(join(folder, path))).size > 0, path);
  }
  for (const name of await readdir(join(folder, 'secrets'))) {
    const { mode } = await stat(join(folder, 'secrets', name));
    if (!['trust.json', 'run.jwks.json', 'retention.jwks.json'].includes(name)) t.is(mode & 0o077, 0, name);
  }
});

test('the databases are such that the owner can migrate and the app can only work', async (t) => {
  const { folder } = t.context;
  for (const [service, migrations] of Object.entries(MIGRATIONS)) {
    const [ownerUrl, appUrl] = await Promise.all(
      ['-database-owner', '-database'].map((suffix) =>
        readFile(join(folder, `secrets/${service}${suffix}.url`), 'utf8'),
      ),
    );
    if (!ownerUrl || !appUrl) return t.fail();
    await migrateUp({ ownerUrl, appRole: appRoleOf(`lethe_${service}`), migrations });
    t.is((await queryOnce(appUrl, 'select name from lethe_migrations')).length, migrations.length);
    await t.throwsAsync(queryOnce(appUrl, 'create table x ()'), { message: /permission denied/ });
  }
});

// What Citus asks of a table that is distributed by tenant_id, and what keeps a tenant's rows together anyway.
const KEYS_WITHOUT_TENANT = `select i.indexrelid::regclass::text as key from pg_index i
  join pg_class c on c.oid = i.indrelid and c.relnamespace = 'public'::regnamespace
  join pg_attribute t on t.attrelid = c.oid and t.attname = 'tenant_id'
  where i.indisunique and i.indkey[0] <> t.attnum`;

test("tenant_id leads every key of a tenant's table", async (t) => {
  for (const migrations of Object.values(MIGRATIONS)) {
    const { query } = await t.context.postgres.createDatabase(migrations);
    t.deepEqual(await query(KEYS_WITHOUT_TENANT), []);
  }
});

test('what was made once is not made anew over it', async (t) => {
  const { folder, postgres } = t.context;
  for (const args of [
    ['deploy/make-keys.ts', 'secrets'],
    ['deploy/make-databases.ts', 'secrets', postgres.url],
  ]) {
    await t.throwsAsync(exec(process.execPath, args, { cwd: folder }), { message: /EEXIST/ });
  }
});
