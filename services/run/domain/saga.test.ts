import test from 'ava';
import fc from 'fast-check';
import {
  afterAction,
  afterAttempt,
  afterCompensation,
  afterFailedAction,
  beginSaga,
  cancelSaga,
  end,
  failSaga,
  nextMove,
  removalsOf,
  retrySaga,
  type Saga,
  sumByType,
  sumRemoved,
} from './saga.ts';

const begun = beginSaga({ name: 'one', participants: [] }, { client: 'Acme' });

const removalOf = (resourceType: string, deleted: number) => [
  { participant: 'job', counts: [{ resourceType, found: deleted, deleted, left: 0, bytes: 0 }] },
];

const stepOf = (saga: Saga, name: string) => {
  const step = saga.steps.find((each) => each.name === name);
  if (!step) throw new Error(`no step ${name}`);
  return step;
};

const withTwo = afterAction(begun, stepOf(begun, 'one'), { a: 1 }, { intent: { name: 'two', participants: ['job'] } });

test('a run begins with the intent of its first step', (t) => {
  t.like(begun, { state: 'RUNNING', currentStep: 'one' });
  t.like(nextMove(begun), { kind: 'act', step: { name: 'one', position: 1, state: 'RUNNING' } });
});

test("a step done well leaves its output and the next one's intent, which names whom it will ask", (t) => {
  t.like(stepOf(withTwo, 'one'), { state: 'COMPLETED', output: { a: 1 } });
  t.like(stepOf(withTwo, 'two'), { state: 'RUNNING', position: 2, participants: ['job'] });
  t.is(withTwo.currentStep, 'two');
});

test('the last step done well completes the run', (t) => {
  const done = afterAction(withTwo, stepOf(withTwo, 'two'), {}, { output: { b: 2 } });
  t.like(done, { state: 'COMPLETED', output: { b: 2 }, currentStep: undefined });
  t.deepEqual(nextMove(done), { kind: 'none' });
});

test('a failed step is compensated first, then those before it, newest first', (t) => {
  let saga = afterFailedAction(withTwo, stepOf(withTwo, 'two'), 'QC_FAILED: no.');
  t.like(saga, { state: 'COMPENSATING', error: 'QC_FAILED: no.', currentStep: 'two' });
  const order: string[] = [];
  for (let move = nextMove(saga); move.kind === 'compensate'; move = nextMove(saga)) {
    order.push(...move.steps.map(({ name }) => name));
    saga = afterCompensation(saga, move.steps, removalOf('row', 1));
  }
  t.deepEqual(order, ['two', 'one']);
  t.like(saga, { state: 'COMPENSATED', error: 'QC_FAILED: no.', currentStep: undefined });
  t.deepEqual(sumRemoved(saga.steps), { row: 2 });
});

/** A run whose steps have done well, each with whom it asked, and of which the last one then fails. */
function failing(...participants: string[][]): Saga {
  const intents = participants.map((names, index) => ({ name: `s${index + 1}`, participants: names }));
  const [first, ...others] = intents;
  if (!first) throw new Error('a run has steps');
  let saga = beginSaga(first, {});
  for (const intent of others) saga = afterAction(saga, stepOf(saga, saga.currentStep ?? ''), {}, { intent });
  return afterFailedAction(saga, stepOf(saga, saga.currentStep ?? ''), 'no');
}

const compensated = (saga: Saga) => {
  const move = nextMove(saga);
  return move.kind === 'compensate' ? move.steps.map(({ name }) => name) : [];
};

test('steps in a row that nobody else holds effects of give theirs up together', (t) => {
  t.deepEqual(compensated(failing([], [], [])), ['s3', 's2', 's1']);
  t.deepEqual(compensated(failing([], ['job'], [], [])), ['s4', 's3']);
  t.deepEqual(compensated(failing([], [], ['job'])), ['s3']);
});

