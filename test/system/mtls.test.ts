import { mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Code, ConnectError } from '@connectrpc/connect';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { IncidentService } from '#gen/lethe/incident/v1/incident_service_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { createLethe } from '#libs/client/lethe.ts';
import { connect } from '#libs/grpc/client.ts';
import type { ClientTlsFiles } from '#libs/grpc/tls.ts';
import { putPlan } from '#test/support/aged-data.ts';
import { makeCommandLine, parsedLine } from '#test/support/command-line.ts';
import { type Authority, type Certificate, makeAuthority } from '#test/support/make-certificates.ts';
import { startTestConsole } from '#test/support/start-console.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

interface Context {
  readonly folder: string;
  readonly authority: Authority;
  readonly tls: { readonly ca: string; readonly cert: string; readonly key: string };
  readonly stack: TestStack;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

const HOSTS = ['127.0.0.1', 'localhost'];
const SERVICES = { run: RunService, job: JobService, incident: IncidentService, retention: RetentionService } as const;
// How many servers and clients a process has that read certificates: a client for each service that it calls.
const SERVERS = { run: 1, job: 1, incident: 1, retention: 1, console: 0 } as const;
const CLIENTS = { run: 2, job: 0, incident: 0, retention: 2, console: 4 } as const;
const CONNECTION_AGE_MS = 1_000;
const NAMES = ['run', 'job', 'incident', 'retention'] as const;
const PROCESSES = [...NAMES, 'console'] as const;
// A route of the console for each service behind it.
const ROUTES = {
  run: '/api/v1/workflows/runs',
  job: '/v1/audio/transcriptions',
  incident: '/api/v1/incidents',
  retention: '/orgs/loaded/retention',
} as const;

async function put(folder: string, name: string, text: string): Promise<void> {
  await writeFile(join(folder, `${name}.new`), text);
  await rename(join(folder, `${name}.new`), join(folder, name));
}

async function putPair(folder: string, name: string, { cert, key }: Certificate): Promise<void> {
  await put(folder, `${name}.crt`, cert);
  await put(folder, `${name}.key`, key);
}

test.before(async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'lethe-test-mtls-'));
  const authority = makeAuthority('first');
  await put(folder, 'ca.crt', authority.cert);
  await putPair(folder, 'server', authority.issue(HOSTS));
  await putPair(folder, 'client', authority.issue(['a client']));
  const tls = { ca: join(folder, 'ca.crt'), cert: join(folder, 'client.crt'), key: join(folder, 'client.key') };
  Object.assign(t.context, { folder, authority, tls });
  const stack = await startTestStack({
    env: {
      LETHE_TLS_CERT: join(folder, 'server.crt'),
      LETHE_TLS_KEY: join(folder, 'server.key'),
      LETHE_TLS_CLIENT_CA: tls.ca,
      LETHE_TLS_CA: tls.ca,
      LETHE_TLS_CLIENT_CERT: tls.cert,
      LETHE_TLS_CLIENT_KEY: tls.key,
      LETHE_CONNECTION_AGE_MS: String(CONNECTION_AGE_MS),
      LETHE_CATALOGUE_POLL_MS: '500',
      LETHE_REFLECTION: 'off',
    },
    clientTls: tls,
    console: true,
  });
  Object.assign(t.context, { stack });
});
test.after.always(async (t) => {
  await t.context.stack?.dispose();
  await rm(t.context.folder, { recursive: true, force: true });
});

test.serial(
  'with mTLS no service answers plaintext, a client without a certificate or one of another authority',
  async (t) => {
    const { stack, tls, folder } = t.context;
    const stranger = makeAuthority('other');
    await putPair(folder, 'stranger', stranger.issue(['a stranger']));
    const token = await stack.token({ role: 'platform' });
    for (const name of NAMES) {
      const codeWith = async (files: ClientTlsFiles | undefined) => {
        const connection = connect({ address: stack.addresses[name], token: async () => token, tls: files });
        try {
          await connection.client(SERVICES[name]).listAuditEntries({}, { timeoutMs: 5_000 });
          return undefined;
        } catch (error) {
          return ConnectError.from(error).code;
        } finally {
          connection.close();
        }
      };
      t.is(await codeWith(tls), undefined, name);
      const others = { cert: join(folder, 'stranger.crt'), key: join(folder, 'stranger.key') };
      for (const files of [undefined, { ca: tls.ca }, { ca: tls.ca, ...others }]) {
        const code = await codeWith(files);
        t.true(code === Code.Unavailable || code === Code.DeadlineExceeded, `${name}: ${code}`);
      }
    }
  },
);

