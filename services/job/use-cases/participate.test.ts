import { setImmediate } from 'node:timers/promises';
import test from 'ava';
import { DomainError, dependencyUnavailable, operationInProgress } from '#libs/kernel/domain-error.ts';
import type { Page, PageQuery } from '#libs/kernel/page.ts';
import type { RunScope } from '#libs/participant/participant.ts';
import { makeMemoryObjectStore } from '#test/support/memory-object-store.ts';
import { type FailedKey, NOTHING_REMOVED, toResourceCounts } from '../domain/deletion.ts';
import { storeNotOurs } from '../domain/errors.ts';
import type { RemovalProgress, RunJobs, UnfinishedJobs } from './deletion-ports.ts';
import { CALLER, DELETION, deletionOf, makeRefusals, partOf } from './fakes.fixture.ts';
import { makeParticipate } from './participate.ts';
import type { DeletionRecords } from './ports.ts';

const RUN = '01890000-0000-7000-8000-00000000000a';
const SCOPE: RunScope = { tenantId: 'acme', runId: RUN, step: undefined };
const OPERATION = { operationId: DELETION, part: 'job', caller: CALLER, reason: 'asked for' };
const ids = Array.from({ length: 450 }, (_, n) => `01890000-0000-7000-8000-${String(n).padStart(12, '0')}`);
const prefixOf = (id: string): string => `tenants/acme/jobs/${id}/`;

const DONE: RemovalProgress = {
  counts: { ...NOTHING_REMOVED, jobs: 2, objects: 3 },
  failedKeys: [],
  stuck: [],
  open: 0,
  queued: 0,
};

const pageOfIds = (all: readonly string[], { limit, after }: PageQuery): Page<string> => {
  const rest = all.filter((id) => after === undefined || id > (after[0] ?? ''));
  const items = rest.slice(0, limit);
  return { items, next: rest.length > limit ? [items.at(-1) ?? ''] : undefined };
};

/** A run whose removal comes as far as `steps` says, look by look; the last one stays. */
function fixture({
  unfinished = [] as UnfinishedJobs,
  steps = [DONE] as readonly RemovalProgress[],
  ordered = 2,
  more = false,
  jobs = [] as readonly string[],
  stuckIds = [DELETION] as readonly string[],
  checkStore = async (): Promise<void> => undefined,
} = {}) {
  const store = makeMemoryObjectStore();
  const calls: string[] = [];
  const slept: number[] = [];
  const { recorded, recordRefusal } = makeRefusals();
  let looks = 0;
  const runJobs = partOf<RunJobs>({
    async hide(_, __, check) {
      check(unfinished);
      return [];
    },
    restore: async () => {
      throw operationInProgress('a purge');
    },
    async forbid(_, __, check) {
      check?.(unfinished);
      calls.push('forbid');
    },
    async orderRemoval(_, { limit, force }) {
      calls.push(`order up to ${limit}${force ? ' by force' : ''}`);
      return { ordered, more };
    },
    async removalProgress() {
      looks += 1;
      return steps[Math.min(looks, steps.length) - 1] ?? DONE;
    },
    inspect: async () => ({
      jobs: jobs.length,
      tasks: 5,
      artifacts: 7,
      bytes: 1,
      sampleJobIds: jobs.slice(0, 100),
      unfinishedJobs: unfinished,
    }),
    listPrefixes: async (_, page) => pageOfIds(jobs, page),
    listStuck: async (_, page) => pageOfIds(stuckIds, page),
  });
  const redrives = { now: 0, atOnce: 0 };
  const deletions = partOf<DeletionRecords>({
    async redrive(_, deletionId) {
      calls.push(`redrive ${deletionId}`);
      redrives.now += 1;
      redrives.atOnce = Math.max(redrives.atOnce, redrives.now);
      await setImmediate();
      redrives.now -= 1;
      return deletionOf();
    },
  });
  const wake = (): void => void calls.push('wake');
  const sleep = async (ms: number): Promise<void> => void slept.push(ms);
  const participate = makeParticipate(runJobs, deletions, store, checkStore, recordRefusal, wake, sleep);
  return { participate, store, calls, slept, recorded, redrives };
}

const reasonOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'OK',
    (error) => (error instanceof DomainError ? error.reason : String(error)),
  );

test('a purge forbids new jobs, orders the removal, wakes the worker and waits for it', async (t) => {
  const open = { ...DONE, open: 1 };
  const { participate, calls, slept } = fixture({ steps: [open, open, DONE] });
  t.deepEqual(await participate.purge(SCOPE, OPERATION, 10), {
    progress: 'COMPLETE',
    counts: toResourceCounts(DONE.counts, 'removed'),
    failedItems: [],
    isQueued: false,
  });
  t.deepEqual(calls, ['forbid', 'order up to 10', 'wake']);
  t.is(slept.length, 2);
});

test('what takes longer than a call may is PARTIAL, with the counts so far', async (t) => {
  const { participate, slept } = fixture({ steps: [{ ...DONE, open: 1 }] });
  t.like(await participate.purge(SCOPE, OPERATION, 10), {
    progress: 'PARTIAL',
    counts: toResourceCounts(DONE.counts, 'removed'),
  });
  const waited = slept.reduce((sum, ms) => sum + ms, 0);
  t.true(waited >= 2_000 && waited <= 2_200, String(waited));
});

test('a purge that could not order everything within its limit is PARTIAL', async (t) => {
  const { participate } = fixture({ more: true });
  t.is((await participate.purge(SCOPE, OPERATION, 10)).progress, 'PARTIAL');
});

test('nothing to remove wakes nobody and is COMPLETE', async (t) => {
  const { participate, calls } = fixture({ ordered: 0 });
  t.is((await participate.purge(SCOPE, OPERATION, 10)).progress, 'COMPLETE');
  t.deepEqual(calls, ['forbid', 'order up to 10']);
});

test("on another installation's store nothing is ordered, counted or read back; one that is away only waits", async (t) => {
  const foreign = fixture({
    checkStore: async () => {
      throw storeNotOurs('It has another marker.');
    },
  });
  for (const refused of [
    foreign.participate.preview(SCOPE),
    foreign.participate.purge(SCOPE, OPERATION, 10),
    foreign.participate.compensate(SCOPE, OPERATION),
    foreign.participate.verify(SCOPE, false),
  ]) {
    t.is(await reasonOf(refused), 'STORE_NOT_OURS');
  }
  t.deepEqual(foreign.calls, []);
  t.is(await reasonOf(foreign.participate.verify(SCOPE, true)), 'OK', 'rows are in no store');
  const away = fixture({
    checkStore: async () => {
      throw dependencyUnavailable('the object store');
    },
  });
  t.is((await away.participate.purge(SCOPE, OPERATION, 10)).progress, 'COMPLETE');
});

test('a removal that waits for a worker says so, and one that has failed does not', async (t) => {
  const queued = fixture({ steps: [{ ...DONE, open: 2, queued: 1 }] });
  t.like(await queued.participate.purge(SCOPE, OPERATION, 10), { progress: 'PARTIAL', isQueued: true });
  const failed = fixture({ steps: [{ ...DONE, open: 2 }] });
  t.like(await failed.participate.purge(SCOPE, OPERATION, 10), { progress: 'PARTIAL', isQueued: false });
});

test('a parked removal is tried anew by the call, and named', async (t) => {
  const failedKey: FailedKey = { key: 'k', code: 'AccessDenied', message: 'm' };
  const stuck = [{ deletionId: DELETION, lastError: 'OBJECTS_LEFT: k' }];
  const named = fixture({ ordered: 0, steps: [{ ...DONE, stuck, failedKeys: [failedKey] }] });
  t.like(await named.participate.purge(SCOPE, OPERATION, 10), {
    progress: 'PARTIAL',
    failedItems: [{ ...failedKey, permanent: false }],
  });
  t.deepEqual(named.calls.slice(-2), [`redrive ${DELETION}`, 'wake']);
  const unnamed = fixture({ steps: [{ ...DONE, stuck }] });
  const { failedItems } = await unnamed.participate.purge(SCOPE, OPERATION, 10);
  t.deepEqual(failedItems, [{ key: DELETION, code: 'STUCK', message: 'OBJECTS_LEFT: k', permanent: false }]);
});

