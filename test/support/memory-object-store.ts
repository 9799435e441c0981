import { createHash } from 'node:crypto';
import { dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import { assertKey, assertPrefix, tooLarge } from '#libs/object-store/keys.ts';
import type { Contents, ObjectStore, Removal, RemovalFailure } from '#libs/object-store/object-store.ts';
import { isPermanentRefusal } from '#libs/object-store/store-errors.ts';

/** Objects in memory, versioned, under the contract of every object store; it fails when it is told to. */
export interface MemoryObjectStore extends ObjectStore {
  /** Keys whose removal is refused, with the store's code. */
  readonly refused: Map<string, string>;
  /** How many more calls are answered before the store goes down; Infinity: it is up. */
  callsBeforeOutage: number;
  /** Called in every removal before anything goes, for what happens in between. */
  onRemoval: (prefix: string) => void | Promise<void>;
  /** Puts an object as it is, of this age. */
  write(key: string, text: string, modifiedAt?: Temporal.Instant): void;
  /** Keys of everything there, a version each, in order. */
  keys(): string[];
}

interface Version {
  readonly content: Buffer;
  readonly contentType: string;
  readonly modifiedAt: Temporal.Instant;
}

const LONG_AGO = Temporal.Instant.from('2020-01-01T00:00:00Z');

/** Makes an empty one. */
export function makeMemoryObjectStore(): MemoryObjectStore {
  const objects = new Map<string, Version[]>();
  const uploads = new Map<symbol, string>();
  const sorted = (prefix: string): [string, Version[]][] =>
    [...objects]
      .filter(([key]) => key.startsWith(prefix))
      .toSorted(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  const write = (key: string, version: Version): void => void objects.set(key, [...(objects.get(key) ?? []), version]);
  const answer = (): void => {
    if (store.callsBeforeOutage <= 0) throw dependencyUnavailable('object store');
    store.callsBeforeOutage -= 1;
  };

  const removeAll = async (
    prefix: string,
    isMeant: (key: string) => boolean,
    limit: number,
    signal: AbortSignal | undefined,
  ): Promise<Removal> => {
    answer();
    signal?.throwIfAborted();
    await store.onRemoval(prefix);
    const removed = { objects: 0, markers: 0, uploads: 0, bytes: 0 };
    const failures: RemovalFailure[] = [];
    const isFull = () => removed.objects + removed.uploads >= limit;
    for (const [upload, key] of uploads) {
      if (!isMeant(key)) continue;
      if (isFull()) return { ...removed, failures, progress: 'PARTIAL' };
      uploads.delete(upload);
      removed.uploads += 1;
    }
    for (const [key, versions] of sorted('').filter(([each]) => isMeant(each))) {
      const code = store.refused.get(key);
      if (code !== undefined) {
        failures.push({ key, code, message: 'The store refused.', isPermanent: isPermanentRefusal(code) });
        continue;
      }
      while (versions.length > 0) {
        if (isFull()) return { ...removed, failures, progress: 'PARTIAL' };
        removed.bytes += versions.shift()?.content.length ?? 0;
        removed.objects += 1;
      }
      objects.delete(key);
    }
    return { ...removed, failures, progress: 'COMPLETE' };
  };

  const countAll = (isMeant: (key: string) => boolean): Contents => {
    answer();
    const versions = sorted('')
      .filter(([key]) => isMeant(key))
      .flatMap(([, each]) => each);
    return {
      versions: versions.length,
      markers: 0,
      uploads: [...uploads.values()].filter(isMeant).length,
      bytes: versions.reduce((sum, { content }) => sum + content.length, 0),
    };
  };

  const store: MemoryObjectStore = {
    refused: new Map(),
    callsBeforeOutage: Number.POSITIVE_INFINITY,
    onRemoval: () => undefined,
    write: (key, text, modifiedAt = LONG_AGO) =>
      write(key, { content: Buffer.from(text), contentType: 'text/plain', modifiedAt }),
    keys: () => sorted('').flatMap(([key, versions]) => versions.map(() => key)),

    async put(key, body, { contentType, maxBytes, signal }) {
      assertKey(key);
      answer();
      const upload = Symbol(key);
      uploads.set(upload, key);
      const chunks: Uint8Array[] = [];
      let bytes = 0;
      try {
        for await (const chunk of body) {
          signal?.throwIfAborted();
          bytes += chunk.length;
          if (bytes > maxBytes) throw tooLarge(maxBytes);
          chunks.push(chunk);
        }
        signal?.throwIfAborted();
        if (!uploads.has(upload)) throw new Error('the upload was ended');
        const content = Buffer.concat(chunks);
        write(key, { content, contentType, modifiedAt: Temporal.Now.instant() });
        return { bytes, sha256: createHash('sha256').update(content).digest('hex') };
      } finally {
        uploads.delete(upload);
      }
    },

    async get(key, signal) {
      assertKey(key);
      answer();
      signal?.throwIfAborted();
      const version = objects.get(key)?.at(-1);
      if (!version) return undefined;
      const { content, contentType } = version;
      const body = (async function* () {
        yield content;
      })();
      return { body, bytes: content.length, contentType };
    },

    async list(prefix, { after, limit }) {
      assertPrefix(prefix);
      answer();
      const isAfter = (key: string) => after === undefined || Buffer.compare(Buffer.from(key), Buffer.from(after)) > 0;
      const found = sorted(prefix).filter(([key]) => isAfter(key));
      const page = found.slice(0, limit).map(([key, versions]) => {
        const { content, modifiedAt } = versions.at(-1) as Version;
        return { key, bytes: content.length, modifiedAt };
      });
      return { objects: page, next: found.length > limit ? page.at(-1)?.key : undefined };
    },

    async removePrefix(prefix, { limit, signal }) {
      assertPrefix(prefix);
      return removeAll(prefix, (key) => key.startsWith(prefix), limit, signal);
    },

    async removeKey(key, { limit, signal }) {
      assertKey(key);
      return removeAll(key, (other) => other === key, limit, signal);
    },

    async count(prefix, signal) {
      assertPrefix(prefix);
      signal?.throwIfAborted();
      return countAll((key) => key.startsWith(prefix));
    },

    countEach: (prefixes, signal) => Promise.all(prefixes.map((prefix) => store.count(prefix, signal))),

    async countKey(key, signal) {
      assertKey(key);
      signal?.throwIfAborted();
      return countAll((other) => other === key);
    },

    survey: (prefix, signal) => {
      assertPrefix(prefix);
      return (async function* () {
        answer();
        signal?.throwIfAborted();
        for (const [key, versions] of sorted(prefix)) {
          signal?.throwIfAborted();
          yield versions.map(({ content, modifiedAt }) => ({
            key,
            kind: 'VERSION' as const,
            bytes: content.length,
            modifiedAt,
          }));
        }
        for (const key of uploads.values()) {
          if (key.startsWith(prefix))
            yield [{ key, kind: 'UPLOAD' as const, bytes: 0, modifiedAt: Temporal.Now.instant() }];
        }
      })();
    },

    async folders(prefix) {
      assertPrefix(prefix);
      answer();
      const keys = [...objects.keys(), ...uploads.values()].filter((key) => key.startsWith(prefix));
      return [...new Set(keys.map((key) => key.slice(prefix.length).split('/')[0] ?? ''))].toSorted();
    },

    check: async () => answer(),
    traits: async () => ({ versioning: 'ENABLED', expiringRules: [], isLocked: false }),
    close: () => undefined,
  };
  return store;
}
