import { Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import { makeProgress } from './progress.ts';

/** A terminal, and what was drawn on it. */
function makeScreen(onDraw: () => void = () => undefined) {
  const drawn: string[] = [];
  const screen = Object.assign(
    new Writable({
      write(chunk, _, done) {
        drawn.push(String(chunk));
        onDraw();
        done();
      },
    }),
    { isTTY: true, columns: 80 },
  );
  return { screen, drawn };
}

// A bar draws itself ten times a second, which also keeps a program alive.
const LONGER_THAN_A_DRAWING_MS = 300;

test('a bar that was stopped comes again with the next update', (t) => {
  const { screen, drawn } = makeScreen();
  const progress = makeProgress(screen);
  progress.update(1, 3, 'jobs');
  progress.stop();
  const before = drawn.length;
  progress.update(2, 3, 'jobs');
  t.true(drawn.slice(before).join('').includes('2/3 jobs'));
  progress.end();
});

test('a bar does not come again after its end, however late work tells of itself', async (t) => {
  const { screen, drawn } = makeScreen();
  const progress = makeProgress(screen);
  progress.update(1, 3, 'jobs');
  progress.end();
  const before = drawn.length;
  progress.update(2, 3, 'jobs');
  await delay(LONGER_THAN_A_DRAWING_MS);
  t.is(drawn.length, before);
});

test('a bar that is ended while it draws is gone for good', async (t) => {
  let onDraw = (): void => undefined;
  const { screen, drawn } = makeScreen(() => onDraw());
  const progress = makeProgress(screen);
  onDraw = () => progress.end();
  progress.update(1, 3, 'jobs');
  onDraw = () => undefined;
  await delay(LONGER_THAN_A_DRAWING_MS);
  const before = drawn.length;
  progress.update(2, 3, 'jobs');
  await delay(LONGER_THAN_A_DRAWING_MS);
  t.is(drawn.length, before);
});
