import { once } from 'node:events';
import { createServer, type RequestListener, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { openS3Store } from './s3-store.ts';

const CHUNK = Buffer.alloc(65_536);
const CHUNKS = 1_024;

const LISTINGS: Readonly<Record<string, string>> = {
  versions: '<ListVersionsResult><IsTruncated>false</IsTruncated></ListVersionsResult>',
  uploads: '<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>',
};

/** A store that is this server: listings are empty, and an object is what `give` answers. */
async function storeOf(t: ExecutionContext, give: (response: ServerResponse) => void, requestTimeoutMs?: number) {
  const answer: RequestListener = (request, response) => {
    const { searchParams } = new URL(request.url ?? '', 'http://store');
    const listing = Object.keys(LISTINGS).find((name) => searchParams.has(name));
    if (listing === undefined) give(response);
    else response.setHeader('content-type', 'application/xml').end(LISTINGS[listing]);
  };
  const server = createServer(answer).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const store = openS3Store({
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    region: 'us-east-1',
    bucket: 'x',
    credentials: { accessKeyId: 'x', secretAccessKey: 'x' },
    ...(requestTimeoutMs === undefined ? {} : { requestTimeoutMs }),
  });
  t.teardown(() => {
    store.close();
    server.closeAllConnections();
    server.close();
  });
  /** An object's body of which the first chunk has been read, and how many bytes that had. */
  const begin = async () => {
    const body = (await store.get('tenants/a/jobs/1/input/x'))?.body[Symbol.asyncIterator]();
    if (!body) throw new Error('there is no object');
    const first = await body.next();
    return { body, bytes: first.value?.length ?? 0 };
  };
  return { store, begin };
}

/** 64 MiB, as fast as they are taken. */
const giveLarge = (response: ServerResponse): void => {
  response.setHeader('content-length', CHUNK.length * CHUNKS);
  Readable.from(Array.from({ length: CHUNKS }, () => CHUNK)).pipe(response);
};

test('downloads that nobody reads on stop no listing, no removal and no other download', async (t) => {
  const { store, begin } = await storeOf(t, giveLarge);
  const bodies = await Promise.all(Array.from({ length: 64 }, begin));
  const prefix = 'tenants/b/jobs/2/';
  t.deepEqual(await store.count(prefix), { versions: 0, markers: 0, uploads: 0, bytes: 0 });
  t.like(await store.removePrefix(prefix, { limit: 10 }), { progress: 'COMPLETE' });
  bodies.push(await begin());
  for (const { body } of bodies) await body.return?.();
});

test('a reader may pause for longer than the store may be silent, and gets the rest', async (t) => {
  const { begin } = await storeOf(t, giveLarge, 200);
  const { body, bytes: first } = await begin();
  await delay(1_000);
  let bytes = first;
  for (let chunk = await body.next(); !chunk.done; chunk = await body.next()) bytes += chunk.value.length;
  t.is(bytes, CHUNK.length * CHUNKS);
});

test('a store that falls silent in the middle of a body is UNAVAILABLE', async (t) => {
  const { begin } = await storeOf(t, (response) => void response.setHeader('content-length', 100).write('first'), 200);
  const { body } = await begin();
  t.like(await t.throwsAsync(body.next()), { reason: 'DEPENDENCY_UNAVAILABLE' });
});
