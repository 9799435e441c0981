import { create, type MessageInitShape } from '@bufbuild/protobuf';
import test from 'ava';
import { BulkDeletionSchema, BulkDeletionState } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { DeletionSchema, DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { RunSchema, RunState } from '#gen/lethe/run/v1/run_pb.ts';
import { makeBulkDeletions } from './bulk-deletions.ts';
import type { CallOptions } from './call-options.ts';
import { makeDeletions } from './deletions.ts';
import { makeJobs } from './jobs.ts';
import { LetheError } from './lethe-error.ts';
import { makeRetention } from './retention.ts';
import { makeRuns } from './runs.ts';
import type { Services } from './services.ts';

type Rpc = (request: never, call: CallOptions) => unknown;
type Rpcs = Readonly<Record<string, Rpc>>;

/** The SDK over services of which only these RPCs are there. */
function over(rpcs: { readonly run?: Rpcs; readonly job?: Rpcs; readonly retention?: Rpcs }) {
  const services = rpcs as unknown as Services;
  const deletions = makeDeletions(services);
  const bulkDeletions = makeBulkDeletions(services);
  return {
    deletions,
    bulkDeletions,
    jobs: makeJobs(services, deletions, bulkDeletions),
    runs: makeRuns(services, deletions, bulkDeletions),
    retention: makeRetention(services),
  };
}

const lost = () => new LetheError('UNAVAILABLE', 'UNAVAILABLE', 'The connection is lost.');

/** A watch that breaks after its first message, so many times; then it tells the last one too. */
function breaking<T>(times: number, first: T, last: T): Rpc {
  let opens = 0;
  return async function* () {
    opens += 1;
    yield first;
    if (opens <= times) throw lost();
    yield last;
  };
}

const deletion = (state: DeletionState, seconds = 1n) =>
  create(DeletionSchema, { id: 'd1', state, updateTime: { seconds } });
const bulk = (state: BulkDeletionState) => create(BulkDeletionSchema, { id: 'b1', state });
const run = (init: MessageInitShape<typeof RunSchema>) => create(RunSchema, { id: 'r1', ...init });

// Each pause is a second.
const BREAKS = 5;

test('watches go on however often their stream breaks, while each opening tells how things stand', async (t) => {
  const { VERIFYING, COMPLETE } = DeletionState;
  const started = { event: { case: 'started' } };
  const sdk = over({
    run: {
      watchDeletion: breaking(BREAKS, { deletion: deletion(VERIFYING) }, { deletion: deletion(COMPLETE) }),
      watchBulkDeletion: breaking(
        BREAKS,
        { bulkDeletion: bulk(BulkDeletionState.RUNNING) },
        { bulkDeletion: bulk(BulkDeletionState.COMPLETE) },
      ),
      watchRun: breaking(
        BREAKS,
        { run: run({ state: RunState.RUNNING, etag: 'a' }), steps: [] },
        { run: run({ state: RunState.COMPLETED, etag: 'b' }), steps: [] },
      ),
    },
    retention: { purge: breaking(BREAKS, started, { event: { case: 'summary' } }) },
  });
  const [deletions, bulks, runs, purge] = await Promise.all([
    Array.fromAsync(sdk.deletions.watch('d1')),
    Array.fromAsync(sdk.bulkDeletions.watch('b1')),
    Array.fromAsync(sdk.runs.watch('r1')),
    Array.fromAsync(sdk.retention.purge()),
  ]);
  t.deepEqual(
    deletions.map(({ state }) => state),
    [VERIFYING, COMPLETE],
  );
  t.deepEqual(
    bulks.map(({ state }) => state),
    [BulkDeletionState.RUNNING, BulkDeletionState.COMPLETE],
  );
  t.deepEqual(
    runs.map(({ run: { state } }) => state),
    [RunState.RUNNING, RunState.COMPLETED],
  );
  t.deepEqual(
    purge.map(({ event }) => event.case),
    ['started', 'summary'],
  );
});

test('a job’s deletion that cannot be watched to its end is answered as it was last seen, since it is committed', async (t) => {
  let looks = 0;
  const { jobs } = over({
    job: {
      deleteJob: async () => ({ deletion: deletion(DeletionState.PENDING) }),
      getDeletion: async () => {
        looks += 1;
        if (looks === 1) return { deletion: deletion(DeletionState.VERIFYING, 2n) };
        throw lost();
      },
    },
  });
  t.is((await jobs.delete('j1'))?.state, DeletionState.VERIFYING);
  t.is(looks, 6, 'one look and five attempts');
});

test('a job’s deletion that may not be watched is an error', async (t) => {
  const { jobs } = over({
    job: {
      deleteJob: async () => ({ deletion: deletion(DeletionState.PENDING) }),
      getDeletion: async () => {
        throw new LetheError('PERMISSION_DENIED', 'ROLE_MISSING', 'Not for you.');
      },
    },
  });
  await t.throwsAsync(jobs.delete('j1'), { message: 'Not for you.' });
});

/** Runs a call that waits, and tells which options its order and its watch were sent with. */
async function sentWith(
  call: (sdk: ReturnType<typeof over>) => Promise<unknown>,
): Promise<{ readonly order: CallOptions | undefined; readonly watch: CallOptions | undefined }> {
  let order: CallOptions | undefined;
  let watch: CallOptions | undefined;
  const ordered = async (_: unknown, options: CallOptions) => {
    order = options;
    return { deletion: deletion(DeletionState.PENDING), bulkDeletion: bulk(BulkDeletionState.RUNNING) };
  };
  const watched = async function* (_: unknown, options: CallOptions) {
    watch = options;
    yield { deletion: deletion(DeletionState.COMPLETE), bulkDeletion: bulk(BulkDeletionState.COMPLETE) };
  };
  const looked = async (_: unknown, options: CallOptions) => {
    watch = options;
    return { deletion: deletion(DeletionState.COMPLETE) };
  };
  const run = { purgeRun: ordered, purgeRuns: ordered, watchDeletion: watched, watchBulkDeletion: watched };
  const job = { deleteJob: ordered, deleteJobs: ordered, getDeletion: looked, watchBulkDeletion: watched };
  await call(over({ run, job }));
  return { order, watch };
}

const waits: Readonly<Record<string, (sdk: ReturnType<typeof over>, options: CallOptions) => Promise<unknown>>> = {
  'runs.purge': ({ runs }, options) => runs.purge('r1', { reason: 'gone', wait: true, ...options }),
  'runs.purgeAll': ({ runs }, options) => runs.purgeAll({}, { reason: 'gone', wait: true, ...options }),
  'jobs.deleteAll': ({ jobs }, options) => jobs.deleteAll({}, { reason: 'gone', wait: true, ...options }),
  'jobs.delete': ({ jobs }, options) => jobs.delete('j1', options),
};

for (const [name, call] of Object.entries(waits)) {
  test(`${name} that waits has one deadline for its order and its watch, and none where none is set`, async (t) => {
    const bounded = await sentWith((sdk) => call(sdk, { timeoutMs: 60_000 }));
    const ofOrder = bounded.order?.timeoutMs ?? Number.NaN;
    const ofWatch = bounded.watch?.timeoutMs ?? Number.NaN;
    t.true(ofOrder <= 60_000, `${ofOrder}`);
    t.true(ofWatch <= ofOrder, `${ofWatch}`);
    const free = await sentWith((sdk) => call(sdk, {}));
    t.deepEqual([free.order?.timeoutMs, free.watch?.timeoutMs], [undefined, undefined]);
  });
}

test('a job’s deletion that its deadline ends is answered as it was last seen', async (t) => {
  const { jobs } = over({
    job: {
      deleteJob: async () => ({ deletion: deletion(DeletionState.PENDING) }),
      getDeletion: async () => {
        throw new LetheError('DEADLINE_EXCEEDED', 'DEADLINE_EXCEEDED', 'Too late.');
      },
    },
  });
  t.is((await jobs.delete('j1', { timeoutMs: 1_000 }))?.state, DeletionState.PENDING);
});

test('a wait for a job’s deletion may be of any length, and one without end is none that is over at once', async (t) => {
  const { jobs } = over({
    job: {
      deleteJob: async () => ({ deletion: deletion(DeletionState.PENDING) }),
      getDeletion: async () => ({ deletion: deletion(DeletionState.COMPLETE) }),
    },
  });
  for (const waitMs of [Number.POSITIVE_INFINITY, 2 ** 40, 60_000.5]) {
    t.is((await jobs.delete('j1', { waitMs }))?.state, DeletionState.COMPLETE);
  }
  for (const waitMs of [-1, Number.NaN]) {
    t.is((await jobs.delete('j1', { waitMs }))?.state, DeletionState.PENDING);
  }
});
