import test from 'ava';
import { makeRunChanges } from './run-changes.ts';

/** Changes over etags that the test sets, with looks that the test lets happen. */
function setUp() {
  const etags = new Map<string, string>();
  const asked: (readonly string[])[] = [];
  const looks: (() => void)[] = [];
  const changes = makeRunChanges(
    {
      async etags(_tenantId, runIds) {
        asked.push(runIds);
        if (etags.has('broken')) throw new Error('no database');
        return new Map([...etags].filter(([id]) => runIds.includes(id)));
      },
    },
    () => new Promise<void>((resolve) => looks.push(resolve)),
  );
  const look = async () => {
    for (const resolve of looks.splice(0)) resolve();
    await new Promise((resolve) => setImmediate(resolve));
  };
  const wait = (id: string, etag: string, signal = new AbortController().signal, tenantId = 'acme') => {
    const state = { isOver: false };
    void changes.wait({ tenantId, id, etag }, signal).then(() => {
      state.isOver = true;
    });
    return state;
  };
  return { etags, asked, changes, look, wait, isIdle: () => looks.length === 0 };
}

test('however many wait for runs of a tenant, they are asked for together, and not once nobody waits', async (t) => {
  const { etags, asked, look, wait, isIdle } = setUp();
  etags.set('a', '1').set('b', '1');
  const stop = new AbortController();
  const waits = Array.from({ length: 500 }, (_, n) => wait(n % 2 ? 'a' : 'b', '1', stop.signal));
  await look();
  await look();
  t.deepEqual(
    asked.map((ids) => ids.toSorted()),
    [
      ['a', 'b'],
      ['a', 'b'],
    ],
  );
  t.false(waits.some(({ isOver }) => isOver));
  stop.abort();
  await look();
  t.true(waits.every(({ isOver }) => isOver));
  t.is(asked.length, 2);
  t.true(isIdle());
});

test('a wait ends with another etag, for a run that is gone, and for a change that came before it began', async (t) => {
  const { etags, look, wait } = setUp();
  etags.set('changed', '1').set('gone', '1').set('same', '1').set('late', '2');
  const [changed, gone, same, late] = [wait('changed', '1'), wait('gone', '1'), wait('same', '1'), wait('late', '1')];
  etags.set('changed', '2').delete('gone');
  await look();
  t.deepEqual(
    [changed, gone, same, late].map(({ isOver }) => isOver),
    [true, true, false, true],
  );
});

test('a database that does not answer ends the wait, so that the reader learns why', async (t) => {
  const { etags, look, wait } = setUp();
  etags.set('a', '1').set('broken', '1');
  const one = wait('a', '1');
  await look();
  t.true(one.isOver);
});

test('what this process changed is told at once, to those who wait for that run of that tenant', async (t) => {
  const { changes, wait } = setUp();
  const [own, other, stranger] = [wait('a', '1'), wait('b', '1'), wait('a', '1', undefined, 'other')];
  changes.tell({ tenantId: 'acme', id: 'a' });
  await new Promise((resolve) => setImmediate(resolve));
  t.deepEqual(
    [own, other, stranger].map(({ isOver }) => isOver),
    [true, false, false],
  );
});

test('a wait with a signal that is aborted already is over', async (t) => {
  const { wait, isIdle } = setUp();
  const one = wait('a', '1', AbortSignal.abort());
  await new Promise((resolve) => setImmediate(resolve));
  t.true(one.isOver);
  t.true(isIdle());
});
