import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import { dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import { startDrive } from './drive.ts';
import { giveUpClaim } from './give-up-claim.ts';

const unexpected = (name: string, error: unknown): void => {
  throw new Error(`${name} failed`, { cause: error });
};

async function until(what: string, isSo: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!isSo()) {
    if (performance.now() > deadline) throw new Error(`not in time: ${what}`);
    await delay(2);
  }
}

/** Items in memory: due until somebody claims them. */
function fixture(items: string[], { concurrency = 3, pollMs = 60_000 } = {}) {
  const due = [...items];
  const done: string[] = [];
  const gates = new Map<string, Promise<void>>();
  const state = { polls: 0, running: 0, most: 0, aborted: 0 };
  const drive = startDrive<string>({
    name: 'test',
    concurrency,
    pollMs,
    async findDue(limit) {
      state.polls += 1;
      return due.slice(0, limit);
    },
    async work(item, signal) {
      await Promise.resolve();
      const at = due.indexOf(item);
      if (at < 0) return false;
      due.splice(at, 1);
      state.running += 1;
      state.most = Math.max(state.most, state.running);
      const aborted = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
      await Promise.race([gates.get(item), aborted]);
      if (signal.aborted) state.aborted += 1;
      state.running -= 1;
      done.push(item);
      return true;
    },
    onError: unexpected,
  });
  return { drive, due, done, gates, state };
}

test('everything that is due is done once, no more than the workers at a time', async (t) => {
  const items = Array.from({ length: 100 }, (_, index) => `item-${index}`);
  const { drive, done, state } = fixture(items);
  await until('all are done', () => done.length === items.length);
  await drive.stop();
  t.deepEqual(done.toSorted(), items.toSorted());
  t.is(state.most, 3);
});

test('items are begun in the order in which they are found', async (t) => {
  const items = ['a', 'b', 'c', 'd', 'e', 'f'];
  const { drive, done } = fixture(items, { concurrency: 1 });
  await until('all are done', () => done.length === items.length);
  await drive.stop();
  t.deepEqual(done, items);
});

test('idle workers share one poll, and busy ones make none', async (t) => {
  const idle = fixture([], { concurrency: 50, pollMs: 10 });
  const startedAt = performance.now();
  await until('it has polled a few times', () => idle.state.polls >= 6);
  const ms = performance.now() - startedAt;
  await idle.drive.stop();
  t.true(idle.state.polls <= 2 + ms / (10 * (2 / 3)), `${idle.state.polls} polls in ${ms} ms`);

  const { drive, gates, state } = fixture(['long'], { concurrency: 1, pollMs: 5 });
  const { promise, resolve } = Promise.withResolvers<void>();
  gates.set('long', promise);
  await until('it is begun', () => state.running === 1);
  const before = state.polls;
  await delay(50);
  t.is(state.polls, before);
  resolve();
  await drive.stop();
});

test('a long item holds up no other, and what comes meanwhile is found by the idle workers', async (t) => {
  const { drive, due, done, gates } = fixture(['long', 'a', 'b'], { concurrency: 2 });
  const { promise, resolve } = Promise.withResolvers<void>();
  gates.set('long', promise);
  await until('the others are done', () => done.length === 2);
  due.push('c');
  drive.wake();
  await until('so is the new one', () => done.includes('c'));
  t.false(done.includes('long'));
  resolve();
  await until('and the long one', () => done.includes('long'));
  await drive.stop();
});

test('an item that fails is reported, and the others are done', async (t) => {
  const errors: unknown[] = [];
  const done: string[] = [];
  let found = ['bad', 'good'];
  const drive = startDrive<string>({
    name: 'test',
    concurrency: 1,
    pollMs: 60_000,
    async findDue() {
      const items = found;
      found = [];
      return items;
    },
    async work(item) {
      if (item === 'bad') throw new Error('bad');
      done.push(item);
      return true;
    },
    onError: (_, error) => errors.push(error),
  });
  await until('both were tried', () => done.length === 1);
  await drive.stop();
  t.is(errors.length, 1);
});

test('stopping aborts what is under way, waits until it is given up, and begins nothing else', async (t) => {
  const { drive, due, gates, state } = fixture(['a', 'b', 'c'], { concurrency: 2 });
  for (const item of ['a', 'b', 'c']) gates.set(item, new Promise(() => undefined));
  await until('two are begun', () => state.running === 2);
  await drive.stop();
  t.is(state.aborted, 2);
  t.deepEqual(due, ['c']);
});

test('a claim is given up as soon as the database answers again, and what else fails is thrown', async (t) => {
  let tries = 0;
  await giveUpClaim(async () => {
    tries += 1;
    if (tries < 3) throw dependencyUnavailable('database');
  }, 60_000);
  t.is(tries, 3);
  await t.throwsAsync(
    giveUpClaim(() => Promise.reject(new Error('other')), 60_000),
    { message: 'other' },
  );
  await t.throwsAsync(
    giveUpClaim(() => Promise.reject(dependencyUnavailable('database')), 20),
    { message: /database/ },
  );
});
