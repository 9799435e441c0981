import test from 'ava';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { makeMemoryObjectStore } from '#test/support/memory-object-store.ts';
import type { DeletionState } from '../domain/deletion.ts';
import type { Job } from '../domain/job.ts';
import { makeDeleteJob } from './delete-job.ts';
import { artifactOf, CALLER, DELETION, deletionOf, JOB, jobIn, makeRefusals, PREFIX, partOf } from './fakes.fixture.ts';
import type { ArtifactIndex, DeletionOrder, DeletionOrders, DeletionRecords, JobRepository } from './ports.ts';

const COMMAND = {
  caller: CALLER,
  jobId: JOB,
  allowMissing: false,
  requestId: undefined,
  reason: 'asked for',
  etag: '',
};

/** The one job there is, or none, and a deletion in some state. */
function fixture(job: Job | undefined, deletionState?: DeletionState) {
  const store = makeMemoryObjectStore();
  const orders: DeletionOrder[] = [];
  const { recorded, recordRefusal } = makeRefusals();
  let wakes = 0;
  const deletions = partOf<DeletionOrders & DeletionRecords>({
    async begin(order, check) {
      if (!job) return undefined;
      check(job);
      orders.push(order);
      return deletionOf({ reason: order.reason });
    },
    redrive: async () => (deletionState ? deletionOf({ state: deletionState }) : undefined),
  });
  const artifacts = partOf<ArtifactIndex>({
    async list(_, __, ___, { after }) {
      const artifact = artifactOf();
      return after ? { items: [artifact], next: undefined } : { items: [artifact, artifact], next: ['INPUT', 'a'] };
    },
  });
  const jobs = partOf<JobRepository>({ get: async () => job });
  const deleteJob = makeDeleteJob(jobs, artifacts, deletions, deletions, store, () => (wakes += 1), recordRefusal);
  return { deleteJob, store, orders, recorded, wakes: () => wakes };
}

const reasonOf = async (work: () => Promise<unknown>): Promise<string> => {
  try {
    await work();
    return 'OK';
  } catch (error) {
    if (error instanceof DomainError) return error.reason;
    throw error;
  }
};

for (const state of ['COMPLETED', 'FAILED', 'CANCELLED'] as const) {
  test(`the order to delete a ${state} job is committed, and the worker is woken`, async (t) => {
    const { deleteJob, orders, recorded, wakes } = fixture(jobIn(state));
    t.is((await deleteJob.order(COMMAND))?.id, DELETION);
    t.like(orders[0], { tenantId: 'acme', jobId: JOB, reason: 'asked for' });
    t.is(wakes(), 1);
    t.deepEqual(recorded, []);
  });
}

for (const state of ['PENDING', 'RUNNING', 'CANCELLING'] as const) {
  test(`a ${state} job is refused, which is written down before the caller hears of it`, async (t) => {
    const { deleteJob, orders, recorded, wakes } = fixture(jobIn(state));
    t.is(await reasonOf(() => deleteJob.order(COMMAND)), 'JOB_NOT_TERMINAL');
    t.deepEqual([orders, wakes()], [[], 0]);
    t.like(recorded[0], {
      action: 'delete',
      targetType: 'job',
      targetId: JOB,
      reason: 'asked for',
      outcome: 'JOB_NOT_TERMINAL',
    });
  });
}

test('a stale etag is refused in the order and in its dry run', async (t) => {
  const { deleteJob, recorded } = fixture(jobIn('COMPLETED', { version: 4n }));
  const stale = { ...COMMAND, etag: '"3"' };
  t.is(await reasonOf(() => deleteJob.order(stale)), 'ETAG_MISMATCH');
  t.is(await reasonOf(() => deleteJob.preview(stale)), 'ETAG_MISMATCH');
  t.deepEqual(
    recorded.map(({ outcome }) => outcome),
    ['ETAG_MISMATCH'],
    'a dry run is no order',
  );
  t.is(await reasonOf(() => deleteJob.order({ ...COMMAND, etag: '"4"' })), 'OK');
});

test('a job that is not there is JOB_NOT_FOUND, or nothing where that is allowed, and nobody’s audit', async (t) => {
  const { deleteJob, recorded, wakes } = fixture(undefined);
  for (const act of [deleteJob.order, deleteJob.preview]) {
    t.is(await reasonOf(() => act(COMMAND)), 'JOB_NOT_FOUND');
    t.is(await act({ ...COMMAND, allowMissing: true }), undefined);
  }
  t.deepEqual([recorded, wakes()], [[], 0]);
});

test('the same order has the same fingerprint whatever its request id, another one has another', async (t) => {
  const { deleteJob, orders } = fixture(jobIn('FAILED'));
  const changes = [{}, { requestId: JOB }, { reason: 'other' }, { etag: '"1"' }, { allowMissing: true }];
  for (const change of changes) await deleteJob.order({ ...COMMAND, ...change });
  const prints = orders.map(({ fingerprint }) => fingerprint);
  t.is(prints[1], prints[0]);
  t.is(new Set(prints).size, 4);
});

test('a dry run counts what the store and the index hold, page after page, and changes nothing', async (t) => {
  const { deleteJob, store, orders, wakes } = fixture(jobIn('COMPLETED'));
  for (const text of ['old', 'newer']) store.write(`${PREFIX}input/a`, text);
  const preview = await deleteJob.preview(COMMAND);
  t.is(preview?.id, '');
  t.deepEqual(preview?.counts, { objects: 2, markers: 0, uploads: 0, bytes: 8, tasks: 1, artifacts: 3, jobs: 1 });
  t.deepEqual([orders, wakes(), store.keys().length], [[], 0, 2]);
});

test('a parked deletion is set going again, a finished one is refused, an unknown one is not found', async (t) => {
  const parked = fixture(undefined, 'PENDING');
  await parked.deleteJob.redrive(CALLER, DELETION, 'mended');
  t.is(parked.wakes(), 1);
  const finished = fixture(undefined, 'COMPLETE');
  t.is(await reasonOf(() => finished.deleteJob.redrive(CALLER, DELETION, 'again')), 'DELETION_FINISHED');
  t.like(finished.recorded[0], { action: 'redrive', targetType: 'deletion', targetId: DELETION, reason: 'again' });
  const unknown = fixture(undefined);
  t.is(await reasonOf(() => unknown.deleteJob.redrive(CALLER, DELETION, undefined)), 'DELETION_NOT_FOUND');
  t.deepEqual([unknown.recorded, unknown.wakes(), finished.wakes()], [[], 0, 0]);
});
