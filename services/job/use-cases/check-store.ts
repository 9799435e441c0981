import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { objectKey } from '../domain/artifact.ts';
import { storeNotOurs } from '../domain/errors.ts';
import type { Installation } from './ports.ts';

/**
 * Passes when the object store is this installation's: it has a marker object with the id from the database. A store
 * without one is marked once, unless the index knows objects of which the store has none. FAILED_PRECONDITION/
 * STORE_NOT_OURS otherwise; DEPENDENCY_UNAVAILABLE while the store does not answer. A good answer holds for a second.
 */
export type CheckStore = () => Promise<void>;

/** The key of the object that names the installation. */
export const MARKER_KEY = 'lethe/installation';

const HOLDS_MS = 1_000;
const SAMPLE = 20;
const MAX_MARKER_BYTES = 100;

/** Makes CheckStore. */
export function makeCheckStore(installation: Installation, store: ObjectStore): CheckStore {
  const readMarker = async (): Promise<string | undefined> => {
    const found = await store.get(MARKER_KEY);
    return found && Buffer.concat(await Array.fromAsync(found.body)).toString();
  };

  /** Throws where the index knows objects and the store has not one of some of them. */
  const assertHasObjects = async (): Promise<void> => {
    const known = await installation.someStored(SAMPLE);
    for (const { tenantId, object } of known) {
      if ((await store.countKey(objectKey(tenantId, object))).versions > 0) return;
    }
    if (known.length > 0) throw storeNotOurs('It has none of the objects that the database knows.');
  };

  const check = async (): Promise<void> => {
    const { id, isMarked } = await installation.read();
    let marker = await readMarker();
    if (marker === undefined) {
      if (isMarked) throw storeNotOurs(`It has lost its marker, the object ${MARKER_KEY}, or is another store.`);
      await assertHasObjects();
      await store.put(MARKER_KEY, once(Buffer.from(id)), { contentType: 'text/plain', maxBytes: MAX_MARKER_BYTES });
      // Of two installations that take one store at once, the last has it.
      marker = await readMarker();
    }
    if (marker !== id) throw storeNotOurs(`Its marker, the object ${MARKER_KEY}, names another installation.`);
    if (!isMarked) await installation.setMarked();
  };

  let passed: { readonly until: number; readonly check: Promise<void> } | undefined;
  return () => {
    if (!passed || passed.until < performance.now()) {
      const current = { until: performance.now() + HOLDS_MS, check: check() };
      passed = current;
      current.check.catch(() => {
        if (passed === current) passed = undefined;
      });
    }
    return passed.check;
  };
}

async function* once(content: Uint8Array): AsyncIterable<Uint8Array> {
  yield content;
}