test('after a failed attempt they go one at a time, so that the newer ones do not wait for one that cannot', (t) => {
  const saga = failing([], [], []);
  const tried = afterAttempt(saga, stepOf(saga, 's3'), 'X: held.', false);
  t.deepEqual(compensated(tried), ['s3']);
  t.deepEqual(compensated(afterCompensation(tried, [stepOf(tried, 's3')], [])), ['s2', 's1']);
});

test('an attempt that failed is repeated; the last one fails the step', (t) => {
  const once = afterAttempt(withTwo, stepOf(withTwo, 'two'), 'X: down.', false);
  t.like(once, { state: 'RUNNING', attempts: 1 });
  t.like(nextMove(once), { kind: 'act', step: { name: 'two', attempts: 1, error: 'X: down.' } });
  const last = afterAttempt(once, stepOf(once, 'two'), 'X: down.', true);
  t.like(last, { state: 'COMPENSATING', error: 'X: down.', attempts: 0 });
});

test("what a run tells as its error is why it failed in the first place, and the step tells its last attempt's", (t) => {
  const saga = afterFailedAction(withTwo, stepOf(withTwo, 'two'), 'ACTION_REFUSED: not there.', 'QC_FAILED: no.');
  t.is(saga.error, 'QC_FAILED: no.');
  t.is(stepOf(saga, 'two').error, 'ACTION_REFUSED: not there.');
});

test('a compensation that cannot finish parks the run with the reason, and can be redriven', (t) => {
  const failed = afterFailedAction(withTwo, stepOf(withTwo, 'two'), 'no');
  const parked = afterAttempt(failed, stepOf(failed, 'two'), 'X: down.', true);
  t.like(parked, { state: 'FAILED', parkedReason: 'X: down.', error: 'no' });
  t.deepEqual(nextMove(parked), { kind: 'none' });
  const again = retrySaga(parked);
  t.like(again, { state: 'COMPENSATING', parkedReason: undefined, attempts: 0, error: 'no' });
  t.like(nextMove(again), { kind: 'compensate', steps: [{ name: 'two' }] });
  t.is(retrySaga(again), again);
});

test('only a parked run can be redriven', (t) => {
  for (const state of ['RUNNING', 'COMPLETED', 'COMPENSATED', 'CANCELLED', 'FAILED'] as const) {
    t.throws(() => retrySaga({ ...begun, state }), { message: /not parked/ }, state);
  }
});

test('a cancelled run gives up everything, its step under way too, and ends as CANCELLED', (t) => {
  let saga = cancelSaga(withTwo);
  t.is(cancelSaga(saga), saga);
  for (let move = nextMove(saga); move.kind === 'compensate'; move = nextMove(saga)) {
    saga = afterCompensation(saga, move.steps, []);
  }
  t.is(saga.state, 'CANCELLED');
  t.is(cancelSaga(saga), saga);
});

test('a run that has failed or ended cannot be cancelled, nor one that was cancelled fail', (t) => {
  const failing = failSaga(withTwo, 'no');
  t.is(failSaga(failing, 'again'), failing);
  t.throws(() => cancelSaga(failing), { message: 'The run is COMPENSATING.' });
  t.throws(() => failSaga(cancelSaga(withTwo), 'no'), { message: 'The run is COMPENSATING.' });
  for (const state of ['COMPLETED', 'FAILED'] as const) {
    t.throws(() => cancelSaga({ ...begun, state }));
    t.throws(() => failSaga({ ...begun, state }, 'no'));
  }
});

test('compensation keeps neither what the run was given nor what its steps resulted in', (t) => {
  let saga = afterFailedAction(withTwo, stepOf(withTwo, 'two'), 'no');
  t.is(saga.input, undefined, 'nothing that follows reads it');
  t.is(cancelSaga(withTwo).input, undefined);
  t.is(failSaga(withTwo, 'no').input, undefined);
  t.deepEqual(stepOf(saga, 'one').output, { a: 1 }, 'its effects are still there');
  for (let move = nextMove(saga); move.kind === 'compensate'; move = nextMove(saga))
    saga = afterCompensation(saga, move.steps, []);
  t.true(saga.steps.every(({ output }) => output === undefined));
});

