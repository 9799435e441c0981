import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import {
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  type LifecycleRule,
  PutBucketLifecycleConfigurationCommand,
  PutBucketVersioningCommand,
  PutObjectCommand,
  PutObjectLegalHoldCommand,
  PutObjectLockConfigurationCommand,
} from '@aws-sdk/client-s3';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { DomainError } from '#libs/kernel/domain-error.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { openS3Store, type S3StoreOptions } from '#libs/object-store/s3-store.ts';
import { type CephGateway, hasCeph, startCephGateway } from '#test/support/ceph-gateway.ts';
import { testIfFound } from '#test/support/require.ts';
import {
  DEMANDS_MD5,
  goesOn,
  isComplete,
  isDeleteObjects,
  isListing,
  leavesOut,
  listsAtMost,
  repeatsItsPage,
  type S3Call,
  type S3Quirk,
  startS3Front,
} from '#test/support/s3-front.ts';
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

/** The store behind a server with a quirk of its own. */
async function openBehind(
  t: ExecutionContext<unknown>,
  bucket: string,
  quirk: S3Quirk,
  options: Partial<S3StoreOptions> = {},
) {
  const front = await startS3Front(gateway.endpoint, quirk);
  t.teardown(() => front.close());
  return { front, store: open(bucket, { ...options, endpoint: front.endpoint }) };
}

/** Puts so many objects below the prefix, on the gateway itself. */
async function fill(bucket: string, prefix: string, count: number): Promise<void> {
  for (let at = 0; at < count; at += 1) {
    await gateway.s3.send(new PutObjectCommand({ Bucket: bucket, Key: `${prefix}${at}`, Body: 'x' }));
  }
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
  t.deepEqual(await open('plain').traits(), {
    versioning: 'OFF',
    expiringRules: [],
    isLocked: false,
    deleteChecksum: 'CRC32',
  });
  t.deepEqual(await open('versioned').traits(), {
    versioning: 'ENABLED',
    expiringRules: [],
    isLocked: false,
    deleteChecksum: 'CRC32',
  });
  t.deepEqual(await open('retained').traits(), {
    versioning: 'ENABLED',
    expiringRules: ['all-after-a-week'],
    isLocked: true,
    deleteChecksum: 'CRC32',
  });
});

declare(
  'S3: a lifecycle rule counts where its prefix has to do with a prefix of Lethe’s, and nowhere else',
  async (t) => {
    await gateway.createBucket('lived', { versioned: false });
    const Tags = [{ Key: 'of', Value: 'somebody' }];
    const rules: Record<string, Pick<LifecycleRule, 'Filter' | 'Prefix'>> = {
      'counts: a tenant': { Filter: { Prefix: 'tenants/acme/' } },
      'counts: the beginning of a prefix': { Filter: { Prefix: 'ten' } },
      'counts: the marker': { Filter: { Prefix: 'lethe/installation' } },
      'counts: a prefix and a tag': { Filter: { And: { Prefix: 'tenants/', Tags } } },
      'counts: a prefix in the old form': { Prefix: 'lethe/' },
      'other: logs': { Filter: { Prefix: 'logs/' } },
      'other: a longer name': { Filter: { Prefix: 'tenants-of-old/' } },
      'other: a prefix and a tag': { Filter: { And: { Prefix: 'tmp/', Tags } } },
      'other: a prefix in the old form': { Prefix: 'old/' },
    };
    await gateway.s3.send(
      new PutBucketLifecycleConfigurationCommand({
        Bucket: 'lived',
        LifecycleConfiguration: {
          Rules: Object.entries(rules).map(([ID, where]) => ({
            ...{ ID, Status: 'Enabled' as const, Expiration: { Days: 7 } },
            ...where,
          })),
        },
      }),
    );
    t.deepEqual(
      (await open('lived').traits()).expiringRules?.toSorted(),
      Object.keys(rules)
        .filter((id) => id.startsWith('counts'))
        .toSorted(),
    );
  },
);

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
  const { store } = await openBehind(t, 'versioned', { delayMs: (call) => (goesOn(call) ? 300 : 0) }, { pageSize: 2 });
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

/** Loses the answers to the first `count` calls of a kind, and takes no call that `refuses` says. */
function forgets(
  count: number,
  isForgotten: (call: S3Call) => boolean,
  refuses: (lost: number) => boolean = () => false,
): S3Quirk {
  let lost = 0;
  return {
    refuse: () => (refuses(lost) ? 'hang up' : undefined),
    alter(text, call) {
      if (!isForgotten(call) || lost >= count) return text;
      lost += 1;
      return 'lose';
    },
  };
}

