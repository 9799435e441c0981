import test from 'ava';
import { makeComposition } from './composition.ts';

test('each thing is made once, when it is first needed, of those that it names', (t) => {
  const { given, made, madeOf, get } = makeComposition();
  const order: string[] = [];
  const greeting = given('hello');
  const loud = made(
    (text: string) => {
      order.push('loud');
      return text.toUpperCase();
    },
    [greeting],
  );
  const lines = madeOf(
    ({ first, second }: { first: string; second: string }) => {
      order.push('lines');
      return [first, second];
    },
    { second: greeting, first: loud },
  );
  t.deepEqual(order, []);
  t.deepEqual(get(lines), ['HELLO', 'hello']);
  t.is(get(lines), get(lines));
  t.is(get(loud), 'HELLO');
  t.deepEqual(order, ['loud', 'lines']);
});

test('a token is good for what it stands for and for nothing else', (t) => {
  const { given, made, get } = makeComposition();
  const one = given({ id: 1, name: 'one' });
  // What is more than is asked for will do.
  t.is(get(made(({ id }: { id: number }) => id, [one])), 1);
  // @ts-expect-error A number is no text.
  t.throws(() => get(made((text: string) => text.toUpperCase(), [given(5)])));
});
