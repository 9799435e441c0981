import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
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

test.serial(
  'file store: what an error says names no file, since an artifact has the name that its owner gave it',
  async (t) => {
    const own = mkdtempSync(join(tmpdir(), 'lethe-test-files-'));
    t.teardown(() => rmSync(own, { recursive: true, force: true }));
    const store = openFileStore(own);
    const prefix = 'tenants/a/jobs/1/';
    // The job is removed while the upload goes on, as a compensation does that did not wait for it.
    const body = (async function* () {
      yield Buffer.from('x');
      await store.removePrefix(prefix, { limit: 10 });
    })();
    const lost = await t.throwsAsync(
      store.put(`${prefix}input/to-whom-it-concerns.txt`, body, { contentType: 'a/b', maxBytes: 10 }),
      { name: 'DomainError' },
    );
    const told = inspect(lost, { depth: null, showHidden: true });
    t.regex(told, /ENOENT/);
    t.notRegex(told, /concerns|jobs\/1/);
  },
);
