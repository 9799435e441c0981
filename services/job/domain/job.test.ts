import test from 'ava';
import { DomainError } from '#libs/kernel/domain-error.ts';
import {
  assertDeletable,
  assertEtag,
  assertLease,
  cancel,
  claim,
  etagOf,
  finish,
  isRenewal,
  JOB_STATES,
  type Job,
  type JobState,
  renewLease,
  transition,
  updateTask,
} from './job.ts';

const at = Temporal.Instant.from('2026-01-02T03:04:05.678901Z');
const later = at.add({ seconds: 1 });

const jobIn = (state: JobState): Job => ({
  id: 'job',
  tenantId: 'acme',
  runId: undefined,
  step: undefined,
  displayName: '',
  state,
  tasks: [{ name: 'a', state: 'PENDING', error: undefined, startedAt: undefined, finishedAt: undefined }],
  error: undefined,
  lease: undefined,
  createdAt: at,
  startedAt: undefined,
  finishedAt: undefined,
  updatedAt: at,
  deletedAt: undefined,
  version: 1n,
});

// What ava compares by value must not hold instants: they refuse valueOf().
const shown = (value: unknown): string => JSON.stringify(value);

const reasonOf = (act: () => unknown): string => {
  try {
    act();
  } catch (error) {
    if (error instanceof DomainError) return error.reason;
    throw error;
  }
  return 'OK';
};

// Written out rather than derived: a change of the table must be made twice, here with open eyes.
const LEGAL: ReadonlySet<string> = new Set([
  'PENDING>RUNNING',
  'PENDING>CANCELLED',
  'RUNNING>RUNNING',
  'RUNNING>CANCELLING',
  'RUNNING>COMPLETED',
  'RUNNING>FAILED',
  'CANCELLING>CANCELLED',
  'CANCELLING>COMPLETED',
  'CANCELLING>FAILED',
]);

for (const from of JOB_STATES) {
  for (const to of JOB_STATES) {
    const isLegal = LEGAL.has(`${from}>${to}`);
    test(`a ${from} job ${isLegal ? 'can' : 'cannot'} become ${to}`, (t) => {
      t.is(
        reasonOf(() => transition(jobIn(from), to, later)),
        isLegal ? 'OK' : 'JOB_TRANSITION_ILLEGAL',
      );
    });
  }
}

const DELETION: Readonly<Record<JobState, string | undefined>> = {
  PENDING: 'Cannot delete pending job. Use cancel instead.',
  RUNNING: 'Cannot delete running job. Use cancel instead.',
  CANCELLING: 'Cannot delete job while cancellation is in progress.',
  CANCELLED: undefined,
  COMPLETED: undefined,
  FAILED: undefined,
};

for (const state of JOB_STATES) {
  const message = DELETION[state];
  test(`a ${state} job ${message ? 'is not deleted, in the words of the seed' : 'can be deleted'}`, (t) => {
    const act = () => assertDeletable(jobIn(state));
    if (message === undefined) t.notThrows(act);
    else
      t.like(t.throws(act, { instanceOf: DomainError }), { reason: 'JOB_NOT_TERMINAL', message, metadata: { state } });
  });
}

test('cancel ends a PENDING job with its tasks, asks a RUNNING one to stop, and repeats without a change', (t) => {
  const cancelled = cancel(jobIn('PENDING'), later);
  t.is(cancelled.state, 'CANCELLED');
  t.is(cancelled.finishedAt, later);
  t.is(cancelled.tasks[0]?.state, 'CANCELLED');
  t.is(cancel(cancelled, later), cancelled);
  const stopping = cancel(jobIn('RUNNING'), later);
  t.is(stopping.state, 'CANCELLING');
  t.is(stopping.finishedAt, undefined);
  t.is(cancel(stopping, later), stopping);
  for (const state of ['COMPLETED', 'FAILED'] as const) {
    t.is(
      reasonOf(() => cancel(jobIn(state), later)),
      'JOB_TRANSITION_ILLEGAL',
    );
  }
});

