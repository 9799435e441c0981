import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { StringValue } from '@bufbuild/protobuf/wkt';
import { type CallOptions, type Client, Code, ConnectError, type ServiceImpl } from '@connectrpc/connect';
import test, { type ExecutionContext } from 'ava';
import { ErrorInfoSchema, RetryInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { ECHO, type EchoService, startEchoServer } from '#test/support/echo-server.ts';
import { connect } from './client.ts';

type Implementation = Partial<ServiceImpl<EchoService>>;

/** A server with these handlers and a client of it. */
async function serve(t: ExecutionContext, implementation: Implementation, token = async () => 'good') {
  const server = await startEchoServer(implementation, { drainMs: 100 });
  const connection = connect({ address: `127.0.0.1:${server.port}`, token });
  t.teardown(async () => {
    connection.close();
    await server.stop();
  });
  return connection.client(ECHO);
}

/** Each kind of call, to its end. */
const CALLS: Readonly<Record<string, (echo: Client<EchoService>, options?: CallOptions) => Promise<unknown>>> = {
  one: (echo, options) => echo.one({ value: 'a' }, options),
  up: (echo, options) => echo.up(texts('a', 'b'), options),
  down: (echo, options) => valuesOf(echo.down({ value: 'a' }, options)),
  both: (echo, options) => valuesOf(echo.both(texts('a', 'b'), options)),
};

async function* texts(...values: string[]) {
  for (const value of values) yield { value };
}

const valuesOf = (stream: AsyncIterable<StringValue>): Promise<string[]> =>
  Array.fromAsync(stream, ({ value }) => value);

const echoing: Implementation = {
  one: async ({ value }) => ({ value }),
  up: async (requests) => ({ value: (await valuesOf(requests)).join() }),
  down: ({ value }) => texts(value, `${value}${value}`),
  both: async function* (requests) {
    for await (const { value } of requests) yield { value };
  },
};

/** Handlers that never answer and tell when they are told to stop. */
function waiting(): { implementation: Implementation; reached: Promise<void>; stopped: Promise<unknown> } {
  const reached = Promise.withResolvers<void>();
  const stopped = Promise.withResolvers<unknown>();
  const wait = (signal: AbortSignal): Promise<never> => {
    signal.addEventListener('abort', () => stopped.resolve(signal.reason));
    reached.resolve();
    return new Promise(() => undefined);
  };
  return {
    reached: reached.promise,
    stopped: stopped.promise,
    implementation: {
      one: (_, { signal }) => wait(signal),
      up: (_, { signal }) => wait(signal),
      down: async function* (_, { signal }) {
        yield { value: 'a' };
        await wait(signal);
      },
      both: async function* (_, { signal }) {
        yield { value: 'a' };
        await wait(signal);
      },
    },
  };
}

const failing = (error: Error): Implementation => ({
  one: () => Promise.reject(error),
  up: () => Promise.reject(error),
  down: async function* () {
    yield { value: 'a' };
    throw error;
  },
  both: async function* () {
    yield { value: 'a' };
    throw error;
  },
});

const errorOf = (call: Promise<unknown>): Promise<ConnectError> =>
  call.then(
    () => Promise.reject(new Error('the call went well')),
    (error: unknown) => ConnectError.from(error),
  );

/** What it resolves to; an error when it takes longer than a call that hangs deserves. */
const soon = <T>(what: Promise<T>): Promise<T> =>
  Promise.race([
    what,
    delay(20_000, undefined, { ref: false }).then(() => {
      throw new Error('it hangs');
    }),
  ]);

test('each kind of call carries what was sent and what was answered', async (t) => {
  const echo = await serve(t, echoing);
  t.is((await echo.one({ value: 'a' })).value, 'a');
  t.is((await echo.up(texts('a', 'b'))).value, 'a,b');
  t.deepEqual(await valuesOf(echo.down({ value: 'a' })), ['a', 'aa']);
  t.deepEqual(await valuesOf(echo.both(texts('a', 'b'))), ['a', 'b']);
});

test('a stream that fails before anybody reads it ends no process, and is not read as a whole one later', async (t) => {
  const echo = await serve(t, failing(new DomainError('aborted', 'LOST', 'It was lost.')));
  const streams = [echo.down({ value: 'a' }), echo.both(texts('a'))];
  // An answer on the same connection, twice: the streams' failure has arrived by then.
  for (let round = 0; round < 2; round += 1) await errorOf(echo.one({ value: 'a' }));
  await delay(50);
  for (const stream of streams) {
    t.is((await errorOf(soon(valuesOf(stream)))).code, Code.Aborted);
  }
});

test('a stream whose token cannot be had fails where it is read', async (t) => {
  const echo = await serve(t, echoing, () => Promise.reject(new Error('no key')));
  const stream = echo.down({ value: 'a' });
  await delay(20);
  t.regex((await errorOf(valuesOf(stream))).message, /no key/);
  for (const [kind, call] of Object.entries(CALLS)) t.regex((await errorOf(call(echo))).message, /no key/, kind);
});

test('an upload that is refused early returns at once, and closes its source', async (t) => {
  const echo = await serve(t, failing(new DomainError('failed-precondition', 'FULL', 'It is full.')));
  const value = 'x'.repeat(64 * 1_024);
  const sends: readonly ((source: AsyncIterable<{ value: string }>) => Promise<unknown>)[] = [
    (source) => echo.up(source),
    (source) => valuesOf(echo.both(source)),
  ];
  for (const send of sends) {
    let isClosed = false;
    const endless = async function* () {
      try {
        for (;;) yield { value };
      } finally {
        isClosed = true;
      }
    };
    t.is((await errorOf(soon(send(endless())))).code, Code.FailedPrecondition);
    while (!isClosed) await soon(delay(5));
    t.true(isClosed);
  }
});

test('an upload that is refused while its source waits for more returns at once', async (t) => {
  const echo = await serve(t, failing(new DomainError('failed-precondition', 'FULL', 'It is full.')));
  const silent = async function* () {
    yield { value: 'a' };
    await new Promise(() => undefined);
  };
  t.is((await errorOf(soon(echo.up(silent())))).code, Code.FailedPrecondition);
  t.is((await errorOf(soon(valuesOf(echo.both(silent()))))).code, Code.FailedPrecondition);
});

test('a source that fails cancels its upload and is told as it failed', async (t) => {
  const { implementation, reached, stopped } = waiting();
  const echo = await serve(t, implementation);
  const broken = async function* () {
    yield { value: 'a' };
    await reached;
    throw new Error('the disk is gone');
  };
  t.regex((await errorOf(soon(echo.up(broken())))).message, /the disk is gone/);
  t.is(ConnectError.from(await soon(stopped)).code, Code.Canceled);
  t.regex((await errorOf(soon(valuesOf(echo.both(broken()))))).message, /the disk is gone/);
});

for (const [kind, call] of Object.entries(CALLS)) {
  test.serial(`${kind}: a deadline ends the call on both sides as DEADLINE_EXCEEDED`, async (t) => {
    const { implementation, stopped } = waiting();
    const echo = await serve(t, implementation);
    t.is((await errorOf(soon(call(echo, { timeoutMs: 3_000 })))).code, Code.DeadlineExceeded);
    // Whichever comes first, the server's own timer or the client's cancellation.
    t.true([Code.DeadlineExceeded, Code.Canceled].includes(ConnectError.from(await soon(stopped)).code));
  });

  test(`${kind}: an abort ends the call on both sides as CANCELLED`, async (t) => {
    const { implementation, reached, stopped } = waiting();
    const echo = await serve(t, implementation);
    const abort = new AbortController();
    const error = errorOf(soon(call(echo, { signal: abort.signal })));
    await soon(reached);
    abort.abort();
    t.is((await error).code, Code.Canceled);
    t.is(ConnectError.from(await soon(stopped)).code, Code.Canceled);
  });

  test(`${kind}: an abort before the call sends nothing`, async (t) => {
    let calls = 0;
    const token = async () => {
      calls += 1;
      return 'good';
    };
    const echo = await serve(t, echoing, token);
    t.is((await errorOf(soon(call(echo, { signal: AbortSignal.abort() })))).code, Code.Canceled);
    t.is(calls, 0);
  });

  test(`${kind}: an abort while the token is fetched ends the call`, async (t) => {
    const echo = await serve(t, echoing, () => new Promise(() => undefined));
    const error = await errorOf(soon(call(echo, { signal: AbortSignal.timeout(50) })));
    t.is(error.code, Code.Canceled);
  });

  test(`${kind}: an error carries its reason, its metadata and its details over the wire`, async (t) => {
    const full = new DomainError('resource-exhausted', 'FULL', 'Only 3 fit.', { limit: '3' }, { retryAfterMs: 1_500 });
    const echo = await serve(t, failing(full));
    const error = await errorOf(soon(call(echo)));
    t.is(error.code, Code.ResourceExhausted);
    t.is(error.rawMessage, 'Only 3 fit.');
    t.like(error.findDetails(ErrorInfoSchema)[0], { reason: 'FULL', domain: 'lethe', metadata: { limit: '3' } });
    t.like(error.findDetails(RetryInfoSchema)[0]?.retryDelay, { seconds: 1n, nanos: 500_000_000 });
  });

  test(`${kind}: an error of ours or of a library tells nothing of itself`, async (t) => {
    const echo = await serve(t, failing(new TypeError('password=hunter2')));
    const error = await errorOf(soon(call(echo)));
    t.is(error.code, Code.Internal);
    t.false(JSON.stringify([error.message, error.details]).includes('hunter2'));
    const { reason, metadata } = error.findDetails(ErrorInfoSchema)[0] ?? {};
    t.is(reason, 'INTERNAL');
    t.true(error.rawMessage.includes(metadata?.['incident_id'] ?? '?'));
  });

  test(`${kind}: an RPC without a handler is UNIMPLEMENTED`, async (t) => {
    t.is((await errorOf(soon(call(await serve(t, {}))))).code, Code.Unimplemented);
  });
}

test('a failing stream that is being read gives what came before the failure', async (t) => {
  const echo = await serve(t, failing(new DomainError('aborted', 'LOST', 'It was lost.')));
  for (const stream of [echo.down({ value: 'a' }), echo.both(texts('a'))]) {
    const reading = stream[Symbol.asyncIterator]();
    t.is((await reading.next()).value?.value, 'a');
    t.is((await errorOf(reading.next())).code, Code.Aborted);
  }
});

test('who stops reading a stream ends it on the server too', async (t) => {
  for (const kind of ['down', 'both'] as const) {
    const { implementation, stopped } = waiting();
    const echo = await serve(t, implementation);
    for await (const { value } of kind === 'down' ? echo.down({ value: 'a' }) : echo.both(texts('a'))) {
      t.is(value, 'a');
      break;
    }
    t.is(ConnectError.from(await soon(stopped)).code, Code.Canceled);
  }
});

test('a signal that outlives its calls keeps nothing of them', async (t) => {
  const echo = await serve(t, echoing);
  const { signal } = new AbortController();
  let listeners = 0;
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (...args: Parameters<typeof addEventListener>) => {
    listeners += 1;
    addEventListener.apply(signal, args);
  };
  signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
    listeners -= 1;
    removeEventListener.apply(signal, args);
  };
  for (const call of Object.values(CALLS)) await call(echo, { signal });
  t.is(listeners, 0);
});

