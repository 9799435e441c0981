import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { makeKeys } from '#deploy/make-keys.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { readSigningKey } from '#libs/auth/keys.ts';
import { signToken } from '#libs/auth/sign-token.ts';
import { connect } from '#libs/grpc/client.ts';
import { putPlan } from '#test/support/aged-data.ts';
import { commandOf, environmentOf, render, renderer, workloadNamed } from '#test/support/manifests.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { readReadmes } from '#test/support/readmes.ts';
import { hasProgram, testIfFound } from '#test/support/require.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const OLD_CHECKS = 25;
const CEILING_ROWS = 100;

interface Night {
  readonly child: ChildProcess;
  readonly ended: Promise<{ code: number | null; output: string }>;
}

interface Context {
  readonly stack: TestStack;
  /** Where `deploy/make-keys.ts` has made its keys; the stack trusts those of the CronJobs. */
  readonly keys: string;
  /** Runs the purge's container as it is written, against this stack. */
  night(uid?: string, env?: Readonly<Record<string, string>>): Night;
  /** Runs the container of any CronJob, with the key of that name. */
  cronJob(name: string, key: string, uid?: string, env?: Readonly<Record<string, string>>): Night;
}

const test = anyTest as TestFn<Context>;

test.before(async (t) => {
  if (!renderer) return;
  const stack = await startTestStack({
    services: ['run', 'job', 'incident', 'retention'],
    envOf: {
      retention: {
        LETHE_PURGE_ATTEMPTS: '2',
        LETHE_PURGE_BACKOFF_MS: '50',
        LETHE_PURGE_CEILING_ROWS: String(CEILING_ROWS),
      },
    },
  });
  // Where the image has its own.
  const bin = join(stack.folder, 'bin');
  await mkdir(bin);
  await symlink(join(REPOSITORY, 'libs/cli/lethe.ts'), join(bin, 'lethe'));
  const keys = join(stack.folder, 'made-keys');
  await makeKeys(keys);
  await trustAlso(stack, join(keys, 'trust.json'), CRON_JOBS);
  const manifests = await render('overlays/prod');
  const cronJob: Context['cronJob'] = (name, key, uid = randomUUID(), more = {}) => {
    const workload = workloadNamed(manifests, 'CronJob', name);
    const written = environmentOf(manifests, workload, (source) => {
      if (source === "field/metadata.labels['batch.kubernetes.io/controller-uid']") return uid;
      throw new Error(`${source} is not known here`);
    });
    const mapped: Readonly<Record<string, string>> = {
      'retention:7400': stack.addresses.retention,
      'job:7400': stack.addresses.job,
      '/etc/lethe/key/key.json': join(keys, `${key}.json`),
    };
    const given = Object.entries(written).map(([name, value]) => [name, mapped[value] ?? value]);
    const env = { ...Object.fromEntries(given), ...more };
    const [program = '', ...args] = commandOf(workload, env);
    const child = spawn(program, args, {
      cwd: stack.folder,
      env: { ...env, PATH: [bin, dirname(process.execPath), '/usr/bin', '/bin'].join(delimiter) },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (chunk) => {
        output += chunk;
      });
    }
    const ended = new Promise<{ code: number | null; output: string }>((resolve, reject) => {
      child.once('error', reject).once('close', (code) => resolve({ code, output }));
    });
    return { child, ended };
  };
  const night: Context['night'] = (uid, env) => cronJob('retention-purge', 'retention-purge', uid, env);
  Object.assign(t.context, { stack, keys, night, cronJob });
});

test.after.always((t) => t.context.stack?.dispose());

const CRON_JOBS = ['retention-purge', 'orphan-report'] as const;

/** Adds entries of another trust file to that of the stack. */
async function trustAlso(stack: TestStack, file: string, names: readonly string[]): Promise<void> {
  const entriesOf = async (path: string): Promise<{ name: string }[]> => JSON.parse(await readFile(path, 'utf8')).trust;
  const own = join(stack.folder, 'keys', 'trust.json');
  const added = (await entriesOf(file)).filter(({ name }) => names.includes(name));
  await writeFile(own, JSON.stringify({ trust: [...(await entriesOf(own)), ...added] }));
  // A change is noticed within a second.
  const writtenAt = performance.now();
  await until('it is noticed', async () => performance.now() - writtenAt > 1_100);
}

