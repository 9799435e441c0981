import test from 'ava';
import { makeRateLimit } from './rate-limit.ts';

/** A limit on a clock of its own. */
function limited(perSecond: number) {
  let now = 0;
  const take = makeRateLimit(perSecond, () => now);
  return { take, turn: (ms: number) => (now += ms) };
}

const takenOf = (take: (key: string) => number, key: string, times: number): number =>
  Array.from({ length: times }, () => take(key)).filter((waitMs) => waitMs === 0).length;

test('after a pause two seconds of calls may come at once, and then one at a time', (t) => {
  const { take, turn } = limited(10);
  t.is(takenOf(take, 'acme', 50), 20);
  turn(100);
  t.is(takenOf(take, 'acme', 50), 1);
  turn(60_000);
  t.is(takenOf(take, 'acme', 50), 20);
});

test('who is refused is told when to come again, and is taken then', (t) => {
  const { take, turn } = limited(10);
  takenOf(take, 'acme', 20);
  const waitMs = take('acme');
  t.is(waitMs, 100);
  turn(waitMs - 1);
  t.true(take('acme') > 0);
  turn(1);
  t.is(take('acme'), 0);
});

test('to be refused costs nothing', (t) => {
  const { take, turn } = limited(10);
  takenOf(take, 'acme', 1_000);
  turn(1_000);
  t.is(takenOf(take, 'acme', 50), 10);
});

test('one key does not spend what is another’s', (t) => {
  const { take } = limited(5);
  takenOf(take, 'hasty', 100);
  t.is(takenOf(take, 'patient', 10), 10);
});

test('over time nobody gets more than so many a second', (t) => {
  const { take, turn } = limited(7);
  takenOf(take, 'acme', 100);
  let taken = 0;
  for (let ms = 0; ms < 10_000; ms += 10) {
    turn(10);
    taken += takenOf(take, 'acme', 3);
  }
  t.true(taken >= 69 && taken <= 70, String(taken));
});

test('who has just called is not forgotten for others who come, and gets no new burst by it', (t) => {
  const { take } = limited(10);
  takenOf(take, 'hasty', 20);
  for (let other = 1; other < 10_000; other += 1) take(`tenant-${other}`);
  t.true(take('hasty') > 0);
  for (let other = 0; other < 10; other += 1) take(`later-${other}`);
  t.true(take('hasty') > 0);
});
