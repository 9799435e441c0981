import test from 'ava';
import { makeMemoryObjectStore } from '#test/support/memory-object-store.ts';
import { type Artifact, type ObjectRef, objectKey } from '../domain/artifact.ts';
import { storeNotOurs } from '../domain/errors.ts';
import { artifactOf, CALLER, NOW, partOf } from './fakes.fixture.ts';
import type { ArtifactIndex, JobRepository, OrphanReport, OrphanReports, SweepAudit, TenantSweep } from './ports.ts';
import { makeSweepOrphans, type SweepOrphansCommand } from './sweep-orphans.ts';

const DAY_MS = 86_400_000;
const idOf = (n: number): string => `01890000-0000-7000-8000-${String(n).padStart(12, '0')}`;
const keyOf = (n: number, name = 'a', tenantId = 'acme'): string => `tenants/${tenantId}/jobs/${idOf(n)}/input/${name}`;
const nothing = { versions: 0, markers: 0, uploads: 0, bytes: 0 };

const isSame = (a: ObjectRef, b: ObjectRef): boolean => objectKey('acme', a) === objectKey('acme', b);

/** A store, jobs with a row, and what the audit was told. `stored` is told in pages of `pageSize`. */
function fixture(rows: readonly number[] = [], stored: readonly Artifact[] = [], pageSize = 1_000) {
  const store = makeMemoryObjectStore();
  const existing = new Set(rows.map(idOf));
  const audited: [string, TenantSweep, readonly string[]][] = [];
  const failed: string[] = [];
  const world = {
    findExisting: async (ids: readonly string[]) => new Set(ids.filter((id) => existing.has(id))),
    hasJobs: true,
    storeRefusal: undefined as Error | undefined,
    /** What the artifacts' rows point at by the second look. */
    stored: stored as readonly ObjectRef[],
  };
  const jobs = partOf<JobRepository>({
    now: async () => NOW,
    findTenants: async () => ['acme'],
    hasAny: async () => world.hasJobs,
    findExisting: (_, ids) => world.findExisting(ids),
  });
  const known = new Set<string>();
  const storedKeys = new Set(stored.map((object) => objectKey('acme', object)));
  const saved: OrphanReport[] = [];
  const artifacts = partOf<ArtifactIndex>({
    async listStored(_, __, { after }) {
      const at = Number(after?.[0] ?? 0);
      const items = stored.slice(at, at + pageSize);
      return { items, next: at + pageSize < stored.length ? [String(at + pageSize)] : undefined };
    },
    findStored: async (_, objects) => objects.filter((object) => world.stored.some((each) => isSame(each, object))),
    findKnown: async (tenantId, objects) =>
      objects.filter((object) => known.has(objectKey(tenantId, object)) || storedKeys.has(objectKey('acme', object))),
  });
  const audit: SweepAudit = {
    begin: async (_, sweep) => void audited.push(['begin', sweep, store.keys()]),
    end: async (_, sweep) => void audited.push(['end', sweep, store.keys()]),
  };
  const checkStore = async (): Promise<void> => {
    if (world.storeRefusal) throw world.storeRefusal;
  };
  const reports = partOf<OrphanReports>({ save: async (report) => void saved.push(report) });
  const sweepOrphans = makeSweepOrphans(jobs, artifacts, store, checkStore, audit, reports, 20, (tenantId) =>
    failed.push(tenantId),
  );
  const sweep = (more: Partial<SweepOrphansCommand> = {}, signal = new AbortController().signal) =>
    Array.fromAsync(
      sweepOrphans(
        { caller: CALLER, tenantIds: ['acme'], validateOnly: false, minAgeMs: DAY_MS, reason: 'monthly', ...more },
        signal,
      ),
    );
  return { store, existing, known, saved, audit, audited, failed, world, sweep };
}

test('a dry run finds every version of jobs without a row, and touches and writes down nothing', async (t) => {
  const { store, audited, known, sweep } = fixture([2]);
  known.add(keyOf(2));
  for (const [n, text] of [
    [1, 'a'],
    [1, 'bcd'],
    [2, 'kept'],
  ] as const)
    store.write(keyOf(n), text);
  const [acme] = await sweep({ validateOnly: true });
  const found = { ...nothing, versions: 2, bytes: 4 };
  t.like(acme, { found, deleted: nothing, left: found, orphanKeys: [keyOf(1)], error: undefined });
  t.is(store.keys().length, 3);
  t.deepEqual(audited, []);
});