const testNight = (title: string, body: (t: ExecutionContext<Context>) => Promise<void>) =>
  testIfFound(test.serial, renderer !== undefined, 'kustomize', title, body);

/** A tenant on the plan Free with checks that the plan no longer keeps, and one that it does. */
async function addTenant(stack: TestStack, tenantId: string, oldChecks = OLD_CHECKS): Promise<void> {
  await putPlan(stack, tenantId, 'FREE');
  const { incidents } = stack.clients({ tenantId, role: 'member' });
  const { environment } = await incidents.createEnvironment({ displayName: 'production' });
  await queryOnce(
    stack.superuserUrl('incident'),
    `insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
     select $1, gen_random_uuid(), $2, 'IN_SYNC', now() - interval '1 day' * age
     from (select 1 as age union all select 30 from generate_series(1, $3::int)) ages`,
    [tenantId, environment?.id, oldChecks],
  );
}

const checksOf = async (stack: TestStack, tenantId: string): Promise<number | undefined> => {
  const sql = 'select count(*)::int as count from drift_checks where tenant_id = $1';
  return (await queryOnce<{ count: number }>(stack.superuserUrl('incident'), sql, [tenantId]))[0]?.count;
};

const purgesOf = (stack: TestStack, requestId: string) =>
  queryOnce<{ subject: string; actor: string }>(
    stack.superuserUrl('retention'),
    'select subject, actor from retention_purges where request_id = $1',
    [requestId],
  );

testNight('the command of the CronJob purges every tenant and ends with 0', async (t) => {
  const { stack, night } = t.context;
  for (const tenantId of ['acme', 'bolt']) await addTenant(stack, tenantId);
  const uid = randomUUID();
  const { code, output } = await night(uid).ended;
  t.is(code, 0, output);
  t.regex(output, /COMPLETE: 2 of 2 tenants$/m);
  for (const tenantId of ['acme', 'bolt']) t.is(await checksOf(stack, tenantId), 1);
  t.deepEqual(await purgesOf(stack, uid), [{ subject: 'retention-purge', actor: 'retention-purge' }]);
});

testNight("the command of the orphans' CronJob reports with its own key, and removes nothing", async (t) => {
  const { code, output } = await t.context.cronJob('orphan-report', 'orphan-report').ended;
  t.is(code, 0, output);
});

testNight(
  "the key of a CronJob does that CronJob's work and nothing else, and what it is refused is in the audit",
  async (t) => {
    const { stack, keys, cronJob } = t.context;
    t.not((await cronJob('retention-purge', 'orphan-report').ended).code, 0);
    t.not((await cronJob('orphan-report', 'retention-purge').ended).code, 0);
    for (const name of CRON_JOBS) {
      const key = await readSigningKey(join(keys, `${name}.json`));
      const as = (claims: { role: 'platform' | 'owner'; tenantId?: string; subject?: string; scopes: string[] }) => {
        const { subject = name, ...rest } = claims;
        return () => signToken({ key, issuer: 'lethe', audience: 'lethe' }, { subject, ...rest }, 60);
      };
      // Everything that its key is asked to sign, beyond the one thing that it may.
      const everything = ['runs:read', 'workflows:delete', 'jobs:delete', 'retention:write', 'retention:admin'];
      for (const token of [
        as({ role: 'owner', tenantId: 'acme', scopes: everything }),
        as({ role: 'platform', tenantId: 'acme', scopes: everything }),
        as({ role: 'platform', subject: 'root', scopes: everything }),
        as({ role: 'platform', scopes: everything }),
      ]) {
        const [retention, job, run] = (['retention', 'job', 'run'] as const).map((service) =>
          connect({ address: stack.addresses[service], token }),
        );
        const id = randomUUID();
        const calls = [
          retention?.client(RetentionService).setTenantPlan({ tenantId: 'acme', planName: 'FREE' }),
          job?.client(JobService).deleteJob({ jobId: id }),
          run?.client(RunService).purgeRun({ runId: id, reason: 'mine now' }),
        ];
        for (const call of calls)
          t.regex(
            (await refusalOf(Promise.resolve(call))).reason ?? '',
            /TOKEN_INVALID|SCOPE_MISSING|ROLE_TOO_LOW|TENANT_MISSING/,
          );
        for (const connection of [retention, job, run]) connection?.close();
      }
    }
    const platform = stack.clients({ role: 'platform' });
    for (const name of CRON_JOBS) {
      for (const actor of [name, `key:${name}`]) {
        await until(`${actor} is in the audit`, async () => {
          const { entries } = await platform.jobs.listAuditEntries({ filter: { actor } });
          return entries.some(({ action, targetId }) => action === 'call' && targetId.endsWith('/DeleteJob'));
        });
      }
      const log = await readFile(join(stack.folder, 'logs', 'job.log'), 'utf8');
      t.true(log.includes(`"trustEntry":"${name}"`));
      t.false(log.includes(JSON.parse(await readFile(join(keys, `${name}.json`), 'utf8')).d));
    }
  },
);

