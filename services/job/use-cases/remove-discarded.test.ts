import test from 'ava';
import type { DomainError } from '#libs/kernel/domain-error.ts';
import { makeMemoryObjectStore } from '#test/support/memory-object-store.ts';
import { objectKey } from '../domain/artifact.ts';
import { storeNotOurs } from '../domain/errors.ts';
import type { CheckStore } from './check-store.ts';
import { artifactOf, TENANT } from './fakes.fixture.ts';
import type { DiscardClaim, DiscardedObjects } from './ports.ts';
import { makeRemoveDiscarded } from './remove-discarded.ts';

const GRACE_MS = 1_000;

const discard = (name: string, more: Partial<DiscardClaim> = {}): DiscardClaim => ({
  tenantId: TENANT,
  id: name,
  object: artifactOf({ name, objectId: 'upload' }),
  state: 'REPLACED',
  isLastLook: false,
  attempt: 1,
  ...more,
});

/** A store, what is due, and what became of it. */
function fixture(due: readonly DiscardClaim[], checkStore: CheckStore = async () => undefined) {
  const store = makeMemoryObjectStore();
  const settled: (string | number | boolean)[][] = [];
  const failed: string[] = [];
  const errors: string[] = [];
  const discarded: DiscardedObjects = {
    findDue: async () => due.map(({ tenantId, object, id }) => ({ tenantId, jobId: object.jobId, id })),
    claim: async ({ id }) => due.find((claim) => claim.id === id),
    forget: async ({ id }) => void settled.push([id, 'forgotten']),
    oldestUnfinishedSeconds: async () => 0,
    putBack: async ({ id }, dueInMs, removed) => void settled.push([id, removed ? dueInMs : 'later', removed]),
  };
  const timing = { leaseMs: 1_000, graceMs: GRACE_MS, backoffMs: 10, backoffMaxMs: 100 };
  const removeDiscarded = makeRemoveDiscarded(discarded, store, checkStore, timing, ({ id }, error) => {
    failed.push(id);
    errors.push((error as DomainError).message);
  });
  return { store, settled, failed, errors, run: () => removeDiscarded(new AbortController().signal) };
}

const keyOf = ({ tenantId, object }: DiscardClaim): string => objectKey(tenantId, object);

test('a replaced object goes with all of its versions and no neighbour, and is forgotten', async (t) => {
  const claim = discard('a');
  const { store, settled, run } = fixture([claim]);
  store.write(keyOf(claim), 'x');
  store.write(keyOf(claim), 'xx');
  store.write(`${keyOf(claim)}b`, 'a neighbour whose key begins the same');
  t.is(await run(), 1);
  t.deepEqual(store.keys(), [`${keyOf(claim)}b`]);
  t.deepEqual(settled, [['a', 'forgotten']]);
});

test('what an abandoned upload left is looked at again after the grace, and forgotten only then', async (t) => {
  const first = discard('a', { state: 'ABANDONED' });
  const last = discard('b', { state: 'ABANDONED', isLastLook: true });
  const { store, settled, run } = fixture([first, last]);
  store.write(keyOf(first), 'x');
  store.write(keyOf(last), 'came late');
  await run();
  t.deepEqual(store.keys(), []);
  t.deepEqual(settled.toSorted(), [
    ['a', GRACE_MS, true],
    ['b', 'forgotten'],
  ]);
});

test('an object that the store refuses to remove stays in mind and is tried again, and stops no other', async (t) => {
  const [held, free] = [discard('a'), discard('b')];
  const { store, settled, failed, errors, run } = fixture([held, free]);
  for (const claim of [held, free]) store.write(keyOf(claim), 'x');
  store.refused.set(keyOf(held), 'AccessDenied');
  t.is(await run(), 2);
  t.deepEqual(store.keys(), [keyOf(held)]);
  t.deepEqual(settled.toSorted(), [
    ['a', 'later', false],
    ['b', 'forgotten'],
  ]);
  t.deepEqual(failed, ['a']);
  t.regex(errors[0] ?? '', /AccessDenied/, 'the log has the code of the store');
});

test('an object that is still listed when it is read back stays in mind, whatever the store said of its removal', async (t) => {
  const claim = discard('a');
  const { store, settled, failed, run } = fixture([claim]);
  store.write(keyOf(claim), 'x');
  store.removeKey = async () => ({ progress: 'COMPLETE', objects: 1, markers: 0, uploads: 0, bytes: 1, failures: [] });
  await run();
  t.deepEqual(settled, [['a', 'later', false]]);
  t.deepEqual(failed, ['a']);
});

test("on another installation's store nothing is taken up, and nothing is removed", async (t) => {
  const claim = discard('a');
  const { store, settled, run } = fixture([claim], async () => {
    throw storeNotOurs('It has another marker.');
  });
  store.write(keyOf(claim), 'x');
  t.like(await t.throwsAsync(run()), { reason: 'STORE_NOT_OURS' });
  t.deepEqual([store.keys(), settled], [[keyOf(claim)], []]);
});

test('a store that is down costs nothing but time', async (t) => {
  const claim = discard('a', { state: 'ABANDONED' });
  const { store, settled, run } = fixture([claim]);
  store.callsBeforeOutage = 0;
  await run();
  t.deepEqual(settled, [['a', 'later', false]]);
});