test('each claim has a greater token, and an older one writes nothing any more', (t) => {
  const first = claim(jobIn('PENDING'), 'one', 1_000, at);
  const second = claim(first, 'two', 1_000, later);
  t.true((second.lease?.token ?? 0n) > (first.lease?.token ?? 0n));
  t.is(second.startedAt, first.startedAt, 'the job was started once');
  const stale = first.lease?.token ?? 0n;
  t.is(
    reasonOf(() => finish(second, stale, 'COMPLETED', later)),
    'LEASE_LOST',
  );
});

test('a lease ends at its very instant, and a renewal moves it', (t) => {
  const held = claim(jobIn('PENDING'), 'one', 1_000, at);
  const token = held.lease?.token ?? 0n;
  t.notThrows(() => assertLease(held, token, later.subtract({ microseconds: 1 })));
  t.is(
    reasonOf(() => assertLease(held, token, later)),
    'LEASE_LOST',
  );
  t.notThrows(() => assertLease(renewLease(held, 2_000, at), token, later));
});

test('the same end with the same token again changes nothing; another end is refused', (t) => {
  const held = claim(jobIn('PENDING'), 'one', 10_000, at);
  const token = held.lease?.token ?? 0n;
  const done = finish(held, token, 'COMPLETED', later);
  t.is(finish(done, token, 'COMPLETED', later.add({ hours: 1 })), done);
  t.is(
    reasonOf(() => finish(done, token, 'FAILED', later, 'no')),
    'LEASE_LOST',
  );
  t.is(
    reasonOf(() => finish(held, token, 'CANCELLED', later)),
    'JOB_TRANSITION_ILLEGAL',
    'a worker cannot cancel by itself',
  );
});

test('a task goes forward, may be tried again after a failure, and telling the same twice changes nothing', (t) => {
  const job = jobIn('RUNNING');
  const running = updateTask(job, 'a', 'RUNNING', at);
  t.is(updateTask(running, 'a', 'RUNNING', later), running);
  const failed = updateTask(running, 'a', 'FAILED', later, 'no sound');
  t.is(
    shown(failed.tasks[0]),
    shown({ name: 'a', state: 'FAILED', error: 'no sound', startedAt: at, finishedAt: later }),
  );
  const [again] = updateTask(failed, 'a', 'RUNNING', later).tasks;
  t.is(again?.state, 'RUNNING');
  t.is(again?.error, undefined);
  const done = updateTask(running, 'a', 'COMPLETED', later);
  t.is(
    reasonOf(() => updateTask(done, 'a', 'RUNNING', later)),
    'TASK_TRANSITION_ILLEGAL',
  );
  t.is(
    reasonOf(() => updateTask(job, 'b', 'RUNNING', later)),
    'TASK_NOT_FOUND',
  );
});

test('a renewal is a lease that goes on longer, and nothing else', (t) => {
  const job = claim(jobIn('PENDING'), 'w', 1_000, at);
  t.true(isRenewal(job, renewLease(job, 5_000, at)));
  t.true(isRenewal(job, renewLease(updateTask(job, 'a', 'PENDING', at), 5_000, at)));
  t.false(isRenewal(job, renewLease(updateTask(job, 'a', 'RUNNING', at), 5_000, at)));
  t.false(isRenewal(job, cancel(job, at)));
  t.false(isRenewal(job, finish(job, 1n, 'COMPLETED', at)));
  t.false(isRenewal(job, claim(job, 'w', 1_000, at)));
  t.false(isRenewal(jobIn('PENDING'), claim(jobIn('PENDING'), 'w', 1_000, at)));
});

test('an etag holds for one version only, and none holds for any', (t) => {
  const job = jobIn('PENDING');
  t.notThrows(() => assertEtag(job, ''));
  t.notThrows(() => assertEtag(job, etagOf(job)));
  t.is(
    reasonOf(() => assertEtag({ ...job, version: 2n }, etagOf(job))),
    'ETAG_MISMATCH',
  );
});
