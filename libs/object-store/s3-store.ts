import { createHash, randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  type ObjectIdentifier,
  S3Client,
  S3ServiceException,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { crashPoint } from '#libs/saga/crash-point.ts';
import { assertKey, assertPrefix, tooLarge } from './keys.ts';
import { mapBodyErrors, mapErrors, markErrors, toCallersError } from './map-errors.ts';
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
  const abortable = (signal: AbortSignal | undefined) => (signal ? { abortSignal: signal } : {});

  async function* versionPages(
    { prefix, isMeant }: Scope,
    MaxKeys: number,
    signal?: AbortSignal,
  ): AsyncGenerator<Doomed[]> {
    let at: { KeyMarker?: string; VersionIdMarker?: string } = {};
    for (;;) {
      const page = await s3.send(
        new ListObjectVersionsCommand({ Bucket, Prefix: prefix, MaxKeys, ...at }),
        abortable(signal),
      );
      const doomed: Doomed[] = [];
      for (const { Key, VersionId, Size, LastModified } of page.Versions ?? []) {
        // Checked here too: an answer that is not as asked must cost nobody an object.
        if (Key && isMeant(Key))
          doomed.push({
            Key,
            ...(VersionId ? { VersionId } : {}),
            bytes: Size ?? 0,
            isMarker: false,
            modifiedAt: toInstant(LastModified),
          });
      }
      for (const { Key, VersionId, LastModified } of page.DeleteMarkers ?? []) {
        if (Key && isMeant(Key))
          doomed.push({
            Key,
            ...(VersionId ? { VersionId } : {}),
            bytes: 0,
            isMarker: true,
            modifiedAt: toInstant(LastModified),
          });
      }
      if (doomed.length > 0) yield doomed;
      if (!page.IsTruncated) return;
      at = {
        ...(page.NextKeyMarker ? { KeyMarker: page.NextKeyMarker } : {}),
        ...(page.NextVersionIdMarker ? { VersionIdMarker: page.NextVersionIdMarker } : {}),
      };
    }
  }

  async function* uploadPages(
    { prefix, isMeant }: Scope,
    MaxUploads: number,
    signal?: AbortSignal,
  ): AsyncGenerator<OpenUpload[]> {
    let at: { KeyMarker?: string; UploadIdMarker?: string } = {};
    for (;;) {
      const page = await s3.send(
        new ListMultipartUploadsCommand({ Bucket, Prefix: prefix, MaxUploads, ...at }),
        abortable(signal),
      );
      const uploads: OpenUpload[] = [];
      for (const { Key, UploadId, Initiated } of page.Uploads ?? []) {
        if (Key && isMeant(Key) && UploadId) uploads.push({ Key, UploadId, beganAt: toInstant(Initiated) });
      }
      if (uploads.length > 0) yield uploads;
      if (!page.IsTruncated) return;
      at = {
        ...(page.NextKeyMarker ? { KeyMarker: page.NextKeyMarker } : {}),
        ...(page.NextUploadIdMarker ? { UploadIdMarker: page.NextUploadIdMarker } : {}),
      };
    }
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
    const { Errors = [] } = await s3.send(
      new DeleteObjectsCommand({
        Bucket,
        Delete: {
          Objects: doomed.map(({ Key, VersionId }) => ({ Key, ...(VersionId ? { VersionId } : {}) })),
          Quiet: true,
        },
      }),
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
          failures.push({ key: Key, code: error.name, message: 'The store refused to end the upload.' });
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
      mapErrors(isStoreError, async () => {
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
      mapErrors(isStoreError, async () => {
        assertKey(key);
        try {
          const found = await s3.send(new GetObjectCommand({ Bucket, Key: key }), abortable(signal));
          const body = found.Body instanceof Readable ? found.Body : Readable.from([]);
          return {
            body: mapBodyErrors(isStoreError, body),
            bytes: found.ContentLength ?? 0,
            contentType: found.ContentType ?? 'application/octet-stream',
          };
        } catch (error) {
          if (error instanceof S3ServiceException && error.name === 'NoSuchKey') return undefined;
          throw error;
        }
      }),

    list: (prefix, { after, limit }) =>
      mapErrors(isStoreError, async () => {
        assertPrefix(prefix);
        const objects: StoredObject[] = [];
        let token: string | undefined;
        do {
          const page = await s3.send(
            new ListObjectsV2Command({
              Bucket,
              Prefix: prefix,
              MaxKeys: Math.min(pageSize, limit + 1 - objects.length),
              ...(token ? { ContinuationToken: token } : after === undefined ? {} : { StartAfter: after }),
            }),
          );
          for (const { Key, Size, LastModified } of page.Contents ?? []) {
            if (!Key || !LastModified) continue;
            const modifiedAt = Temporal.Instant.fromEpochMilliseconds(LastModified.getTime());
            objects.push({ key: Key, bytes: Size ?? 0, modifiedAt });
          }
          token = page.IsTruncated ? page.NextContinuationToken : undefined;
        } while (token && objects.length <= limit);
        const shown = objects.slice(0, limit);
        return { objects: shown, next: objects.length > limit ? shown.at(-1)?.key : undefined };
      }),

    removePrefix: (prefix, { limit, signal }) =>
      mapErrors(isStoreError, async () => {
        assertPrefix(prefix);
        return removeAll(below(prefix), limit, signal);
      }),

    removeKey: (key, { limit, signal }) =>
      mapErrors(isStoreError, async () => {
        assertKey(key);
        return removeAll(exactly(key), limit, signal);
      }),

    count: (prefix) =>
      mapErrors(isStoreError, async () => {
        assertPrefix(prefix);
        return countAll(below(prefix));
      }),

    countKey: (key) =>
      mapErrors(isStoreError, async () => {
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
          throw toCallersError(isStoreError, error);
        }
      };
      return pages();
    },

    folders: (prefix) =>
      mapErrors(isStoreError, async () => {
        assertPrefix(prefix);
        const names = new Set<string>();
        const add = (found: readonly { Prefix?: string | undefined }[] | undefined): void => {
          for (const { Prefix = '' } of found ?? []) {
            if (Prefix.startsWith(prefix)) names.add(Prefix.slice(prefix.length, -1));
          }
        };
        const listing = { Bucket, Prefix: prefix, Delimiter: '/' };
        for (let KeyMarker: string | undefined; ; ) {
          const page = await s3.send(
            new ListObjectVersionsCommand({ ...listing, ...(KeyMarker ? { KeyMarker } : {}) }),
          );
          add(page.CommonPrefixes);
          KeyMarker = page.NextKeyMarker;
          if (!page.IsTruncated || !KeyMarker) break;
        }
        for (let KeyMarker: string | undefined; ; ) {
          // Without a delimiter: Ceph's gateway answers nothing at all for uploads below one.
          const page = await s3.send(
            new ListMultipartUploadsCommand({ Bucket, Prefix: prefix, ...(KeyMarker ? { KeyMarker } : {}) }),
          );
          for (const { Key = '' } of page.Uploads ?? []) {
            const [folder = '', ...below] = Key.slice(prefix.length).split('/');
            if (below.length > 0) names.add(folder);
          }
          KeyMarker = page.NextKeyMarker;
          if (!page.IsTruncated || !KeyMarker) break;
        }
        return [...names].toSorted();
      }),

    check: () => mapErrors(isStoreError, async () => void (await s3.send(new HeadBucketCommand({ Bucket })))),
    traits: () => mapErrors(isStoreError, () => readBucketTraits(s3, Bucket)),
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

/** What the SDK or its sockets throw. */
const isStoreError = (error: Error): boolean =>
  error instanceof S3ServiceException || 'code' in error || '$metadata' in error || error.name === 'TimeoutError';
