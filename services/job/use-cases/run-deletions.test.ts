import test from 'ava';
import { dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import { storeMisbehaves, storeRefused } from '#libs/object-store/store-errors.ts';
import { type MemoryObjectStore, makeMemoryObjectStore } from '#test/support/memory-object-store.ts';
import type { JobDeletion, RemovalCounts } from '../domain/deletion.ts';
import { leaseLost, storeNotOurs } from '../domain/errors.ts';
import type { DeletionFailure, DeletionWork } from './deletion-ports.ts';
import { DELETION, deletionOf, PREFIX, partOf, TENANT } from './fakes.fixture.ts';
import type { ArtifactIndex } from './ports.ts';
import { makeRunDeletions } from './run-deletions.ts';

interface Fixture {
  readonly store: MemoryObjectStore;
  /** What was written to the deletion, in order. */
  readonly writes: string[];
  readonly saved: RemovalCounts[];
  readonly postponed: DeletionFailure[];
  readonly released: RemovalCounts[];
  readonly completed: RemovalCounts[];
  /** Why a deletion was left alone without being claimed. */
  readonly deferred: string[];
  readonly told: { outcome: string; error: unknown }[];
  /** Called when everything is removed and nothing is read back yet. */
  readonly before: { verifying: () => void };
  run(signal?: AbortSignal): Promise<number>;
}

/** One due deletion, held by whoever asks first; `loseAt` is the write that finds the lease lost. */
function fixture({
  deletion = deletionOf({ attempts: 1 }),
  liveUploads = 0,
  stored = 0,
  storeRefusal = undefined as Error | undefined,
  loseAt = Number.POSITIVE_INFINITY,
  taken = [] as string[],
  turnMs = 60_000,
}: {
  deletion?: JobDeletion;
  liveUploads?: number;
  stored?: number;
  storeRefusal?: Error;
  loseAt?: number;
  taken?: string[];
  turnMs?: number;
} = {}): Fixture {
  const store = makeMemoryObjectStore();
  const writes: string[] = [];
  const saved: RemovalCounts[] = [];
  const postponed: DeletionFailure[] = [];
  const completed: RemovalCounts[] = [];
  const released: RemovalCounts[] = [];
  const told: Fixture['told'] = [];
  const deferred: string[] = [];
  const before = { verifying: () => {} };
  const write = (what: string): void => {
    if (writes.length + 1 >= loseAt) throw leaseLost();
    writes.push(what);
  };
  const due = [...taken, DELETION].map((deletionId) => ({ tenantId: TENANT, deletionId }));
  const deletions = partOf<DeletionWork>({
    findDue: async () => (completed.length > 0 ? [] : due),
    async defer(_, __, error) {
      deferred.push(error);
    },
    claim: async (_, deletionId) => (taken.includes(deletionId) ? undefined : { deletion, token: 7n }),
    renew: async () => write('renew'),
    async saveProgress(_, state, counts) {
      write(state);
      saved.push(counts);
      if (state === 'VERIFYING') before.verifying();
    },
    async complete(_, counts) {
      write('COMPLETE');
      completed.push(counts);
      return { ...deletion, state: 'COMPLETE', counts };
    },
    async release(_, counts) {
      write('release');
      released.push(counts);
    },
    async postpone(_, failure) {
      write('postpone');
      postponed.push(failure);
    },
  });
  const settings = {
    workerId: 'w',
    leaseMs: 60_000,
    objectsPerBatch: 2,
    turnMs,
    retry: { maxAttempts: 3, baseMs: 100, maxMs: 1_000 },
  };
  const artifacts = partOf<ArtifactIndex>({ countObjects: async () => ({ liveUploads, stored }) });
  const checkStore = async (): Promise<void> => {
    if (storeRefusal) throw storeRefusal;
  };
  const run = makeRunDeletions(deletions, artifacts, store, checkStore, settings, (_, outcome, error) =>
    told.push({ outcome, error }),
  );
  return {
    store,
    writes,
    saved,
    postponed,
    released,
    completed,
    told,
    deferred,
    before,
    run: (signal = new AbortController().signal) => run(signal),
  };
}

const fill = ({ store }: Fixture, names: string): void => {
  for (const name of names) store.write(`${PREFIX}output/${name}`, 'xy');
};

test('objects go in batches whose counts are saved, the listing is read back, then the rows go', async (t) => {
  const f = fixture();
  fill(f, 'abcde');
  f.store.write(`${PREFIX.slice(0, -1)}0/output/a`, 'a neighbour whose id begins the same');
  t.is(await f.run(), 1);
  t.deepEqual(
    f.saved.map(({ objects }) => objects),
    [2, 4, 5],
  );
  t.deepEqual(f.writes, ['CASCADING', 'CASCADING', 'VERIFYING', 'COMPLETE']);
  t.like(f.completed[0], { objects: 5, bytes: 10 });
  t.is(f.store.keys().length, 1);
  t.deepEqual(
    f.told.map(({ outcome }) => outcome),
    ['COMPLETE'],
  );
  t.is(await f.run(), 0);
});

test('a large job gives way when its turn is over, keeps its counts, and has not failed', async (t) => {
  const f = fixture({ turnMs: 0 });
  fill(f, 'abcde');
  t.is(await f.run(), 1);
  t.deepEqual(f.writes, ['release']);
  t.like(f.released[0], { objects: 2, bytes: 4 });
  t.is(f.store.keys().length, 3);
  t.deepEqual(f.told, []);
});

test('a job whose keys are refused does not give way: it ends as a failed attempt', async (t) => {
  const f = fixture({ turnMs: 0 });
  fill(f, 'abcde');
  for (const key of f.store.keys()) f.store.refused.set(key, 'AccessDenied');
  await f.run();
  t.like(f.postponed[0], { counted: true, left: 5 });
});

test('counts go on from where the last attempt ended', async (t) => {
  const counts = { ...deletionOf().counts, objects: 40, bytes: 400 };
  const f = fixture({ deletion: deletionOf({ attempts: 2, counts }) });
  fill(f, 'a');
  await f.run();
  t.like(f.completed[0], { objects: 41, bytes: 402 });
});

test('a key that the store refuses is named, the others go, and the job waits for a retry', async (t) => {
  const f = fixture();
  fill(f, 'abcde');
  f.store.refused.set(`${PREFIX}output/b`, 'InternalError');
  await f.run();
  t.deepEqual(f.store.keys(), [`${PREFIX}output/b`]);
  const [failure] = f.postponed;
  t.like(failure, {
    left: 1,
    counted: true,
    error: `OBJECTS_LEFT: ${PREFIX}output/b could not be removed (InternalError).`,
  });
  t.deepEqual(
    failure?.failedKeys.map(({ key, code }) => [key, code]),
    [[`${PREFIX}output/b`, 'InternalError']],
  );
  t.true((failure?.retryMs ?? 0) >= 50 && (failure?.retryMs ?? 0) <= 100);
  t.deepEqual(f.completed, []);
});

test('what is refused for good parks the job at once, with the code of the store, once all the others are gone', async (t) => {
  const f = fixture();
  fill(f, 'abcde');
  f.store.refused.set(`${PREFIX}output/b`, 'AccessDenied');
  f.store.refused.set(`${PREFIX}output/c`, 'InternalError');
  await f.run();
  t.true((f.postponed[0]?.retryMs ?? 0) > 0, 'another may go yet');
  f.store.refused.delete(`${PREFIX}output/c`);
  await f.run();
  t.deepEqual(f.store.keys(), [`${PREFIX}output/b`]);
  t.like(f.postponed[1], {
    left: 1,
    retryMs: undefined,
    error: `STORE_REFUSED: The object store refuses to remove ${PREFIX}output/b (AccessDenied).`,
  });
  t.is(f.told.at(-1)?.outcome, 'STUCK');
});

for (const [refusal, error] of [
  [storeRefused('NoSuchBucket'), 'STORE_REFUSED: The object store refuses this (NoSuchBucket).'],
  [storeMisbehaves('answers in verse'), 'STORE_MISBEHAVES: The object store answers in verse.'],
] as const) {
  test(`a store that answers ${refusal.reason} parks the job at once`, async (t) => {
    const f = fixture({ storeRefusal: refusal });
    fill(f, 'a');
    await f.run();
    t.like(f.postponed[0], { retryMs: undefined, error });
  });
}

test('an attempt that came forward is none that failed, and is not the last', async (t) => {
  const f = fixture({ deletion: deletionOf({ attempts: 3 }) });
  fill(f, 'abcdef');
  f.store.callsBeforeOutage = 1;
  await f.run();
  t.like(f.postponed[0], { counted: false, counts: { ...deletionOf().counts, objects: 2, bytes: 4 } });
  t.true((f.postponed[0]?.retryMs ?? 0) > 0);
  const fewer = fixture({ deletion: deletionOf({ attempts: 3, left: 2 }) });
  fill(fewer, 'a');
  fewer.store.refused.set(`${PREFIX}output/a`, 'SlowDown');
  await fewer.run();
  t.like(fewer.postponed[0], { counted: false, left: 1 });
});

test('a store that says it has removed what it goes on listing is no progress', async (t) => {
  const f = fixture({ deletion: deletionOf({ attempts: 3, left: 1 }) });
  fill(f, 'a');
  f.before.verifying = () => f.store.write(`${PREFIX}output/a`, 'still');
  await f.run();
  t.like(f.postponed[0], { counted: true, retryMs: undefined, left: 1 });
});

test('at most ten refused keys are kept, however many there are', async (t) => {
  const f = fixture();
  fill(f, 'abcdefghijklmno');
  for (const key of f.store.keys()) f.store.refused.set(key, 'AccessDenied');
  await f.run();
  t.is(f.postponed[0]?.failedKeys.length, 10);
  t.is(f.postponed[0]?.left, 15);
});

test('the last attempt parks it as STUCK with the reason', async (t) => {
  const f = fixture({ deletion: deletionOf({ attempts: 3 }) });
  fill(f, 'a');
  f.store.refused.set(`${PREFIX}output/a`, 'AccessDenied');
  await f.run();
  t.is(f.postponed[0]?.retryMs, undefined);
  t.is(f.told[0]?.outcome, 'STUCK');
});

test('one whose attempts all ended without a word is parked without another look', async (t) => {
  const f = fixture({ deletion: deletionOf({ attempts: 4 }) });
  f.store.callsBeforeOutage = 0;
  await f.run();
  t.like(f.postponed[0], { retryMs: undefined, error: 'CRASHED: Every attempt ended without a word.' });
});

test('what comes between the removal and the read-back is seen', async (t) => {
  const f = fixture();
  fill(f, 'a');
  f.before.verifying = () => f.store.write(`${PREFIX}output/late`, 'x');
  await f.run();
  t.like(f.postponed[0], { left: 1, error: 'OBJECTS_LEFT: 1 objects were there when the listing was read back.' });
  t.deepEqual(f.completed, []);
});

test('a living upload is waited for, and waiting is no failed attempt', async (t) => {
  const f = fixture({ liveUploads: 1 });
  fill(f, 'a');
  await f.run();
  t.like(f.postponed[0], { counted: false, retryMs: 500 });
  t.is(f.store.keys().length, 1);
  t.deepEqual(f.told, []);
});

for (const [loseAt, what] of [
  [1, 'a batch'],
  [2, 'the read-back'],
  [3, 'the rows'],
] as const) {
  test(`a worker that has lost its lease at ${what} writes nothing more`, async (t) => {
    const f = fixture({ loseAt });
    fill(f, 'abc');
    await f.run();
    t.is(f.writes.length, loseAt - 1);
    t.deepEqual([f.completed, f.postponed, f.told], [[], [], []]);
  });
}

test('a store that is down costs an attempt and is told in our words', async (t) => {
  const f = fixture();
  f.store.callsBeforeOutage = 0;
  await f.run();
  t.like(f.postponed[0], {
    counted: true,
    error: 'DEPENDENCY_UNAVAILABLE: The object store is unavailable; try again later.',
  });
});

test("nothing of a driver's own text gets into the deletion", async (t) => {
  const f = fixture();
  f.store.onRemoval = () => {
    throw new Error('password=hunter2');
  };
  await f.run();
  t.is(f.postponed[0]?.error, 'INTERNAL: Something went wrong inside; it was logged.');
  t.like(f.told[0], { outcome: 'RETRY', error: { message: 'password=hunter2' } });
});

test('a process that is asked to stop leaves the deletion to the next at once, and it is no failed attempt', async (t) => {
  const f = fixture();
  fill(f, 'abc');
  const stopping = new AbortController();
  f.store.onRemoval = () => stopping.abort();
  await f.run(stopping.signal);
  t.like(f.postponed[0], { counted: false, retryMs: 0, counts: { objects: 2 } });
  t.deepEqual(f.told, []);
});

test('whoever loses the race for one takes the next that is due', async (t) => {
  const f = fixture({ taken: ['taken-1', 'taken-2'] });
  fill(f, 'a');
  t.is(await f.run(), 1);
  t.is(f.completed.length, 1);
});

test('nothing is claimed on a store that is not this installation’s, and the deletion says why', async (t) => {
  const f = fixture({ stored: 1, storeRefusal: storeNotOurs('It is another.') });
  fill(f, 'a');
  await t.throwsAsync(f.run(), { message: /not this installation/ });
  t.deepEqual(f.writes, []);
  t.regex(f.deferred[0] ?? '', /^STORE_NOT_OURS: /);
  t.is(f.store.keys().length, 1);
});

test('a store that cannot be checked costs an attempt and loses nothing', async (t) => {
  const f = fixture({ storeRefusal: dependencyUnavailable('object store') });
  fill(f, 'a');
  await f.run();
  t.like(f.postponed[0], { counted: true });
  t.is(f.store.keys().length, 1);
});

test('an index that knows objects of which the store lists none is not COMPLETE, and waits for a person', async (t) => {
  const f = fixture({ stored: 3 });
  await f.run();
  t.deepEqual(f.completed, []);
  t.like(f.postponed[0], { retryMs: undefined });
  t.regex(f.postponed[0]?.error ?? '', /^OBJECTS_MISSING: The database knows 3 objects/);
  t.is(f.told[0]?.outcome, 'STUCK');
});

test('a person can accept that the objects are gone, and the receipt counts none of them', async (t) => {
  const f = fixture({ stored: 3, deletion: deletionOf({ attempts: 1, acceptsMissing: true }) });
  await f.run();
  t.like(f.completed[0], { objects: 0 });
});

test('objects that a worker removed before it died are not missing, and the count is a lower bound', async (t) => {
  const counts = { ...deletionOf().counts, atLeast: true };
  const f = fixture({ stored: 3, deletion: deletionOf({ attempts: 2, counts }) });
  await f.run();
  t.like(f.completed[0], { atLeast: true });
});

test('what was listed before answers were lost is counted once the store can be listed again', async (t) => {
  const lost = { objects: 10, markers: 0, uploads: 0, bytes: 20 };
  const first = fixture({ stored: 5 });
  first.store.removePrefix = async () => ({
    objects: 5,
    markers: 0,
    uploads: 0,
    bytes: 10,
    failures: [],
    progress: 'PARTIAL',
    unsure: lost,
  });
  await first.run();
  const saved = first.postponed[0]?.counts;
  t.like(saved, { objects: 5, unsure: lost });
  t.regex(first.postponed[0]?.error ?? '', /^ANSWERS_LOST: /);

  const gone = fixture({ stored: 5, deletion: deletionOf({ attempts: 2, counts: saved ?? deletionOf().counts }) });
  await gone.run();
  t.like(gone.completed[0], { objects: 15, bytes: 30 });
  t.deepEqual([gone.completed[0]?.unsure, gone.completed[0]?.atLeast], [undefined, undefined], 'exact');

  const left = fixture({ stored: 5, deletion: deletionOf({ attempts: 2, counts: saved ?? deletionOf().counts }) });
  fill(left, 'abc');
  await left.run();
  t.like(left.completed[0], { objects: 15, atLeast: true }, '7 of 10 had gone, and 3 went now');
});
