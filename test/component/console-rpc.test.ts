import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DescService } from '@bufbuild/protobuf';
import {
  Code,
  ConnectError,
  createClient,
  type Interceptor,
  type ServiceImpl,
  type Transport,
} from '@connectrpc/connect';
import * as node from '@connectrpc/connect-node';
import * as web from '@connectrpc/connect-web';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { pino } from 'pino';
import { freePort } from '#deploy/local/free-port.ts';
import { BadRequestSchema, ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { ArtifactKind } from '#gen/lethe/job/v1/job_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { bindService } from '#libs/grpc/connect-handlers.ts';
import { startServer } from '#libs/grpc/server.ts';
import { newId } from '#libs/kernel/id.ts';
import { makeMetrics } from '#libs/telemetry/metrics.ts';
import { UPSTREAMS } from '#services/console/server/connect-upstreams.ts';
import type { RunningConsole } from '#services/console/server/start-console.ts';
import { startTestConsole } from '#test/support/start-console.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; console: RunningConsole }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['run', 'job'] });
  t.context.console = await startTestConsole(t.context.stack);
});
test.after.always(async (t) => {
  await t.context.console?.stop();
  await t.context.stack?.dispose();
});

const bearer =
  (token: string | undefined): Interceptor =>
  (next) =>
  (request) => {
    if (token !== undefined) request.header.set('authorization', `Bearer ${token}`);
    return next(request);
  };

/** Every way in which a browser or a program can call the console. */
const TRANSPORTS: Readonly<Record<string, (url: string, token?: string) => Transport>> = {
  'Connect in a browser': (url, token) =>
    web.createConnectTransport({ baseUrl: `${url}/rpc`, useBinaryFormat: true, interceptors: [bearer(token)] }),
  'Connect in a browser, as JSON': (url, token) =>
    web.createConnectTransport({ baseUrl: `${url}/rpc`, interceptors: [bearer(token)] }),
  'gRPC-Web in a browser': (url, token) =>
    web.createGrpcWebTransport({ baseUrl: `${url}/rpc`, interceptors: [bearer(token)] }),
  'Connect in Node.js': (url, token) =>
    node.createConnectTransport({ baseUrl: `${url}/rpc`, httpVersion: '1.1', interceptors: [bearer(token)] }),
  'gRPC-Web in Node.js': (url, token) =>
    node.createGrpcWebTransport({ baseUrl: `${url}/rpc`, httpVersion: '1.1', interceptors: [bearer(token)] }),
};

for (const [name, transportOf] of Object.entries(TRANSPORTS)) {
  test(`${name}: calls and streams are answered by the services, and refusals keep their details`, async (t) => {
    const { stack, console } = t.context;
    const tenantId = `rpc-${newId()}`;
    const transport = transportOf(console.url, await stack.token({ tenantId, role: 'owner' }));
    const runs = createClient(RunService, transport);
    const { run } = await runs.createRun({ workflow: 'build', displayName: 'Größe 1' });
    t.is((await runs.getRun({ runId: run?.id ?? '' })).run?.displayName, 'Größe 1');
    t.is((await runs.listRuns({})).runs.length, 1);

    const states: RunState[] = [];
    for await (const message of runs.watchRun({ runId: run?.id ?? '' })) {
      const state = message.run?.state ?? RunState.UNSPECIFIED;
      if (states.length === 0) await runs.finishRun({ runId: run?.id ?? '', state: RunState.COMPLETED });
      states.push(state);
    }
    t.deepEqual([states[0], states.at(-1)], [RunState.RUNNING, RunState.COMPLETED]);

    const direct = await refusalOf(stack.clients({ tenantId, role: 'owner' }).runs.getRun({ runId: newId() }));
    const refusal = await refusalOf(runs.getRun({ runId: newId() }));
    t.like(refusal, { code: Code.NotFound, reason: 'RUN_NOT_FOUND' });
    t.is(direct.reason, refusal.reason);
    const invalid = ConnectError.from(await runs.listRuns({ pageSize: -1 }).catch((error: unknown) => error));
    t.is(invalid.code, Code.InvalidArgument);
    t.is(invalid.findDetails(BadRequestSchema)[0]?.fieldViolations[0]?.field, 'page_size');

    const other = transportOf(console.url, await stack.token({ tenantId: `${tenantId}-2`, role: 'owner' }));
    const others = createClient(RunService, other);
    t.is((await refusalOf(others.getRun({ runId: run?.id ?? '' }))).reason, 'RUN_NOT_FOUND');
    t.deepEqual((await others.listRuns({})).runs, []);
    const nobody = createClient(RunService, transportOf(console.url));
    t.like(await refusalOf(nobody.listRuns({})), { code: Code.Unauthenticated, reason: 'TOKEN_MISSING' });
    const forger = createClient(RunService, transportOf(console.url, 'rubbish'));
    t.like(await refusalOf(forger.listRuns({})), { code: Code.Unauthenticated, reason: 'TOKEN_INVALID' });
  });
}