test('a sweep removes what a dry run finds, reads it back, and writes it down before and after', async (t) => {
  const { store, audited, known, sweep } = fixture([2]);
  known.add(keyOf(2));
  for (const [n, text] of [
    [1, 'a'],
    [1, 'bcd'],
    [2, 'kept'],
    [3, 'e'],
  ] as const)
    store.write(keyOf(n), text);
  const [acme] = await sweep();
  const found = { ...nothing, versions: 3, bytes: 5 };
  t.like(acme, { found, deleted: found, left: nothing, failedKeys: [], error: undefined });
  t.deepEqual(store.keys(), [keyOf(2)]);
  const [begin, end] = audited;
  t.deepEqual([begin?.[0], begin?.[2].length], ['begin', 4], 'before the first goes');
  t.deepEqual([end?.[0], end?.[2].length], ['end', 1]);
  t.like(end?.[1], { deleted: found, left: nothing });
});

test('the age counts by the database’s clock, and one young object keeps its whole job', async (t) => {
  const { store, sweep } = fixture();
  const young = NOW.subtract({ milliseconds: DAY_MS - 1 });
  const old = NOW.subtract({ milliseconds: DAY_MS });
  store.write(keyOf(1, 'a'), 'x', old);
  store.write(keyOf(1, 'b'), 'x', young);
  store.write(keyOf(1, 'c'), 'x', old);
  store.write(keyOf(2, 'a'), 'x', old);
  const [acme] = await sweep();
  t.is(acme?.deleted.versions, 1);
  t.deepEqual(store.keys(), [keyOf(1, 'a'), keyOf(1, 'b'), keyOf(1, 'c')]);
});

test('what is no key of ours is nobody’s orphan', async (t) => {
  const { store, sweep } = fixture();
  store.write('tenants/acme/jobs/readme/a', 'x');
  const [acme] = await sweep();
  t.like(acme, { found: nothing, deleted: nothing });
  t.is(store.keys().length, 1);
});

test('a key that no put takes, or that may be a folder of our own, is left and named, and the rest of its tenant goes', async (t) => {
  const { store, audited, failed, known, sweep } = fixture([1]);
  const job = `tenants/acme/jobs/${idOf(1)}`;
  const foreign = [
    job,
    `${job}/`,
    `${job}/output`,
    `${job}/output/`,
    `${job}/output//a`,
    `${job}/output/..`,
    `${job}/output/${'a'.repeat(256)}`,
    `tenants/acme/jobs/${idOf(9)}`,
  ];
  for (const key of foreign) store.write(key, 'xx');
  const [kept, orphan] = [keyOf(1, 'kept'), keyOf(1, 'orphan')];
  known.add(kept);
  store.write(kept, 'x');
  for (const key of [orphan, keyOf(2), `tenants/acme/jobs/${idOf(2)}//`, `tenants/acme/jobs/${idOf(2)}/`]) {
    store.write(key, 'x');
  }
  const foreignContents = { ...nothing, versions: foreign.length, bytes: 2 * foreign.length };
  t.like((await sweep({ validateOnly: true }))[0], { found: { versions: foreign.length + 4 }, failedKeys: [] });
  const [acme] = await sweep({ maxSharePercent: 31 });
  t.like(acme, {
    found: { ...nothing, versions: foreign.length + 4, bytes: 2 * foreign.length + 4 },
    deleted: { ...nothing, versions: 4, bytes: 4 },
    left: foreignContents,
    error: undefined,
  });
  t.deepEqual(
    acme?.failedKeys.map(({ key, code }) => `${code} ${key}`).toSorted(),
    foreign.map((key) => `FOREIGN_KEY ${key}`).toSorted(),
  );
  t.deepEqual(store.keys(), [...foreign, kept].toSorted());
  t.like(audited.at(-1)?.[1], { left: foreignContents });
  t.deepEqual(failed, []);
  const [again] = await sweep();
  t.like(again, { found: foreignContents, deleted: nothing, left: foreignContents, error: undefined });
  t.is(again?.failedKeys.length, foreign.length, 'they are named also where nothing else is found');
});

