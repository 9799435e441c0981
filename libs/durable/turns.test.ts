import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import { makeTurns } from './turns.ts';

const PIECE_MS = 40;
const CALL_EVERY_MS = 20;
// No rest is longer, whatever the piece took.
const MAX_REST_MS = 1_000;
// Timers may be early by a rounded millisecond.
const SLACK_MS = 5;

/** Pieces of work that tell when each began and ended. */
function pieces() {
  const spans: { from: number; to: number; share: number }[] = [];
  const work = async (share: number): Promise<number> => {
    const from = performance.now();
    await delay(PIECE_MS);
    return spans.push({ from, to: performance.now(), share });
  };
  return { spans, work };
}

test('pieces run side by side while nobody calls', async (t) => {
  const turns = makeTurns();
  const { spans, work } = pieces();
  await Promise.all([turns.take(work), turns.take(work), turns.take(work)]);
  t.true(Math.max(...spans.map(({ from }) => from)) < Math.min(...spans.map(({ to }) => to)));
  t.deepEqual(new Set(spans.map(({ share }) => share)), new Set([1]));
});

test('while somebody calls, pieces are small, go one after the other and rest four times as long as they took', async (t) => {
  const turns = makeTurns();
  const { spans, work } = pieces();
  turns.onCall();
  // All the while: on a busy machine the pieces take longer than a call is remembered.
  const calling = setInterval(() => turns.onCall(), CALL_EVERY_MS);
  t.teardown(() => clearInterval(calling));
  t.deepEqual(await Promise.all([turns.take(work), turns.take(work), turns.take(work)]), [1, 2, 3]);
  for (const [index, { from, share }] of spans.entries()) {
    t.true(share < 1);
    const before = spans[index - 1];
    if (before) t.true(from - before.to >= Math.min(MAX_REST_MS, 4 * (before.to - before.from)) - SLACK_MS);
  }
});

test('a piece that fails passes its error on and the turn too', async (t) => {
  const turns = makeTurns();
  turns.onCall();
  const failing = turns.take(() => Promise.reject(new Error('no luck')));
  const next = turns.take(async () => 'done');
  await t.throwsAsync(failing, { message: 'no luck' });
  t.is(await next, 'done');
});

test('a second after the last call nobody waits any more', async (t) => {
  const turns = makeTurns();
  turns.onCall();
  await delay(1_050);
  const { spans, work } = pieces();
  await Promise.all([turns.take(work), turns.take(work)]);
  const [first, second] = spans;
  t.true(first !== undefined && second !== undefined && second.from < first.to);
});
