import { createHash } from 'node:crypto';
import test from 'ava';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { makeMemoryObjectStore } from '#test/support/memory-object-store.ts';
import { type Artifact, objectKey } from '../domain/artifact.ts';
import { makeDownloadArtifact } from './download-artifact.ts';
import { artifactOf, CALLER, JOB, jobIn, partOf, TENANT } from './fakes.fixture.ts';
import type { ArtifactIndex } from './ports.ts';
import type { ReadJobs } from './read-jobs.ts';

const digestOf = (text: string): string => createHash('sha256').update(text).digest('hex');

/** An artifact whose row is `row` and whose object holds `stored`; `looks` answers the rows in order, the last for ever. */
function fixture(rows: readonly Artifact[], stored: Readonly<Record<string, string>>) {
  const store = makeMemoryObjectStore();
  for (const [key, text] of Object.entries(stored)) store.write(key, text);
  let look = 0;
  const download = makeDownloadArtifact(
    partOf<ReadJobs>({ get: async () => jobIn('PENDING') }),
    partOf<ArtifactIndex>({
      async get() {
        look += 1;
        return rows[Math.min(look, rows.length) - 1];
      },
    }),
    store,
  );
  const open = () => {
    const signal = new AbortController().signal;
    return download({ caller: CALLER, jobId: JOB, kind: 'INPUT', name: 'a', showDeleted: false, signal });
  };
  const read = async (): Promise<string> => Buffer.concat(await Array.fromAsync((await open()).body)).toString();
  return {
    store,
    open,
    read,
    reason: () =>
      read().then(
        () => 'OK',
        (error) => (error instanceof DomainError ? error.reason : String(error)),
      ),
  };
}

const uploaded = artifactOf({ objectId: 'one', bytes: 5, sha256: digestOf('hello') });

test('a download gives the bytes of the object that the row points at', async (t) => {
  const other = artifactOf({ objectId: 'other' });
  const { read } = fixture([uploaded], {
    [objectKey(TENANT, uploaded)]: 'hello',
    [objectKey(TENANT, other)]: 'HELLO',
  });
  t.is(await read(), 'hello');
});

test('a download whose size differs from its row fails before its first byte', async (t) => {
  for (const text of ['hello!', 'hell', '']) {
    const { open } = fixture([uploaded], { [objectKey(TENANT, uploaded)]: text });
    t.like(await t.throwsAsync(open()), { reason: 'ARTIFACT_CORRUPT' }, text);
  }
});

test('a download whose digest differs from its row fails before its end', async (t) => {
  t.is(await fixture([uploaded], { [objectKey(TENANT, uploaded)]: 'jello' }).reason(), 'ARTIFACT_CORRUPT');
});

test('an artifact from before digests and keys by upload stays readable', async (t) => {
  const old = artifactOf({ bytes: 5 });
  t.is(await fixture([old], { [`tenants/${TENANT}/jobs/${JOB}/input/a`]: 'hello' }).read(), 'hello');
});

test('an object that ends early or goes on longer than the store said fails, also where its row has no digest', async (t) => {
  const old = artifactOf({ bytes: 5 });
  for (const text of ['hell', 'hello!']) {
    const { store, open } = fixture([old], { [objectKey(TENANT, old)]: text });
    const { get } = store;
    store.get = async (key) => {
      const found = await get(key);
      return found && { ...found, bytes: 5 };
    };
    let sent = 0;
    const read = async (): Promise<void> => {
      for await (const chunk of (await open()).body) sent += chunk.length;
    };
    t.like(await t.throwsAsync(read()), { reason: 'ARTIFACT_CORRUPT' }, text);
    t.true(sent <= 5, 'nothing beyond the size of the row is sent');
  }
});

test('an artifact that is replaced between the look at its row and the one at its object is read anew', async (t) => {
  const before = artifactOf({ objectId: 'gone', bytes: 3 });
  t.is(await fixture([before, uploaded], { [objectKey(TENANT, uploaded)]: 'hello' }).read(), 'hello');
});

test('an object that is not there is not found', async (t) => {
  t.is(await fixture([uploaded], {}).reason(), 'ARTIFACT_NOT_FOUND');
});
