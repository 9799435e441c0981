import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { Code, ConnectError } from '@connectrpc/connect';
import test, { type ExecutionContext } from 'ava';
import { ECHO, type EchoService, startEchoServer } from '#test/support/echo-server.ts';
import { makeTcpGate } from '#test/support/tcp-gate.ts';
import { until } from '#test/support/test-stack.ts';
import { type ClientOptions, connect } from './client.ts';

// A gRPC client notices by its keepalive, after 40 s, that a connection is silent.
const SOON_MS = 15_000;

type One = NonNullable<Parameters<typeof startEchoServer>[0]['one']>;

/** A server behind a gate, and a client that has called it. */
async function serveBehindGate(t: ExecutionContext, one: One, options: Partial<ClientOptions> = {}) {
  const server = await startEchoServer({ one }, { drainMs: 100 });
  const gate = await makeTcpGate();
  const open = (): void => gate.open(`127.0.0.1:${server.port}`);
  open();
  const connection = connect({ address: gate.address, token: async () => 'good', ...options });
  t.teardown(async () => {
    connection.close();
    await gate.close();
    await server.stop();
  });
  const echo = connection.client<EchoService>(ECHO);
  await until('it answers', async () => (await echo.one({ value: 'a' })).value === 'a');
  return { connection, echo, gate, open };
}

const same: One = async ({ value }) => ({ value: value ?? '' });

test('a service that was silent, and whose connections are forgotten, is called on new ones', async (t) => {
  const { connection, echo, gate, open } = await serveBehindGate(t, same);
  gate.swallow();
  const error = await t.throwsAsync(echo.one({ value: 'b' }, { timeoutMs: 300 }));
  t.is(ConnectError.from(error).code, Code.DeadlineExceeded);
  t.false(await connection.isReachable());
  open();
  await until('it is reachable', () => connection.isReachable(), SOON_MS);
  t.is((await echo.one({ value: 'c' }, { timeoutMs: 5_000 })).value, 'c');
});

for (const [how, options] of [
  ['asked again on a new connection', {}],
  ['told as UNAVAILABLE where no call is made twice', { retries: false }],
] as const) {
  test(`a call that waits on a forgotten connection is ${how}, without anybody asking for the service`, async (t) => {
    const { echo, gate, open } = await serveBehindGate(t, same, options);
    gate.swallow();
    const call = echo.one({ value: 'b' }, { timeoutMs: 60_000 }).then(
      ({ value }) => value,
      (error: unknown) => Code[ConnectError.from(error).code],
    );
    await delay(200);
    open();
    t.is(
      await Promise.race([call, delay(SOON_MS, 'it waits', { ref: false })]),
      'retries' in options ? 'Unavailable' : 'b',
    );
    t.is((await echo.one({ value: 'c' }, { timeoutMs: 5_000 })).value, 'c');
  });
}

test('a service that takes connections and says nothing is not left with ever more of them', async (t) => {
  let open = 0;
  const silent = createServer((socket) => {
    open += 1;
    socket.on('close', () => (open -= 1)).resume();
  });
  await once(silent.listen(0, '127.0.0.1'), 'listening');
  const { port } = silent.address() as AddressInfo;
  const connection = connect({ address: `127.0.0.1:${port}`, token: async () => 'good' });
  for (let times = 0; times < 3; times += 1) t.false(await connection.isReachable());
  await until('those that were tried are closed', async () => open === 1);
  connection.close();
  await until('all are closed', async () => open === 0);
  silent.close();
});

test('a call is left alone while its service is slow, however slow', async (t) => {
  let calls = 0;
  const { connection, echo, gate } = await serveBehindGate(t, async ({ value = '' }) => {
    if (value === 'b') calls += 1;
    return { value };
  });
  gate.slow(2_500);
  const call = echo.one({ value: 'b' });
  t.false(await connection.isReachable());
  t.is((await call).value, 'b');
  t.is(calls, 1);
});

test('when one of two replicas behind a name falls silent, its calls alone are made again', async (t) => {
  const { promise, resolve: release } = Promise.withResolvers<void>();
  const long = [0, 0];
  const replicas = await Promise.all(
    [0, 1].map(async (index) => {
      const one: One = async ({ value = '' }) => {
        if (value.startsWith('long')) {
          long[index] = (long[index] ?? 0) + 1;
          await promise;
        }
        return { value: value === 'who' ? String(index) : value };
      };
      const server = await startEchoServer({ one }, { drainMs: 100 });
      const gate = await makeTcpGate();
      gate.open(`127.0.0.1:${server.port}`);
      return { server, gate };
    }),
  );
  const address = `ipv4:///${replicas.map(({ gate }) => gate.address).join(',')}`;
  const connection = connect({ address, token: async () => 'good' });
  t.teardown(async () => {
    connection.close();
    await Promise.all(replicas.map(({ gate }) => gate.close()));
    await Promise.all(replicas.map(({ server }) => server.stop()));
  });
  const echo = connection.client<EchoService>(ECHO);
  const seen = new Set<string | undefined>();
  await until('both answer', async () => seen.add((await echo.one({ value: 'who' })).value).size === 2);
  const calls = ['long 1', 'long 2', 'long 3', 'long 4'].map((value) => echo.one({ value }, { timeoutMs: 60_000 }));
  await until('each has some', async () => long[0] === 2 && long[1] === 2);
  replicas[0]?.gate.swallow();
  await until('those of the silent one are made again', async () => (long[1] ?? 0) >= 4);
  release();
  t.deepEqual(
    (await Promise.all(calls)).map(({ value }) => value),
    ['long 1', 'long 2', 'long 3', 'long 4'],
  );
  t.deepEqual(long, [2, 4]);
});