test('an object that cannot be removed for a fault of ours keeps none of the others', async (t) => {
  const { store, failed, sweep } = fixture();
  for (const n of [1, 2, 3]) store.write(keyOf(n), 'xx');
  store.onRemoval = (prefix) => {
    if (prefix.includes(idOf(2))) throw new TypeError('not a key');
  };
  const [acme] = await sweep();
  t.like(acme, { found: { versions: 3 }, deleted: { versions: 2 }, left: { versions: 1, bytes: 2 }, error: undefined });
  t.deepEqual(
    acme?.failedKeys.map(({ key, code }) => [key, code]),
    [[keyOf(2), 'INTERNAL']],
  );
  t.deepEqual(failed, ['acme']);
});

test('keys that the store refuses are left and named, ten at most, and the others go', async (t) => {
  const { store, audited, sweep } = fixture();
  for (let n = 0; n < 15; n += 1) {
    store.write(keyOf(n, 'stays'), 'xx');
    store.write(keyOf(n, 'goes'), 'x');
    store.refused.set(keyOf(n, 'stays'), 'AccessDenied');
  }
  const [acme] = await sweep({ maxSharePercent: 100 });
  t.like(acme, {
    found: { ...nothing, versions: 30, bytes: 45 },
    deleted: { ...nothing, versions: 15, bytes: 15 },
    left: { ...nothing, versions: 15, bytes: 30 },
    error: undefined,
  });
  t.is(acme?.failedKeys.length, 10);
  t.is(new Set(acme?.failedKeys.map(({ key }) => key)).size, 10, 'each is named once');
  t.like(audited[1]?.[1].left, { versions: 15 });
});

test('objects that have a job by the time of their removal are no orphans', async (t) => {
  const { store, existing, audit, sweep } = fixture();
  store.write(keyOf(1), 'a');
  store.write(keyOf(2), 'bb');
  audit.begin = async () => void existing.add(idOf(2));
  const [acme] = await sweep();
  const one = { ...nothing, versions: 1, bytes: 1 };
  t.like(acme, { found: one, deleted: one, left: nothing });
  t.deepEqual(store.keys(), [keyOf(2)]);
});

test('a tenant for which a look-up fails loses nothing, and the next is done', async (t) => {
  const { store, world, failed, sweep } = fixture();
  store.write(keyOf(1), 'a');
  store.write(keyOf(2, 'a', 'beta'), 'b');
  const { findExisting } = world;
  let calls = 0;
  world.findExisting = async (ids) => {
    calls += 1;
    if (calls === 1) throw new Error('password=hunter2');
    return findExisting(ids);
  };
  const [acme, beta] = await sweep({ tenantIds: ['acme', 'beta'] });
  t.like(acme, { found: nothing, deleted: nothing, error: 'INTERNAL: Something went wrong inside; it was logged.' });
  t.like(beta, { deleted: { versions: 1 }, error: undefined });
  t.deepEqual(store.keys(), [keyOf(1)]);
  t.deepEqual(failed, ['acme']);
});

test('an outage in the middle tells what went and what is left', async (t) => {
  const { store, audited, sweep } = fixture();
  for (const n of [1, 2, 3]) store.write(keyOf(n), 'xx');
  let removals = 0;
  store.onRemoval = () => {
    removals += 1;
    if (removals === 2) store.callsBeforeOutage = 0;
  };
  const [acme] = await sweep();
  t.like(acme, { found: { versions: 3 }, deleted: { versions: 2, bytes: 4 }, left: { versions: 1, bytes: 2 } });
  t.regex(acme?.error ?? '', /^DEPENDENCY_UNAVAILABLE: /);
  t.like(audited[1]?.[1], { deleted: { versions: 2 }, left: { versions: 1 } });
});

test('what cannot be written down before is not removed, what cannot be written down after is told all the same', async (t) => {
  const before = fixture();
  before.store.write(keyOf(1), 'a');
  before.audit.begin = async () => Promise.reject(new Error('no audit'));
  t.like((await before.sweep())[0], {
    deleted: nothing,
    error: 'INTERNAL: Something went wrong inside; it was logged.',
  });
  t.is(before.store.keys().length, 1);

  const after = fixture();
  after.store.write(keyOf(1), 'a');
  after.audit.end = async () => Promise.reject(new Error('no audit'));
  const [acme] = await after.sweep();
  t.like(acme, { deleted: { versions: 1 }, left: nothing });
  t.truthy(acme?.error);
});