test('a step tells what was removed by type, also where an earlier version did not keep it by participant', (t) => {
  const count = (resourceType: string, deleted: number) => ({
    resourceType,
    found: deleted,
    deleted,
    left: 0,
    bytes: 0,
  });
  const told = [...removalOf('job', 2), ...removalOf('job', 1), ...removalOf('qc_issues', 0)];
  t.deepEqual(sumByType(removalsOf({ removed: { job: 3, qc_issues: 0 }, removals: told })), [count('job', 3)]);
  t.deepEqual(sumByType(removalsOf({ removed: { brief: 1 }, removals: [] })), [count('brief', 1)]);
});

test('what a compensation removed stays with its step by participant, and sums keep what was passed on and what is a lower bound', (t) => {
  const failed = afterFailedAction(withTwo, stepOf(withTwo, 'two'), 'no');
  const exact = { resourceType: 'brief', found: 2, deleted: 1, left: 0, bytes: 5, passedOn: 1 };
  const atLeast = { resourceType: 'brief', found: 3, deleted: 3, left: 0, bytes: 7, atLeast: true };
  const removals = [
    { participant: 'run', counts: [exact] },
    { participant: 'job', counts: [atLeast] },
  ];
  const told = stepOf(afterCompensation(failed, [stepOf(failed, 'two')], removals), 'two');
  t.deepEqual(told.removals, removals);
  const sum = { resourceType: 'brief', found: 5, deleted: 4, left: 0, bytes: 12, passedOn: 1, atLeast: true };
  t.deepEqual(sumByType(removalsOf(told)), [sum]);
  t.deepEqual(sumByType(removalsOf({ ...told, removals: removals.toReversed() })), [sum]);
});

test('a run without effects ends at once', (t) => {
  const failing = failSaga({ ...begun, steps: [] }, 'no');
  t.deepEqual(nextMove(failing), { kind: 'end' });
  t.like(end(failing), { state: 'COMPENSATED', error: 'no' });
});

test('whatever happens in whatever order, a run never ends compensated while a step may have effects', (t) => {
  const event = fc.constantFrom('well', 'last', 'fail', 'retry', 'give-up', 'cancel', 'redrive');
  fc.assert(
    fc.property(fc.array(event, { maxLength: 40 }), (events) => {
      let saga = begun;
      for (const [index, what] of events.entries()) {
        const move = nextMove(saga);
        if (what === 'cancel' && saga.state === 'RUNNING') saga = cancelSaga(saga);
        else if (what === 'redrive' && saga.parkedReason !== undefined) saga = retrySaga(saga);
        else if (move.kind === 'end') saga = end(saga);
        else if (move.kind === 'act') {
          const { step } = move;
          if (what === 'well') saga = afterAction(saga, step, {}, { intent: { name: `s${index}`, participants: [] } });
          else if (what === 'last') saga = afterAction(saga, step, {}, { output: {} });
          else if (what === 'fail') saga = afterFailedAction(saga, step, 'no');
          else saga = afterAttempt(saga, step, 'no', what === 'give-up');
        } else if (move.kind === 'compensate') {
          if (what === 'well' || what === 'last') saga = afterCompensation(saga, move.steps, []);
          else saga = afterAttempt(saga, move.steps[0], 'no', what === 'give-up');
        }
        const isGone = saga.state === 'COMPENSATED' || saga.state === 'CANCELLED';
        if (isGone && saga.steps.some(({ state }) => state !== 'COMPENSATED')) return false;
        if ((saga.parkedReason !== undefined) !== (saga.state === 'FAILED')) return false;
      }
      return true;
    }),
  );
  t.pass();
});
