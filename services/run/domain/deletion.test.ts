import test from 'ava';
import { hasMoved, type ResourceCount } from './deletion.ts';

const count = (resourceType: string, deleted: number): ResourceCount => ({
  resourceType,
  found: 10,
  deleted,
  left: 10 - deleted,
  bytes: 0,
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
