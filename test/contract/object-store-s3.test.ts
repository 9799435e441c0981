import { once } from 'node:events';
import { createServer as createHttpServer, request as httpRequest } from 'node:http';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import {
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  PutBucketLifecycleConfigurationCommand,
  PutBucketVersioningCommand,
  PutObjectCommand,
  PutObjectLegalHoldCommand,
  PutObjectLockConfigurationCommand,
} from '@aws-sdk/client-s3';
import anyTest, { type TestFn } from 'ava';
import { DomainError } from '#libs/kernel/domain-error.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { openS3Store, type S3StoreOptions } from '#libs/object-store/s3-store.ts';
import { type CephGateway, hasCeph, startCephGateway } from '#test/support/ceph-gateway.ts';
import { testIfFound } from '#test/support/require.ts';
import { type Declare, objectStoreContract } from './object-store.ts';

const test = anyTest as TestFn<unknown>;
const isFound = hasCeph();
const declare: Declare = (title, body) => testIfFound(test.serial, isFound, "Ceph's gateway", title, body);

let gateway: CephGateway;
const stores = new Map<string, ObjectStore>();

test.before(async () => {
  if (!isFound) return;
  gateway = await startCephGateway();
  await gateway.createBucket('plain', { versioned: false });
  await gateway.createBucket('versioned', { versioned: true });
  await gateway.createBucket('turned-on-later', { versioned: false });
  await gateway.createBucket('locked', { versioned: true, objectLock: true });
});
test.after.always(async () => {
  for (const store of stores.values()) store.close();
  await gateway?.stop();
});

function open(bucket: string, options: Partial<S3StoreOptions> = {}): ObjectStore {
  const { endpoint, region, accessKeyId, secretAccessKey } = gateway;
  const name = JSON.stringify([bucket, options]);
  const store =
    stores.get(name) ??
    openS3Store({ endpoint, region, bucket, credentials: { accessKeyId, secretAccessKey }, ...options });
  stores.set(name, store);
  return store;
}