testNight('a pod that takes over from a killed one joins its purge and ends with 0', async (t) => {
  const { stack, night } = t.context;
  await addTenant(stack, 'carried');
  const uid = randomUUID();
  const first = night(uid);
  await until('the purge is committed', async () => (await purgesOf(stack, uid)).length === 1);
  first.child.kill('SIGKILL');
  await first.ended;
  const { code, output } = await night(uid).ended;
  t.is(code, 0, output);
  t.is((await purgesOf(stack, uid)).length, 1);
  t.is(await checksOf(stack, 'carried'), 1);
});

testNight('a tenant that cannot be purged ends it with 3, and the others are done', async (t) => {
  const { stack, night } = t.context;
  for (const tenantId of ['broken', 'whole']) await addTenant(stack, tenantId);
  await queryOnce(
    stack.superuserUrl('incident'),
    `create function refuse() returns trigger language plpgsql as $$ begin raise exception 'broken disk'; end $$;
     create trigger refuse before delete on drift_checks for each row when (old.tenant_id = 'broken')
       execute function refuse()`,
  );
  const { code, output } = await night().ended;
  t.is(code, 3, output);
  t.regex(output, /^broken (FAILED|PARTIAL) /m);
  t.regex(output, /PARTIAL: (\d+) of (\d+) tenants$/m);
  t.is(await checksOf(stack, 'broken'), OLD_CHECKS + 1);
  t.is(await checksOf(stack, 'whole'), 1);

  await queryOnce(stack.superuserUrl('incident'), 'drop trigger refuse on drift_checks');
  t.is((await night().ended).code, 0, 'the next night takes up what was left');
  t.is(await checksOf(stack, 'broken'), 1);
});

testNight('a tenant that is held ends it with 4, and the others are done', async (t) => {
  const { stack, night } = t.context;
  await addTenant(stack, 'crowded', CEILING_ROWS + 1);
  await addTenant(stack, 'roomy');
  const { code, output } = await night().ended;
  t.is(code, 4, output);
  t.regex(output, /^crowded HELD .*drift_checks: 101 of \d+ would go$/m);
  t.is(await checksOf(stack, 'crowded'), CEILING_ROWS + 2);
  t.is(await checksOf(stack, 'roomy'), 1);

  const { retention } = stack.clients({ role: 'platform' });
  const [purge] = (await retention.listPurges({ pageSize: 1 })).purges;
  await retention.approveHeldPurge({ purgeId: purge?.id ?? '', tenantId: 'crowded', reason: 'their backlog' });
  await until('what was approved went', async () => (await checksOf(stack, 'crowded')) === 1);
  t.is((await night().ended).code, 0, 'and the next night has nothing to wait for');
});

testNight(
  'a service that is not there ends it with 1, to be tried again; a key that is not there with 2',
  async (t) => {
    const { night } = t.context;
    t.is((await night(undefined, { LETHE_RETENTION_ADDRESS: '127.0.0.1:1' }).ended).code, 1);
    t.is((await night(undefined, { LETHE_SERVICE_KEY: '/nowhere/key.json' }).ended).code, 2);
  },
);

testIfFound(
  test.serial,
  renderer !== undefined && hasProgram('grpcurl'),
  'kustomize and grpcurl',
  "the README's grpcurl does the same",
  async (t) => {
    const { stack } = t.context;
    await addTenant(stack, 'by-hand');
    const readme = await readReadmes();
    const [line = 'false'] = /^grpcurl .*RetentionService\/Purge$/m.exec(readme) ?? [];
    const { stdout } = await promisify(execFile)(
      'bash',
      ['-c', line.replace('127.0.0.1:7404', stack.addresses.retention)],
      {
        env: { ...process.env, TOKEN: await stack.token({ role: 'platform' }) },
      },
    );
    t.regex(stdout, /"summary": \{/);
    t.is(await checksOf(stack, 'by-hand'), 1);
  },
);
