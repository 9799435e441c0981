import { createHash, randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  type DeleteMarkerEntry,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  type ObjectIdentifier,
  type ObjectVersion,
  S3Client,
  S3ServiceException,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { crashPoint } from '#libs/durable/crash-point.ts';
import { makeDeleteObjects } from './delete-objects.ts';
import { assertKey, assertPrefix, tooLarge } from './keys.ts';
import { listPages, placeOf } from './list-pages.ts';
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
import { readBucketTraits } from './read-bucket-traits.ts';
import { isPermanentRefusal, storeRefused, storeUnavailable } from './store-errors.ts';

/** Where the bucket is. Credentials come from the AWS SDK's own chain, e.g. AWS_ACCESS_KEY_ID. */
export interface S3StoreOptions {
  readonly endpoint: string;
  readonly region: string;
  readonly bucket: string;
  readonly credentials?: { readonly accessKeyId: string; readonly secretAccessKey: string };
  /** Entries in one listing, 1 to 1,000; 1,000 unless told. */
  readonly pageSize?: number;
  /** How long one attempt may take, and how long a socket may be silent; 30,000 unless told. */
  readonly requestTimeoutMs?: number;
}

// The smallest part that S3 takes, but for the last one, and the most parts that an upload may have.
const PART_BYTES = 5 * 1_024 * 1_024;
const MAX_PARTS = 10_000;
const MAX_PAGE = 1_000;
const DELETES_AT_A_TIME = 4;
const ABORTS_AT_A_TIME = 16;
const READ_BACKS = 3;
// No key of this name is ever written.
const NEVER_STORED = 'lethe/never-stored';
// Names the upload that made an object, for reading back whether it did.
const MADE_BY = 'lethe-upload';

/** What a listing is asked for, and which of the keys it answers with are meant. */
interface Scope {
  readonly prefix: string;
  readonly isMeant: (key: string) => boolean;
}

const below = (prefix: string): Scope => ({ prefix, isMeant: (key) => key.startsWith(prefix) });
const exactly = (key: string): Scope => ({ prefix: key, isMeant: (other) => other === key });

interface Doomed extends ObjectIdentifier {
  readonly Key: string;
  readonly bytes: number;
  readonly isMarker: boolean;
  readonly modifiedAt: Temporal.Instant;
}

interface OpenUpload {
  readonly Key: string;
  readonly UploadId: string;
  readonly beganAt: Temporal.Instant;
}

const NOTHING = { objects: 0, markers: 0, uploads: 0, bytes: 0 };

const idOf = ({ Key, VersionId }: Doomed): string => `${Key}\0${VersionId ?? ''}`;
const idOfUpload = ({ Key, UploadId }: OpenUpload): string => `${Key}\0${UploadId}`;

type Sum = NonNullable<Removal['unsure']>;

const sumUp = (a: Sum, b: Sum): Sum => ({
  objects: a.objects + b.objects,
  markers: a.markers + b.markers,
  uploads: a.uploads + b.uploads,
  bytes: a.bytes + b.bytes,
});

const sumOf = (items: readonly Doomed[], more: Sum = NOTHING): Sum =>
  sumUp(more, {
    objects: items.filter(({ isMarker }) => !isMarker).length,
    markers: items.filter(({ isMarker }) => isMarker).length,
    uploads: 0,
    bytes: items.reduce((sum, { bytes }) => sum + bytes, 0),
  });

// What has no time counts as young: it is not touched.
const toInstant = (time: Date | undefined): Temporal.Instant =>
  Temporal.Instant.fromEpochMilliseconds(time?.getTime() ?? Date.now());

/** Whether the store has answered that it does not do it; anything else may have been done. */
const isRefusal = (error: unknown): error is S3ServiceException =>
  error instanceof S3ServiceException && error.$fault === 'client';

/** What one request removed, or several of them together. */
interface Outcome {
  readonly objects: number;
  readonly markers: number;
  readonly uploads: number;
  readonly bytes: number;
  readonly failures: readonly RemovalFailure[];
  /** Why it went no further. */
  readonly error?: unknown;
  /** What was asked for and may have gone. */
  readonly unsure?: Removal['unsure'];
}

/** Objects in an S3 bucket, versioned or not. Works on AWS and on what speaks its protocol, such as Ceph's gateway. */
export function openS3Store(options: S3StoreOptions): ObjectStore {
  const { endpoint, region, bucket, credentials, pageSize = MAX_PAGE, requestTimeoutMs = 30_000 } = options;
  const s3 = new S3Client({
    endpoint,
    region,
    forcePathStyle: true,
    // Servers other than AWS do not all know the newer checksums.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    maxAttempts: 3,
    requestHandler: {
      connectionTimeout: 3_000,
      requestTimeout: requestTimeoutMs,
      // Without this the SDK only warns, and a server that went silent would hold a deletion for ever.
      throwOnRequestTimeout: true,
      socketTimeout: requestTimeoutMs,
      httpAgent: { maxSockets: 64 },
      httpsAgent: { maxSockets: 64 },
    },
    ...(credentials ? { credentials } : {}),
  });
  const Bucket = bucket;
  const deleteObjects = makeDeleteObjects(s3);
  const abortable = (signal: AbortSignal | undefined) => (signal ? { abortSignal: signal } : {});

  async function* versionPages(
    { prefix, isMeant }: Scope,
    MaxKeys: number,
    signal?: AbortSignal,
  ): AsyncGenerator<Doomed[]> {
    const listing = 'ListObjectVersions';
    yield* listPages(listing, idOf, async (place) => {
      const page = await s3.send(
        new ListObjectVersionsCommand({ Bucket, Prefix: prefix, MaxKeys, ...place }),
        abortable(signal),
      );
      const doomed: Doomed[] = [];
      const add = (found: readonly (ObjectVersion | DeleteMarkerEntry)[] | undefined, isMarker: boolean): void => {
        for (const item of found ?? []) {
          const { Key, VersionId, LastModified } = item;
          // Checked here too: an answer that is not as asked must cost nobody an object.
          if (!Key || !isMeant(Key)) continue;
          const bytes = 'Size' in item ? (item.Size ?? 0) : 0;
          const version = VersionId ? { VersionId } : {};
          doomed.push({ Key, ...version, bytes, isMarker, modifiedAt: toInstant(LastModified) });
        }
      };
      add(page.Versions, false);
      add(page.DeleteMarkers, true);
      const { IsTruncated, NextKeyMarker: KeyMarker, NextVersionIdMarker: VersionIdMarker } = page;
      // Without the second marker, other versions of the last key would be left out.
      const hasVersions = doomed.some(({ Key, VersionId = 'null' }) => Key === KeyMarker && VersionId !== 'null');
      const markers = VersionIdMarker || hasVersions ? { KeyMarker, VersionIdMarker } : { KeyMarker };
      return { items: doomed, next: placeOf(listing, IsTruncated, markers) };
    });
  }

  async function* uploadPages(
    { prefix, isMeant }: Scope,
    MaxUploads: number,
    signal?: AbortSignal,
  ): AsyncGenerator<OpenUpload[]> {
    const listing = 'ListMultipartUploads';
    yield* listPages(listing, idOfUpload, async (place) => {
      const page = await s3.send(
        new ListMultipartUploadsCommand({ Bucket, Prefix: prefix, MaxUploads, ...place }),
        abortable(signal),
      );
      const uploads: OpenUpload[] = [];
      for (const { Key, UploadId, Initiated } of page.Uploads ?? []) {
        if (Key && isMeant(Key) && UploadId) uploads.push({ Key, UploadId, beganAt: toInstant(Initiated) });
      }
      const { IsTruncated, NextKeyMarker: KeyMarker, NextUploadIdMarker: UploadIdMarker } = page;
      return { items: uploads, next: placeOf(listing, IsTruncated, { KeyMarker, UploadIdMarker }) };
    });
  }

  /** Those of the versions that are still listed. */
  const stillListed = async (scope: Scope, asked: readonly Doomed[], signal?: AbortSignal): Promise<Doomed[]> => {
    const ids = new Set(asked.map(idOf));
    const there: Doomed[] = [];
    for await (const page of versionPages(scope, pageSize, signal)) {
      there.push(...page.filter((item) => ids.has(idOf(item))));
      if (there.length === asked.length) break;
    }
    return there;
  };

  /**
   * Deletes one page of versions. Where the answer is lost, the listing tells what has gone and the rest is asked for
   * again; where that does not answer either, the rest is unsure.
   */
  const deleteVersions = async (scope: Scope, doomed: readonly Doomed[], signal?: AbortSignal): Promise<Outcome> => {
    let rest = doomed;
    let gone: Doomed[] = [];
    for (let attempt = 1; ; attempt += 1) {
      try {
        const outcome = await deleteOnce(rest, signal);
        return { ...outcome, ...sumOf(gone, outcome) };
      } catch (error) {
        if (!(error instanceof Error) || error instanceof TypeError || isRefusal(error)) throw error;
        try {
          const there = await stillListed(scope, rest, signal);
          const left = new Set(there.map(idOf));
          gone = [...gone, ...rest.filter((item) => !left.has(idOf(item)))];
          rest = there;
        } catch {
          return { ...sumOf(gone), failures: [], error, unsure: sumOf(rest) };
        }
        if (rest.length === 0 || attempt === READ_BACKS) {
          return { ...sumOf(gone), failures: [], ...(rest.length === 0 ? {} : { error }) };
        }
      }
    }
  };

  /** One request; a 200 can hold refusals, which are read. */
  const deleteOnce = async (doomed: readonly Doomed[], signal?: AbortSignal): Promise<Outcome> => {
    const { Errors = [] } = await deleteObjects.send(
      {
        Bucket,
        Delete: {
          Objects: doomed.map(({ Key, VersionId }) => ({ Key, ...(VersionId ? { VersionId } : {}) })),
          Quiet: true,
        },
      },
      abortable(signal),
    );
    const refused = new Set(Errors.map(({ Key, VersionId }) => `${Key}\0${VersionId ?? ''}`));
    // An error without a version id stands for its key, whichever version was meant.
    const isRefused = ({ Key, VersionId }: Doomed) =>
      refused.has(`${Key}\0${VersionId ?? ''}`) || refused.has(`${Key}\0`);
    const gone = doomed.filter((item) => !isRefused(item));
    return {
      ...sumOf(gone),
      failures: Errors.map(
        ({ Key = '', Code = 'UNKNOWN' }): RemovalFailure => ({
          key: Key,
          code: Code,
          message: 'The store refused to remove it.',
          isPermanent: isPermanentRefusal(Code),
        }),
      ),
    };
  };

  /** Ends open uploads, a few at a time; one that is gone already counts for nobody. */
  const abortUploads = async (uploads: readonly OpenUpload[], signal?: AbortSignal): Promise<Outcome> => {
    let [ended, unsure] = [0, 0];
    let failure: unknown;
    const failures: RemovalFailure[] = [];
    const rest = uploads.values();
    const abortRest = async (): Promise<void> => {
      for (const { Key, UploadId } of rest) {
        if (failure !== undefined) return;
        try {
          await s3.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId }), abortable(signal));
          ended += 1;
        } catch (error) {
          // An answer about this upload is its failure; no answer, or one about the server, is the call's.
          if (!isRefusal(error)) {
            failure = error;
            unsure += 1;
            return;
          }
          if (error.name === 'NoSuchUpload') continue;
          const { name: code } = error;
          const message = 'The store refused to end the upload.';
          failures.push({ key: Key, code, message, isPermanent: isPermanentRefusal(code) });
        }
      }
    };
    await Promise.all(Array.from({ length: ABORTS_AT_A_TIME }, abortRest));
    const outcome = { objects: 0, markers: 0, uploads: ended, bytes: 0, failures };
    if (failure === undefined) return outcome;
    return { ...outcome, error: failure, unsure: { objects: 0, markers: 0, uploads: unsure, bytes: 0 } };
  };

  const removeAll = async (scope: Scope, limit: number, signal: AbortSignal | undefined): Promise<Removal> => {
    const removed = { objects: 0, markers: 0, uploads: 0, bytes: 0 };
    let unsure: Removal['unsure'];
    const failures: RemovalFailure[] = [];
    const add = (outcome: Outcome): void => {
      removed.objects += outcome.objects;
      removed.markers += outcome.markers;
      removed.uploads += outcome.uploads;
      removed.bytes += outcome.bytes;
      failures.push(...outcome.failures.slice(0, MAX_FAILURES - failures.length));
      if (outcome.unsure) unsure = { ...sumUp(unsure ?? NOTHING, outcome.unsure) };
    };
    const left = () => limit - removed.objects - removed.markers - removed.uploads;
    const page = Math.min(pageSize, limit);
    // Open uploads first: from here on none of them can become an object.
    try {
      const isDone =
        (await drain(lookingAhead(uploadPages(scope, page, signal)), 1, left, add, (uploads) =>
          abortUploads(uploads, signal),
        )) &&
        (await drain(lookingAhead(versionPages(scope, page, signal)), DELETES_AT_A_TIME, left, add, (versions) =>
          deleteVersions(scope, versions, signal),
        ));
      return { ...removed, failures, progress: isDone ? 'COMPLETE' : 'PARTIAL' };
    } catch (error) {
      // What is gone is told rather than lost with the error; the next call meets the error again, and throws.
      if (left() === limit && !unsure) throw error;
      return { ...removed, failures, progress: 'PARTIAL', ...(unsure ? { unsure } : {}) };
    }
  };

  let checksumFound: Promise<void> | undefined;
  /** Asks once for the removal of a version that never was, which leaves no marker, to learn which checksum it takes. */
  const findChecksum = (): Promise<void> => {
    checksumFound ??= deleteObjects
      .send({ Bucket, Delete: { Objects: [{ Key: NEVER_STORED, VersionId: 'null' }], Quiet: true } }, {})
      .then(
        () => undefined,
        (error: unknown) => {
          checksumFound = undefined;
          if (!isRefusal(error)) throw error;
        },
      );
    return checksumFound;
  };

  const countAll = async (scope: Scope): Promise<Contents> => {
    const counted = { versions: 0, markers: 0, uploads: 0, bytes: 0 };
    for await (const page of versionPages(scope, pageSize)) {
      for (const { isMarker, bytes } of page) {
        counted[isMarker ? 'markers' : 'versions'] += 1;
        counted.bytes += bytes;
      }
    }
    for await (const page of uploadPages(scope, pageSize)) counted.uploads += page.length;
    return counted;
  };

  /** Whether this upload, and no other, made the object that is there now. */
  const isMadeBy = async (key: string, madeBy: string): Promise<boolean> => {
    try {
      const { Metadata } = await s3.send(new HeadObjectCommand({ Bucket, Key: key }));
      return Metadata?.[MADE_BY] === madeBy;
    } catch (error) {
      if (error instanceof S3ServiceException && error.$metadata.httpStatusCode === 404) return false;
      throw error;
    }
  };

  return {
    put: (key, body, { contentType, maxBytes, signal }) =>
      mapErrors(toStoreError, async () => {
        assertKey(key);
        const mostBytes = Math.min(maxBytes, PART_BYTES * MAX_PARTS);
        const madeBy = randomUUID();
        // Always in parts, also when one would do: an upload that was aborted can never be completed, which is what
        // keeps a late writer from leaving an object behind a removal.
        const { UploadId } = await s3.send(
          new CreateMultipartUploadCommand({
            Bucket,
            Key: key,
            ContentType: contentType,
            Metadata: { [MADE_BY]: madeBy },
          }),
          abortable(signal),
        );
        crashPoint('store.put.after-create');
        const hash = createHash('sha256');
        const parts: { ETag: string; PartNumber: number }[] = [];
        let bytes = 0;
        try {
          const sendPart = async (chunks: Uint8Array[]): Promise<void> => {
            const PartNumber = parts.length + 1;
            const part = new UploadPartCommand({ Bucket, Key: key, UploadId, PartNumber, Body: Buffer.concat(chunks) });
            const { ETag = '' } = await s3.send(part, abortable(signal));
            parts.push({ ETag, PartNumber });
            crashPoint('store.put.after-part');
          };
          let pending: Uint8Array[] = [];
          let pendingBytes = 0;
          for await (const chunk of markErrors(body)) {
            signal?.throwIfAborted();
            bytes += chunk.length;
            if (bytes > mostBytes) throw tooLarge(mostBytes);
            hash.update(chunk);
            pending.push(chunk);
            pendingBytes += chunk.length;
            if (pendingBytes < PART_BYTES) continue;
            await sendPart(pending);
            pending = [];
            pendingBytes = 0;
          }
          if (pendingBytes > 0 || parts.length === 0) await sendPart(pending);
          signal?.throwIfAborted();
          crashPoint('store.put.before-complete');
          try {
            // Not abortable: an abort that is late would leave it open whether the object is there.
            await s3.send(
              new CompleteMultipartUploadCommand({ Bucket, Key: key, UploadId, MultipartUpload: { Parts: parts } }),
            );
          } catch (error) {
            // The answer may have been lost, and a repetition by the SDK then fails with NoSuchUpload.
            if (!(await isMadeBy(key, madeBy))) throw error;
          }
          crashPoint('store.put.after-complete');
        } catch (error) {
          await s3.send(new AbortMultipartUploadCommand({ Bucket, Key: key, UploadId })).catch(() => undefined);
          throw error;
        }
        return { bytes, sha256: hash.digest('hex') };
      }),

    get: (key, signal) =>
      mapErrors(toStoreError, async () => {
        assertKey(key);
        try {
          const found = await s3.send(new GetObjectCommand({ Bucket, Key: key }), abortable(signal));
          const body = found.Body instanceof Readable ? found.Body : Readable.from([]);
          return {
            body: mapBodyErrors(toStoreError, body),
            bytes: found.ContentLength ?? 0,
            contentType: found.ContentType ?? 'application/octet-stream',
          };
        } catch (error) {
          if (error instanceof S3ServiceException && error.name === 'NoSuchKey') return undefined;
          throw error;
        }
      }),

    list: (prefix, { after, limit }) =>
      mapErrors(toStoreError, async () => {
        assertPrefix(prefix);
        const objects: StoredObject[] = [];
        const listing = 'ListObjectsV2';
        const pages = listPages(
          listing,
          ({ key }: StoredObject) => key,
          async (place) => {
            const isFirst = place['ContinuationToken'] === undefined;
            const MaxKeys = Math.min(pageSize, limit + 1 - objects.length);
            const begin = isFirst && after !== undefined ? { StartAfter: after } : place;
            const page = await s3.send(new ListObjectsV2Command({ Bucket, Prefix: prefix, MaxKeys, ...begin }));
            const items: StoredObject[] = [];
            for (const { Key, Size, LastModified } of page.Contents ?? []) {
              if (!Key || !LastModified) continue;
              const modifiedAt = Temporal.Instant.fromEpochMilliseconds(LastModified.getTime());
              items.push({ key: Key, bytes: Size ?? 0, modifiedAt });
            }
            const isFull = objects.length + items.length > limit;
            const markers = { ContinuationToken: page.NextContinuationToken };
            return { items, next: isFull ? undefined : placeOf(listing, page.IsTruncated, markers) };
          },
        );
        for await (const page of pages) objects.push(...page);
        const shown = objects.slice(0, limit);
        return { objects: shown, next: objects.length > limit ? shown.at(-1)?.key : undefined };
      }),

    removePrefix: (prefix, { limit, signal }) =>
      mapErrors(toStoreError, async () => {
        assertPrefix(prefix);
        return removeAll(below(prefix), limit, signal);
      }),

    removeKey: (key, { limit, signal }) =>
      mapErrors(toStoreError, async () => {
        assertKey(key);
        return removeAll(exactly(key), limit, signal);
      }),

    count: (prefix) =>
      mapErrors(toStoreError, async () => {
        assertPrefix(prefix);
        return countAll(below(prefix));
      }),

    countKey: (key) =>
      mapErrors(toStoreError, async () => {
        assertKey(key);
        return countAll(exactly(key));
      }),

    survey: (prefix) => {
      assertPrefix(prefix);
      const pages = async function* (): AsyncGenerator<StoredItem[]> {
        try {
          for await (const page of uploadPages(below(prefix), pageSize)) {
            yield page.map(({ Key, beganAt }) => ({ key: Key, kind: 'UPLOAD', bytes: 0, modifiedAt: beganAt }));
          }
          for await (const page of versionPages(below(prefix), pageSize)) {
            yield page.map(({ Key, isMarker, bytes, modifiedAt }) => ({
              key: Key,
              kind: isMarker ? 'MARKER' : 'VERSION',
              bytes,
              modifiedAt,
            }));
          }
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
        const itself = (name: string): string => name;
        const versions = listPages('ListObjectVersions', itself, async (place) => {
          const page = await s3.send(
            new ListObjectVersionsCommand({ Bucket, Prefix: prefix, Delimiter: '/', MaxKeys: pageSize, ...place }),
          );
          const found = (page.CommonPrefixes ?? []).map(({ Prefix = '' }) => Prefix);
          const markers = { KeyMarker: page.NextKeyMarker };
          return { items: found, next: placeOf('ListObjectVersions', page.IsTruncated, markers) };
        });
        for await (const page of versions) {
          for (const folder of page) if (folder.startsWith(prefix)) names.add(folder.slice(prefix.length, -1));
        }
        // Without a delimiter: Ceph's gateway answers nothing at all for uploads below one.
        for await (const page of uploadPages(below(prefix), pageSize)) {
          for (const { Key } of page) {
            const [folder = '', ...rest] = Key.slice(prefix.length).split('/');
            if (rest.length > 0) names.add(folder);
          }
        }
        return [...names].toSorted();
      }),

    check: () =>
      mapErrors(toStoreError, async () => {
        // A GET, since the answer to a HEAD has no room for the server's code.
        await s3.send(new ListObjectsV2Command({ Bucket, MaxKeys: 1 }));
        await findChecksum();
      }),
    traits: () =>
      mapErrors(toStoreError, async () => {
        await findChecksum();
        return { ...(await readBucketTraits(s3, Bucket)), deleteChecksum: deleteObjects.checksum() };
      }),
    close: () => s3.destroy(),
  };
}

