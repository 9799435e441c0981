import test from 'ava';
import type { Turns } from '#libs/durable/turns.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { isCutOff, makePace } from './pace.ts';

const turns = { take: (work: (share: number) => Promise<unknown>) => work(1) } as unknown as Turns;
const cutOff = () =>
  new DomainError('unavailable', 'DATABASE_UNAVAILABLE', 'cut off', {}, { cause: { code: '57014' } });

/** Does `pieces` pieces where a statement of more than `most` rows is cut off; answers the rows of every try. */
async function triesOf(most: number, pieces: number): Promise<readonly number[]> {
  const pace = makePace({ first: 1_000, min: 200, max: 20_000 });
  const tries: number[] = [];
  for (let piece = 0; piece < pieces; piece += 1)
    await pace.run(turns, Number.POSITIVE_INFINITY, async (rows) => {
      tries.push(rows);
      if (rows > most) throw cutOff();
    });
  return tries;
}

test('after a cut-off the next piece is smaller, and none as large as the one that was cut off follows soon', async (t) => {
  for (const most of [60, 120, 180, 260, 900]) {
    const tries = await triesOf(most, 40);
    const wasted = tries.filter((rows) => rows > most).length;
    // Three to come down from 1,000, and one to find out whether more can be done by now.
    t.true(wasted <= 4, `${most}: ${tries}`);
    for (const [index, rows] of tries.entries())
      if (index > 0 && (tries[index - 1] ?? 0) > most)
        t.true(rows <= Math.max(50, (tries[index - 1] ?? 0) / 2), `${most}: ${tries}`);
  }
});

test('a piece of few rows that is cut off is tried with fewer, down to a single one', async (t) => {
  for (const most of [1, 3, 20, 45]) {
    const tries = await triesOf(most, 40);
    const done = tries.filter((rows) => rows <= most);
    t.is(done.length, 40, `${most}: ${tries}`);
    t.true(tries.length <= 40 + 8, `${most}: ${tries}`);
    // No piece is a small part of what can be done once that is known.
    t.true((done.at(-1) ?? 0) >= Math.floor(most / 4), `${most}: ${tries}`);
  }
  t.deepEqual((await triesOf(1, 1)).toReversed().slice(0, 2), [1, 3]);
});

test('a single row that is cut off is not tried again here', async (t) => {
  const pace = makePace({ first: 1_000, min: 200, max: 20_000 });
  const tries: number[] = [];
  const error = await t.throwsAsync(
    pace.run(turns, Number.POSITIVE_INFINITY, async (rows) => {
      tries.push(rows);
      throw cutOff();
    }),
  );
  t.true(isCutOff(error));
  t.is(tries.at(-1), 1);
  t.true(tries.length <= 8, `${tries}`);
});

test('pieces grow again, to their full size, after a cut-off that was due to a slow moment', async (t) => {
  const pace = makePace({ first: 1_000, min: 200, max: 20_000 });
  let isSlow = true;
  let last = 0;
  for (let piece = 0; piece < 200; piece += 1)
    await pace.run(turns, Number.POSITIVE_INFINITY, async (rows) => {
      last = rows;
      if (isSlow && rows > 60) throw cutOff();
      isSlow = false;
    });
  t.is(last, 20_000);
});
