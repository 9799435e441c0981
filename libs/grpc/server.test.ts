import { connect as connectHttp2 } from 'node:http2';
import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Code, ConnectError, type ServiceImpl } from '@connectrpc/connect';
import {
  type CallOptions,
  type ChannelCredentials,
  Client,
  credentials,
  loadPackageDefinition,
  Metadata,
  type ServiceError,
} from '@grpc/grpc-js';
import test, { type ExecutionContext } from 'ava';
import { service as healthService } from 'grpc-health-check';
import { ErrorInfoSchema, RetryInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { CALLER_OF_ECHO, ECHO, type EchoService, RULES, startEchoServer } from '#test/support/echo-server.ts';
import { callerOf } from './caller.ts';
import { connect } from './client.ts';
import type { RunningServer, ServerLimits } from './server.ts';

type Implementation = Partial<ServiceImpl<EchoService>>;

async function serve(t: ExecutionContext, implementation: Implementation, limits: Partial<ServerLimits> = {}) {
  const server = await startEchoServer(implementation, { drainMs: 200, ...limits });
  t.teardown(() => server.stop());
  return { server, echo: clientOf(t, server) };
}

function clientOf(t: ExecutionContext, { port }: RunningServer) {
  const connection = connect({ address: `127.0.0.1:${port}`, token: async () => 'good' });
  t.teardown(() => connection.close());
  return connection.client(ECHO);
}

const errorOf = (call: Promise<unknown>): Promise<ConnectError> =>
  call.then(
    () => Promise.reject(new Error('the call went well')),
    (error: unknown) => ConnectError.from(error),
  );

async function* always() {
  yield { value: '' };
}

const reasonOf = (error: ConnectError) => error.findDetails(ErrorInfoSchema)[0]?.reason;

/** A call by bare grpc-js, which sets no deadline unless told, and tries nothing again. */
function bareCall(t: ExecutionContext, { port }: RunningServer, request = Buffer.alloc(0), options: CallOptions = {}) {
  const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
  t.teardown(() => client.close());
  const same = (bytes: Buffer): Buffer => bytes;
  return new Promise<ServiceError | null>((resolve) => {
    const path = `/${ECHO.typeName}/One`;
    client.makeUnaryRequest(path, same, same, request, new Metadata(), options, (error) => resolve(error));
  });
}

test('a call that was accepted before the stop is answered, and one after it is refused', async (t) => {
  const accepted = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  const { server, echo } = await serve(
    t,
    {
      async one({ value }) {
        accepted.resolve();
        await gate.promise;
        return { value };
      },
    },
    { drainMs: 30_000 },
  );
  const answer = echo.one({ value: 'a' });
  await accepted.promise;
  const stopped = server.stop();
  t.is((await bareCall(t, server))?.code as number, Code.Unavailable);
  gate.resolve();
  t.is((await answer).value, 'a');
  await stopped;
});

test('a call that does not end while the server drains is told UNAVAILABLE, and its handler to stop', async (t) => {
  const reasons: unknown[] = [];
  const accepted = Promise.withResolvers<void>();
  const { server } = await serve(t, {
    one: (_, { signal }) => {
      signal.addEventListener('abort', () => reasons.push((signal.reason as { reason?: string }).reason));
      accepted.resolve();
      return new Promise(() => undefined);
    },
  });
  const refused = bareCall(t, server);
  await accepted.promise;
  await server.stop();
  t.deepEqual(reasons, ['SHUTTING_DOWN']);
  const error = await refused;
  t.is(error?.code as number, Code.Unavailable);
  t.is(error?.details, 'The server is stopping; try again.');
});

test('watches end first when the server stops, as UNAVAILABLE with when to try again, and all other calls go on', async (t) => {
  const gate = Promise.withResolvers<void>();
  const accepted = Promise.withResolvers<void>();
  const server = await startEchoServer(
    {
      async one({ value }) {
        accepted.resolve();
        await gate.promise;
        return { value };
      },
      async *down() {
        yield { value: 'a' };
        await gate.promise;
      },
      async *both() {
        yield { value: 'a' };
        await gate.promise;
        yield { value: 'b' };
      },
    },
    { drainMs: 30_000 },
    RULES,
    { watches: ['down'] },
  );
  t.teardown(() => server.stop());
  const echo = clientOf(t, server);
  const watch = echo.down({ value: '' })[Symbol.asyncIterator]();
  t.is((await watch.next()).value?.value, 'a');
  const work = echo.both(always())[Symbol.asyncIterator]();
  t.is((await work.next()).value?.value, 'a');
  const answer = echo.one({ value: 'c' });
  await accepted.promise;
  const stopped = server.stop();
  const error = await errorOf(watch.next());
  t.is(error.code, Code.Unavailable);
  t.is(reasonOf(error), 'SHUTTING_DOWN');
  t.deepEqual(error.findDetails(RetryInfoSchema)[0]?.retryDelay?.seconds, 1n);
  gate.resolve();
  t.is((await work.next()).value?.value, 'b');
  t.is((await answer).value, 'c');
  await stopped;
});

test('health says SERVING of the server and of each service, and NOT_SERVING from the first moment of the stop', async (t) => {
  const { server, echo } = await serve(t, {
    async *down() {
      yield { value: 'a' };
      await new Promise(() => undefined);
    },
  });
  const { Health } = loadPackageDefinition({ Health: healthService }) as unknown as {
    Health: new (
      address: string,
      channel: ChannelCredentials,
    ) => {
      check(request: object, answer: (error: ServiceError | null, response: { status: string }) => void): void;
      watch(
        request: object,
      ): AsyncIterable<{ status: string }> & { cancel(): void; on(e: 'error', l: () => void): void };
      close(): void;
    };
  };
  const health = new Health(`127.0.0.1:${server.port}`, credentials.createInsecure());
  t.teardown(() => health.close());
  for (const service of ['', ECHO.typeName]) {
    const status = await new Promise<string>((resolve, reject) => {
      health.check({ service }, (error, response) => (error ? reject(error) : resolve(response.status)));
    });
    t.is(status, 'SERVING');
  }
  // Something is still running, so that the server drains.
  await echo.down({ value: '' })[Symbol.asyncIterator]().next();
  const watch = health.watch({ service: ECHO.typeName });
  watch.on('error', () => undefined);
  const statuses = watch[Symbol.asyncIterator]();
  t.is((await statuses.next()).value.status, 'SERVING');
  const stopped = server.stop();
  t.is((await statuses.next()).value.status, 'NOT_SERVING');
  await stopped;
});

/** Health and reflection by bare grpc-js: bytes go in and come out, and no credential goes with them. */
function openly(t: ExecutionContext, { port }: RunningServer) {
  const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
  t.teardown(() => client.close());
  const same = (bytes: Buffer): Buffer => bytes;
  return {
    /** Watches a service by its name; ends the watch once it has been answered, or keeps it. */
    watch: (name: Buffer, keeps = false) =>
      new Promise<Buffer | ServiceError>((resolve) => {
        const request = Buffer.concat([Buffer.from([0x0a]), varint(name.length), name]);
        const call = client.makeServerStreamRequest('/grpc.health.v1.Health/Watch', same, same, request);
        call.on('error', (error: ServiceError) => resolve(error));
        call.once('data', (answer: Buffer) => {
          if (keeps) t.teardown(() => call.cancel());
          else call.cancel();
          resolve(answer);
        });
      }),
    reflect: () => {
      const path = '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo';
      return client.makeBidiStreamRequest(path, same, same);
    },
  };
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (let left = value; ; left >>>= 7) {
    if (left < 0x80) return Buffer.from([...bytes, left]);
    bytes.push((left & 0x7f) | 0x80);
  }
}

const SERVICE_UNKNOWN = Buffer.from([0x08, 0x03]);

/** What the process holds once all garbage is gone, in bytes. */
async function held(): Promise<number> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  for (let times = 0; times < 3; times += 1) {
    await delay(20);
    collect();
  }
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

test.serial(
  'who watches services that are not there leaves nothing behind, and needs no credential for it',
  async (t) => {
    const { server } = await serve(t, {});
    const { watch } = openly(t, server);
    await watch(Buffer.from('warm'));
    const before = await held();
    for (let index = 0; index < 200; index += 1) {
      const name = Buffer.alloc(1_048_576, 'x');
      name.write(String(index));
      t.deepEqual(await watch(name), SERVICE_UNKNOWN);
    }
    const grown = (await held()) - before;
    t.true(grown < 20_000_000, `${grown} bytes`);
  },
);

test.serial('a reflection whose answers nobody reads keeps few of them, and needs no credential for it', async (t) => {
  const { server } = await serve(t, {});
  const before = await held();
  const session = connectHttp2(`http://127.0.0.1:${server.port}`);
  t.teardown(() => session.destroy());
  const path = '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo';
  const call = session.request({
    ':method': 'POST',
    ':path': path,
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  call.on('error', () => undefined);
  // A file with all that it imports is some kilobytes: the answers to all requests would be 200 MB.
  const file = Buffer.from('google/rpc/error_details.proto');
  const request = Buffer.concat([Buffer.from([0, 0, 0, 0, file.length + 2, 0x1a, file.length]), file]);
  const requests = Buffer.concat(Array.from({ length: 1_000 }, () => request));
  let taken = 0;
  const send = (): void => {
    for (; taken < 100_000; taken += 1_000) if (!call.write(requests)) return void call.once('drain', send);
  };
  send();
  await delay(2_000);
  const grown = (await held()) - before;
  t.true(grown < 20_000_000, `${grown} bytes after ${taken} requests`);
});

test('streams that need no credential are counted by the address they come from', async (t) => {
  const { server } = await serve(t, {});
  const first = openly(t, server);
  const kept = await Promise.all(Array.from({ length: 100 }, () => first.watch(Buffer.from(ECHO.typeName), true)));
  t.true(kept.every(Buffer.isBuffer));
  const refused = await openly(t, server).watch(Buffer.from(ECHO.typeName));
  t.is((refused as ServiceError).code as number, Code.ResourceExhausted);
  const reflection = await t.throwsAsync<ServiceError>(Array.fromAsync(first.reflect()));
  t.is(reflection?.code as number, Code.ResourceExhausted);
});

test('a message over the limit never reaches its handler', async (t) => {
  let calls = 0;
  const one = async ({ value }: { value: string }) => {
    calls += 1;
    return { value };
  };
  const { echo } = await serve(t, { one }, { maxMessageBytes: 1_000 });
  t.is((await errorOf(echo.one({ value: 'x'.repeat(2_000) }))).code, Code.ResourceExhausted);
  t.is(calls, 0);
  t.is((await echo.one({ value: 'x'.repeat(900) })).value.length, 900);
});

test('bytes that are no request are INVALID_ARGUMENT', async (t) => {
  const { server } = await serve(t, { one: async ({ value }) => ({ value }) });
  t.is((await bareCall(t, server, Buffer.from([0xff, 0xff])))?.code as number, Code.InvalidArgument);
});

test('a call without a deadline gets the server’s; a stream of answers may last', async (t) => {
  const deadlines: (number | undefined)[] = [];
  const { server, echo } = await serve(
    t,
    {
      one: (_, context) => {
        deadlines.push(context.timeoutMs());
        return new Promise(() => undefined);
      },
      async *down({ value }, context) {
        deadlines.push(context.timeoutMs());
        await delay(300);
        yield { value };
      },
    },
    { defaultDeadlineMs: 150 },
  );
  t.is((await bareCall(t, server))?.code as number, Code.DeadlineExceeded);
  t.is((await Array.fromAsync(echo.down({ value: 'a' }))).length, 1);
  t.true((deadlines[0] ?? 0) > 0 && (deadlines[0] ?? 0) <= 150);
  t.is(deadlines[1], undefined);
});

test('a deadline that is far away is not one that has passed', async (t) => {
  const deadlines: (number | undefined)[] = [];
  const { server } = await serve(t, {
    async one({ value }, context) {
      deadlines.push(context.timeoutMs());
      await delay(50);
      return { value };
    },
  });
  for (const days of [20, 25, 30, 50, 36_500]) {
    const deadline = Date.now() + days * 86_400_000;
    t.is(await bareCall(t, server, Buffer.alloc(0), { deadline }), null, `${days} days`);
    t.true((deadlines.pop() ?? 0) > 19 * 86_400_000, `${days} days`);
  }
});

test('an upload may last as long as it goes on, and ends when its caller falls silent', async (t) => {
  const { echo } = await serve(
    t,
    {
      async up(requests) {
        const values: string[] = [];
        for await (const { value } of requests) values.push(value);
        // What the handler itself takes is not the caller's silence.
        await delay(2_200);
        return { value: values.join('') };
      },
    },
    { defaultDeadlineMs: 2_000 },
  );
  const slowly = async function* () {
    for (const value of 'abcd') {
      yield { value };
      await delay(600);
    }
  };
  t.is((await echo.up(slowly())).value, 'abcd');
  const silent = async function* () {
    yield { value: 'a' };
    await new Promise(() => undefined);
  };
  for (const options of [{}, { timeoutMs: 60_000 }]) {
    const error = await errorOf(echo.up(silent(), options));
    t.deepEqual([error.code, error.rawMessage], [Code.DeadlineExceeded, 'Nothing was sent for 2 s.']);
  }
});

test('a caller over the limit is told how long to wait, and costs no handler', async (t) => {
  let calls = 0;
  const one = async ({ value }: { value: string }) => {
    calls += 1;
    return { value };
  };
  const { echo } = await serve(t, { one }, { callsPerSecond: 1 });
  const outcomes = await Promise.allSettled(Array.from({ length: 30 }, () => echo.one({ value: 'a' })));
  const refused = outcomes.flatMap((outcome) =>
    outcome.status === 'rejected' ? [outcome.reason as ConnectError] : [],
  );
  t.is(calls + refused.length, 30);
  t.true(refused.length > 0);
  for (const error of refused) {
    t.is(error.code, Code.ResourceExhausted);
    t.is(reasonOf(error), 'RATE_LIMITED');
    t.truthy(error.findDetails(RetryInfoSchema)[0]?.retryDelay);
  }
});

test('a subject without a tenant does not spend the calls of a tenant of the same name', async (t) => {
  const rules = { [`${ECHO.typeName}/One`]: { scope: 'echo', role: 'viewer', platform: true } } as const;
  const server = await startEchoServer({ one: async ({ value }) => ({ value }) }, { callsPerSecond: 1 }, rules, {
    async verifyToken(authorization) {
      if (authorization?.endsWith('tenant')) return CALLER_OF_ECHO;
      return { ...CALLER_OF_ECHO, subject: 'acme', kind: 'platform', tenantId: undefined };
    },
  });
  t.teardown(() => server.stop());
  const callAs = (token: string) => {
    const connection = connect({ address: `127.0.0.1:${server.port}`, token: async () => token });
    t.teardown(() => connection.close());
    return connection.client(ECHO).one({ value: 'a' });
  };
  const outcomes = await Promise.allSettled(Array.from({ length: 30 }, () => callAs('platform')));
  const reasons = outcomes.map((outcome) =>
    outcome.status === 'rejected' ? reasonOf(ConnectError.from(outcome.reason)) : 'OK',
  );
  t.deepEqual([...new Set(reasons)].toSorted(), ['OK', 'RATE_LIMITED']);
  t.is((await callAs('tenant')).value, 'a');
});

test('callers of one tenant together have a quarter of the streams, and other tenants the rest', async (t) => {
  const down = async function* (_: unknown, { signal }: { signal: AbortSignal }) {
    yield { value: 'begun' };
    await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  };
  const limits = { streamsPerProcess: 8 };
  const server = await startEchoServer({ down }, { drainMs: 200, ...limits }, RULES, {
    async verifyToken(authorization) {
      const [subject = '', tenantId] = (authorization?.replace('Bearer ', '') ?? '').split('@');
      return { ...CALLER_OF_ECHO, subject, tenantId };
    },
  });
  t.teardown(() => server.stop());
  const begin = async (token: string) => {
    const connection = connect({ address: `127.0.0.1:${server.port}`, token: async () => token });
    t.teardown(() => connection.close());
    await connection.client(ECHO).down({ value: '' })[Symbol.asyncIterator]().next();
  };
  await begin('ada@acme');
  await begin('bob@acme');
  const error = await errorOf(begin('cem@acme'));
  t.is(reasonOf(error), 'TOO_MANY_STREAMS');
  t.regex(error.rawMessage, /tenant/);
  await begin('ada@globex');
});

test('a caller with as many open streams as allowed gets no further one until one ends', async (t) => {
  const down = async function* (_: unknown, { signal }: { signal: AbortSignal }) {
    yield { value: 'begun' };
    await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  };
  const one = async ({ value }: { value: string }) => ({ value });
  const { echo } = await serve(t, { one, down }, { streamsPerCaller: 2 });
  const begin = async () => {
    const stop = new AbortController();
    t.teardown(() => stop.abort());
    await echo.down({ value: '' }, { signal: stop.signal })[Symbol.asyncIterator]().next();
    return stop;
  };
  const first = await begin();
  await begin();
  const error = await errorOf(begin());
  t.is(error.code, Code.ResourceExhausted);
  t.is(reasonOf(error), 'TOO_MANY_STREAMS');
  t.truthy(error.findDetails(RetryInfoSchema)[0]?.retryDelay);
  t.is((await echo.one({ value: 'a' })).value, 'a', 'other calls go on');
  first.abort();
  // The server learns of the end a moment later.
  for (const deadline = performance.now() + 10_000; ; ) {
    const again = await begin().catch((refused: unknown) => ConnectError.from(refused));
    if (again instanceof AbortController) break;
    if (performance.now() > deadline) throw again;
  }
  t.pass();
});

test('what no policy allows is denied before anything is read', async (t) => {
  let calls = 0;
  const one = async ({ value }: { value: string }) => {
    calls += 1;
    return { value };
  };
  const server = await startEchoServer({ one }, {}, {});
  t.teardown(() => server.stop());
  const error = await errorOf(clientOf(t, server).one({ value: 'a' }));
  t.is(error.code, Code.PermissionDenied);
  t.is(reasonOf(error), 'RPC_NOT_ALLOWED');
  t.is((await bareCall(t, server, Buffer.from([0xff, 0xff])))?.code as number, Code.PermissionDenied);
  t.is(calls, 0);
});

test('a handler sees the verified caller and the headers, and never the credential', async (t) => {
  const { echo } = await serve(t, {
    async one(_, context) {
      t.deepEqual(callerOf(context), CALLER_OF_ECHO);
      return { value: JSON.stringify([...context.requestHeader]) };
    },
  });
  const { value } = await echo.one({ value: '' }, { headers: { 'x-trace': 'abc' } });
  t.true(value.includes('abc'));
  t.false(value.includes('good'));
});
