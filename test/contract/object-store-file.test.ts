import { mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import test from 'ava';
import { openFileStore } from '#libs/object-store/file-store.ts';
import { until } from '#test/support/test-stack.ts';
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

/** The files below a folder that this process has open. */
function openBelow(folder: string): string[] {
  const found: string[] = [];
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      found.push(readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      // It was closed meanwhile.
    }
  }
  return found.filter((path) => path.startsWith(`${folder}/`));
}

test.serial(
  'file store: a body that nobody reads, or no further, holds no file open, and its abort disturbs nobody',
  async (t) => {
    const own = mkdtempSync(join(tmpdir(), 'lethe-test-files-'));
    t.teardown(() => rmSync(own, { recursive: true, force: true }));
    const store = openFileStore(own);
    const key = 'tenants/a/jobs/1/input/x';
    const body = (async function* () {
      for (let n = 0; n < 4; n += 1) yield Buffer.alloc(100_000);
    })();
    await store.put(key, body, { contentType: 'a/b', maxBytes: 1_000_000 });
    const isClosed = async () => openBelow(own).length === 0;

    const going = new AbortController();
    const unread = await store.get(key, going.signal);
    await until('the body that nobody reads holds no file', isClosed);
    going.abort();
    await t.throwsAsync(Array.fromAsync(unread?.body ?? []), { name: 'AbortError' });

    const returned = (await store.get(key))?.body[Symbol.asyncIterator]();
    await returned?.return?.();
    await until('the body that was given up before its first byte holds no file', isClosed);

    for await (const _ of (await store.get(key))?.body ?? []) break;
    await until('the body that was given up in the middle holds no file', isClosed);

    const leaving = new AbortController();
    const reader = (await store.get(key, leaving.signal))?.body[Symbol.asyncIterator]();
    t.false((await reader?.next())?.done);
    t.is(openBelow(own).length, 1);
    leaving.abort();
    await until('the body whose reader has gone holds no file', isClosed);
    await t.throwsAsync(async () => reader?.next(), { name: 'AbortError' });
  },
);
