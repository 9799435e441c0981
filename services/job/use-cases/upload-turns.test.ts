import { setImmediate as turnOfTheLoop } from 'node:timers/promises';
import test from 'ava';
import { makeUploadTurns, type UploadTurns } from './upload-turns.ts';

const NEVER = new AbortController().signal;

/** Asks for turns, and keeps in `got` whose came, in their order, with how to give them back. */
function asking(turns: UploadTurns) {
  const got: { name: string; giveBack: () => void }[] = [];
  const ask = (name: string, tenantId: string, signal = NEVER) =>
    turns.take(tenantId, signal).then((giveBack) => void got.push({ name, giveBack }));
  const names = async () => {
    await turnOfTheLoop();
    return got.map(({ name }) => name);
  };
  return { got, ask, names };
}

test('as many uploads are read at a time as there are turns, and those that wait go on in their order', async (t) => {
  const { got, ask, names } = asking(makeUploadTurns(4));
  for (const name of ['a1', 'b1', 'a2', 'b2', 'c1', 'd1']) void ask(name, name.charAt(0));
  t.deepEqual(await names(), ['a1', 'b1', 'a2', 'b2']);
  got[0]?.giveBack();
  t.deepEqual(await names(), ['a1', 'b1', 'a2', 'b2', 'c1']);
  got[1]?.giveBack();
  t.deepEqual((await names()).at(-1), 'd1');
});

test('a tenant with many uploads has half of the turns, and gets no other before whoever has fewer', async (t) => {
  const { got, ask, names } = asking(makeUploadTurns(4));
  for (const name of ['a1', 'a2', 'a3', 'a4']) void ask(name, 'a');
  t.deepEqual(await names(), ['a1', 'a2'], 'two turns are left for others');
  void ask('b1', 'b');
  void ask('c1', 'c');
  t.deepEqual(await names(), ['a1', 'a2', 'b1', 'c1']);
  void ask('d1', 'd');
  got[0]?.giveBack();
  t.deepEqual((await names()).at(-1), 'd1', 'before a3, which has waited longer');
  got[1]?.giveBack();
  t.deepEqual((await names()).at(-1), 'a3');
});

test('a caller who goes while waiting is not waited for, and takes no turn with them', async (t) => {
  const { got, ask, names } = asking(makeUploadTurns(1));
  void ask('a1', 'a');
  const leaving = new AbortController();
  const left = ask('b1', 'b', leaving.signal);
  void ask('c1', 'c');
  t.deepEqual(await names(), ['a1']);
  leaving.abort(new Error('the caller has gone'));
  await t.throwsAsync(left, { message: 'the caller has gone' });
  got[0]?.giveBack();
  t.deepEqual(await names(), ['a1', 'c1']);
  await t.throwsAsync(ask('d1', 'd', leaving.signal), { message: 'the caller has gone' });
});
