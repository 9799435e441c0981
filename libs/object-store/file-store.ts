import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import {
  access,
  constants,
  type FileHandle,
  mkdir,
  open,
  opendir,
  readFile,
  rename,
  rm,
  rmdir,
  stat,
  unlink,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { crashPoint } from '#libs/durable/crash-point.ts';
import { assertKey, assertPrefix, tooLarge } from './keys.ts';
import { mapBodyErrors, mapErrors, markErrors, type ToStoreError, toCallersError } from './map-errors.ts';
import {
  type Contents,
  MAX_FAILURES,
  type ObjectStore,
  type Removal,
  type RemovalFailure,
  type StoredItem,
  type StoredObject,
} from './object-store.ts';
import { isPermanentRefusal, storeUnavailable } from './store-errors.ts';

const CREATE_ATTEMPTS = 10;
const PAGE = 1_000;

// A media type on its way to its place, beside the upload it belongs to.
const TYPE_SUFFIX = '.type';

/**
 * Objects as files: `objects/<key>` the bytes, `meta/<key>` their media type, `uploads/<key>/<id>` what is being
 * written, with its media type in `<id>.type`. It has no versions and no markers. For development and small
 * installations with one disk.
 */
export function openFileStore(root: string): ObjectStore {
  const objects = join(root, 'objects');
  const meta = join(root, 'meta');
  const uploads = join(root, 'uploads');

  /** Removes files, open uploads first: from here on none of them can become an object. */
  const removeFiles = async (
    openUploads: () => AsyncIterable<string>,
    stored: () => AsyncIterable<string>,
    limit: number,
    signal: AbortSignal | undefined,
  ): Promise<Removal> => {
    const removed = { objects: 0, uploads: 0, bytes: 0 };
    const failures: RemovalFailure[] = [];
    for (const [area, counter, keys, keyOf] of [
      [uploads, 'uploads', openUploads, dirname],
      [objects, 'objects', stored, (key: string) => key],
    ] as const) {
      for await (const key of keys()) {
        const gone = removed.objects + removed.uploads;
        if (gone === 0) signal?.throwIfAborted();
        if (gone >= limit || signal?.aborted) return { ...removed, markers: 0, failures, progress: 'PARTIAL' };
        const path = join(area, key);
        const size = (await stat(path).catch(() => undefined))?.size ?? 0;
        try {
          await unlink(path);
          if (counter === 'uploads' && key.endsWith(TYPE_SUFFIX)) continue;
          removed[counter] += 1;
          if (counter === 'objects') {
            removed.bytes += size;
            await rm(join(meta, key), { force: true });
          }
        } catch (error) {
          const code = codeOf(error);
          if (code === 'ENOENT' || failures.length >= MAX_FAILURES) continue;
          const isPermanent = isPermanentRefusal(code);
          failures.push({ key: keyOf(key), code, message: 'The file cannot be removed.', isPermanent });
        }
      }
    }
    return { ...removed, markers: 0, failures, progress: 'COMPLETE' };
  };

  /** Removes what a crash between the two files of an object has left: media types without bytes, each an upload. */
  const removeStrays = async (keys: AsyncIterable<string>, removal: Removal, limit: number): Promise<Removal> => {
    let { uploads: strays } = removal;
    for await (const key of keys) {
      if (await exists(join(objects, key))) continue;
      if (removal.objects + strays >= limit) return { ...removal, uploads: strays, progress: 'PARTIAL' };
      const isGone = await unlink(join(meta, key)).then(() => true, orUndefined('ENOENT'));
      if (isGone) strays += 1;
    }
    return { ...removal, uploads: strays };
  };

  const countFiles = async (
    openUploads: AsyncIterable<string>,
    stored: AsyncIterable<string>,
    types: AsyncIterable<string>,
    signal: AbortSignal | undefined,
  ): Promise<Contents> => {
    const counted = { versions: 0, markers: 0, uploads: 0, bytes: 0 };
    signal?.throwIfAborted();
    for await (const key of stored) {
      signal?.throwIfAborted();
      counted.versions += 1;
      counted.bytes += (await stat(join(objects, key)).catch(() => undefined))?.size ?? 0;
    }
    for await (const key of openUploads) counted.uploads += key.endsWith(TYPE_SUFFIX) ? 0 : 1;
    for await (const key of types) counted.uploads += (await exists(join(objects, key))) ? 0 : 1;
    return counted;
  };

  const count: ObjectStore['count'] = (prefix, signal) =>
    mapErrors(toStoreError, async () => {
      assertPrefix(prefix);
      return countFiles(filesBelow(uploads, prefix), filesBelow(objects, prefix), filesBelow(meta, prefix), signal);
    });

  return {
    put: (key, body, { contentType, maxBytes, signal }) =>
      mapErrors(toStoreError, async () => {
        assertKey(key);
        const upload = join(uploads, key, randomUUID());
        try {
          const { bytes, sha256 } = await writeBody(upload, body, maxBytes, signal);
          await writeMediaType(`${upload}${TYPE_SUFFIX}`, join(meta, key), contentType);
          await mkdir(dirname(join(objects, key)), { recursive: true });
          signal?.throwIfAborted();
          crashPoint('store.put.before-complete');
          // An upload that a removal has taken away has no file to rename: it fails here, however late it is.
          await rename(upload, join(objects, key));
          await syncFolder(dirname(join(objects, key)));
          crashPoint('store.put.after-complete');
          return { bytes, sha256 };
        } catch (error) {
          await rm(upload, { force: true });
          await rm(`${upload}${TYPE_SUFFIX}`, { force: true });
          if (!(await exists(join(objects, key)))) await rm(join(meta, key), { force: true });
          throw error;
        } finally {
          await removeEmptyFolders(dirname(upload), uploads);
        }
      }),

    get: (key, signal) =>
      mapErrors(toStoreError, async () => {
        assertKey(key);
        const path = join(objects, key);
        const found = await stat(path).catch(orUndefined('ENOENT', 'ENOTDIR'));
        if (!found?.isFile()) return undefined;
        const contentType = await readFile(join(meta, key), 'utf8').catch(() => 'application/octet-stream');
        signal?.throwIfAborted();
        return { body: mapBodyErrors(toStoreError, readBytes(path, signal)), bytes: found.size, contentType };
      }),

    list: (prefix, { after, limit }) =>
      mapErrors(toStoreError, async () => {
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
      mapErrors(toStoreError, async () => {
        assertPrefix(prefix);
        const removal = await removeFiles(
          () => filesBelow(uploads, prefix),
          () => filesBelow(objects, prefix),
          limit,
          signal,
        );
        if (removal.progress === 'PARTIAL') return removal;
        const swept = await removeStrays(filesBelow(meta, prefix), removal, limit);
        if (swept.progress === 'PARTIAL') return swept;
        for (const area of [objects, meta, uploads]) await removeEmptyTree(join(area, prefix), area);
        return swept;
      }),

    removeKey: (key, { limit, signal }) =>
      mapErrors(toStoreError, async () => {
        assertKey(key);
        const removal = await removeFiles(
          () => filesBelow(uploads, `${key}/`),
          () => fileAt(objects, key),
          limit,
          signal,
        );
        if (removal.progress === 'PARTIAL') return removal;
        const swept = await removeStrays(fileAt(meta, key), removal, limit);
        await removeEmptyTree(join(uploads, key), uploads);
        for (const area of [objects, meta]) await removeEmptyFolders(dirname(join(area, key)), area);
        return swept;
      }),

    count,

    countEach: (prefixes, signal) => Promise.all(prefixes.map((prefix) => count(prefix, signal))),

    countKey: (key, signal) =>
      mapErrors(toStoreError, async () => {
        assertKey(key);
        return countFiles(filesBelow(uploads, `${key}/`), fileAt(objects, key), fileAt(meta, key), signal);
      }),

    survey: (prefix, signal) => {
      assertPrefix(prefix);
      const pages = async function* (): AsyncGenerator<StoredItem[]> {
        let page: StoredItem[] = [];
        const add = async (area: string, path: string, key: string, kind: StoredItem['kind']): Promise<void> => {
          const entry = await stat(join(area, path)).catch(orUndefined('ENOENT'));
          if (!entry) return; // It went between the listing and the look at it.
          const modifiedAt = Temporal.Instant.fromEpochMilliseconds(Math.trunc(entry.mtimeMs));
          page.push({ key, kind, bytes: kind === 'VERSION' ? entry.size : 0, modifiedAt });
        };
        const full = function* (): Generator<StoredItem[]> {
          signal?.throwIfAborted();
          if (page.length < PAGE) return;
          yield page;
          page = [];
        };
        try {
          signal?.throwIfAborted();
          for await (const path of filesBelow(uploads, prefix)) {
            await add(uploads, path, dirname(path), 'UPLOAD');
            yield* full();
          }
          for await (const key of filesBelow(objects, prefix)) {
            await add(objects, key, key, 'VERSION');
            yield* full();
          }
          // What a crash between the two files of an object has left.
          for await (const key of filesBelow(meta, prefix)) {
            if (!(await exists(join(objects, key)))) await add(meta, key, key, 'UPLOAD');
            yield* full();
          }
          if (page.length > 0) yield page;
        } catch (error) {
          throw toCallersError(toStoreError, error);
        }
      };
      return pages();
    },

    folders: (prefix) =>
      mapErrors(toStoreError, async () => {
        assertPrefix(prefix);
        const names = new Set<string>();
        for (const area of [objects, meta, uploads]) {
          const folder = await opendir(join(area, prefix)).catch(orUndefined('ENOENT', 'ENOTDIR'));
          if (!folder) continue;
          for await (const entry of folder) if (entry.isDirectory()) names.add(entry.name);
        }
        return [...names].toSorted();
      }),

    check: () =>
      mapErrors(toStoreError, async () => {
        await mkdir(objects, { recursive: true });
        await access(objects, constants.W_OK);
      }),
    traits: async () => ({ versioning: 'OFF', expiringRules: [], isLocked: false }),
    close: () => undefined,
  };
}

/**
 * The bytes of a file. Only its reader opens it: a body that nobody reads holds no file, and an abort finds somebody who
 * listens, or as an error that nobody hears it would end the process.
 */
async function* readBytes(path: string, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
  signal?.throwIfAborted();
  yield* createReadStream(path, { signal });
}

async function writeBody(
  path: string,
  body: AsyncIterable<Uint8Array>,
  maxBytes: number,
  signal: AbortSignal | undefined,
): Promise<{ bytes: number; sha256: string }> {
  const hash = createHash('sha256');
  let bytes = 0;
  const file = await createFile(path);
  try {
    crashPoint('store.put.after-create');
    for await (const chunk of markErrors(body)) {
      signal?.throwIfAborted();
      bytes += chunk.length;
      if (bytes > maxBytes) throw tooLarge(maxBytes);
      hash.update(chunk);
      await file.writeFile(chunk);
      crashPoint('store.put.after-part');
    }
    await file.sync();
  } finally {
    await file.close();
  }
  return { bytes, sha256: hash.digest('hex') };
}

/** Creates the file and its folders; they may go at any moment, when another upload to the same key ends. */
async function createFile(path: string): Promise<FileHandle> {
  for (let attempt = 1; ; attempt += 1) {
    await mkdir(dirname(path), { recursive: true });
    try {
      return await open(path, 'wx');
    } catch (error) {
      if (codeOf(error) !== 'ENOENT' || attempt === CREATE_ATTEMPTS) throw error;
    }
  }
}

/** Puts a media type in its place whole: a reader sees the old one or the new one. */
async function writeMediaType(fresh: string, path: string, contentType: string): Promise<void> {
  const file = await open(fresh, 'wx');
  try {
    await file.writeFile(contentType);
    await file.sync();
  } finally {
    await file.close();
  }
  await mkdir(dirname(path), { recursive: true });
  await rename(fresh, path);
  await syncFolder(dirname(path));
}

/** Makes a rename in the folder outlast a power cut. */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** The key, where there is such a file. */
async function* fileAt(area: string, key: string): AsyncGenerator<string> {
  const found = await stat(join(area, key)).catch(orUndefined('ENOENT', 'ENOTDIR'));
  if (found?.isFile()) yield key;
}

/** Keys of the files below a prefix, in no order and one at a time: the folders may be as large as they like. */
async function* filesBelow(area: string, prefix: string): AsyncGenerator<string> {
  const folder = await opendir(join(area, prefix)).catch(orUndefined('ENOENT', 'ENOTDIR'));
  if (!folder) return;
  for await (const entry of folder) {
    if (entry.isDirectory()) yield* filesBelow(area, `${prefix}${entry.name}/`);
    else yield `${prefix}${entry.name}`;
  }
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

/** What the file system throws, without the name of the file: it may be a text of a tenant's, and errors are logged. */
const toStoreError: ToStoreError = (error) => {
  if (!('errno' in error && 'syscall' in error)) return undefined;
  const { syscall } = error;
  const code = codeOf(error);
  return storeUnavailable(undefined, Object.assign(new Error(`${code} in ${syscall}`), { code, syscall }));
};
