import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { openFileStore } from '#libs/object-store/file-store.ts';
import { declaring, objectStoreContract } from './object-store.ts';

const root = mkdtempSync(join(tmpdir(), 'lethe-test-files-'));
test.after.always(() => rmSync(root, { recursive: true, force: true }));

objectStoreContract(declaring(test), 'file store', () => openFileStore(root), false);

test.serial('file store: an emptied prefix leaves no folder, no media type and no upload behind', async (t) => {
  const own = mkdtempSync(join(tmpdir(), 'lethe-test-files-'));
  t.teardown(() => rmSync(own, { recursive: true, force: true }));
  const store = openFileStore(own);
  const body = (async function* () {
    yield Buffer.from('x');
  })();
  await store.put('tenants/a/jobs/1/input/x', body, { contentType: 'a/b', maxBytes: 10 });
  await store.removePrefix('tenants/a/jobs/1/', { limit: 10 });
  t.deepEqual(
    readdirSync(own, { recursive: true }).filter((path) => String(path).includes('jobs/1')),
    [],
  );
});
