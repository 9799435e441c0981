import { DeleteObjectCommand, PutObjectCommand, PutObjectLegalHoldCommand } from '@aws-sdk/client-s3';
import anyTest, { type TestFn } from 'ava';
import { DomainError } from '#libs/kernel/domain-error.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { openS3Store } from '#libs/object-store/s3-store.ts';
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
  await gateway.createBucket('locked', { versioned: true, objectLock: true });
});
test.after.always(async () => {
  for (const store of stores.values()) store.close();
  await gateway?.stop();
});

function open(bucket: string): ObjectStore {
  const { endpoint, region, accessKeyId, secretAccessKey } = gateway;
  const store =
    stores.get(bucket) ?? openS3Store({ endpoint, region, bucket, credentials: { accessKeyId, secretAccessKey } });
  stores.set(bucket, store);
  return store;
}

objectStoreContract(declare, 'S3, plain bucket', () => open('plain'), false);
objectStoreContract(declare, 'S3, versioned bucket', () => open('versioned'), true);

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
