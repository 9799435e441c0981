import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import test, { type ExecutionContext } from 'ava';
import { makeAuthority } from '#test/support/make-certificates.ts';
import { openDatabase } from './open-database.ts';
import type { DatabaseFault } from './sql-errors.ts';

/** A pool on a server that does this with what it is sent first, which is the question whether it speaks TLS. */
async function openOn(t: ExecutionContext, answer: (socket: Socket) => void) {
  const server = createServer((socket) => socket.on('error', () => undefined).once('data', () => answer(socket)));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const faults: DatabaseFault[] = [];
  const database = openDatabase({
    url: `postgres://app:secret@127.0.0.1:${port}/lethe?sslmode=verify-full`,
    poolSize: 1,
    applicationName: 'test',
    statementTimeoutMs: 1_000,
    lockTimeoutMs: 1_000,
  });
  database.onFault((fault) => faults.push(fault));
  t.teardown(async () => {
    await database.close();
    server.close();
  });
  return { database, faults };
}

test('a database that speaks no TLS where it must is UNAVAILABLE, and a fault', async (t) => {
  const { database, faults } = await openOn(t, (socket) => socket.end('N'));
  const error = await t.throwsAsync(database.check());
  t.like(error, { reason: 'DEPENDENCY_UNAVAILABLE', metadata: { dependency: 'database', fault: 'CONNECTION_LOST' } });
  t.deepEqual(faults, ['CONNECTION_LOST']);
});

test('a database whose certificate is not believed is UNAVAILABLE, and a fault', async (t) => {
  const { cert, key } = makeAuthority('nobody').issue(['127.0.0.1']);
  const speakTls = (socket: Socket): void => {
    socket.write('S');
    new TLSSocket(socket, { isServer: true, cert, key }).on('error', () => undefined);
  };
  const { database, faults } = await openOn(t, speakTls);
  const error = await t.throwsAsync(database.check());
  t.like(error, { reason: 'DEPENDENCY_UNAVAILABLE', metadata: { dependency: 'database', fault: 'CONNECTION_LOST' } });
  t.like(error?.cause, { code: 'UNABLE_TO_VERIFY_LEAF_SIGNATURE' });
  t.deepEqual(faults, ['CONNECTION_LOST']);
});
