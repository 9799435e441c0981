import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadBucketCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  type ObjectIdentifier,
  S3Client,
  S3ServiceException,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { DomainError, dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import { assertKey, assertPrefix, tooLarge } from './keys.ts';
import type { ObjectStore, RemovalFailure, StoredObject } from './object-store.ts';

/** Where the bucket is. Credentials come from the AWS SDK's own chain, e.g. AWS_ACCESS_KEY_ID. */
export interface S3StoreOptions {
  readonly endpoint: string;
  readonly region: string;
  readonly bucket: string;
  readonly credentials?: { readonly accessKeyId: string; readonly secretAccessKey: string };
}

// The smallest part that S3 takes, but for the last one.
const PART_BYTES = 5 * 1_024 * 1_024;
const PAGE = 1_000;
const DELETES_AT_A_TIME = 4;

interface Doomed extends ObjectIdentifier {
  readonly Key: string;
  readonly bytes: number;
  readonly isMarker: boolean;
}

/** Objects in an S3 bucket, versioned or not. Works on AWS and on what speaks its protocol, such as Ceph's gateway. */
export function openS3Store({ endpoint, region, bucket, credentials }: S3StoreOptions): ObjectStore {
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
      requestTimeout: 30_000,
      httpAgent: { maxSockets: 64 },
      httpsAgent: { maxSockets: 64 },
    },
    ...(credentials ? { credentials } : {}),
  });
  const Bucket = bucket;
  const abortable = (signal: AbortSignal | undefined) => (signal ? { abortSignal: signal } : {});

  async function* versionPages(prefix: string): AsyncGenerator<Doomed[]> {
    let at: { KeyMarker?: string; VersionIdMarker?: string } = {};
    for (;;) {
      const page = await s3.send(new ListObjectVersionsCommand({ Bucket, Prefix: prefix, MaxKeys: PAGE, ...at }));
      const doomed: Doomed[] = [];
      for (const { Key, VersionId, Size } of page.Versions ?? []) {
        if (Key) doomed.push({ Key, ...(VersionId ? { VersionId } : {}), bytes: Size ?? 0, isMarker: false });
      }
      for (const { Key, VersionId } of page.DeleteMarkers ?? []) {
        if (Key) doomed.push({ Key, ...(VersionId ? { VersionId } : {}), bytes: 0, isMarker: true });
      }
      if (doomed.length > 0) yield doomed;
      if (!page.IsTruncated) return;
      at = {
        ...(page.NextKeyMarker ? { KeyMarker: page.NextKeyMarker } : {}),
        ...(page.NextVersionIdMarker ? { VersionIdMarker: page.NextVersionIdMarker } : {}),
      };
    }
  }

  async function* openUploads(prefix: string): AsyncGenerator<{ Key: string; UploadId: string }> {
    let at: { KeyMarker?: string; UploadIdMarker?: string } = {};
    for (;;) {
      const page = await s3.send(new ListMultipartUploadsCommand({ Bucket, Prefix: prefix, MaxUploads: PAGE, ...at }));
      for (const { Key, UploadId } of page.Uploads ?? []) {
        // The prefix is checked here too: an answer that is not as asked must cost nobody an upload.
        if (Key?.startsWith(prefix) && UploadId) yield { Key, UploadId };
      }
      if (!page.IsTruncated) return;
      at = {
        ...(page.NextKeyMarker ? { KeyMarker: page.NextKeyMarker } : {}),
        ...(page.NextUploadIdMarker ? { UploadIdMarker: page.NextUploadIdMarker } : {}),
      };
    }
  }

  /** Deletes one page of versions; a 200 can hold refusals, which are read. */
  const deletePage = async (doomed: readonly Doomed[]) => {
    const { Errors = [] } = await s3.send(
      new DeleteObjectsCommand({
        Bucket,
        Delete: {
          Objects: doomed.map(({ Key, VersionId }) => ({ Key, ...(VersionId ? { VersionId } : {}) })),
          Quiet: true,
        },
      }),
    );
    const refused = new Set(Errors.map(({ Key, VersionId }) => `${Key}\0${VersionId ?? ''}`));
    // An error without a version id stands for its key, whichever version was meant.
    const isRefused = ({ Key, VersionId }: Doomed) =>
      refused.has(`${Key}\0${VersionId ?? ''}`) || refused.has(`${Key}\0`);
    const gone = doomed.filter((item) => !isRefused(item));
    return {
      objects: gone.filter(({ isMarker }) => !isMarker).length,
      markers: gone.filter(({ isMarker }) => isMarker).length,
      bytes: gone.reduce((sum, { bytes }) => sum + bytes, 0),
      failures: Errors.map(
        ({ Key = '', Code = 'UNKNOWN' }): RemovalFailure => ({
          key: Key,
          code: Code,
          message: 'The store refused to remove it.',
        }),
      ),
    };
  };

  return {
    put: (key, body, { contentType, maxBytes, signal }) =>
      mapErrors(async () => {
        assertKey(key);
        // Always in parts, also when one would do: an upload that was aborted can never be completed, which is what
        // keeps a late writer from leaving an object behind a removal.
        const { UploadId } = await s3.send(
          new CreateMultipartUploadCommand({ Bucket, Key: key, ContentType: contentType }),
          abortable(signal),
        );
        const hash = createHash('sha256');
        const parts: { ETag: string; PartNumber: number }[] = [];
        let bytes = 0;
        try {
          const sendPart = async (chunks: Uint8Array[]): Promise<void> => {
            const PartNumber = parts.length + 1;
            const part = new UploadPartCommand({ Bucket, Key: key, UploadId, PartNumber, Body: Buffer.concat(chunks) });
            const { ETag = '' } = await s3.send(part, abortable(signal));
            parts.push({ ETag, PartNumber });
          };
          let pending: Uint8Array[] = [];
          let pendingBytes = 0;
          for await (const chunk of body) {
            signal?.throwIfAborted();
            bytes += chunk.length;
            if (bytes > maxBytes) throw tooLarge(maxBytes);
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
          await s3.send(
            new CompleteMultipartUploadCommand({ Bucket, Key: key, UploadId, MultipartUpload: { Parts: parts } }),
            abortable(signal),
          );
        } catch (error) {
          await s3.send(new AbortMultipartUploadCommand({ Bucket, Key: key, UploadId })).catch(() => undefined);
          throw error;
        }
        return { bytes, sha256: hash.digest('hex') };
      }),

    get: (key, signal) =>
      mapErrors(async () => {
        assertKey(key);
        try {
          const found = await s3.send(new GetObjectCommand({ Bucket, Key: key }), abortable(signal));
          const body = found.Body instanceof Readable ? found.Body : Readable.from([]);
          return {
            body,
            bytes: found.ContentLength ?? 0,
            contentType: found.ContentType ?? 'application/octet-stream',
          };
        } catch (error) {
          if (error instanceof S3ServiceException && error.$metadata.httpStatusCode === 404) return undefined;
          throw error;
        }
      }),

    list: (prefix, { after, limit }) =>
      mapErrors(async () => {
        assertPrefix(prefix);
        const objects: StoredObject[] = [];
        let token: string | undefined;
        do {
          const page = await s3.send(
            new ListObjectsV2Command({
              Bucket,
              Prefix: prefix,
              MaxKeys: Math.min(PAGE, limit + 1 - objects.length),
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
      mapErrors(async () => {
        assertPrefix(prefix);
        const removed = { objects: 0, markers: 0, uploads: 0, bytes: 0 };
        const failures: RemovalFailure[] = [];
        // Open uploads first: from here on none of them can become an object.
        for await (const { Key, UploadId } of openUploads(prefix)) {
          signal?.throwIfAborted();
          try {
            await s3.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId }));
            removed.uploads += 1;
          } catch (error) {
            if (!(error instanceof S3ServiceException)) throw error;
            if (error.name !== 'NoSuchUpload')
              failures.push({ key: Key, code: error.name, message: 'The upload cannot be ended.' });
          }
        }
        // The next page is listed while pages before it are deleted; no more than these few are in memory.
        const deleting = new Set<Promise<void>>();
        let tried = removed.uploads;
        let failed: unknown;
        let isPartial = false;
        for await (const page of versionPages(prefix)) {
          signal?.throwIfAborted();
          const deletion = deletePage(page).then(
            (outcome) => {
              removed.objects += outcome.objects;
              removed.markers += outcome.markers;
              removed.bytes += outcome.bytes;
              failures.push(...outcome.failures);
            },
            (error: unknown) => {
              failed ??= error;
            },
          );
          deleting.add(deletion);
          void deletion.then(() => deleting.delete(deletion));
          tried += page.length;
          if (deleting.size >= DELETES_AT_A_TIME) await Promise.race(deleting);
          if (failed !== undefined) break;
          if (tried >= limit) {
            isPartial = true;
            break;
          }
        }
        await Promise.all(deleting);
        if (failed !== undefined) throw failed;
        return { ...removed, failures, progress: isPartial ? 'PARTIAL' : 'COMPLETE' };
      }),

    count: (prefix) =>
      mapErrors(async () => {
        assertPrefix(prefix);
        const counted = { versions: 0, markers: 0, uploads: 0, bytes: 0 };
        for await (const page of versionPages(prefix)) {
          for (const { isMarker, bytes } of page) {
            counted[isMarker ? 'markers' : 'versions'] += 1;
            counted.bytes += bytes;
          }
        }
        for await (const _ of openUploads(prefix)) counted.uploads += 1;
        return counted;
      }),

    check: () => mapErrors(async () => void (await s3.send(new HeadBucketCommand({ Bucket })))),
    close: () => s3.destroy(),
  };
}

async function mapErrors<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw isStoreError(error) ? dependencyUnavailable('object store', error) : error;
  }
}

/** What the SDK or its sockets throw; a DomainError, an abort and a bug of ours pass as they are. */
function isStoreError(error: unknown): boolean {
  if (error instanceof DomainError || error instanceof TypeError) return false;
  if (!(error instanceof Error) || error.name === 'AbortError') return false;
  return (
    error instanceof S3ServiceException || 'code' in error || '$metadata' in error || error.name === 'TimeoutError'
  );
}
