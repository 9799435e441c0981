import test from 'ava';
import { makeMemoryObjectStore } from '#test/support/memory-object-store.ts';
import type { Artifact } from '../domain/artifact.ts';
import { artifactOf, CALLER, NOW, partOf } from './fakes.fixture.ts';
import type { ArtifactIndex, JobRepository, SweepAudit, TenantSweep } from './ports.ts';
import { makeSweepOrphans } from './sweep-orphans.ts';

const DAY_MS = 86_400_000;
const idOf = (n: number): string => `01890000-0000-7000-8000-${String(n).padStart(12, '0')}`;
const keyOf = (n: number, name = 'a', tenantId = 'acme'): string => `tenants/${tenantId}/jobs/${idOf(n)}/input/${name}`;
const nothing = { versions: 0, markers: 0, uploads: 0, bytes: 0 };

/** A store, jobs with a row, and what the audit was told. */
function fixture(rows: readonly number[] = [], stored: readonly Artifact[] = []) {
  const store = makeMemoryObjectStore();
  const existing = new Set(rows.map(idOf));
  const audited: [string, TenantSweep, readonly string[]][] = [];
  const failed: string[] = [];
  const world = { findExisting: async (ids: readonly string[]) => new Set(ids.filter((id) => existing.has(id))) };
  const jobs = partOf<JobRepository>({
    now: async () => NOW,
    findTenants: async () => ['acme'],
    findExisting: (_, ids) => world.findExisting(ids),
  });
  const artifacts = partOf<ArtifactIndex>({ listStored: async () => ({ items: stored, next: undefined }) });
  const audit: SweepAudit = {
    begin: async (_, sweep) => void audited.push(['begin', sweep, store.keys()]),
    end: async (_, sweep) => void audited.push(['end', sweep, store.keys()]),
  };
  const sweepOrphans = makeSweepOrphans(jobs, artifacts, store, audit, (tenantId) => failed.push(tenantId));
  const sweep = (more: { validateOnly?: boolean; tenantIds?: readonly string[] | undefined } = {}) =>
    Array.fromAsync(
      sweepOrphans(
        { caller: CALLER, tenantIds: ['acme'], validateOnly: false, minAgeMs: DAY_MS, reason: 'monthly', ...more },
        new AbortController().signal,
      ),
    );
  return { store, existing, audit, audited, failed, world, sweep };
}

test('a rehearsal finds every version of jobs without a row, and touches and writes down nothing', async (t) => {
  const { store, audited, sweep } = fixture([2]);
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

test('a sweep removes what a rehearsal finds, reads it back, and writes it down before and after', async (t) => {
  const { store, audited, sweep } = fixture([2]);
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
  store.write(keyOf(2, 'a'), 'x', old);
  const [acme] = await sweep();
  t.is(acme?.deleted.versions, 1);
  t.deepEqual(store.keys(), [keyOf(1, 'a'), keyOf(1, 'b')]);
});

test('what is no key of ours is nobody’s orphan', async (t) => {
  const { store, sweep } = fixture();
  store.write('tenants/acme/jobs/readme/a', 'x');
  const [acme] = await sweep();
  t.like(acme, { found: nothing, deleted: nothing });
  t.is(store.keys().length, 1);
});

test('keys that the store refuses are left and named, ten at most, and the others go', async (t) => {
  const { store, audited, sweep } = fixture();
  for (let n = 0; n < 15; n += 1) {
    store.write(keyOf(n, 'stays'), 'xx');
    store.write(keyOf(n, 'goes'), 'x');
    store.refused.set(keyOf(n, 'stays'), 'AccessDenied');
  }
  const [acme] = await sweep();
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