test('only UNAVAILABLE is tried again, four times in all', async (t) => {
  for (const kind of ['unavailable', 'aborted', 'resource-exhausted', 'failed-precondition'] as const) {
    let attempts = 0;
    const echo = await serve(t, {
      one: () => {
        attempts += 1;
        return Promise.reject(new DomainError(kind, 'BUSY', 'Busy.'));
      },
    });
    const error = await errorOf(soon(echo.one({ value: 'a' })));
    t.is(error.findDetails(ErrorInfoSchema)[0]?.reason, 'BUSY');
    t.is(attempts, kind === 'unavailable' ? 4 : 1, kind);
  }
});

test('without retries, UNAVAILABLE is told at once', async (t) => {
  let attempts = 0;
  const server = await startEchoServer({
    one: () => {
      attempts += 1;
      return Promise.reject(new DomainError('unavailable', 'BUSY', 'Busy.'));
    },
  });
  const address = `127.0.0.1:${server.port}`;
  const connection = connect({ address, token: async () => 'good', retries: false });
  t.teardown(async () => {
    connection.close();
    await server.stop();
  });
  t.is((await errorOf(soon(connection.client(ECHO).one({ value: 'a' })))).code, Code.Unavailable);
  t.is(attempts, 1);
});

test('a call that is tried again is answered as if nothing had been', async (t) => {
  let attempts = 0;
  const busyAtFirst = async () => {
    attempts += 1;
    if (attempts % 3 !== 0) throw new DomainError('unavailable', 'BUSY', 'Busy.');
  };
  const echo = await serve(t, {
    async one({ value }) {
      await busyAtFirst();
      return { value };
    },
    async *down({ value }) {
      await busyAtFirst();
      yield { value };
    },
  });
  t.is((await echo.one({ value: 'a' })).value, 'a');
  t.deepEqual(await valuesOf(echo.down({ value: 'a' })), ['a']);
  t.is(attempts, 6);
});