test('an upload is refused with a sentence, and every other RPC of the four services is forwarded', async (t) => {
  const { stack, console } = t.context;
  const token = await stack.token({ tenantId: 'kinds', role: 'owner' });
  const transport = node.createConnectTransport({
    baseUrl: `${console.url}/rpc`,
    httpVersion: '1.1',
    interceptors: [bearer(token)],
  });
  const jobs = createClient(JobService, transport);
  const upload = jobs.uploadArtifact(
    (async function* () {
      yield { part: { case: 'header' as const, value: { jobId: newId(), kind: ArtifactKind.INPUT, name: 'a' } } };
    })(),
  );
  const refusal = await refusalOf(upload);
  t.like(refusal, { code: Code.Unimplemented, reason: 'UNIMPLEMENTED' });
  t.regex(refusal.message, /call lethe\.job\.v1\.JobService over gRPC/);

  const unknown: string[] = [];
  for (const service of Object.values(UPSTREAMS) as DescService[]) {
    for (const { name, methodKind } of service.methods) {
      if (methodKind === 'client_streaming') continue;
      const response = await fetch(`${console.url}/rpc/${service.typeName}/${name}`, {
        method: 'POST',
        headers: { 'content-type': methodKind === 'unary' ? 'application/json' : 'application/connect+json' },
        body: methodKind === 'unary' ? '{}' : new Uint8Array([0, 0, 0, 0, 2, 123, 125]),
      });
      const text = await response.text();
      if (!text.includes('TOKEN_MISSING') && !text.includes('unauthenticated'))
        unknown.push(`${service.typeName}/${name}`);
    }
  }
  t.deepEqual(unknown, []);
});

test('a service that cannot be reached is named, without its address', async (t) => {
  const { stack, console } = t.context;
  const token = await stack.token({ tenantId: 'down', role: 'owner' });
  const transport = TRANSPORTS['Connect in a browser']?.(console.url, token) as Transport;
  const refusal = await refusalOf(createClient(UPSTREAMS.incident, transport).listIncidents({}));
  t.like(refusal, {
    code: Code.Unavailable,
    reason: 'DEPENDENCY_UNAVAILABLE',
    metadata: { dependency: 'incident service' },
  });
  t.notRegex(refusal.message, /\d+\.\d+\.\d+\.\d+/);
});

/** A console before one service in this process, which tells what reaches it. */
async function startBefore(t: ExecutionContext, implementation: Partial<ServiceImpl<typeof RunService>>) {
  const server = await startServer({
    address: '127.0.0.1:0',
    services: [bindService(RunService, implementation)],
    verifyToken: async () => ({
      subject: 'ada',
      kind: 'user',
      tenantId: 'acme',
      role: 'owner',
      actor: 'ada',
      scopes: new Set(['workflows:read']),
    }),
    policy: Object.fromEntries(
      RunService.methods.map(({ name }) => [
        `${RunService.typeName}/${name}`,
        { scope: 'workflows:read', role: 'viewer' },
      ]),
    ),
    log: pino({ level: 'silent' }),
    metrics: makeMetrics('run'),
    limits: { drainMs: 200 },
  });
  t.teardown(() => server.stop());
  const address = `127.0.0.1:${server.port}`;
  const console = await startTestConsole({
    addresses: { run: address, job: address, incident: address, retention: address },
  });
  t.teardown(() => console.stop());
  return console;
}