test('all tenants are those with a job and those that only the store still knows', async (t) => {
  const { store, sweep } = fixture();
  for (const tenantId of ['beta', 'forgotten', 'a-1']) store.write(keyOf(1, 'a', tenantId), 'x');
  store.write('tenants/Not a tenant/jobs/x', 'x');
  const sweeps = await sweep({ tenantIds: undefined });
  t.deepEqual(
    sweeps.map(({ tenantId }) => tenantId),
    ['a-1', 'acme', 'beta', 'forgotten'],
  );
});

test('a job whose artifact the store does not hold is reported once, and nothing is done about it', async (t) => {
  const stored = [
    artifactOf({ jobId: idOf(1), name: 'there' }),
    artifactOf({ jobId: idOf(2), name: 'gone' }),
    artifactOf({ jobId: idOf(2), name: 'gone-too' }),
  ];
  const { store, sweep } = fixture([1, 2], stored);
  store.write(keyOf(1, 'there'), 'x');
  const [acme] = await sweep();
  t.like(acme, { jobsWithoutObjects: 1, jobIds: [idOf(2)], found: nothing });
});

test('an artifact that was replaced, and a job that was removed during the look, are not reported as without objects', async (t) => {
  const before = [
    artifactOf({ jobId: idOf(1), objectId: idOf(11) }),
    artifactOf({ jobId: idOf(2), objectId: idOf(12) }),
    artifactOf({ jobId: idOf(3), objectId: idOf(13) }),
  ];
  const { world, sweep } = fixture([1, 2, 3], before);
  world.stored = [
    artifactOf({ jobId: idOf(1), objectId: idOf(21) }),
    artifactOf({ jobId: idOf(3), objectId: idOf(13) }),
  ];
  t.like((await sweep())[0], { jobsWithoutObjects: 1, jobIds: [idOf(3)] });
});

test('a job is listed once for all its artifacts, and the objects of others between them hide none', async (t) => {
  const names = Array.from({ length: 2_500 }, (_, n) => `n${String(n).padStart(4, '0')}`);
  const missing = new Set(['n0000', 'n0999', 'n1000', 'n2499']);
  const stored = [1, 2].flatMap((n) => names.map((name) => artifactOf({ jobId: idOf(n), name })));
  const { store, known, sweep } = fixture([1, 2, 3], stored);
  for (const name of names) {
    store.write(keyOf(1, name), 'x');
    if (!missing.has(name)) store.write(keyOf(2, name), 'x');
    const between = keyOf(1, `${name}-between`);
    known.add(between);
    store.write(between, 'x');
  }
  const { list } = store;
  let listings = 0;
  store.list = (prefix, options) => {
    listings += 1;
    return list(prefix, options);
  };
  t.like((await sweep())[0], { jobsWithoutObjects: 1, jobIds: [idOf(2)], found: nothing });
  t.true(listings <= 14, `${listings} listings of 7,500 objects`);
});

test('a job whose rows are told in several pages is reported once, whichever of its objects is missing', async (t) => {
  const stored = [1, 2, 3].flatMap((n) => ['a', 'b', 'c'].map((name) => artifactOf({ jobId: idOf(n), name })));
  const { store, sweep } = fixture([1, 2, 3], stored, 2);
  for (const artifact of stored.filter(({ name, jobId }) => jobId === idOf(2) || name === 'a')) {
    store.write(objectKey('acme', artifact), 'x');
  }
  t.like((await sweep())[0], { jobsWithoutObjects: 2, jobIds: [idOf(1), idOf(3)] });
});

test('a sweep whose caller has gone looks for the objects of no other job', async (t) => {
  const stored = Array.from({ length: 100 }, (_, n) => artifactOf({ jobId: idOf(n) }));
  const { store, sweep } = fixture(
    stored.map((_, n) => n),
    stored,
  );
  const caller = new AbortController();
  let listings = 0;
  const { list } = store;
  store.list = (prefix, options) => {
    listings += 1;
    caller.abort();
    return list(prefix, options);
  };
  await t.throwsAsync(sweep({}, caller.signal), { name: 'AbortError' });
  t.true(listings <= 16, `${listings} of 100 jobs`);
});

