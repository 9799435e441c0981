import { mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { Code, ConnectError, type ServiceImpl } from '@connectrpc/connect';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { ECHO, type EchoService, RULES, startEchoServer } from '#test/support/echo-server.ts';
import { type Authority, type Certificate, makeAuthority } from '#test/support/make-certificates.ts';
import { until } from '#test/support/test-stack.ts';
import { connect } from './client.ts';
import type { RunningServer } from './server.ts';
import type { ClientTlsFiles, ServerTlsFiles } from './tls.ts';

const NAMES = ['127.0.0.1', 'localhost'];

/** A folder with the certificates of a server and of its client, all of one authority. */
function makeFolder(t: ExecutionContext, authority: Authority = makeAuthority('first')) {
  const folder = mkdtempSync(join(tmpdir(), 'lethe-test-tls-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const at = (name: string): string => join(folder, name);
  /** As those do who replace certificates well: written beside, then renamed. */
  const put = (name: string, text: string): void => {
    writeFileSync(at(`${name}.new`), text);
    renameSync(at(`${name}.new`), at(name));
  };
  const putPair = (name: string, { cert, key }: Certificate): void => {
    put(`${name}.crt`, cert);
    put(`${name}.key`, key);
  };
  put('ca.crt', authority.cert);
  putPair('server', authority.issue(['first server', ...NAMES]));
  putPair('client', authority.issue(['first client']));
  const server: ServerTlsFiles = { cert: at('server.crt'), key: at('server.key'), clientCa: at('ca.crt') };
  const client: ClientTlsFiles = { ca: at('ca.crt'), cert: at('client.crt'), key: at('client.key') };
  return { at, put, putPair, server, client, authority };
}

const ECHOES: Partial<ServiceImpl<EchoService>> = { one: async ({ value }) => ({ value }) };

async function serve(
  t: ExecutionContext,
  tls: ServerTlsFiles,
  implementation = ECHOES,
  limits = {},
): Promise<RunningServer> {
  const server = await startEchoServer(implementation, { drainMs: 500, ...limits }, RULES, { tls });
  t.teardown(() => server.stop());
  return server;
}

function clientOf(t: ExecutionContext, { port }: RunningServer, tls: ClientTlsFiles | undefined, host = '127.0.0.1') {
  const connection = connect({ address: `${host}:${port}`, token: async () => 'good', tls });
  t.teardown(() => connection.close());
  return connection.client(ECHO);
}

const codeOf = (call: Promise<unknown>): Promise<Code | undefined> =>
  call.then(
    () => undefined,
    (error: unknown) => ConnectError.from(error).code,
  );

/** The name in the certificate that a new connection is shown. */
const servedName = ({ port }: RunningServer, { cert, key }: Certificate, ca: string): Promise<string> =>
  new Promise((resolve, reject) => {
    const socket = connectTls({ port, host: '127.0.0.1', ca, cert, key, ALPNProtocols: ['h2'] }, () => {
      resolve(String(socket.getPeerCertificate().subject.CN));
      socket.destroy();
    });
    socket.once('error', reject);
  });

test('with mTLS only clients of the authority are served, by address and by name', async (t) => {
  const { server: tls, client, at, put, putPair } = makeFolder(t);
  const server = await serve(t, tls);
  t.is((await clientOf(t, server, client).one({ value: 'a' })).value, 'a');
  t.is((await clientOf(t, server, client, 'localhost').one({ value: 'b' })).value, 'b');
  const other = makeAuthority('other');
  put('other-ca.crt', other.cert);
  putPair('stranger', other.issue(['stranger']));
  const stranger = { cert: at('stranger.crt'), key: at('stranger.key') };
  for (const [title, refused] of Object.entries({
    plaintext: undefined,
    'no certificate': { ca: client.ca },
    'a certificate of another authority': { ...client, ...stranger },
    'a server of another authority': { ...client, ca: at('other-ca.crt') },
    'a server that the usual authorities do not know': { ...client, ca: 'system' },
  })) {
    const call = clientOf(t, server, refused).one({ value: 'c' }, { timeoutMs: 3_000 });
    const code = await codeOf(call);
    t.true(code === Code.Unavailable || code === Code.DeadlineExceeded, `${title}: ${code}`);
  }
});

test('a certificate for another host is refused', async (t) => {
  const { server: tls, client, putPair, authority } = makeFolder(t);
  putPair('server', authority.issue(['elsewhere', '127.0.0.2']));
  const server = await serve(t, tls);
  for (const host of ['127.0.0.1', 'localhost']) {
    const code = await codeOf(clientOf(t, server, client, host).one({ value: 'a' }, { timeoutMs: 3_000 }));
    t.true(code === Code.Unavailable || code === Code.DeadlineExceeded, `${host}: ${code}`);
  }
});

test('TLS alone asks for no certificate of the client, and refuses plaintext', async (t) => {
  const { server: tls, client } = makeFolder(t);
  const server = await serve(t, { ...tls, clientCa: undefined });
  t.is((await clientOf(t, server, { ca: client.ca }).one({ value: 'a' })).value, 'a');
  const code = await codeOf(clientOf(t, server, undefined).one({ value: 'b' }, { timeoutMs: 3_000 }));
  t.true(code === Code.Unavailable || code === Code.DeadlineExceeded);
});

test('new connections have the new certificate, and a call on an old one goes on to its end', async (t) => {
  const { server: tls, client, put, putPair, authority } = makeFolder(t);
  const end = Promise.withResolvers<void>();
  const server = await serve(t, tls, {
    ...ECHOES,
    async *down({ value }) {
      yield { value };
      await end.promise;
      yield { value: 'to the end' };
    },
  });
  const stream = clientOf(t, server, client).down({ value: 'a' })[Symbol.asyncIterator]();
  await stream.next();
  const mine = authority.issue(['me']);
  t.is(await servedName(server, mine, authority.cert), 'first server');
  putPair('server', authority.issue(['second server', ...NAMES]));
  await until('it is served', async () => (await servedName(server, mine, authority.cert)) === 'second server');
  // Another authority: both sides learn to trust it before anybody shows a certificate of it.
  const next = makeAuthority('next');
  put('ca.crt', `${authority.cert}${next.cert}`);
  putPair('server', next.issue(['third server', ...NAMES]));
  const theirs = next.issue(['me']);
  await until('it is served', async () => (await servedName(server, theirs, next.cert)) === 'third server');
  t.is((await clientOf(t, server, client).one({ value: 'b' })).value, 'b');
  put('ca.crt', next.cert);
  await until('the first authority is forgotten', async () => {
    const call = clientOf(t, server, client).one({ value: 'c' }, { timeoutMs: 500 });
    return (await codeOf(call)) !== undefined;
  });
  putPair('client', theirs);
  t.is((await clientOf(t, server, client).one({ value: 'd' })).value, 'd');
  end.resolve();
  t.is((await stream.next()).value?.value, 'to the end');
});

test('files that do not fit each other yet, or are gone, leave the certificate of before in use', async (t) => {
  const { server: tls, put, at, putPair, authority } = makeFolder(t);
  const problems: string[] = [];
  const log = pino({ level: 'error' }, { write: (line: string) => void problems.push(JSON.parse(line).err.message) });
  const server = await startEchoServer(ECHOES, {}, RULES, { tls, log });
  t.teardown(() => server.stop());
  const mine = authority.issue(['me']);
  const next = authority.issue(['second server', ...NAMES]);
  for (const [change, problem] of [
    [() => put('server.crt', next.cert), /server\.key is not the private key of/],
    [() => put('server.crt', 'rubbish'), /server\.crt holds no certificate/],
    [() => put('ca.crt', 'rubbish'), /ca\.crt holds no certificate/],
    [() => rmSync(at('server.key')), /server\.key cannot be read: ENOENT/],
  ] as const) {
    change();
    await until('the problem is told', async () => problem.test(problems.at(-1) ?? ''));
    t.is(await servedName(server, mine, authority.cert), 'first server');
  }
  put('ca.crt', authority.cert);
  // As Kubernetes does: the file is a link whose target is exchanged.
  putPair('next', next);
  for (const name of ['crt', 'key']) {
    rmSync(at(`server.${name}`), { force: true });
    symlinkSync(at(`next.${name}`), at(`server.${name}`));
  }
  await until('it is served', async () => (await servedName(server, mine, authority.cert)) === 'second server');
});

test('a file that cannot be used is named at the start, without its content', async (t) => {
  const { server: tls, client, put, at } = makeFolder(t);
  put('bad.crt', 'hunter2');
  for (const files of [
    { ...tls, cert: at('bad.crt') },
    { ...tls, key: at('client.key') },
    { ...tls, clientCa: at('none.crt') },
  ]) {
    const error = await t.throwsAsync(startEchoServer(ECHOES, {}, RULES, { tls: files }));
    t.regex(error.message, /(bad\.crt holds no|client\.key is not the private key|none\.crt cannot be read: ENOENT)/);
    t.false(error.message.includes('hunter2'));
  }
  for (const files of [
    { ...client, ca: at('bad.crt') },
    { ...client, cert: at('none.crt') },
  ]) {
    const error = t.throws(() => connect({ address: 'localhost:1', token: async () => '', tls: files }));
    t.regex(error.message, /(bad|none)\.crt/);
  }
});

test('reflection can be switched off', async (t) => {
  const ask = async (reflection: boolean) => {
    const server = await startEchoServer(ECHOES, {}, RULES, { reflection });
    t.teardown(() => server.stop());
    const client = new Client(`127.0.0.1:${server.port}`, credentials.createInsecure());
    t.teardown(() => client.close());
    const same = (bytes: Buffer): Buffer => bytes;
    const path = '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo';
    const call = client.makeBidiStreamRequest(path, same, same, new Metadata());
    call.on('data', () => undefined).on('error', () => undefined);
    // list_services: "*"
    call.end(Buffer.from('3a012a', 'hex'));
    return new Promise<number>((resolve) => call.once('status', ({ code }) => resolve(code)));
  };
  t.is(await ask(true), 0);
  t.is(await ask(false), Code.Unimplemented);
});
