import test from 'ava';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import { hasMoved } from './counts.ts';
import {
  afterAnswer,
  afterReadBack,
  type DeletionState,
  type DeletionStep,
  nextMove,
  OWN_PARTICIPANT,
  pendingStep,
} from './deletion.ts';

const count = (resourceType: string, deleted: number): ResourceCount => ({
  resourceType,
  found: 10,
  deleted,
  left: 10 - deleted,
  bytes: 0,
});

const stepOf = (participant: string, state: DeletionState, more: Partial<DeletionStep> = {}): DeletionStep => ({
  ...pendingStep(participant),
  state,
  ...more,
});

test('every other participant is called and read back before the rows of RunService go', (t) => {
  const own = stepOf(OWN_PARTICIPANT, 'PENDING');
  const moveOf = (job: DeletionState, incident: DeletionState, mine = own) => {
    const move = nextMove({ mode: 'PURGE', steps: [mine, stepOf('job', job), stepOf('incident', incident)] });
    return move.kind === 'complete' ? 'complete' : `${move.kind} ${move.step.participant}`;
  };
  t.is(moveOf('PENDING', 'PENDING'), 'call job');
  t.is(moveOf('VERIFYING', 'STUCK'), 'call incident');
  t.is(moveOf('VERIFYING', 'VERIFYING'), 'verify job');
  t.is(moveOf('COMPLETE', 'VERIFYING'), 'verify incident');
  t.is(moveOf('COMPLETE', 'CANCELLED'), 'call run');
  t.is(moveOf('COMPLETE', 'COMPLETE', stepOf(OWN_PARTICIPANT, 'VERIFYING')), 'verify run');
  t.is(moveOf('COMPLETE', 'COMPLETE', stepOf(OWN_PARTICIPANT, 'COMPLETE')), 'complete');
});

test('a participant that could not remove an item, or that is not done, is called again, whatever else it says', (t) => {
  const step = stepOf('job', 'CASCADING');
  const failedItems = [{ key: 'a', code: 'AccessDenied', message: 'no' }];
  const answer = { counts: [count('note', 10)], failedItems: [] };
  const refused = afterAnswer('PURGE', step, { ...answer, progress: 'COMPLETE', failedItems });
  t.like(refused, { state: 'CASCADING', lastError: 'ITEMS_FAILED: a could not be removed: AccessDenied.' });
  t.is(afterAnswer('PURGE', step, { ...answer, progress: 'PARTIAL' }).state, 'CASCADING');
  t.is(afterAnswer('PURGE', step, { ...answer, progress: 'COMPLETE' }).state, 'VERIFYING');
  t.is(afterAnswer('SOFT_DELETE', step, { ...answer, progress: 'COMPLETE' }).state, 'COMPLETE');
});

test('what is left when it is read back is counted, and its participant is called again', (t) => {
  const step = stepOf('job', 'VERIFYING', { counts: [{ ...count('note', 10), left: 0 }], attempts: 2 });
  const left = afterReadBack(step, [{ ...count('note', 0), left: 1 }]);
  t.like(left, { state: 'CASCADING', lastError: 'NOT_EMPTY: 1 are left after the purge.', attempts: 2 });
  t.is(left.counts[0]?.left, 1);
  t.deepEqual(afterReadBack(step, [{ ...count('page', 0), found: 2, left: 2 }]).counts.at(-1)?.left, 2);
  t.like(afterReadBack(step, []), { state: 'COMPLETE', lastError: undefined, attempts: 0 });
});

test('counts that a database gave back in another order, or with their keys in another order, have not moved', (t) => {
  const before = [count('note', 3), count('page', 4)];
  const stored = before.toReversed().map(({ bytes, left, deleted, found, resourceType }) => {
    return { bytes, found, left, resourceType, deleted };
  });
  t.false(hasMoved(before, stored));
  t.false(hasMoved([], []));
});

test('one more of anything has moved, and so has a new type and one that is gone', (t) => {
  const before = [count('note', 3), count('page', 4)];
  t.true(hasMoved(before, [count('note', 3), count('page', 5)]));
  t.true(hasMoved(before, [count('note', 3)]));
  t.true(hasMoved(before, [...before, count('line', 0)]));
  t.true(hasMoved([], before));
});

test('a type that a participant tells twice is no progress by itself', (t) => {
  const twice = [count('note', 3), count('note', 4)];
  t.false(hasMoved(twice, twice.toReversed()));
});
