import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import { DomainError, dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import { makeMemorySagas } from '#test/support/memory-sagas.ts';
import { callerIn, inputOf, makeEngine, makeFakeParticipant } from '#test/support/saga-harness.ts';

function fixture(maxAttempts = 3) {
  const sagas = makeMemorySagas();
  const job = makeFakeParticipant('job');
  const incident = makeFakeParticipant('incident');
  const rowCount = (): number => [...sagas.rows.values()].reduce((sum, rows) => sum + rows.size, 0);
  return { sagas, job, incident, rowCount, engine: makeEngine(sagas, [job, incident], { maxAttempts }) };
}

test('a run is driven from its first step to its last, and asks whom its steps name', async (t) => {
  const { engine, job, incident, rowCount } = fixture();
  const run = await engine.run(inputOf());
  t.like(run, { state: 'COMPLETED', currentStep: undefined, attempts: 0 });
  t.deepEqual(
    run.steps.map(({ name, position, state, participants }) => [name, position, state, participants]),
    [
      ['brief', 1, 'COMPLETED', []],
      ['strategy', 2, 'COMPLETED', []],
      ['draft', 3, 'COMPLETED', ['job']],
      ['qc', 4, 'COMPLETED', []],
      ['delivery', 5, 'COMPLETED', []],
    ],
  );
  t.deepEqual([...job.calls, ...incident.calls], ['execute draft']);
  t.is(rowCount(), 13);
});

test('a failed run is driven back to nothing, newest step first', async (t) => {
  const { engine, job, incident, rowCount } = fixture();
  const run = await engine.run(inputOf({ force_qc_fail: true }));
  t.is(run.state, 'COMPENSATED');
  t.true(run.steps.every(({ state }) => state === 'COMPENSATED'));
  t.deepEqual(incident.calls, ['execute qc', 'compensate qc']);
  t.deepEqual(job.calls, ['execute draft', 'compensate draft']);
  t.is(rowCount(), 0);
});

test('what a participant refuses for good fails the step at once', async (t) => {
  const { engine, job, rowCount } = fixture();
  job.fail.execute = new DomainError('failed-precondition', 'ACTION_REFUSED', 'Never.');
  const run = await engine.run(inputOf());
  t.like(run, { state: 'COMPENSATED', error: 'ACTION_REFUSED: Never.' });
  t.deepEqual(job.calls, ['execute draft', 'compensate draft'], 'its effects may be there all the same');
  t.is(rowCount(), 0);
});

test('a participant that is away is waited for without end, forward and back, and the run goes on when it is there', async (t) => {
  const { engine, job, incident, rowCount } = fixture(3);
  const leave = (participant: typeof job, isAway: boolean): void => {
    participant.isAway = isAway;
    const error = isAway ? dependencyUnavailable(participant.name) : undefined;
    participant.fail = { execute: error, compensate: error };
  };
  leave(job, true);
  // It never comes to rest while it waits.
  const tryOften = async (): Promise<void> => {
    for (let tries = 0; tries < 20; tries += 1) {
      await engine.advance.due(new AbortController().signal);
      await delay(2);
    }
  };
  await engine.run(inputOf({ force_delivery_fail: true }));
  await tryOften();
  t.like(engine.settled.at(-1)?.run, { state: 'RUNNING', attempts: 0, currentStep: 'draft' });
  t.true(job.calls.length > 5, 'it was asked more often than there are attempts');
  leave(incident, true);
  leave(job, false);
  job.afterExecute = async () => leave(job, true);
  await tryOften();
  t.like(engine.settled.at(-1)?.run, { state: 'COMPENSATING', attempts: 0 });
  t.true(job.calls.filter((call) => call === 'compensate draft').length > 5);
  leave(job, false);
  await engine.drain();
  t.like(engine.settled.at(-1)?.run, { state: 'COMPENSATED', attempts: 0 });
  t.is(rowCount(), 0);
});

test('what passes is tried again, and leaves no trace in the end', async (t) => {
  const { engine, job } = fixture();
  job.fail.execute = dependencyUnavailable('job');
  const waiting = await engine.run(inputOf());
  t.like(waiting, { state: 'RUNNING', attempts: 1, currentStep: 'draft' });
  job.fail.execute = undefined;
  await engine.drain();
  t.like(engine.settled.at(-1)?.run, { state: 'COMPLETED', attempts: 0 });
});

test('a participant that needs several calls gets them', async (t) => {
  const { engine, job, rowCount } = fixture();
  job.partial = 2;
  const run = await engine.run(inputOf({ force_delivery_fail: true }));
  t.is(run.state, 'COMPENSATED');
  t.deepEqual(job.calls, [...Array(3).fill('execute draft'), ...Array(3).fill('compensate draft')]);
  t.is(job.effects.size + rowCount(), 0);
});

test('a participant that needs more calls than a worker makes in a row is gone on with, and no attempt is counted', async (t) => {
  const { sagas, job, incident } = fixture();
  const { execute, compensate } = job;
  job.execute = async (...call) => ({ ...(await execute(...call)), progress: 'COMPLETE' });
  job.compensate = async (call) => {
    await new Promise((resolve) => setTimeout(resolve, 5));
    return compensate(call);
  };
  job.partial = 20;
  const engine = makeEngine(sagas, [job, incident], { maxAttempts: 2, leaseMs: 60 });
  await engine.startRun({
    caller: callerIn('acme'),
    workflow: 'client_to_delivery',
    displayName: '',
    input: inputOf({ force_delivery_fail: true }),
    requestId: undefined,
  });
  await engine.idle();
  t.deepEqual(engine.settled, [], 'it was given up for another to go on with');
  await engine.drain();
  t.deepEqual(
    engine.settled.map(({ outcome }) => outcome),
    ['COMPENSATED'],
  );
});

test('a read-back that takes longer than the lease keeps the run with the worker that reads back', async (t) => {
  const { sagas, job, incident, rowCount } = fixture();
  const { verifyStep } = job;
  const parts: string[] = [];
  job.verifyStep = async (call, cursor = new Uint8Array()) => {
    const part = cursor[0] ?? 0;
    parts.push(`part ${part}`);
    await delay(250);
    return part < 4 ? { counts: [], cursor: Uint8Array.of(part + 1) } : verifyStep(call);
  };
  const engine = makeEngine(sagas, [job, incident], { maxAttempts: 3, leaseMs: 700 });
  const ended = engine.run(inputOf({ force_delivery_fail: true }));
  const over = new AbortController();
  const loops = Array.from({ length: 3 }, async () => {
    for (; !over.signal.aborted; await delay(5)) await engine.advance.due(over.signal);
  });
  const run = await ended;
  over.abort();
  await Promise.all(loops);
  t.like(run, { state: 'COMPENSATED', parkedReason: undefined });
  t.deepEqual(parts, ['part 0', 'part 1', 'part 2', 'part 3', 'part 4']);
  t.is(job.effects.size + rowCount(), 0);
});

test('a participant whose read-back goes back to a part is a failed attempt, and not asked for ever', async (t) => {
  const { engine, job } = fixture(1);
  job.verifyStep = async () => ({ counts: [], cursor: Uint8Array.of(1) });
  const run = await engine.run(inputOf({ force_delivery_fail: true }));
  t.is(run.state, 'FAILED');
  t.regex(run.parkedReason ?? '', /^DEPENDENCY_UNAVAILABLE: /);
});

test('a worker that is asked to stop gives up a read-back between two parts, and no attempt is counted', async (t) => {
  const { engine, job } = fixture();
  const { verifyStep } = job;
  const asked: (Uint8Array | undefined)[] = [];
  let stopped: Promise<void> | undefined;
  job.verifyStep = async (call, cursor) => {
    asked.push(cursor);
    if (stopped) return verifyStep(call);
    stopped = engine.own.stop();
    return { counts: [], cursor: Uint8Array.of(1) };
  };
  const ended = engine.run(inputOf({ force_delivery_fail: true }));
  await engine.idle();
  await stopped;
  t.deepEqual(engine.settled, []);
  await engine.drain();
  t.like(await ended, { state: 'COMPENSATED', attempts: 0 });
  t.deepEqual(asked, [undefined, undefined], 'another worker begins anew');
});

test('a participant that is no longer configured parks the compensation instead of passing it by', async (t) => {
  const { engine, sagas, job } = fixture(1);
  job.fail.execute = dependencyUnavailable('job');
  const without = makeEngine(sagas, [], { maxAttempts: 1 });
  const { runId } = await without.run(inputOf());
  const parked = without.settled.at(-1)?.run;
  t.is(parked?.runId, runId);
  t.like(parked, {
    state: 'FAILED',
    parkedReason:
      'PARTICIPANT_UNKNOWN: Participant job is not configured; configure it, or retire it if its data is gone.',
  });
  t.is(engine.settled.length, 0);
});