/** A way to the server on which a listing that goes on takes its time. */
async function startSlowLister(endpoint: string, delayMs: number): Promise<{ endpoint: string; close(): void }> {
  const { hostname, port } = new URL(endpoint);
  const server = createHttpServer((request, response) => {
    const goesOn = /[?&](key|upload-id|version-id)-marker=./.test(request.url ?? '');
    setTimeout(
      () => {
        const { method, url: path, headers } = request;
        const onward = httpRequest({ hostname, port, method, path, headers }, (answer) => {
          response.writeHead(answer.statusCode ?? 502, answer.headers);
          answer.pipe(response);
        });
        onward.on('error', () => response.destroy());
        request.pipe(onward);
      },
      goesOn ? delayMs : 0,
    );
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const close = (): void => {
    server.close();
    server.closeAllConnections();
  };
  return { endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close };
}

objectStoreContract(declare, 'S3, plain bucket', () => open('plain'), false);
objectStoreContract(declare, 'S3, versioned bucket', () => open('versioned'), true);

// The gateway's own paging: within a key's versions, within a key's uploads, and across keys.
objectStoreContract(declare, 'S3, versioned bucket, pages of 2', () => open('versioned', { pageSize: 2 }), true);

declare('S3: a bucket tells its versioning, which rules remove what is in use, and whether it locks', async (t) => {
  await gateway.createBucket('retained', { versioned: true, objectLock: true });
  const [Bucket, Days] = ['retained', 7];
  await gateway.s3.send(
    new PutBucketLifecycleConfigurationCommand({
      Bucket,
      LifecycleConfiguration: {
        Rules: [
          { ID: 'all-after-a-week', Status: 'Enabled', Filter: { Prefix: '' }, Expiration: { Days } },
          {
            ID: 'old-versions',
            Status: 'Enabled',
            Filter: { Prefix: 'old/' },
            NoncurrentVersionExpiration: { NoncurrentDays: Days },
          },
        ],
      },
    }),
  );
  await gateway.s3.send(
    new PutObjectLockConfigurationCommand({
      Bucket,
      ObjectLockConfiguration: {
        ObjectLockEnabled: 'Enabled',
        Rule: { DefaultRetention: { Mode: 'GOVERNANCE', Days } },
      },
    }),
  );
  t.deepEqual(await open('plain').traits(), { versioning: 'OFF', expiringRules: [], isLocked: false });
  t.deepEqual(await open('versioned').traits(), { versioning: 'ENABLED', expiringRules: [], isLocked: false });
  t.deepEqual(await open('retained').traits(), {
    versioning: 'ENABLED',
    expiringRules: ['all-after-a-week'],
    isLocked: true,
  });
});

declare('S3: versions from before versioning, and from after it was suspended, go too', async (t) => {
  const Bucket = 'turned-on-later';
  const store = open(Bucket, { pageSize: 2 });
  const prefix = 'tenants/a/jobs/mixed/';
  const put = (Body: string) => gateway.s3.send(new PutObjectCommand({ Bucket, Key: `${prefix}x`, Body }));
  const turn = (Status: 'Enabled' | 'Suspended') =>
    gateway.s3.send(new PutBucketVersioningCommand({ Bucket, VersioningConfiguration: { Status } }));
  await put('before');
  await turn('Enabled');
  await put('during');
  await put('during, again');
  await gateway.s3.send(new DeleteObjectCommand({ Bucket, Key: `${prefix}x` }));
  await turn('Suspended');
  await put('suspended');
  // The last one has taken the place of the first: both are the version named "null".
  t.like(await store.count(prefix), { versions: 3, markers: 1 });
  t.like(await store.removePrefix(prefix, { limit: 10 }), {
    objects: 3,
    markers: 1,
    failures: [],
    progress: 'COMPLETE',
  });
  t.deepEqual(await store.count(prefix), { versions: 0, markers: 0, uploads: 0, bytes: 0 });
});

declare('S3: however late the next page is listed, no version and no upload of a key is left out', async (t) => {
  const versions = 7;
  const uploads = 5;
  const prefix = 'tenants/a/jobs/often/';
  const Key = `${prefix}x`;
  for (let version = 0; version < versions; version += 1) {
    await gateway.s3.send(new PutObjectCommand({ Bucket: 'versioned', Key, Body: `${version}` }));
  }
  for (let upload = 0; upload < uploads; upload += 1) {
    await gateway.s3.send(new CreateMultipartUploadCommand({ Bucket: 'versioned', Key }));
  }
  // What a page told of is gone long before the next one is asked for.
  const slow = await startSlowLister(gateway.endpoint, 300);
  t.teardown(() => slow.close());
  const store = open('versioned', { endpoint: slow.endpoint, pageSize: 2 });
  const removal = await store.removePrefix(prefix, { limit: 100 });
  t.like(removal, { objects: versions, markers: 0, uploads, failures: [], progress: 'COMPLETE' });
  t.like(await store.count(prefix), { versions: 0, markers: 0, uploads: 0 });
});

declare('S3, versioned bucket: delete markers go too', async (t) => {
  const store = open('versioned');
  const Key = 'tenants/a/jobs/marked/input/x';
  await gateway.s3.send(new PutObjectCommand({ Bucket: 'versioned', Key, Body: 'x' }));
  await gateway.s3.send(new DeleteObjectCommand({ Bucket: 'versioned', Key }));
  t.deepEqual(await store.count('tenants/a/jobs/marked/'), { versions: 1, markers: 1, uploads: 0, bytes: 1 });
  t.like(await store.removePrefix('tenants/a/jobs/marked/', { limit: 10 }), {
    objects: 1,
    markers: 1,
    progress: 'COMPLETE',
  });
  t.deepEqual(await store.count('tenants/a/jobs/marked/'), { versions: 0, markers: 0, uploads: 0, bytes: 0 });
});

declare('S3: a prefix of which only a marker is current is surveyed, and so are its old versions', async (t) => {
  const store = open('versioned', { pageSize: 2 });
  const prefix = 'tenants/ghost/jobs/1/';
  for (const name of ['a', 'b', 'c']) {
    await gateway.s3.send(new PutObjectCommand({ Bucket: 'versioned', Key: `${prefix}${name}`, Body: 'x' }));
    await gateway.s3.send(new DeleteObjectCommand({ Bucket: 'versioned', Key: `${prefix}${name}` }));
  }
  t.deepEqual((await store.list(prefix, { limit: 10 })).objects, []);
  const kinds = (await Array.fromAsync(store.survey(prefix))).flat().map(({ kind }) => kind);
  t.deepEqual(kinds.toSorted(), ['MARKER', 'MARKER', 'MARKER', 'VERSION', 'VERSION', 'VERSION']);
  t.true((await store.folders('tenants/')).includes('ghost'));
  await store.removePrefix(prefix, { limit: 10 });
});

declare('S3: more objects than a page are listed, counted and removed', async (t) => {
  const store = open('versioned');
  const prefix = 'tenants/a/jobs/many/';
  for (let at = 0; at < 1_200; at += 100) {
    await Promise.all(
      Array.from({ length: 100 }, (_, index) =>
        gateway.s3.send(new PutObjectCommand({ Bucket: 'versioned', Key: `${prefix}x/${at + index}`, Body: 'x' })),
      ),
    );
  }
  t.is((await store.count(prefix)).versions, 1_200);
  t.is((await store.list(prefix, { limit: 1_100 })).objects.length, 1_100);
  t.like(await store.removePrefix(prefix, { limit: 10_000 }), { objects: 1_200, bytes: 1_200, progress: 'COMPLETE' });
  t.is((await store.count(prefix)).versions, 0);
});

declare('S3: a version that the store refuses to remove is named, and hides no other', async (t) => {
  const store = open('locked');
  const prefix = 'tenants/a/jobs/held/';
  for (const name of ['a', 'b', 'c']) {
    await gateway.s3.send(new PutObjectCommand({ Bucket: 'locked', Key: `${prefix}${name}`, Body: name }));
  }
  const hold = (Status: 'ON' | 'OFF') =>
    gateway.s3.send(new PutObjectLegalHoldCommand({ Bucket: 'locked', Key: `${prefix}b`, LegalHold: { Status } }));
  await hold('ON');
  const removal = await store.removePrefix(prefix, { limit: 10 });
  t.like(removal, { objects: 2, progress: 'COMPLETE' });
  t.deepEqual(
    removal.failures.map(({ key, code }) => [key, code]),
    [[`${prefix}b`, 'AccessDenied']],
  );
  t.is((await store.count(prefix)).versions, 1);
  await hold('OFF');
  t.like(await store.removePrefix(prefix, { limit: 10 }), { objects: 1, failures: [] });
});

declare('S3: refused versions at the front, more than a page and the limit, keep none of the others', async (t) => {
  const store = open('locked', { pageSize: 2 });
  const prefix = 'tenants/a/jobs/front/';
  const names = ['a', 'b', 'c', 'd', 'e', 'x', 'y', 'z'];
  const held = names.slice(0, 5);
  for (const name of names) {
    await gateway.s3.send(new PutObjectCommand({ Bucket: 'locked', Key: `${prefix}${name}`, Body: name }));
  }
  const hold = async (Status: 'ON' | 'OFF') => {
    for (const name of held) {
      const Key = `${prefix}${name}`;
      await gateway.s3.send(new PutObjectLegalHoldCommand({ Bucket: 'locked', Key, LegalHold: { Status } }));
    }
  };
  await hold('ON');
  const first = await store.removePrefix(prefix, { limit: 2 });
  t.like(first, { objects: 2, progress: 'PARTIAL' });
  const second = await store.removePrefix(prefix, { limit: 2 });
  t.like(second, { objects: 1, progress: 'COMPLETE' });
  t.deepEqual(
    second.failures.map(({ key }) => key).sort(),
    held.map((name) => `${prefix}${name}`),
  );
  // Only refusals are left: it ends, and says so.
  t.like(await store.removePrefix(prefix, { limit: 2 }), { objects: 0, progress: 'COMPLETE' });
  await hold('OFF');
  t.like(await store.removePrefix(prefix, { limit: 10 }), { objects: 5, failures: [], progress: 'COMPLETE' });
});

/** A way to the server that loses the answers to the first `count` requests of a kind, and refuses what `refuses` says. */
async function startForgetfulServer(
  endpoint: string,
  count: number,
  isForgotten: (method: string, path: string) => boolean,
  refuses: (method: string, lost: number) => boolean = () => false,
): Promise<{ endpoint: string; close(): void }> {
  const { hostname, port } = new URL(endpoint);
  let lost = 0;
  const server = createHttpServer((request, response) => {
    const { method = '', url: path = '', headers } = request;
    if (refuses(method, lost)) return void request.destroy();
    const onward = httpRequest({ hostname, port, method, path, headers }, (answer) => {
      if (isForgotten(method, path) && lost < count) {
        lost += 1;
        answer.resume().once('end', () => response.destroy());
        return;
      }
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(response);
    });
    onward.on('error', () => response.destroy());
    request.pipe(onward);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const close = (): void => {
    server.close();
    server.closeAllConnections();
  };
  return { endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close };
}

const isComplete = (method: string, path: string): boolean => method === 'POST' && /[?&]uploadId=/.test(path);
const isDeletion = (method: string, path: string): boolean => method === 'POST' && /[?&]delete/.test(path);

declare(
  'S3: versions whose removal was never answered, three times in a row, are counted by the listing',
  async (t) => {
    const prefix = 'tenants/a/jobs/unanswered/';
    for (let at = 0; at < 15; at += 1) {
      await gateway.s3.send(new PutObjectCommand({ Bucket: 'versioned', Key: `${prefix}${at % 5}`, Body: 'x' }));
    }
    const forgetful = await startForgetfulServer(gateway.endpoint, 3, isDeletion);
    t.teardown(() => forgetful.close());
    const store = open('versioned', { endpoint: forgetful.endpoint });
    t.like(await store.removePrefix(prefix, { limit: 100 }), { objects: 15, bytes: 15, failures: [] });
    t.is((await store.count(prefix)).versions, 0);
  },
);

declare(
  'S3: versions whose removal was never answered are unsure while the listing does not answer either',
  async (t) => {
    const prefix = 'tenants/a/jobs/unsure/';
    for (let at = 0; at < 4; at += 1) {
      await gateway.s3.send(new PutObjectCommand({ Bucket: 'versioned', Key: `${prefix}${at}`, Body: 'x' }));
    }
    const forgetful = await startForgetfulServer(gateway.endpoint, 1, isDeletion, (_, lost) => lost > 0);
    t.teardown(() => forgetful.close());
    const store = open('versioned', { endpoint: forgetful.endpoint });
    t.like(await store.removePrefix(prefix, { limit: 100 }), {
      objects: 0,
      progress: 'PARTIAL',
      unsure: { objects: 4, markers: 0, uploads: 0, bytes: 4 },
    });
  },
);

for (const count of [1, 3]) {
  declare(`S3: an answer to CompleteMultipartUpload that was lost ${count} times is read back`, async (t) => {
    const forgetful = await startForgetfulServer(gateway.endpoint, count, isComplete);
    t.teardown(() => forgetful.close());
    const store = open('plain', { endpoint: forgetful.endpoint });
    const key = `tenants/a/jobs/forgotten/input/${count}`;
    const body = (async function* () {
      yield Buffer.alloc(3_000_000, 'x');
    })();
    t.is((await store.put(key, body, { contentType: 'a/b', maxBytes: 10_000_000 })).bytes, 3_000_000);
    t.like(await store.countKey(key), { versions: 1, uploads: 0, bytes: 3_000_000 });
  });
}

declare('S3: an object of another upload is not taken for one whose answer was lost', async (t) => {
  const store = open('plain');
  const Key = 'tenants/a/jobs/forgotten/input/others';
  await gateway.s3.send(new PutObjectCommand({ Bucket: 'plain', Key, Body: 'another upload' }));
  const body = (async function* () {
    yield Buffer.from('x');
    // The upload is ended under the put: it can never be completed.
    await store.removeKey(Key, { limit: 10 });
    await gateway.s3.send(new PutObjectCommand({ Bucket: 'plain', Key, Body: 'another upload' }));
  })();
  await t.throwsAsync(store.put(Key, body, { contentType: 'a/b', maxBytes: 100 }));
  const kept = await store.get(Key);
  t.is(Buffer.concat(await Array.fromAsync(kept?.body ?? [])).toString(), 'another upload');
});

declare('S3: a bucket that is not there is UNAVAILABLE, never an absent object', async (t) => {
  const error = await t.throwsAsync(open('nowhere').get('tenants/a/x'), { instanceOf: DomainError });
  t.is(error?.reason, 'DEPENDENCY_UNAVAILABLE');
  await t.throwsAsync(open('nowhere').check(), { instanceOf: DomainError });
});

test.serial('S3: a server that takes the call and never answers is UNAVAILABLE in bounded time', async (t) => {
  const sockets = new Set<Socket>();
  const silent = createServer((socket) => void sockets.add(socket));
  silent.listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const { port } = silent.address() as AddressInfo;
  const store = openS3Store({
    endpoint: `http://127.0.0.1:${port}`,
    region: 'us-east-1',
    bucket: 'x',
    credentials: { accessKeyId: 'x', secretAccessKey: 'x' },
    requestTimeoutMs: 200,
  });
  t.teardown(() => {
    store.close();
    for (const socket of sockets) socket.destroy();
    silent.close();
  });
  const startedAt = performance.now();
  const error = await t.throwsAsync(store.removePrefix('tenants/a/', { limit: 1 }), { instanceOf: DomainError });
  t.is(error?.reason, 'DEPENDENCY_UNAVAILABLE');
  t.notRegex(error?.message ?? '', /127\.0\.0\.1|S3|timeout/i);
  t.true(performance.now() - startedAt < 20_000);
});

declare('S3: a server that is gone is UNAVAILABLE, and what was stored is there when it is back', async (t) => {
  const store = open('plain');
  const key = 'tenants/a/jobs/kept/input/x';
  await gateway.s3.send(new PutObjectCommand({ Bucket: 'plain', Key: key, Body: 'x' }));
  await gateway.kill9();
  const error = await t.throwsAsync(store.count('tenants/a/jobs/kept/'), { instanceOf: DomainError });
  t.is(error?.reason, 'DEPENDENCY_UNAVAILABLE');
  await gateway.restart();
  t.is((await store.count('tenants/a/jobs/kept/')).versions, 1);
});