for (const [name, transportOf] of Object.entries(TRANSPORTS)) {
  test(`${name}: a caller that goes away ends its stream and its call at the service`, async (t) => {
    const ended: string[] = [];
    const begun: string[] = [];
    const console = await startBefore(t, {
      async *watchRun(_, { signal }) {
        begun.push('stream');
        yield {};
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
        ended.push('stream');
      },
      async getRun(_, { signal }) {
        begun.push('call');
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
        ended.push('call');
        return {};
      },
    });
    const runs = createClient(RunService, transportOf(console.url, 'any'));
    const leaver = new AbortController();
    const stream = (async () => {
      for await (const _ of runs.watchRun({ runId: 'a' }, { signal: leaver.signal }));
    })().catch((error: unknown) => ConnectError.from(error).code);
    const call = runs.getRun({ runId: 'a' }, { signal: leaver.signal }).catch((error) => ConnectError.from(error).code);
    await until('both have reached the service', async () => begun.length === 2);
    leaver.abort();
    t.deepEqual(await Promise.all([stream, call]), [Code.Canceled, Code.Canceled]);
    await until('both have ended at the service', async () => ended.length === 2);
  });

  test(`${name}: the caller's deadline, its token and its request id reach the service, hours for a watch too`, async (t) => {
    const seen: { timeoutMs: number | undefined; requestId: string | null }[] = [];
    const note = ({ timeoutMs, requestHeader }: { timeoutMs(): number | undefined; requestHeader: Headers }) =>
      seen.push({ timeoutMs: timeoutMs(), requestId: requestHeader.get('x-request-id') });
    const console = await startBefore(t, {
      async getRun({ runId }, context) {
        note(context);
        if (runId === 'slow') await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
        return {};
      },
      async *watchRun(_, context) {
        note(context);
        yield {};
      },
    });
    const runs = createClient(RunService, transportOf(console.url, 'any'));
    const headers = { 'x-request-id': 'order-66' };
    await runs.getRun({ runId: 'a' }, { timeoutMs: 90_000, headers });
    for await (const _ of runs.watchRun({ runId: 'a' }, { timeoutMs: 6 * 3_600_000, headers }));
    for await (const _ of runs.watchRun({ runId: 'a' }));
    t.is(seen[0]?.requestId, 'order-66');
    t.true((seen[0]?.timeoutMs ?? 0) > 30_000 && (seen[0]?.timeoutMs ?? 0) <= 90_000);
    t.true((seen[1]?.timeoutMs ?? 0) > 5 * 3_600_000);
    t.is(seen[2]?.timeoutMs, undefined);
    t.regex(seen[2]?.requestId ?? '', /^[0-9a-f-]{36}$/);
    const late = await runs.getRun({ runId: 'slow' }, { timeoutMs: 200 }).catch((error) => ConnectError.from(error));
    t.is(late instanceof ConnectError ? late.code : undefined, Code.DeadlineExceeded);
  });
}

test('a state-changing request of another site is refused, and one of the console itself or of a program is not', async (t) => {
  const { console } = t.context;
  const post = (headers: Record<string, string>) =>
    fetch(`${console.url}/rpc/${RunService.typeName}/CreateRun`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: '{}',
    });
  for (const headers of [
    { 'sec-fetch-site': 'cross-site' },
    { 'sec-fetch-site': 'same-site' },
    { origin: 'https://evil.example' },
    { origin: 'null' },
  ]) {
    const response = await post(headers as Record<string, string>);
    t.is(response.status, 403, JSON.stringify(headers));
    t.is(((await response.json()) as { error: { code: string } }).error.code, 'cross_site');
  }
  // Refused for want of a credential, which is asked for next.
  for (const headers of [
    {},
    { 'sec-fetch-site': 'same-origin' },
    { 'sec-fetch-site': 'none' },
    { origin: console.url },
    { 'sec-fetch-site': 'cross-site', authorization: 'Bearer rubbish' },
  ]) {
    t.is((await post(headers as Record<string, string>)).status, 401, JSON.stringify(headers));
  }
});