test('however many removals of a run are parked, each is tried anew, a few at a time', async (t) => {
  const stuck = [{ deletionId: ids[0] ?? '', lastError: 'OBJECTS_LEFT: k' }];
  const f = fixture({ ordered: 0, steps: [{ ...DONE, stuck }, DONE], stuckIds: ids });
  t.is((await f.participate.purge(SCOPE, OPERATION, 10)).progress, 'COMPLETE');
  t.deepEqual(
    f.calls.filter((call) => call.startsWith('redrive')),
    ids.map((id) => `redrive ${id}`),
  );
  t.true(f.redrives.atOnce <= 16, String(f.redrives.atOnce));
});

test('a removal that only a person can set going again is named as that, and tried anew by the next call alone', async (t) => {
  const stuck = [{ deletionId: DELETION, lastError: 'STORE_REFUSED: The object store refuses this (NoSuchBucket).' }];
  const f = fixture({
    steps: [
      { ...DONE, open: 1 },
      { ...DONE, stuck },
    ],
  });
  const { failedItems } = await f.participate.purge(SCOPE, OPERATION, 10);
  t.like(failedItems, [{ key: DELETION, permanent: true }]);
  t.false(f.calls.includes(`redrive ${DELETION}`));
  const next = fixture({ ordered: 0, steps: [{ ...DONE, stuck }, { ...DONE, open: 1 }, DONE] });
  t.like(await next.participate.purge(SCOPE, OPERATION, 10), { progress: 'COMPLETE', failedItems: [] });
  t.true(next.calls.includes(`redrive ${DELETION}`));
});

test('what still works refuses a soft delete and a purge, which is written down, and not a compensation', async (t) => {
  const { participate, calls, recorded } = fixture({ unfinished: [{ jobId: 'j', state: 'RUNNING' }] });
  t.is(await reasonOf(participate.softDelete(SCOPE, OPERATION)), 'JOB_NOT_TERMINAL');
  t.is(await reasonOf(participate.purge(SCOPE, OPERATION, 10)), 'JOB_NOT_TERMINAL');
  t.deepEqual(calls, []);
  t.is((await participate.compensate({ ...SCOPE, step: 'draft' }, OPERATION)).progress, 'COMPLETE');
  t.deepEqual(calls, ['forbid', 'order up to 10000 by force', 'wake']);
  t.is(await reasonOf(participate.restore(SCOPE, OPERATION, DELETION)), 'OPERATION_IN_PROGRESS');
  t.deepEqual(
    recorded.map(({ action, targetType, targetId, outcome }) => [action, targetType, targetId, outcome]),
    [
      ['soft-delete', 'run', RUN, 'JOB_NOT_TERMINAL'],
      ['purge', 'run', RUN, 'JOB_NOT_TERMINAL'],
      ['undelete', 'run', RUN, 'OPERATION_IN_PROGRESS'],
    ],
  );
});

test('a preview sums the store over every job of the run, page after page', async (t) => {
  const { participate, store } = fixture({ jobs: ids });
  for (const id of ids) store.write(`${prefixOf(id)}input/a`, 'xy');
  const { counts } = await participate.preview(SCOPE);
  const found = { ...NOTHING_REMOVED, objects: 450, bytes: 900, tasks: 5, artifacts: 7, jobs: 450 };
  t.deepEqual(counts, toResourceCounts(found, 'found'));
});

test('a verification asks the store itself, also for jobs whose row has gone', async (t) => {
  const { participate, store } = fixture({ jobs: ids.slice(0, 3) });
  store.write(`${prefixOf(ids[1] ?? '')}input/a`, 'xy');
  const { counts, samples } = await participate.verify(SCOPE, false);
  t.deepEqual(counts, toResourceCounts({ jobs: 3, objects: 1 }, 'found'));
  t.true(samples.some(({ resourceId }) => resourceId === ids[1]));
});