test.serial('a stream keeps nothing of what has passed through it', async (t) => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const messages = 1_500;
  const size = 128 * 1_024;
  const many = async function* () {
    for (let count = 0; count < messages; count += 1) yield { value: String(count % 10).repeat(size) };
  };
  let most = 0;
  const measure = () => {
    collect();
    most = Math.max(most, process.memoryUsage().heapUsed + process.memoryUsage().arrayBuffers);
  };
  const echo = await serve(t, {
    async up(requests) {
      let count = 0;
      for await (const _ of requests) {
        count += 1;
        if (count % 100 === 0) measure();
      }
      return { value: String(count) };
    },
    down: many,
  });
  measure();
  const before = most;
  t.is((await echo.up(many())).value, String(messages));
  let count = 0;
  for await (const _ of echo.down({ value: '' })) {
    count += 1;
    if (count % 100 === 0) measure();
  }
  t.is(count, messages);
  const grownMb = (most - before) / 1_048_576;
  t.true(grownMb < (messages * size) / 1_048_576 / 2, `${grownMb} MB`);
});

test('nobody there is UNAVAILABLE, well before the deadline', async (t) => {
  const server = await startEchoServer({});
  const connection = connect({ address: `127.0.0.1:${server.port}`, token: async () => 'good' });
  t.teardown(() => connection.close());
  await server.stop();
  t.is((await errorOf(soon(connection.client(ECHO).one({ value: 'a' })))).code, Code.Unavailable);
});