test('what no row of a job that is there points at goes, and what one keeps in mind stays', async (t) => {
  const { store, known, sweep } = fixture([1]);
  const [mine, other] = [keyOf(1, `${idOf(7)}-a`), keyOf(1, `${idOf(8)}-a`)];
  known.add(mine);
  for (const key of [mine, other]) store.write(key, 'xx');
  const [acme] = await sweep();
  t.like(acme, { deleted: { ...nothing, versions: 1, bytes: 2 }, left: nothing, orphanKeys: [other] });
  t.deepEqual(store.keys(), [mine]);
});

test('an open upload of a job that is not there is found, counted and ended', async (t) => {
  const { store, sweep } = fixture();
  const begun = Promise.withResolvers<void>();
  const never = Promise.withResolvers<void>();
  const body = (async function* () {
    yield Buffer.from('x');
    begun.resolve();
    await never.promise;
  })();
  const put = store.put(keyOf(1), body, { contentType: 'a/b', maxBytes: 10 }).catch(() => undefined);
  await begun.promise;
  const inTheFuture = -10 * DAY_MS * 365 * 100;
  const [acme] = await sweep({ minAgeMs: inTheFuture });
  t.like(acme, { found: { uploads: 1 }, deleted: { uploads: 1 }, left: nothing });
  never.resolve();
  await put;
});

test('a tenant of whose objects more than the share would go loses none, until it is told to', async (t) => {
  const { store, audited, known, sweep } = fixture([1]);
  for (let n = 0; n < 100; n += 1) {
    known.add(keyOf(1, `kept-${n}`));
    store.write(keyOf(1, `kept-${n}`), 'x');
  }
  for (let n = 0; n < 30; n += 1) store.write(keyOf(2, `${n}`), 'x');
  const [acme] = await sweep();
  t.regex(acme?.error ?? '', /^SHARE_CEILING: 30 of 130 objects/);
  t.like(acme, { found: { versions: 30 }, deleted: nothing, left: { versions: 30 } });
  t.deepEqual(audited, []);
  t.is(store.keys().length, 130);
  t.like((await sweep({ maxSharePercent: 25 }))[0], { deleted: { versions: 30 }, error: undefined });
});

test('old versions, markers and open uploads count for the share that would go', async (t) => {
  const { store, known, sweep } = fixture([1]);
  for (let n = 0; n < 20; n += 1) {
    known.add(keyOf(1, `kept-${n}`));
    store.write(keyOf(1, `kept-${n}`), 'x');
  }
  const kinds = ['VERSION', 'MARKER', 'UPLOAD'] as const;
  const { survey } = store;
  store.survey = async function* (prefix) {
    yield* survey(prefix);
    yield Array.from({ length: 12 }, (_, n) => ({
      ...{ key: keyOf(2), kind: kinds[n % 3] ?? 'VERSION', bytes: 0 },
      modifiedAt: NOW.subtract({ hours: 48 }),
    }));
  };
  t.regex((await sweep())[0]?.error ?? '', /^SHARE_CEILING: 12 of 32 objects/);
});

test('a tenant that has objects and not one job loses none, until it is allowed', async (t) => {
  const { store, world, sweep } = fixture();
  world.hasJobs = false;
  store.write(keyOf(1), 'x');
  t.regex((await sweep())[0]?.error ?? '', /^TENANT_WITHOUT_JOBS: /);
  t.is(store.keys().length, 1);
  t.like((await sweep({ tenantsWithoutJobs: true }))[0], { deleted: { versions: 1 }, error: undefined });
});

test('nothing is looked at in a store that is not this installation’s', async (t) => {
  const { store, world, sweep } = fixture();
  world.storeRefusal = storeNotOurs('It is another.');
  store.write(keyOf(1), 'x');
  await t.throwsAsync(sweep(), { message: /not this installation/ });
  t.is(store.keys().length, 1);
});

test('what is found over all tenants is kept for the figures, and what is found of some is not', async (t) => {
  const { store, saved, sweep } = fixture();
  store.write(keyOf(1), 'x');
  store.write(keyOf(2, 'a', 'beta'), 'x');
  await sweep({ validateOnly: true });
  t.deepEqual(saved, []);
  await sweep({ validateOnly: true, tenantIds: undefined });
  t.deepEqual(saved, [{ orphans: 2, jobsWithoutObjects: 0, failedTenants: 0 }]);
});