test.serial('SDK and command line speak TLS by option, setting and profile', async (t) => {
  const { stack, tls } = t.context;
  const lethe = createLethe({ ...stack.addresses, tls, token: await stack.token({ role: 'owner', tenantId: 'sdk' }) });
  t.teardown(() => lethe.close());
  t.truthy((await lethe.jobs.create({})).id);
  const cli = await makeCommandLine(stack);
  const options = ['--tls-ca', tls.ca, '--tls-cert', tls.cert, '--tls-key', tls.key];
  t.is((await cli(...options, '--tenant', 'sdk', 'jobs', 'list')).code, 0);
  const env = { LETHE_TLS_CA: tls.ca, LETHE_TLS_CLIENT_CERT: tls.cert, LETHE_TLS_CLIENT_KEY: tls.key };
  t.is((await cli.with({ env })('--tenant', 'sdk', 'audit')).code, 0);
  const told = parsedLine((await cli('--json', ...options, 'doctor')).out) as { of: string; name: string }[];
  t.deepEqual(
    told.filter(({ name }) => name === 'CERTIFICATE').map(({ of }) => of),
    ['certificate', ...NAMES],
    'until when the own certificate and those of the services are good',
  );
  const profile = join(stack.folder, 'tls.json');
  await writeFile(
    profile,
    JSON.stringify({ addresses: stack.addresses, keyFile: stack.userKeyFile, actor: 'ada', tls }),
  );
  t.is((await cli('--profile', profile, '--tenant', 'sdk', 'jobs', 'list')).code, 0);
  t.regex(
    (await cli('--tls-ca', tls.ca, '--tls-cert', tls.cert, 'jobs', 'list')).err,
    /LETHE_TLS_CLIENT_KEY is required/,
  );
  const unreadable = await cli('--tls-ca', '/no/such/ca', '--tenant', 'sdk', 'jobs', 'list');
  t.deepEqual([unreadable.code, /CERTIFICATE_UNUSABLE: \/no\/such\/ca cannot/.test(unreadable.err)], [2, true]);
  t.is((await cli('--tenant', 'sdk', 'jobs', 'list')).code, 1);
});

/** Asks one route of a console; throws unless it answers 200. */
async function askConsole(url: string, path: string, token: string): Promise<void> {
  const response = await fetch(url + path, { headers: { authorization: `Bearer ${token}` } });
  if (response.status !== 200) throw new Error(`${path}: ${response.status} ${await response.text()}`);
}

test.serial(
  'the console reaches every service over mTLS; without its certificate they are down, and nothing more is told',
  async (t) => {
    const { stack, tls } = t.context;
    await putPlan(stack, 'loaded', 'AGENCY');
    const token = await stack.token({ tenantId: 'loaded', role: 'owner' });
    for (const path of Object.values(ROUTES)) await t.notThrowsAsync(askConsole(stack.consoleUrl ?? '', path, token));
    const plain = await startTestConsole(stack);
    const anonymous = await startTestConsole(stack, { LETHE_TLS_CA: tls.ca });
    t.teardown(() => Promise.all([plain.stop(), anonymous.stop()]));
    await Promise.all(
      [plain, anonymous].flatMap(({ url }) =>
        NAMES.map(async (name) => {
          const response = await fetch(url + ROUTES[name], { headers: { authorization: `Bearer ${token}` } });
          const { error } = (await response.json()) as { error: { message: string } };
          t.like(
            { status: response.status, error },
            { status: 503, error: { reason: 'DEPENDENCY_UNAVAILABLE', metadata: { dependency: `${name} service` } } },
          );
          t.false(error.message.includes(stack.addresses[name]));
        }),
      ),
    );
  },
);

