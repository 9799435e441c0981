import test from 'ava';
import { addBounded, boundCounts, OTHER_TYPES } from './counts.ts';

const countOf = (resourceType: string, found: number) => ({ resourceType, found, deleted: 0, left: found, bytes: 0 });
const many = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, index) => countOf(`type_${from + index}`, 1));
const sum = (counts: readonly { found: number }[]) => counts.reduce((total, { found }) => total + found, 0);

test('a hundred types are kept as they are', (t) => {
  const told = many(0, 100);
  t.deepEqual(boundCounts(told), told);
});

test('what is beyond a hundred types is added up, and nothing is lost of the sum', (t) => {
  const kept = boundCounts(many(0, 10_000));
  t.is(kept.length, 100);
  t.deepEqual(kept.at(-1), countOf(OTHER_TYPES, 10_000 - 99));
});

test('parts that each name other types stay bounded together, and true in their sum', (t) => {
  let kept = boundCounts([]);
  for (let part = 0; part < 20; part += 1) kept = addBounded(kept, boundCounts(many(part * 90, (part + 1) * 90)));
  t.true(kept.length <= 100);
  t.is(sum(kept), 20 * 90);
});

test('a type of a megabyte is cut, and two that are then the same are one', (t) => {
  const kept = boundCounts([countOf(`${'x'.repeat(1_000_000)}a`, 1), countOf(`${'x'.repeat(1_000_000)}b`, 2)]);
  t.deepEqual(kept, [countOf('x'.repeat(100), 3)]);
});