test('the page and its files are served, compressed where they are, and its routes lead to it', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'lethe-test-page-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const console = await startTestConsole(t.context.stack, { LETHE_PAGE_FOLDER: folder });
  t.teardown(() => console.stop());
  const get = (path: string, headers: Record<string, string> = { accept: 'text/html' }) =>
    fetch(console.url + path, { headers });
  t.is((await get('/runs')).status, 503, 'before it is built');
  await mkdir(join(folder, 'assets'));
  await writeFile(join(folder, 'index.html'), '<title>Lethe</title>');
  await writeFile(join(folder, 'assets', 'main-abc.js'), 'plain();');
  await writeFile(join(folder, 'assets', 'main-abc.js.br'), 'not brotli');
  for (const path of ['/', '/runs', '/runs/0190', '/jobs', '/deletions/1', '/index.html']) {
    const response = await get(path);
    t.is(response.status, 200, path);
    t.regex(await response.text(), /<title>Lethe/);
    t.is(response.headers.get('cache-control'), 'no-cache');
  }
  const plain = await get('/assets/main-abc.js', { 'accept-encoding': 'identity' });
  t.is(await plain.text(), 'plain();');
  t.regex(plain.headers.get('cache-control') ?? '', /immutable/);
  const compressed = await fetch(`${console.url}/assets/main-abc.js`, {
    method: 'HEAD',
    headers: { 'accept-encoding': 'br' },
  });
  t.is(compressed.headers.get('content-encoding'), 'br');
  for (const path of ['/assets/missing.js', '/api/v1/nothing', '/rpc/nothing', '/%2e%2e/config.ts', '/runs']) {
    const response = await get(path, path === '/runs' ? { accept: 'application/json' } : { accept: 'text/html' });
    t.is(response.status, path.includes('%2e') ? 200 : 404, path);
  }
  t.is((await get('/healthz')).status, 200);
  t.is((await get('/ready')).status, 200);
});

test('/metrics counts requests and RPCs by route, without an id, and /ready says no once the console stops', async (t) => {
  const { stack } = t.context;
  const port = await freePort();
  const console = await startTestConsole(stack, {
    LETHE_METRICS_ADDRESS: `127.0.0.1:${port}`,
    LETHE_DRAIN_MS: '30000',
  });
  t.teardown(() => console.stop());
  const token = await stack.token({ tenantId: 'measured', role: 'viewer' });
  const id = newId();
  const get = (path: string, base = console.url) =>
    fetch(base + path, { headers: { authorization: `Bearer ${token}` } });
  t.is((await get(`/api/v1/workflows/runs/${id}`)).status, 404);
  t.is((await get('/api/v1/workflows/runs')).status, 200);
  t.is((await get(`/nowhere/${id}?token=secret`)).status, 404);
  const runs = createClient(RunService, TRANSPORTS['Connect in Node.js']?.(console.url, token) as Transport);
  await runs.listRuns({});
  await refusalOf(runs.getRun({ runId: id }));
  const measured = `http://127.0.0.1:${port}`;
  const metrics = await (await get('/metrics', measured)).text();
  for (const line of [
    /^lethe_http_request_duration_seconds_count\{.*route="\/api\/v1\/workflows\/runs\/:run_id".*status="404".*\} 1$/m,
    /^lethe_http_request_duration_seconds_count\{.*route="\/api\/v1\/workflows\/runs".*status="200".*\} 1$/m,
    /^lethe_http_request_duration_seconds_count\{.*route="unknown".*status="404".*\} 1$/m,
    /^lethe_rpc_duration_seconds_count\{.*rpc="lethe\.run\.v1\.RunService\/ListRuns".*code="0".*\} 1$/m,
    /^lethe_rpc_duration_seconds_count\{.*rpc="lethe\.run\.v1\.RunService\/GetRun".*code="5".*\} 1$/m,
  ]) {
    t.regex(metrics, line);
  }
  t.false(metrics.includes(id) || metrics.includes('secret'));
  // The HTTP port is for callers, and tells no figures.
  t.is((await get('/metrics')).status, 404);
  t.is((await get('/ready', measured)).status, 200);

  // A watch is open while the console stops: it is not ready, and not yet gone.
  const { run } = await stack.clients({ tenantId: 'measured', role: 'owner' }).runs.createRun({ workflow: 'a' });
  const watcher = new AbortController();
  const watch = runs.watchRun({ runId: run?.id ?? '' }, { signal: watcher.signal })[Symbol.asyncIterator]();
  await watch.next();
  const stopped = console.stop();
  t.is((await get('/ready', measured)).status, 503);
  watcher.abort();
  await stopped;
  await t.throwsAsync(get('/healthz'));
});

test('an answer of INTERNAL carries no more than its id', async (t) => {
  const console = await startBefore(t, {
    getRun() {
      throw new Error('password is hunter2');
    },
  });
  const runs = createClient(RunService, TRANSPORTS['Connect in a browser']?.(console.url, 'any') as Transport);
  const error = ConnectError.from(await runs.getRun({ runId: 'a' }).catch((failed: unknown) => failed));
  t.is(error.code, Code.Internal);
  t.is(error.findDetails(ErrorInfoSchema)[0]?.reason, 'INTERNAL');
  t.notRegex(error.message, /hunter2/);
});