/**
 * Each page once the next one is there. A listing goes on after the last item of the page before, and where that is gone
 * meanwhile, Ceph's gateway leaves out the versions of its key that follow.
 */
async function* lookingAhead<Page>(pages: AsyncIterable<Page>): AsyncGenerator<Page> {
  let held: Page | undefined;
  for await (const page of pages) {
    if (held !== undefined) yield held;
    held = page;
  }
  if (held !== undefined) yield held;
}

/**
 * Removes page after page, some at a time, while the next one is listed; no more than these few and one more are in
 * memory. What is under way never exceeds what is `left`; a refusal gives its place back, so that those who fail cannot
 * keep the others from their turn. Answers whether everything was tried.
 */
async function drain<Item>(
  pages: AsyncIterable<readonly Item[]>,
  atATime: number,
  left: () => number,
  add: (outcome: Outcome) => void,
  remove: (items: readonly Item[]) => Promise<Outcome>,
): Promise<boolean> {
  const underWay = new Set<Promise<void>>();
  let itemsUnderWay = 0;
  const failed: unknown[] = [];
  const begin = (items: readonly Item[]): void => {
    itemsUnderWay += items.length;
    const removal = remove(items)
      .then((outcome) => {
        add(outcome);
        if (outcome.error !== undefined) failed.push(outcome.error);
      })
      .catch((error: unknown) => void failed.push(error))
      .finally(() => {
        itemsUnderWay -= items.length;
        underWay.delete(removal);
      });
    underWay.add(removal);
  };
  const removePage = async (page: readonly Item[]): Promise<boolean> => {
    for (let at = 0; at < page.length; ) {
      const room = left() - itemsUnderWay;
      if (failed.length > 0 || (room <= 0 && underWay.size === 0)) return false;
      if (room <= 0 || underWay.size >= atATime) {
        await Promise.race(underWay);
        continue;
      }
      begin(page.slice(at, at + room));
      at += room;
    }
    return true;
  };
  let isDone = true;
  try {
    for await (const page of pages) {
      isDone = await removePage(page);
      if (!isDone) break;
    }
  } finally {
    // Nothing is left running behind the answer, not even behind an error.
    await Promise.all(underWay);
  }
  if (failed.length > 0) throw failed[0];
  return isDone;
}

// The credentials are not right, or not any more: they are exchanged while a service runs, so it is worth asking again.
const OF_CREDENTIALS: ReadonlySet<string> = new Set(['CredentialsProviderError']);
// Names that the SDK makes up where the server gave no code.
const NO_CODES: ReadonlySet<string> = new Set(['Error', 'UnknownError', 'TimeoutError', 'TypeError']);

/** What the SDK or its sockets throw, for a caller. */
const toStoreError: ToStoreError = (error) => {
  const { name } = error;
  const isOfStore = error instanceof S3ServiceException || OF_CREDENTIALS.has(name);
  if (isOfStore && isPermanentRefusal(name)) return storeRefused(name, error);
  if (isOfStore) return storeUnavailable(NO_CODES.has(name) ? undefined : name, error);
  return 'code' in error || '$metadata' in error || name === 'TimeoutError'
    ? storeUnavailable(undefined, error)
    : undefined;
};
