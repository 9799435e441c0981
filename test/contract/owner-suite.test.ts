import assert from 'node:assert/strict';
import test, { type ExecutionContext } from 'ava';
import { FAULTS, type Fault, makeDrawer } from './drawer.ts';
import { type Declare, ownerContract } from './owner.ts';

ownerContract(test, 'a right owner', () => makeDrawer());

/** What the suite uses of AVA's assertions, throwing. */
const throwing = {
  is: (value: unknown, expected: unknown) => assert.equal(value, expected),
  not: (value: unknown, expected: unknown) => assert.notEqual(value, expected),
  true: (value: unknown) => assert.equal(value, true),
  false: (value: unknown) => assert.equal(value, false),
  deepEqual: (value: unknown, expected: unknown) => assert.deepEqual(value, expected),
  like: (value: object, expected: object) => assert.deepEqual({ ...value, ...expected }, value),
} as unknown as ExecutionContext<unknown>;

/** What the suite declares for an owner that is right, or has this fault. */
function declaredFor(fault?: Fault): { title: string; body: Parameters<Declare>[1] }[] {
  const tests: { title: string; body: Parameters<Declare>[1] }[] = [];
  const declare: Declare = (title, body) => tests.push({ title, body });
  ownerContract(declare, 'drawer', () => makeDrawer(fault));
  return tests;
}

test('the suite passes a right owner by these assertions too', async (t) => {
  for (const { body } of declaredFor()) await body(throwing);
  t.pass();
});

for (const [fault, catching] of Object.entries(FAULTS)) {
  test(`the suite catches an owner that ${fault.replaceAll('-', ' ')}`, async (t) => {
    const caught = declaredFor(fault as Fault).filter(({ title }) => title.startsWith(`drawer: ${catching}`));
    t.is(caught.length, 1);
    await t.throwsAsync(async () => caught[0]?.body(throwing));
  });
}