declare(
  'S3: versions whose removal was never answered, three times in a row, are counted by the listing',
  async (t) => {
    const prefix = 'tenants/a/jobs/unanswered/';
    for (let at = 0; at < 15; at += 1) {
      await gateway.s3.send(new PutObjectCommand({ Bucket: 'versioned', Key: `${prefix}${at % 5}`, Body: 'x' }));
    }
    const { store } = await openBehind(t, 'versioned', forgets(3, isDeleteObjects));
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
    const { store } = await openBehind(
      t,
      'versioned',
      forgets(1, isDeleteObjects, (lost) => lost > 0),
    );
    t.like(await store.removePrefix(prefix, { limit: 100 }), {
      objects: 0,
      progress: 'PARTIAL',
      unsure: { objects: 4, markers: 0, uploads: 0, bytes: 4 },
    });
  },
);

for (const count of [1, 3]) {
  declare(`S3: an answer to CompleteMultipartUpload that was lost ${count} times is read back`, async (t) => {
    const { store } = await openBehind(t, 'plain', forgets(count, isComplete));
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

declare('S3: a server that demands Content-MD5 gets it, and says so of itself', async (t) => {
  const prefix = 'tenants/a/jobs/md5/';
  await fill('versioned', prefix, 3);
  const { store } = await openBehind(t, 'versioned', DEMANDS_MD5);
  await store.check();
  t.is((await store.traits()).deleteChecksum, 'CONTENT_MD5', 'found before anything is removed');
  t.like(await store.removePrefix(prefix, { limit: 100 }), { objects: 3, failures: [], progress: 'COMPLETE' });
  t.is((await store.count(prefix)).versions, 0);
  const plain = open('versioned');
  await plain.check();
  t.is((await plain.traits()).deleteChecksum, 'CRC32');
  t.deepEqual((await plain.count('lethe/')).versions, 0, 'the question leaves nothing behind');
  t.deepEqual((await plain.count('lethe/')).markers, 0);
});

for (const [what, quirk] of [
  ['pages as AWS does', () => ({})],
  ['gives no NextKeyMarker', () => leavesOut('NextKeyMarker', 'NextVersionIdMarker', 'NextUploadIdMarker')],
  ['repeats a page for ever', repeatsItsPage],
] as const) {
  declare(`S3: a count whose caller has gone asks a server that ${what} for no other page`, async (t) => {
    const prefix = `tenants/a/jobs/gone-${what.replaceAll(' ', '-')}/`;
    await fill('versioned', prefix, 6);
    const gone = new AbortController();
    let [listings, leaveAt] = [0, Number.POSITIVE_INFINITY];
    const { alter } = quirk() as S3Quirk;
    const { store } = await openBehind(
      t,
      'versioned',
      {
        alter(text, call) {
          listings += isListing(call) ? 1 : 0;
          if (listings >= leaveAt) gone.abort();
          return alter?.(text, call) ?? text;
        },
      },
      { pageSize: 1 },
    );
    const isRefused = await store.count(prefix).then(
      () => false,
      () => true,
    );
    t.is(isRefused, alter !== undefined);
    [listings, leaveAt] = [0, 1];
    const error = await t.throwsAsync(store.count(prefix, gone.signal));
    t.is(error?.name, 'AbortError');
    // By the same connections: a page that was asked for behind it would be counted before.
    await open('versioned').count(prefix);
    t.is(listings, 1);
  });
}

for (const [what, quirk] of [
  [
    'gives no NextKeyMarker',
    () => leavesOut('NextKeyMarker', 'NextVersionIdMarker', 'NextUploadIdMarker', 'NextContinuationToken'),
  ],
  ['gives no NextVersionIdMarker', () => leavesOut('NextVersionIdMarker', 'NextUploadIdMarker')],
  ['repeats a page for ever', repeatsItsPage],
] as const) {
  declare(`S3: a server that ${what} is named as faulty, by every listing, and nothing is counted twice`, async (t) => {
    const prefix = `tenants/a/jobs/${what.replaceAll(' ', '-')}/`;
    await fill('versioned', `${prefix}x/`, 3);
    for (let version = 0; version < 3; version += 1) await fill('versioned', `${prefix}y`, 1);
    for (let at = 0; at < 5; at += 1) {
      await gateway.s3.send(new CreateMultipartUploadCommand({ Bucket: 'versioned', Key: `${prefix}z` }));
    }
    const { store } = await openBehind(t, 'versioned', quirk(), { pageSize: 2 });
    const isMarked = what !== 'gives no NextVersionIdMarker';
    for (const [call, listing] of [
      ['count', () => store.count(prefix)],
      ['survey', () => Array.fromAsync(store.survey(prefix))],
      ['removePrefix', () => store.removePrefix(prefix, { limit: 100 })],
      ...(isMarked ? ([['list', () => store.list(prefix, { limit: 10 })]] as const) : []),
    ] as const) {
      const error = await t.throwsAsync<DomainError>(listing, { instanceOf: DomainError }, call);
      t.is(error?.reason, 'STORE_MISBEHAVES', call);
      t.regex(error?.message ?? '', /object store .*(again|where it goes on)/, call);
    }
    const direct = open('versioned');
    t.like(await direct.count(prefix), { versions: 6, uploads: 5 });
    t.like(await direct.removePrefix(prefix, { limit: 100 }), { objects: 6, uploads: 5 });
  });
}

declare(
  'S3: a server that lists fewer than it is asked for, or each item twice, is counted and emptied exactly',
  async (t) => {
    const prefix = 'tenants/a/jobs/fewer/';
    await fill('versioned', prefix, 7);
    for (let at = 0; at < 3; at += 1) {
      await gateway.s3.send(new CreateMultipartUploadCommand({ Bucket: 'versioned', Key: `${prefix}up` }));
    }
    const { store, front } = await openBehind(t, 'versioned', listsAtMost(2));
    t.like(await store.count(prefix), { versions: 7, uploads: 3, bytes: 7 });
    const twice = (text: string) => text.replaceAll(/<(Version|Upload)>.*?<\/\1>/gs, '$&$&');
    front.behave({ alter: (text, call) => (isListing(call) ? twice(text) : text) });
    t.like(await store.count(prefix), { versions: 7, uploads: 3, bytes: 7 });
    t.like(await store.removePrefix(prefix, { limit: 100 }), { objects: 7, uploads: 3, failures: [] });
    t.like(await store.count(prefix), { versions: 0, uploads: 0 });
  },
);

declare(
  'S3: a server that asks to slow down, or refuses some keys for the moment, loses nothing and counts once',
  async (t) => {
    const prefix = 'tenants/a/jobs/slow-down/';
    await fill('versioned', prefix, 4);
    let busy = 4;
    const { store, front } = await openBehind(t, 'versioned', {
      refuse: (call) => (isDeleteObjects(call) && busy-- > 0 ? { status: 503, code: 'SlowDown' } : undefined),
    });
    t.like(await store.removePrefix(prefix, { limit: 100 }), { objects: 4, failures: [] });
    front.behave({ refuse: (call) => (isListing(call) ? { status: 503, code: 'SlowDown' } : undefined) });
    const error = await t.throwsAsync<DomainError>(store.count(prefix), { instanceOf: DomainError });
    t.like(error, { reason: 'DEPENDENCY_UNAVAILABLE', metadata: { dependency: 'object store', code: 'SlowDown' } });
    const refusal = (code: string) =>
      `<DeleteResult><Error><Key>${prefix}0</Key><Code>${code}</Code></Error></DeleteResult>`;
    for (const [code, isPermanent] of [
      ['InternalError', false],
      ['AccessDenied', true],
    ] as const) {
      await fill('versioned', prefix, 1);
      front.behave({ alter: (text, call) => (isDeleteObjects(call) ? refusal(code) : text) });
      t.like(await store.removePrefix(prefix, { limit: 100 }), {
        failures: [{ key: `${prefix}0`, code, isPermanent }],
      });
    }
  },
);

declare("S3: a refusal that no repetition changes is told at once, with the server's own code", async (t) => {
  const nowhere = open('nowhere');
  for (const ask of [
    () => nowhere.get('tenants/a/x'),
    () => nowhere.check(),
    () => nowhere.count('tenants/a/'),
    () => nowhere.removePrefix('tenants/a/', { limit: 10 }),
  ]) {
    const error = await t.throwsAsync<DomainError>(ask, { instanceOf: DomainError });
    t.like(error, { kind: 'failed-precondition', reason: 'STORE_REFUSED', metadata: { code: 'NoSuchBucket' } });
  }
  const { store } = await openBehind(t, 'plain', {
    refuse: (call) => (isListing(call) ? { status: 403, code: 'AccessDenied' } : undefined),
  });
  const denied = await t.throwsAsync<DomainError>(store.count('tenants/a/'), { instanceOf: DomainError });
  t.like(denied, { reason: 'STORE_REFUSED', metadata: { code: 'AccessDenied' } });
});

declare('S3: a wrong secret is told by its code, and is UNAVAILABLE, since keys are exchanged under way', async (t) => {
  const credentials = { accessKeyId: gateway.accessKeyId, secretAccessKey: 'wrong' };
  const error = await t.throwsAsync<DomainError>(open('plain', { credentials }).check(), { instanceOf: DomainError });
  t.like(error, { kind: 'unavailable', reason: 'DEPENDENCY_UNAVAILABLE', metadata: { code: 'SignatureDoesNotMatch' } });
  t.regex(error?.message ?? '', /SignatureDoesNotMatch/);
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
