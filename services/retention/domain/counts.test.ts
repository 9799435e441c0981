import test from 'ava';
import { boundCounts, OTHER_TYPES } from './counts.ts';

const countOf = (resourceType: string, deleted: number) => ({ resourceType, found: deleted + 1, deleted, left: 1 });

test('a receipt keeps 99 types, and what is beyond them is added up, so that the sums stay true', (t) => {
  const told = Array.from({ length: 100 }, (_, index) => countOf(`type${index}`, 1));
  t.deepEqual(boundCounts(told), told);
  const kept = boundCounts([...told, countOf('more', 5)]);
  t.is(kept.length, 100);
  t.deepEqual(kept.at(-1), { resourceType: OTHER_TYPES, found: 8, deleted: 6, left: 2 });
});
