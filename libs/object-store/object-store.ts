const MAX_KEY_BYTES = 1_024;
const MAX_SEGMENT_BYTES = 255;

/** Whether it is a key of ObjectStore. A bucket may hold others, for which its methods cannot be asked one by one. */
export function isKey(key: string): boolean {
  const segments = key.split('/');
  const isSafe = segments.every(
    (segment) =>
      segment !== '' && segment !== '.' && segment !== '..' && Buffer.byteLength(segment) <= MAX_SEGMENT_BYTES,
  );
  return isSafe && !key.includes('\0') && Buffer.byteLength(key) <= MAX_KEY_BYTES;
}

/** One stored object. */
export interface StoredObject {
  readonly key: string;
  readonly bytes: number;
  readonly modifiedAt: Temporal.Instant;
}

/** One thing that a store holds under a key. */
export interface StoredItem {
  readonly key: string;
  /** An object version, current or old; a delete marker; what an upload that has not ended has left. */
  readonly kind: 'VERSION' | 'MARKER' | 'UPLOAD';
  readonly bytes: number;
  readonly modifiedAt: Temporal.Instant;
}

/** An object that could not be removed, with the store's own code. */
export interface RemovalFailure {
  readonly key: string;
  readonly code: string;
  readonly message: string;
  /** Whether another attempt would be refused as well. */
  readonly isPermanent: boolean;
}

/** How many failures one removal names; there may be more. */
export const MAX_FAILURES = 1_000;

/** What one call removed below a prefix. */
export interface Removal {
  /** Object versions, current and old. */
  readonly objects: number;
  /** Delete markers. */
  readonly markers: number;
  /** Multipart uploads that were open. */
  readonly uploads: number;
  readonly bytes: number;
  /** What the store refused, each with its reason; the first MAX_FAILURES of them. */
  readonly failures: readonly RemovalFailure[];
  /**
   * What was asked to be removed, and of which neither an answer nor a listing tells whether it is gone. Absent where
   * there is nothing of that kind.
   */
  readonly unsure?: {
    readonly objects: number;
    readonly markers: number;
    readonly uploads: number;
    readonly bytes: number;
  };
  /** COMPLETE when everything below the prefix was tried, PARTIAL when the limit or an outage came first. */
  readonly progress: 'PARTIAL' | 'COMPLETE';
}

/** What is below a prefix. */
export interface Contents {
  readonly versions: number;
  readonly markers: number;
  readonly uploads: number;
  readonly bytes: number;
}

/** The checksum with which an S3 server is asked to remove objects. */
export type DeleteChecksum = 'CRC32' | 'CONTENT_MD5';

/** How a store is set up; undefined where it does not tell. */
export interface StoreTraits {
  /** Whether what is replaced or removed is kept as a version. */
  readonly versioning: 'ENABLED' | 'SUSPENDED' | 'OFF' | undefined;
  /** The rules by which the store itself removes objects below `tenants/` or `lethe/` that are in use. */
  readonly expiringRules: readonly string[] | undefined;
  /** Whether new objects are locked, so that nobody can remove them for a while. */
  readonly isLocked: boolean | undefined;
  /** Undefined where a store needs none. */
  readonly deleteChecksum?: DeleteChecksum | undefined;
}

/**
 * Where artifacts are kept. Every method throws UNAVAILABLE/DEPENDENCY_UNAVAILABLE when the store does not answer,
 * FAILED_PRECONDITION/STORE_REFUSED when it answers that it will not, whenever it is asked, and
 * FAILED_PRECONDITION/STORE_MISBEHAVES when its answer cannot be relied on. The store's own code is in the metadata.
 * A key is segments parted by `/`, none of them empty, `.` or `..`; a prefix is the same with a `/` at its end. No key
 * may be another key's folder: with `a/b` there cannot be `a`.
 */
export interface ObjectStore {
  /**
   * Must stream the body to the key without holding it whole, and make the object visible whole or not at all. Must
   * leave nothing when the body breaks off, the signal is aborted, or it is longer than `maxBytes`
   * (RESOURCE_EXHAUSTED/ARTIFACT_TOO_LARGE). An upload that removePrefix has ended must fail, however late it is. The
   * body's own error must come out as it is. A lost answer to the very last step is read back: where the object is there,
   * the put has succeeded. Where it cannot be read back either, the object may be there, or may still come.
   */
  put(
    key: string,
    body: AsyncIterable<Uint8Array>,
    options: { readonly contentType: string; readonly maxBytes: number; readonly signal?: AbortSignal },
  ): Promise<{ readonly bytes: number; readonly sha256: string }>;
  /**
   * Must answer undefined when there is no such object; the body must fail rather than end early. Once the signal is
   * aborted it must throw AbortError, and a body that nobody reads must hold nothing open then, nor throw anywhere.
   * Bodies that are read slowly, however many, must delay no other call; how many there are is for the caller to bound.
   */
  get(
    key: string,
    signal?: AbortSignal,
  ): Promise<
    { readonly body: AsyncIterable<Uint8Array>; readonly bytes: number; readonly contentType: string } | undefined
  >;
  /** Must list current objects in the order of their keys' bytes, those after `after` only. */
  list(
    prefix: string,
    options: { readonly after?: string | undefined; readonly limit: number },
  ): Promise<{ readonly objects: readonly StoredObject[]; readonly next: string | undefined }>;
  /**
   * Must remove every object version, delete marker and open upload below exactly this prefix, at most `limit` items
   * a call. A key that fails must be reported, must not count towards the limit, and must neither hide nor stop the
   * others. Must tell what it removed before an outage as PARTIAL, and throw only when nothing was removed. A lost
   * answer must be read back, and told as unsure where that fails. Must leave no request running behind it.
   */
  removePrefix(prefix: string, options: { readonly limit: number; readonly signal?: AbortSignal }): Promise<Removal>;
  /** As removePrefix, for exactly this key. */
  removeKey(key: string, options: { readonly limit: number; readonly signal?: AbortSignal }): Promise<Removal>;
  /** Must count by a listing made now, and ask for no other page once the signal is aborted: AbortError. */
  count(prefix: string, signal?: AbortSignal): Promise<Contents>;
  /** As count, for each of these prefixes, which lie in one folder and in the order of their bytes. */
  countEach(prefixes: readonly string[], signal?: AbortSignal): Promise<readonly Contents[]>;
  /** As count, for exactly this key. */
  countKey(key: string, signal?: AbortSignal): Promise<Contents>;
  /**
   * Must tell everything below the prefix, page by page and in any order: what removePrefix would take. The signal ends it
   * as it ends a count.
   */
  survey(prefix: string, signal?: AbortSignal): AsyncIterable<readonly StoredItem[]>;
  /** Must answer the names directly below the prefix under which there is anything that `survey` would tell. */
  folders(prefix: string): Promise<readonly string[]>;
  /** Must resolve when the store can be used, and find out by then what it is capable of. */
  check(): Promise<void>;
  /** Must tell how the store is set up, and leave out what it does not know. */
  traits(): Promise<StoreTraits>;
  close(): void;
}
