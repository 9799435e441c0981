import test from 'ava';
import { shareReads } from './share-reads.ts';

const never = async () => {
  throw new Error('not asked for here');
};

test('many who ask at once share two reads, and none is answered from before its question', async (t) => {
  let version = 0;
  let reads = 0;
  const runs = shareReads({
    list: never,
    listSteps: never,
    async get() {
      reads += 1;
      const seen = version;
      await new Promise((resolve) => setImmediate(resolve));
      return { version: seen } as never;
    },
  });
  const ask = () => Promise.all(Array.from({ length: 500 }, () => runs.get('acme', 'a', false)));
  const early = ask();
  version = 1;
  const late = runs.get('acme', 'a', false) as Promise<unknown>;
  t.deepEqual(await late, { version: 1 });
  t.is((await early).length, 500);
  t.is(reads, 2);
  t.deepEqual((await runs.get('acme', 'a', false)) as unknown, { version: 1 });
  t.is(reads, 3, 'a later question is asked anew');
});

test('a read that fails fails for those who shared it, and not for the next', async (t) => {
  let isBroken = true;
  const runs = shareReads({
    list: never,
    listSteps: never,
    async get() {
      if (isBroken) throw new Error('broken');
      return undefined;
    },
  });
  const first = runs.get('acme', 'a', false);
  const second = runs.get('acme', 'a', false);
  isBroken = false;
  await t.throwsAsync(first, { message: 'broken' });
  t.is(await second, undefined);
  t.is(await runs.get('acme', 'a', false), undefined);
});

test('what is asked of other tenants, other runs or with what is deleted is not shared', async (t) => {
  const asked: string[] = [];
  const runs = shareReads({
    list: never,
    listSteps: never,
    async get(...args) {
      asked.push(args.join());
      return undefined;
    },
  });
  await Promise.all([
    runs.get('acme', 'a', false),
    runs.get('acme', 'a', true),
    runs.get('acme', 'b', false),
    runs.get('other', 'a', false),
  ]);
  t.deepEqual(asked, ['acme,a,false', 'acme,a,true', 'acme,b,false', 'other,a,false']);
});
