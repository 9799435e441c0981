import { createHash, randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  S3Client,
  S3ServiceException,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { crashPoint } from '#libs/durable/crash-point.ts';
import { countEach } from './count-each.ts';
import { makeDeleteObjects } from './delete-objects.ts';
import { assertKey, assertPrefix, tooLarge } from './keys.ts';
import { listPages, placeOf } from './list-pages.ts';
import { mapBodyErrors, mapErrors, markErrors, type ToStoreError, toCallersError } from './map-errors.ts';
import type { ObjectStore, StoredItem, StoredObject } from './object-store.ts';
import { readBucketTraits } from './read-bucket-traits.ts';
import { abortable, below, exactly, makeS3Listing } from './s3-listing.ts';
import { makeS3Removal } from './s3-removal.ts';
import { isPermanentRefusal, storeRefused, storeUnavailable } from './store-errors.ts';

/** Where the bucket is. Credentials come from the AWS SDK's own chain, e.g. AWS_ACCESS_KEY_ID. */
export interface S3StoreOptions {
  readonly endpoint: string;
  readonly region: string;
  readonly bucket: string;
  readonly credentials?: { readonly accessKeyId: string; readonly secretAccessKey: string };
  /** Entries in one listing, 1 to 1,000; 1,000 unless told. */
  readonly pageSize?: number;
  /** How long one attempt may take, and how long the store may be silent in the middle of a body; 30,000 unless told. */
  readonly requestTimeoutMs?: number;
}

// The smallest part that S3 takes, but for the last one, and the most parts that an upload may have.
const PART_BYTES = 5 * 1_024 * 1_024;
const MAX_PARTS = 10_000;
const MAX_PAGE = 1_000;
// Names the upload that made an object, for reading back whether it did.
const MADE_BY = 'lethe-upload';

/** Objects in an S3 bucket, versioned or not. Works on AWS and on what speaks its protocol, such as Ceph's gateway. */
export function openS3Store(options: S3StoreOptions): ObjectStore {
  const { endpoint, region, bucket, credentials, pageSize = MAX_PAGE, requestTimeoutMs = 30_000 } = options;
  const clientWith = (sockets: { readonly socketTimeout: number; readonly maxSockets: number }): S3Client =>
    new S3Client({
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
        socketTimeout: sockets.socketTimeout,
        httpAgent: { maxSockets: sockets.maxSockets },
        httpsAgent: { maxSockets: sockets.maxSockets },
      },
      ...(credentials ? { credentials } : {}),
    });
  const s3 = clientWith({ socketTimeout: requestTimeoutMs, maxSockets: 64 });
  // Whoever reads a body holds its socket for as long as he likes. Other calls must not wait for him, and the socket's
  // own timer would count his silence as the store's.
  const bodies = clientWith({ socketTimeout: 0, maxSockets: Number.POSITIVE_INFINITY });
  const Bucket = bucket;
  const deleteObjects = makeDeleteObjects(s3);
  const listing = makeS3Listing(s3, Bucket, pageSize);
  const removal = makeS3Removal(s3, Bucket, listing, deleteObjects, pageSize);

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
          const sendPart = async (Body: Buffer): Promise<void> => {
            const PartNumber = parts.length + 1;
            const part = new UploadPartCommand({ Bucket, Key: key, UploadId, PartNumber, Body });
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
            const part = Buffer.concat(pending);
            // Before it is sent, or it would be held twice meanwhile.
            pending = [];
            pendingBytes = 0;
            await sendPart(part);
          }
          if (pendingBytes > 0 || parts.length === 0) await sendPart(Buffer.concat(pending));
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
          const found = await bodies.send(new GetObjectCommand({ Bucket, Key: key }), abortable(signal));
          const body = found.Body instanceof Readable ? found.Body : Readable.from([]);
          return {
            body: mapBodyErrors(toStoreError, readInTime(body, requestTimeoutMs)),
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
        const call = 'ListObjectsV2';
        const pages = listPages(
          call,
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
            return { items, next: isFull ? undefined : placeOf(call, page.IsTruncated, markers) };
          },
        );
        for await (const page of pages) objects.push(...page);
        const shown = objects.slice(0, limit);
        return { objects: shown, next: objects.length > limit ? shown.at(-1)?.key : undefined };
      }),

    removePrefix: (prefix, { limit, signal }) =>
      mapErrors(toStoreError, async () => {
        assertPrefix(prefix);
        return removal.remove(below(prefix), limit, signal);
      }),

    removeKey: (key, { limit, signal }) =>
      mapErrors(toStoreError, async () => {
        assertKey(key);
        return removal.remove(exactly(key), limit, signal);
      }),

    count: (prefix, signal) =>
      mapErrors(toStoreError, async () => {
        assertPrefix(prefix);
        return removal.count(below(prefix), signal);
      }),

    countEach: (prefixes, signal) =>
      mapErrors(toStoreError, async () => {
        for (const prefix of prefixes) assertPrefix(prefix);
        return countEach(listing, prefixes, signal);
      }),

    countKey: (key, signal) =>
      mapErrors(toStoreError, async () => {
        assertKey(key);
        return removal.count(exactly(key), signal);
      }),

    survey: (prefix, signal) => {
      assertPrefix(prefix);
      const pages = async function* (): AsyncGenerator<StoredItem[]> {
        try {
          for await (const page of listing.uploadPages(below(prefix), undefined, signal)) {
            yield page.map(({ Key, beganAt }) => ({ key: Key, kind: 'UPLOAD', bytes: 0, modifiedAt: beganAt }));
          }
          for await (const page of listing.versionPages(below(prefix), undefined, signal)) {
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
        for await (const page of listing.uploadPages(below(prefix))) {
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
        await deleteObjects.findChecksum(Bucket);
      }),
    traits: () =>
      mapErrors(toStoreError, async () => {
        await deleteObjects.findChecksum(Bucket);
        return { ...(await readBucketTraits(s3, Bucket)), deleteChecksum: deleteObjects.checksum() };
      }),
    close() {
      s3.destroy();
      bodies.destroy();
    },
  };
}

/** The chunks of a body, which fails when the next one is asked for and does not come in time. */
async function* readInTime(body: Readable, patienceMs: number): AsyncGenerator<Uint8Array> {
  let isAsked = true;
  const timer = setTimeout(() => {
    if (isAsked) body.destroy(Object.assign(new Error('the body does not go on'), { name: 'TimeoutError' }));
  }, patienceMs);
  try {
    for await (const chunk of body) {
      isAsked = false;
      yield chunk;
      isAsked = true;
      timer.refresh();
    }
  } finally {
    clearTimeout(timer);
  }
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
