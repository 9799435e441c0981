import test from 'ava';
import { leisurely, startWorkerLoop, startWorkerLoops } from './worker-loop.ts';

const HOUR_MS = 3_600_000;
const onError = (_: string, error: unknown) => {
  throw error;
};

/** Resolves once it is true; the test's own timeout is the deadline. */
async function until(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) await new Promise((resolve) => setImmediate(resolve));
}

test('a loop looks at once, sleeps when there is nothing, and looks again when it is woken', async (t) => {
  let looks = 0;
  const loop = startWorkerLoop({
    name: 'one',
    pollMs: HOUR_MS,
    onError,
    work: async () => {
      looks += 1;
      return looks === 1 ? 1 : 0;
    },
  });
  await until(() => looks === 2);
  await until(() => loop.wake());
  await until(() => looks === 3);
  await loop.stop();
  t.is(looks, 3);
});

test('as many loops are woken as there are new items, and no more', async (t) => {
  let looks = 0;
  const loops = startWorkerLoops(8, {
    name: 'many',
    pollMs: HOUR_MS,
    onError,
    work: async () => {
      looks += 1;
      return 0;
    },
  });
  await until(() => looks === 8);
  await new Promise((resolve) => setImmediate(resolve));
  loops.wake(3);
  await until(() => looks === 11);
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  await loops.stop();
  t.is(looks, 11);
});

test('of many sleeping loops one polls', async (t) => {
  const looks: number[] = [];
  const loops = startWorkerLoops(8, {
    name: 'idle',
    pollMs: 30,
    onError,
    work: async () => {
      looks.push(performance.now());
      return 0;
    },
  });
  await until(() => looks.length === 8 + 5);
  await loops.stop();
  const [firstPoll = 0] = looks.slice(8);
  t.true((looks.at(-1) ?? 0) - firstPoll >= 4 * 30 * (2 / 3) - 5, 'five looks take four pauses');
});

test('a loop that knows of more calls the next one before it works, and polling goes on while it works', async (t) => {
  let due = 3;
  let underWay = 0;
  const gate = Promise.withResolvers<void>();
  const loops = startWorkerLoops(4, {
    name: 'chain',
    pollMs: 20,
    onError,
    work: async (_, callNext) => {
      if (due === 0) return 0;
      due -= 1;
      underWay += 1;
      if (due > 0) callNext();
      await gate.promise;
      return 1;
    },
  });
  await until(() => underWay === 3);
  due = 1;
  await until(() => underWay === 4);
  gate.resolve();
  await loops.stop();
  t.is(due, 0);
});

test('a wake that comes while a loop looks is not lost', async (t) => {
  let looks = 0;
  const gate = Promise.withResolvers<void>();
  const loop = startWorkerLoop({
    name: 'busy',
    pollMs: HOUR_MS,
    onError,
    work: async () => {
      looks += 1;
      if (looks === 1) await gate.promise;
      return 0;
    },
  });
  await until(() => looks === 1);
  t.false(loop.wake());
  gate.resolve();
  await until(() => looks === 2);
  await loop.stop();
  t.is(looks, 2);
});

test('an error in a pass is told and the loop goes on; stop ends a pass by its signal', async (t) => {
  const told: unknown[] = [];
  let looks = 0;
  const loop = startWorkerLoop({
    name: 'fails',
    pollMs: 1,
    onError: (name, error) => told.push([name, (error as Error).message]),
    work: async (signal) => {
      looks += 1;
      if (looks === 1) throw new Error('once');
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
      return 0;
    },
  });
  await until(() => looks === 2);
  await loop.stop();
  t.deepEqual(told, [['fails', 'once']]);
});

for (const count of [1, 8]) {
  test(`${count} loops that have failed for long look at once when what they stand on is back`, async (t) => {
    let isAway = true;
    let looks = 0;
    let failures = 0;
    const loops = startWorkerLoops(count, {
      name: 'resumed',
      pollMs: HOUR_MS,
      onError: () => {
        failures += 1;
      },
      work: async () => {
        if (isAway) throw new Error('away');
        looks += 1;
        return 0;
      },
    });
    await until(() => failures === count);
    for (let times = 1; times <= 10; times += 1) {
      loops.resume();
      await until(() => failures === count + times);
    }
    isAway = false;
    loops.resume();
    await until(() => looks === 1);
    await loops.stop();
    t.is(looks, 1);
  });
}

test('a loop that is resumed in the middle of a pass that then fails looks once more before it sleeps', async (t) => {
  const { promise, reject } = Promise.withResolvers<number>();
  let looks = 0;
  const loop = startWorkerLoop({
    name: 'one',
    pollMs: HOUR_MS,
    onError: () => undefined,
    work: async () => {
      looks += 1;
      return looks === 1 ? promise : 0;
    },
  });
  await until(() => looks === 1);
  loop.resume();
  reject(new Error('away'));
  await until(() => looks === 2);
  await loop.stop();
  t.is(looks, 2);
});

test('what nobody waits for is looked for a tenth as often, and at least every ten seconds unless other work is not either', (t) => {
  t.is(leisurely(100), 1_000);
  t.is(leisurely(1_000), 10_000);
  t.is(leisurely(5_000), 10_000);
  t.is(leisurely(60_000), 60_000);
});
