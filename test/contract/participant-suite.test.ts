import assert from 'node:assert/strict';
import test, { type ExecutionContext } from 'ava';
import { FAULTS, type Fault, makeNotebook } from './notebook.ts';
import { type Declare, participantContract } from './participant.ts';

participantContract(test, 'a right participant', () => makeNotebook());

/** What the suite uses of AVA's assertions, throwing. */
const throwing = {
  is: (value: unknown, expected: unknown) => assert.equal(value, expected),
  true: (value: unknown) => assert.equal(value, true),
  false: (value: unknown) => assert.equal(value, false),
  deepEqual: (value: unknown, expected: unknown) => assert.deepEqual(value, expected),
  like: (value: object, expected: object) => assert.deepEqual({ ...value, ...expected }, value),
} as unknown as ExecutionContext<unknown>;

/** How many of the suite's tests fail for it. */
async function failuresOf(fault?: Fault): Promise<number> {
  const bodies: Parameters<Declare>[1][] = [];
  const declare: Declare = (_, body) => bodies.push(body);
  participantContract(declare, 'notebook', () => makeNotebook(fault));
  const outcomes = await Promise.allSettled(bodies.map(async (body) => body(throwing)));
  return outcomes.filter(({ status }) => status === 'rejected').length;
}

test('the suite passes a right participant by these assertions too', async (t) => t.is(await failuresOf(), 0));

for (const fault of FAULTS) {
  test(`the suite catches a participant that ${fault.replaceAll('-', ' ')}`, async (t) => {
    t.true((await failuresOf(fault)) > 0);
  });
}