/** Calls without a pause, each of them through several services, until told to stop. */
function startLoad(stack: TestStack) {
  const { runs, jobs, incidents } = stack.clients({ tenantId: 'loaded', role: 'owner' });
  const { retention } = stack.clients({ role: 'platform' });
  const calls: Record<string, () => Promise<unknown>> = {
    'client to JobService': async () => jobs.getJob({ jobId: (await jobs.createJob({})).job?.id ?? '' }),
    'client to IncidentService': () => incidents.listEnvironments({}),
    'RunService to Job- and IncidentService': async () => {
      const { run } = await runs.createRun({ workflow: 'a' });
      const runId = run?.id ?? '';
      await runs.finishRun({ runId, state: RunState.COMPLETED });
      await runs.previewPurgeRun({ runId });
    },
    'RetentionService to Incident- and RunService': async () => {
      const request = { tenantId: 'loaded', planName: 'FREE', validateOnly: true };
      const { forecasts } = await retention.setTenantPlan(request);
      const uncounted = forecasts.filter(({ uncountedTenantCount }) => uncountedTenantCount > 0);
      if (forecasts.length === 0 || uncounted.length > 0) throw new Error('an owner did not answer');
    },
  };
  for (const [name, path] of Object.entries(ROUTES)) {
    calls[`console to ${name}`] = async () =>
      askConsole(stack.consoleUrl ?? '', path, await stack.token({ tenantId: 'loaded', role: 'owner' }));
  }
  const done = new Map(Object.keys(calls).map((name) => [name, 0]));
  const failures: string[] = [];
  let isOver = false;
  const loops = Object.entries(calls).map(async ([name, call]) => {
    while (!isOver) {
      await call().catch((error: unknown) => failures.push(`${name}: ${ConnectError.from(error).message}`));
      done.set(name, (done.get(name) ?? 0) + 1);
    }
  });
  return {
    done,
    failures,
    async stop() {
      isOver = true;
      await Promise.all(loops);
    },
  };
}

/** How often each process has told that new certificates are in use. */
const reloads = async ({ context: { stack } }: T): Promise<number[]> =>
  Promise.all(
    PROCESSES.map(async (name) => {
      const log = await readFile(join(stack.folder, `logs/${name}.log`), 'utf8');
      return log.split('new certificates are in use').length - 1;
    }),
  );

test.serial('certificates and their authority are replaced under load, and no call fails', async (t) => {
  const { stack, folder, authority } = t.context;
  const load = startLoad(stack);
  t.teardown(() => load.stop());
  const goesOn = async (): Promise<void> => {
    const before = new Map(load.done);
    const since = performance.now();
    await until('each kind of call was made after all connections had grown old', async () => {
      const isLater = performance.now() - since > 1.5 * CONNECTION_AGE_MS;
      return isLater && [...load.done].every(([name, count]) => count >= (before.get(name) ?? 0) + 3);
    });
  };
  await goesOn();
  const next = makeAuthority('next');
  const steps: readonly [concerned: readonly (typeof SERVERS | typeof CLIENTS)[], replace: () => Promise<void>][] = [
    [[SERVERS], () => putPair(folder, 'server', authority.issue(HOSTS))],
    [[CLIENTS], () => putPair(folder, 'client', authority.issue(['a client']))],
    // Another authority: trusted by everybody before anybody shows a certificate of it.
    [[SERVERS, CLIENTS], () => put(folder, 'ca.crt', `${authority.cert}${next.cert}`)],
    [[SERVERS], () => putPair(folder, 'server', next.issue(HOSTS))],
    [[CLIENTS], () => putPair(folder, 'client', next.issue(['a client']))],
    [[SERVERS, CLIENTS], () => put(folder, 'ca.crt', next.cert)],
  ];
  for (const [concerned, replace] of steps) {
    const before = await reloads(t);
    await replace();
    await until('every server and client has them in use', async () => {
      const now = await reloads(t);
      return PROCESSES.every((name, index) => {
        const listeners = concerned.reduce((sum, of) => sum + of[name], 0);
        return (now[index] ?? 0) >= (before[index] ?? 0) + listeners;
      });
    });
    await goesOn();
  }
  await load.stop();
  t.deepEqual(load.failures, []);
  for (const name of NAMES) {
    const log = await readFile(join(stack.folder, `logs/${name}.log`), 'utf8');
    t.true(log.includes('"transport":"mTLS"'));
    t.false(log.includes('DEPENDENCY_UNAVAILABLE'), name);
  }
  // And what the services do on their own goes over the new certificates too.
  const { runs } = stack.clients({ tenantId: 'loaded', role: 'owner' });
  const { run } = await runs.createRun({ workflow: 'a' });
  await runs.finishRun({ runId: run?.id ?? '', state: RunState.COMPLETED });
  const { deletion } = await runs.purgeRun({ runId: run?.id ?? '', reason: 'asked for' });
  await until('the purge is complete', async () => {
    const now = await runs.getDeletion({ deletionId: deletion?.id ?? '' });
    return now.deletion?.state === DeletionState.COMPLETE;
  });
});
