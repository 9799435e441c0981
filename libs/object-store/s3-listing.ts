import {
  type DeleteMarkerEntry,
  ListMultipartUploadsCommand,
  ListObjectVersionsCommand,
  type ObjectIdentifier,
  type ObjectVersion,
  type S3Client,
} from '@aws-sdk/client-s3';
import { listPages, placeOf } from './list-pages.ts';

/** What a listing is asked for, and which of the keys it answers with are meant. */
export interface Scope {
  readonly prefix: string;
  readonly isMeant: (key: string) => boolean;
  /** Only what comes after this key. */
  readonly after?: string;
}

/** All keys below the prefix. */
export const below = (prefix: string): Scope => ({ prefix, isMeant: (key) => key.startsWith(prefix) });
/** This key alone. */
export const exactly = (key: string): Scope => ({ prefix: key, isMeant: (other) => other === key });

/** An object version, or a delete marker. */
export interface StoredVersion extends ObjectIdentifier {
  readonly Key: string;
  readonly bytes: number;
  readonly isMarker: boolean;
  readonly modifiedAt: Temporal.Instant;
}

/** A multipart upload that has not ended. */
export interface OpenUpload {
  readonly Key: string;
  readonly UploadId: string;
  readonly beganAt: Temporal.Instant;
}

/** What a bucket holds below a prefix or under a key, read now; every listing goes page by page. */
export interface S3Listing {
  versionPages(scope: Scope, pageSize?: number, signal?: AbortSignal): AsyncGenerator<StoredVersion[]>;
  uploadPages(scope: Scope, pageSize?: number, signal?: AbortSignal): AsyncGenerator<OpenUpload[]>;
}

/** Tells a version from all others in its bucket. */
export const idOf = ({ Key, VersionId }: Pick<StoredVersion, 'Key' | 'VersionId'>): string =>
  `${Key}\0${VersionId ?? ''}`;
const idOfUpload = ({ Key, UploadId }: OpenUpload): string => `${Key}\0${UploadId}`;

// What has no time counts as young: it is not touched.
const toInstant = (time: Date | undefined): Temporal.Instant =>
  Temporal.Instant.fromEpochMilliseconds(time?.getTime() ?? Date.now());

/** The options of a request that `signal`, if given, may cut off. */
export const abortable = (signal: AbortSignal | undefined) => (signal ? { abortSignal: signal } : {});

/** Makes S3Listing of a bucket; a page has `defaultPageSize` entries unless told. */
export const makeS3Listing = (s3: S3Client, Bucket: string, defaultPageSize: number): S3Listing => ({
  async *versionPages({ prefix, isMeant, after }, MaxKeys = defaultPageSize, signal) {
    const listing = 'ListObjectVersions';
    yield* listPages(listing, idOf, async (place) => {
      const page = await s3.send(
        new ListObjectVersionsCommand({ Bucket, Prefix: prefix, MaxKeys, KeyMarker: after, ...place }),
        abortable(signal),
      );
      const versions: StoredVersion[] = [];
      const add = (found: readonly (ObjectVersion | DeleteMarkerEntry)[] | undefined, isMarker: boolean): void => {
        for (const item of found ?? []) {
          const { Key, VersionId, LastModified } = item;
          // Checked here too: an answer that is not as asked must cost nobody an object.
          if (!Key || !isMeant(Key)) continue;
          const bytes = 'Size' in item ? (item.Size ?? 0) : 0;
          const version = VersionId ? { VersionId } : {};
          versions.push({ Key, ...version, bytes, isMarker, modifiedAt: toInstant(LastModified) });
        }
      };
      add(page.Versions, false);
      add(page.DeleteMarkers, true);
      const { IsTruncated, NextKeyMarker: KeyMarker, NextVersionIdMarker: VersionIdMarker } = page;
      // Without the second marker, other versions of the last key would be left out.
      const hasVersions = versions.some(({ Key, VersionId = 'null' }) => Key === KeyMarker && VersionId !== 'null');
      const markers = VersionIdMarker || hasVersions ? { KeyMarker, VersionIdMarker } : { KeyMarker };
      return { items: versions, next: placeOf(listing, IsTruncated, markers) };
    });
  },

  async *uploadPages({ prefix, isMeant, after }, MaxUploads = defaultPageSize, signal) {
    const listing = 'ListMultipartUploads';
    yield* listPages(listing, idOfUpload, async (place) => {
      const page = await s3.send(
        new ListMultipartUploadsCommand({ Bucket, Prefix: prefix, MaxUploads, KeyMarker: after, ...place }),
        abortable(signal),
      );
      const uploads: OpenUpload[] = [];
      for (const { Key, UploadId, Initiated } of page.Uploads ?? []) {
        if (Key && isMeant(Key) && UploadId) uploads.push({ Key, UploadId, beganAt: toInstant(Initiated) });
      }
      const { IsTruncated, NextKeyMarker: KeyMarker, NextUploadIdMarker: UploadIdMarker } = page;
      return { items: uploads, next: placeOf(listing, IsTruncated, { KeyMarker, UploadIdMarker }) };
    });
  },
});
