import { connect as connectTcp, createServer } from 'node:net';
import { pipeline } from 'node:stream';
import test from 'ava';
import { ECHO, startEchoServer } from '#test/support/echo-server.ts';
import { connect } from './client.ts';

test('a connection that has grown old is replaced, no call is lost, and a stream on it goes on to its end', async (t) => {
  const end = Promise.withResolvers<void>();
  const server = await startEchoServer(
    {
      one: async ({ value }) => ({ value }),
      async *down({ value }) {
        yield { value };
        await end.promise;
        yield { value: 'to the end' };
      },
    },
    { connectionAgeMs: 100, drainMs: 1_000 },
  );
  // Between client and server, to see how many connections there have been.
  let connections = 0;
  const between = createServer((socket) => {
    connections += 1;
    const upstream = connectTcp(server.port, '127.0.0.1');
    pipeline(socket, upstream, socket, () => undefined);
  });
  await new Promise<void>((resolve) => between.listen(0, '127.0.0.1', resolve));
  const address = between.address();
  const port = typeof address === 'object' ? address?.port : undefined;
  const connection = connect({ address: `127.0.0.1:${port}`, token: async () => 'good' });
  t.teardown(async () => {
    connection.close();
    between.close();
    await server.stop();
  });

  const echo = connection.client(ECHO);
  const stream = echo.down({ value: 'a' })[Symbol.asyncIterator]();
  t.is((await stream.next()).value?.value, 'a');
  for (let call = 0; connections < 4; call += 1) {
    t.is((await echo.one({ value: `${call}` }, { timeoutMs: 5_000 })).value, `${call}`);
  }
  end.resolve();
  t.is((await stream.next()).value?.value, 'to the end');
  t.true((await stream.next()).done);
});
