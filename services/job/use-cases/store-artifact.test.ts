import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import { DomainError, dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import { type MemoryObjectStore, makeMemoryObjectStore } from '#test/support/memory-object-store.ts';
import { type Artifact, objectKey } from '../domain/artifact.ts';
import { storeNotOurs } from '../domain/errors.ts';
import { artifactOf, JOB, jobIn, NOW, PREFIX, partOf, TENANT } from './fakes.fixture.ts';
import type { ArtifactIndex, JobRepository } from './ports.ts';
import { makeStoreArtifact, type StoreArtifactCommand } from './store-artifact.ts';
import { makeUploadArtifact } from './upload-artifact.ts';
import { makeUploadTurns } from './upload-turns.ts';

/** The objects there, without the ids of their uploads. */
const namesIn = (store: MemoryObjectStore): string[] =>
  store.keys().map((key) => key.replace(/input\/[0-9a-f-]{36}-/, 'input/UPLOAD-'));

const KEY = `${PREFIX}input/UPLOAD-a.wav`;

/** A PENDING job that takes an upload; what becomes of it meanwhile is the test's. */
function fixture(leaseMs = 60_000) {
  const store = makeMemoryObjectStore();
  const calls: string[] = [];
  /** Whether the lease still holds, the job can be seen, and its row is there. */
  const world = {
    leased: true,
    seen: true,
    row: true,
    /** What the row says after all, where the answer to `finish` was lost. */
    finished: undefined as Artifact | undefined,
    onBegin: (): void => undefined,
    onFinish: (): void => undefined,
    checkStore: async (): Promise<void> => undefined,
    onAbandon: (): void | Promise<void> => undefined,
  };
  const artifacts = partOf<ArtifactIndex>({
    async begin(_, check) {
      check(jobIn('PENDING'), NOW);
      calls.push('begin');
      world.onBegin();
    },
    renew: async () => world.leased,
    async finish({ jobId, kind, name, contentType, uploadId: objectId }, bytes, sha256) {
      calls.push('finish');
      world.onFinish();
      return world.leased ? artifactOf({ jobId, kind, name, contentType, objectId, bytes, sha256 }) : undefined;
    },
    async abandon() {
      calls.push('abandon');
      await world.onAbandon();
      return world.finished;
    },
  });
  const jobs = partOf<JobRepository>({
    get: async () => (world.seen ? jobIn('PENDING') : undefined),
    findExisting: async (_, ids) => new Set(world.row ? ids : []),
  });
  const storeArtifact = makeStoreArtifact(jobs, artifacts, store, () => world.checkStore(), 10, {
    leaseMs,
    heartbeatMs: leaseMs / 10,
  });
  const command = (body: AsyncIterable<Uint8Array>): StoreArtifactCommand => ({
    tenantId: TENANT,
    jobId: JOB,
    kind: 'INPUT',
    name: 'a.wav',
    contentType: 'audio/wav',
    leaseToken: undefined,
    ifAbsent: false,
    body,
    signal: new AbortController().signal,
    check: () => undefined,
  });
  return { store, calls, world, storeArtifact, command };
}

async function* chunks(...parts: (string | (() => void))[]): AsyncIterable<Uint8Array> {
  for (const part of parts) {
    if (typeof part === 'string') yield Buffer.from(part);
    else part();
  }
}

const reasonOf = async (work: Promise<unknown>): Promise<string> => {
  try {
    await work;
    return 'OK';
  } catch (error) {
    return error instanceof DomainError ? error.reason : String(error);
  }
};

test('the intent comes before the first byte, and the artifact exists when it resolves', async (t) => {
  const { store, calls, storeArtifact, command } = fixture();
  const body = chunks(() => calls.push('first byte'), 'ab', 'cd');
  t.like(await storeArtifact(command(body)), { name: 'a.wav', bytes: 4 });
  t.deepEqual(calls, ['begin', 'first byte', 'finish']);
  t.deepEqual(namesIn(store), [KEY]);
});

test('what the job does not take is refused before a byte is read', async (t) => {
  const { store, calls, storeArtifact, command } = fixture();
  const upload = makeUploadArtifact(storeArtifact, makeUploadTurns(1));
  const body = chunks(() => calls.push('first byte'), 'ab');
  t.is(await reasonOf(upload({ ...command(body), kind: 'OUTPUT' })), 'JOB_STATE_FORBIDS_UPLOAD');
  t.deepEqual([calls, store.keys()], [[], []]);
});

test("an upload to another installation's store is refused before a byte, and not acknowledged where it became that meanwhile", async (t) => {
  const { store, calls, world, storeArtifact, command } = fixture();
  const become = (): void => {
    world.checkStore = async () => {
      throw storeNotOurs('It has another marker.');
    };
  };
  t.is(await reasonOf(storeArtifact(command(chunks('ab', become, 'cd')))), 'STORE_NOT_OURS');
  t.false(calls.includes('finish'));
  t.deepEqual(store.keys(), []);
  calls.length = 0;
  t.is(await reasonOf(storeArtifact(command(chunks(() => calls.push('first byte'), 'ab')))), 'STORE_NOT_OURS');
  t.deepEqual(calls, []);
});

for (const [what, body, reason] of [
  [
    'breaks off',
    () =>
      chunks('ab', () => {
        throw new Error('gone');
      }),
    'Error: gone',
  ],
  ['is longer than an artifact may be', () => chunks('x'.repeat(11)), 'ARTIFACT_TOO_LARGE'],
] as const) {
  test(`a body that ${what} leaves nothing, and its lease is given up`, async (t) => {
    const { store, calls, storeArtifact, command } = fixture();
    t.is(await reasonOf(storeArtifact(command(body()))), reason);
    t.deepEqual(calls, ['begin', 'abandon']);
    t.deepEqual(store.keys(), []);
  });
}

test('a lease that is lost before the last byte makes no object at all', async (t) => {
  const { store, world, storeArtifact, command } = fixture();
  const body = chunks('ab', () => (world.leased = false));
  t.is(await reasonOf(storeArtifact(command(body))), 'LEASE_LOST');
  t.deepEqual(store.keys(), []);
});

test('a silent sender whose lease is lost is ended', async (t) => {
  const { store, world, storeArtifact, command } = fixture(50);
  const body: AsyncIterable<Uint8Array> = {
    [Symbol.asyncIterator]: () => ({
      next: () => {
        world.leased = false;
        return new Promise(() => undefined);
      },
    }),
  };
  t.is(await reasonOf(storeArtifact(command(body))), 'LEASE_LOST');
  t.deepEqual(store.keys(), []);
});

test('a job that is being removed meanwhile is JOB_NOT_FOUND, and its removal takes what was stored', async (t) => {
  const { store, world, storeArtifact, command } = fixture();
  const put = store.put;
  store.put = async (...args) => {
    const stored = await put(...args);
    Object.assign(world, { leased: false, seen: false });
    return stored;
  };
  t.is(await reasonOf(storeArtifact(command(chunks('ab')))), 'JOB_NOT_FOUND');
  t.deepEqual(namesIn(store), [KEY], 'the removal will count it');
});

test('an object that was stored when the job’s row had gone is taken away, since nobody looks again', async (t) => {
  const { store, world, storeArtifact, command } = fixture();
  store.write(`tenants/${TENANT}/jobs/another/input/a`, 'x');
  const put = store.put;
  store.put = async (...args) => {
    const stored = await put(...args);
    Object.assign(world, { leased: false, seen: false, row: false });
    return stored;
  };
  t.is(await reasonOf(storeArtifact(command(chunks('ab')))), 'JOB_NOT_FOUND');
  t.deepEqual(store.keys(), [`tenants/${TENANT}/jobs/another/input/a`]);
});

test('two uploads of one artifact never share an object, so one that lost its lease overwrites nothing', async (t) => {
  const { store, world, storeArtifact, command } = fixture();
  const first = await storeArtifact(command(chunks('old')));
  const { put } = store;
  store.put = async (...args) => {
    const stored = await put(...args);
    world.leased = false;
    return stored;
  };
  t.is(await reasonOf(storeArtifact(command(chunks('refused')))), 'LEASE_LOST');
  const read = await store.get(objectKey(TENANT, first));
  t.is(Buffer.concat(await Array.fromAsync(read?.body ?? [])).toString(), 'old');
});

test('a store that fails is told as such, also where a heartbeat sees the upload that was given up for it', async (t) => {
  const { calls, world, storeArtifact, command } = fixture(50);
  world.onAbandon = async () => {
    world.leased = false;
    // Four heartbeats.
    await delay(20);
  };
  const failing = chunks('sound', () => {
    throw dependencyUnavailable('object store');
  });
  t.is(await reasonOf(storeArtifact(command(failing))), 'DEPENDENCY_UNAVAILABLE');
  t.deepEqual(calls, ['begin', 'abandon']);
});

test('the digest of the bytes goes with the row', async (t) => {
  const { storeArtifact, command } = fixture();
  const { sha256 } = await storeArtifact(command(chunks('hello ', 'all')));
  t.is(sha256, createHash('sha256').update('hello all').digest('hex'));
});

test('an upload whose beginning was not answered is given up, so that the next of its name need not wait', async (t) => {
  const { calls, world, storeArtifact, command } = fixture();
  world.onBegin = () => {
    throw dependencyUnavailable('database');
  };
  t.is(await reasonOf(storeArtifact(command(chunks('ab')))), 'DEPENDENCY_UNAVAILABLE');
  t.deepEqual(calls, ['begin', 'abandon']);
});

test('a lost answer to `finish` is read back: what the row says is the answer', async (t) => {
  const { calls, world, storeArtifact, command } = fixture();
  world.onFinish = () => {
    throw dependencyUnavailable('database');
  };
  world.finished = artifactOf({ name: 'a.wav', bytes: 2 });
  let refusals = 2;
  world.onAbandon = () => {
    refusals -= 1;
    if (refusals >= 0) throw dependencyUnavailable('database');
  };
  t.like(await storeArtifact(command(chunks('ab'))), { name: 'a.wav', bytes: 2 });
  t.deepEqual(calls, ['begin', 'finish', 'abandon', 'abandon', 'abandon']);
});

test('an answer to `finish` that was lost before anything was written refuses the upload', async (t) => {
  const { world, storeArtifact, command } = fixture();
  world.onFinish = () => {
    throw dependencyUnavailable('database');
  };
  t.is(await reasonOf(storeArtifact(command(chunks('ab')))), 'DEPENDENCY_UNAVAILABLE');
});

test('an answer to `finish` that can never be read back is UNAVAILABLE, and no refusal', async (t) => {
  const { world, storeArtifact, command } = fixture(300);
  world.onFinish = () => {
    throw dependencyUnavailable('database');
  };
  world.onAbandon = world.onFinish;
  t.is(await reasonOf(storeArtifact(command(chunks('ab')))), 'DEPENDENCY_UNAVAILABLE');
});
