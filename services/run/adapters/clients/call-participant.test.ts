import { Code, ConnectError } from '@connectrpc/connect';
import test from 'ava';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { ask, askForParts, type Peer } from './call-participant.ts';

const peer = { name: 'notes', assertData: async () => undefined, lookBudgetMs: 100 } as unknown as Peer;
const placeOf = (cursor: Uint8Array): string => new TextDecoder().decode(cursor);
const MAX_PARTS = 100;

/** The places that a participant is asked from, which answers with what follows on each; undefined: the last part. */
async function placesOf(next: Readonly<Record<string, string>>): Promise<readonly string[]> {
  const asked: string[] = [];
  const parts = askForParts(peer, async ({ cursor }) => {
    asked.push(placeOf(cursor));
    if (asked.length > MAX_PARTS) throw new Error('it is asked for ever');
    return { resourceCounts: [], dataId: '', cursor: new TextEncoder().encode(next[placeOf(cursor)] ?? '') };
  });
  for await (const _ of parts);
  return asked;
}

test('a participant is asked from each place that it names, until it names none', async (t) => {
  t.deepEqual(await placesOf({ '': 'a', a: 'b' }), ['', 'a', 'b']);
});

for (const [what, next] of [
  ['repeats its cursor', { '': 'a', a: 'a' }],
  ['goes back to a part', { '': 'a', a: 'b', b: 'a' }],
] as const) {
  test(`a participant that ${what} is not asked for ever`, async (t) => {
    const error = await t.throwsAsync(placesOf(next), { instanceOf: DomainError });
    t.is(error?.reason, 'DEPENDENCY_UNAVAILABLE');
  });
}

test('a lease that a participant lost is a failed call, and not taken for the loss of RunService’s own', async (t) => {
  const info = { desc: ErrorInfoSchema, value: { reason: 'LEASE_LOST', domain: 'notes' } };
  const refused = Promise.reject(new ConnectError('another worker has the notes', Code.Aborted, undefined, [info]));
  const error = await t.throwsAsync(ask(peer, refused), { instanceOf: DomainError });
  t.like(error, { kind: 'unavailable', reason: 'DEPENDENCY_UNAVAILABLE', metadata: { dependency: 'notes' } });
});
