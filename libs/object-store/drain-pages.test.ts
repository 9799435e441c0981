import { setImmediate as turn } from 'node:timers/promises';
import test from 'ava';
import { type DrainOutcome, drain } from './drain-pages.ts';

async function* pagesOf(...pages: readonly (readonly number[])[]): AsyncGenerator<readonly number[]> {
  yield* pages;
}

const range = (count: number): number[] => Array.from({ length: count }, (_, index) => index);

/** Drains the pages, and answers what was removed together and how much was under way at most. */
async function watch(pages: readonly (readonly number[])[], limit: number) {
  const removals: number[] = [];
  let [underWay, most, removed] = [0, 0, 0];
  const isDone = await drain<number, { count: number } & DrainOutcome>(
    pagesOf(...pages),
    4,
    () => limit - removed,
    ({ count }) => {
      removed += count;
    },
    async (items) => {
      removals.push(items.length);
      underWay += 1;
      most = Math.max(most, underWay);
      await turn();
      underWay -= 1;
      return { count: items.length };
    },
  );
  return { isDone, removals, most, removed };
}

test('what fits in one page is removed side by side', async (t) => {
  t.deepEqual(await watch([range(10)], 10), { isDone: true, removals: [3, 3, 3, 1], most: 4, removed: 10 });
});

test('pages that are many go whole, and no more than may go', async (t) => {
  const pages = Array.from({ length: 6 }, () => range(10));
  t.deepEqual(await watch(pages, 45), { isDone: false, removals: [10, 10, 10, 10, 5], most: 4, removed: 45 });
});

test('a limit of one removes one after the other', async (t) => {
  t.deepEqual(await watch([range(3)], 1), { isDone: false, removals: [1], most: 1, removed: 1 });
});
