import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, opendir, readFile, rename, rm, rmdir, stat, unlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { DomainError, dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import { assertKey, assertPrefix, tooLarge } from './keys.ts';
import type { ObjectStore, RemovalFailure, StoredObject } from './object-store.ts';

/**
 * Objects as files: `objects/<key>` the bytes, `meta/<key>` their media type, `uploads/<key>/<id>` what is being
 * written. It has no versions and no markers. For development and small installations with one disk.
 */
export function openFileStore(root: string): ObjectStore {
  const objects = join(root, 'objects');
  const meta = join(root, 'meta');
  const uploads = join(root, 'uploads');

  return {
    put: (key, body, { contentType, maxBytes, signal }) =>
      mapErrors(async () => {
        assertKey(key);
        const upload = join(uploads, key, randomUUID());
        await mkdir(dirname(upload), { recursive: true });
        try {
          const { bytes, sha256 } = await writeBody(upload, body, maxBytes, signal);
          await mkdir(dirname(join(meta, key)), { recursive: true });
          await writeFile(join(meta, key), contentType);
          await mkdir(dirname(join(objects, key)), { recursive: true });
          signal?.throwIfAborted();
          // An upload that a removal has taken away has no file to rename: it fails here, however late it is.
          await rename(upload, join(objects, key));
          return { bytes, sha256 };
        } catch (error) {
          await rm(upload, { force: true });
          if (!(await exists(join(objects, key)))) await rm(join(meta, key), { force: true });
          throw error;
        } finally {
          await removeEmptyFolders(dirname(upload), uploads);
        }
      }),

    get: (key, signal) =>
      mapErrors(async () => {
        assertKey(key);
        const path = join(objects, key);
        const found = await stat(path).catch(orUndefined('ENOENT', 'ENOTDIR'));
        if (!found?.isFile()) return undefined;
        const contentType = await readFile(join(meta, key), 'utf8').catch(() => 'application/octet-stream');
        return { body: createReadStream(path, { signal }), bytes: found.size, contentType };
      }),

    list: (prefix, { after, limit }) =>
      mapErrors(async () => {
        assertPrefix(prefix);
        const found: StoredObject[] = [];
        for await (const key of keysBelow(objects, prefix, after)) {
          const entry = await stat(join(objects, key)).catch(orUndefined('ENOENT'));
          if (!entry) continue; // It went between the listing and the look at it.
          if (found.length === limit) return { objects: found, next: found.at(-1)?.key };
          const modifiedAt = Temporal.Instant.fromEpochMilliseconds(Math.trunc(entry.mtimeMs));
          found.push({ key, bytes: entry.size, modifiedAt });
        }
        return { objects: found, next: undefined };
      }),

    removePrefix: (prefix, { limit, signal }) =>
      mapErrors(async () => {
        assertPrefix(prefix);
        const removed = { objects: 0, uploads: 0, bytes: 0 };
        const failures: RemovalFailure[] = [];
        for (const [area, counter] of [
          [uploads, 'uploads'],
          [objects, 'objects'],
        ] as const) {
          for await (const key of keysBelow(area, prefix, undefined)) {
            signal?.throwIfAborted();
            if (removed.objects + removed.uploads >= limit)
              return { ...removed, markers: 0, failures, progress: 'PARTIAL' };
            const path = join(area, key);
            const size = (await stat(path).catch(() => undefined))?.size ?? 0;
            try {
              await unlink(path);
              removed[counter] += 1;
              if (counter === 'objects') {
                removed.bytes += size;
                await rm(join(meta, key), { force: true });
              }
            } catch (error) {
              if (codeOf(error) !== 'ENOENT')
                failures.push({ key, code: codeOf(error), message: 'The file cannot be removed.' });
            }
          }
        }
        for (const area of [objects, meta, uploads]) await removeEmptyTree(join(area, prefix), area);
        return { ...removed, markers: 0, failures, progress: 'COMPLETE' };
      }),

    count: (prefix) =>
      mapErrors(async () => {
        assertPrefix(prefix);
        const counted = { versions: 0, markers: 0, uploads: 0, bytes: 0 };
        for await (const key of keysBelow(objects, prefix, undefined)) {
          counted.versions += 1;
          counted.bytes += (await stat(join(objects, key)).catch(() => undefined))?.size ?? 0;
        }
        for await (const _ of keysBelow(uploads, prefix, undefined)) counted.uploads += 1;
        return counted;
      }),

    check: () => mapErrors(async () => void (await mkdir(objects, { recursive: true }))),
    close: () => undefined,
  };
}

async function writeBody(
  path: string,
  body: AsyncIterable<Uint8Array>,
  maxBytes: number,
  signal: AbortSignal | undefined,
): Promise<{ bytes: number; sha256: string }> {
  const hash = createHash('sha256');
  let bytes = 0;
  const file = await open(path, 'wx');
  try {
    for await (const chunk of body) {
      signal?.throwIfAborted();
      bytes += chunk.length;
      if (bytes > maxBytes) throw tooLarge(maxBytes);
      hash.update(chunk);
      await file.write(chunk);
    }
    await file.sync();
  } finally {
    await file.close();
  }
  return { bytes, sha256: hash.digest('hex') };
}

/** Keys of the files below a prefix, in the order of their bytes. One folder's names are in memory at a time. */
async function* keysBelow(area: string, prefix: string, after: string | undefined): AsyncGenerator<string> {
  const names: { name: string; folder: boolean }[] = [];
  const folder = await opendir(join(area, prefix)).catch(orUndefined('ENOENT', 'ENOTDIR'));
  if (!folder) return;
  for await (const entry of folder) names.push({ name: entry.name, folder: entry.isDirectory() });
  // A folder stands in a listing as its name with the slash: `a-b` comes before `a/`.
  const sortKey = (entry: { name: string; folder: boolean }) =>
    Buffer.from(entry.folder ? `${entry.name}/` : entry.name);
  names.sort((a, b) => Buffer.compare(sortKey(a), sortKey(b)));
  for (const entry of names) {
    const key = `${prefix}${entry.name}`;
    if (entry.folder) {
      // A folder all of whose keys come before `after` need not be opened.
      if (after !== undefined && Buffer.compare(Buffer.from(`${key}/\u{10ffff}`), Buffer.from(after)) < 0) continue;
      yield* keysBelow(area, `${key}/`, after);
    } else if (after === undefined || Buffer.compare(Buffer.from(key), Buffer.from(after)) > 0) {
      yield key;
    }
  }
}

/** Removes the folders below and including this one that are empty, then its empty parents up to the area. */
async function removeEmptyTree(path: string, area: string): Promise<void> {
  const folder = await opendir(path).catch(orUndefined('ENOENT', 'ENOTDIR'));
  if (!folder) return;
  const below: string[] = [];
  for await (const entry of folder) if (entry.isDirectory()) below.push(join(path, entry.name));
  for (const each of below) await removeEmptyTree(each, each);
  await removeEmptyFolders(path, area);
}

async function removeEmptyFolders(path: string, area: string): Promise<void> {
  for (let at = path; at.startsWith(area); at = dirname(at)) {
    const gone = await rmdir(at).then(
      () => true,
      (error: unknown) => codeOf(error) === 'ENOENT',
    );
    if (!gone || at === area) return;
  }
}

const codeOf = (error: unknown): string =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : 'UNKNOWN';

const orUndefined =
  (...codes: string[]) =>
  (error: unknown): undefined => {
    if (codes.includes(codeOf(error))) return undefined;
    throw error;
  };

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );

async function mapErrors<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const isSystemError = error instanceof Error && 'errno' in error;
    throw error instanceof DomainError || !isSystemError ? error : dependencyUnavailable('object store', error);
  }
}
