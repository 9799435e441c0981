import test from 'ava';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { makeMemoryObjectStore } from '#test/support/memory-object-store.ts';
import { objectKey } from '../domain/artifact.ts';
import { MARKER_KEY, makeCheckStore } from './check-store.ts';
import { artifactOf, TENANT } from './fakes.fixture.ts';

const ID = '01890000-0000-7000-8000-00000000000a';
const OTHER_ID = '01890000-0000-7000-8000-00000000000b';
const OBJECT = artifactOf();

/** A store and what the database says of it. */
function fixture({ isMarked = false, known = false } = {}) {
  const store = makeMemoryObjectStore();
  const world = { isMarked };
  const checkStore = makeCheckStore(
    {
      read: async () => ({ id: ID, isMarked: world.isMarked }),
      async setMarked() {
        world.isMarked = true;
      },
      someStored: async () => (known ? [{ tenantId: TENANT, object: OBJECT }] : []),
    },
    store,
  );
  const reason = () =>
    checkStore().then(
      () => 'OK',
      (error) => (error instanceof DomainError ? error.reason : String(error)),
    );
  return { store, world, reason };
}

test('a new store is marked once, with the id of the database', async (t) => {
  const { store, world, reason } = fixture();
  t.is(await reason(), 'OK');
  t.is(await reason(), 'OK');
  t.deepEqual(store.keys(), [MARKER_KEY]);
  t.true(world.isMarked);
});

test('a store from before markers is marked where it has an object that the index knows', async (t) => {
  const { store, reason } = fixture({ known: true });
  store.write(objectKey(TENANT, OBJECT), 'x');
  t.is(await reason(), 'OK');
  t.true(store.keys().includes(MARKER_KEY));
});

test('an empty store is not taken for that of an index that knows objects', async (t) => {
  const { store, world, reason } = fixture({ known: true });
  t.is(await reason(), 'STORE_NOT_OURS');
  t.deepEqual(store.keys(), []);
  t.false(world.isMarked);
});

test('a store that has lost its marker is refused, and not marked again', async (t) => {
  const { store, reason } = fixture({ isMarked: true });
  t.is(await reason(), 'STORE_NOT_OURS');
  t.deepEqual(store.keys(), []);
});

test("another installation's store is refused, and keeps its marker", async (t) => {
  const { store, reason } = fixture();
  store.write(MARKER_KEY, OTHER_ID);
  t.is(await reason(), 'STORE_NOT_OURS');
  t.is(store.keys().length, 1);
});

test('of two installations that mark one store at once, the last has it and the other is refused', async (t) => {
  const { store, world, reason } = fixture();
  const { put } = store;
  store.put = async (...args) => {
    const stored = await put(...args);
    store.write(MARKER_KEY, OTHER_ID);
    return stored;
  };
  t.is(await reason(), 'STORE_NOT_OURS');
  t.false(world.isMarked);
});

test('a store that does not answer is UNAVAILABLE, and asked again the next time', async (t) => {
  const { store, reason } = fixture();
  store.callsBeforeOutage = 0;
  t.is(await reason(), 'DEPENDENCY_UNAVAILABLE');
  store.callsBeforeOutage = Number.POSITIVE_INFINITY;
  t.is(await reason(), 'OK');
});
