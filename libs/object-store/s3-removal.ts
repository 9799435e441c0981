import { AbortMultipartUploadCommand, type S3Client } from '@aws-sdk/client-s3';
import { type DeleteObjects, isRefusal } from './delete-objects.ts';
import { type DrainOutcome, drain, lookingAhead } from './drain-pages.ts';
import { type Contents, MAX_FAILURES, type Removal, type RemovalFailure } from './object-store.ts';
import { abortable, idOf, type OpenUpload, type S3Listing, type Scope, type StoredVersion } from './s3-listing.ts';
import { isPermanentRefusal } from './store-errors.ts';

/** Removes what a bucket holds below a prefix or under a key, and counts what is there. */
export interface S3Removal {
  /** As ObjectStore's removePrefix, with the SDK's own errors. */
  remove(scope: Scope, limit: number, signal: AbortSignal | undefined): Promise<Removal>;
  /** As ObjectStore's count, with the SDK's own errors. */
  count(scope: Scope): Promise<Contents>;
}

const DELETES_AT_A_TIME = 4;
const ABORTS_AT_A_TIME = 16;
const READ_BACKS = 3;

type Sum = NonNullable<Removal['unsure']>;

/** What one request removed, or several of them together. */
interface Outcome extends Sum, DrainOutcome {
  readonly failures: readonly RemovalFailure[];
  /** What was asked for and may have gone. */
  readonly unsure?: Sum;
}

const NOTHING: Sum = { objects: 0, markers: 0, uploads: 0, bytes: 0 };

const sumUp = (a: Sum, b: Sum): Sum => ({
  objects: a.objects + b.objects,
  markers: a.markers + b.markers,
  uploads: a.uploads + b.uploads,
  bytes: a.bytes + b.bytes,
});

const sumOf = (versions: readonly StoredVersion[], more: Sum = NOTHING): Sum => {
  const markers = versions.filter(({ isMarker }) => isMarker).length;
  const bytes = versions.reduce((sum, version) => sum + version.bytes, 0);
  return sumUp(more, { objects: versions.length - markers, markers, uploads: 0, bytes });
};

/** Makes S3Removal of a bucket; a listing has `pageSize` entries a page. */
export function makeS3Removal(
  s3: S3Client,
  Bucket: string,
  { versionPages, uploadPages }: S3Listing,
  deleteObjects: DeleteObjects,
  pageSize: number,
): S3Removal {
  /** One request; a 200 can hold refusals, which are read. */
  const deleteOnce = async (versions: readonly StoredVersion[], signal?: AbortSignal): Promise<Outcome> => {
    const Objects = versions.map(({ Key, VersionId }) => ({ Key, ...(VersionId ? { VersionId } : {}) }));
    const { Errors = [] } = await deleteObjects.send({ Bucket, Delete: { Objects, Quiet: true } }, abortable(signal));
    const refused = new Set(Errors.map(({ Key = '', VersionId }) => idOf({ Key, VersionId })));
    // An error without a version id stands for its key, whichever version was meant.
    const gone = versions.filter((version) => !refused.has(idOf(version)) && !refused.has(idOf({ Key: version.Key })));
    return {
      ...sumOf(gone),
      failures: Errors.map(
        ({ Key: key = '', Code: code = 'UNKNOWN' }): RemovalFailure => ({
          key,
          code,
          message: 'The store refused to remove it.',
          isPermanent: isPermanentRefusal(code),
        }),
      ),
    };
  };

  /** Those of the versions that are still listed. */
  const stillListed = async (scope: Scope, asked: readonly StoredVersion[], signal?: AbortSignal) => {
    const ids = new Set(asked.map(idOf));
    const there: StoredVersion[] = [];
    for await (const page of versionPages(scope, pageSize, signal)) {
      there.push(...page.filter((version) => ids.has(idOf(version))));
      if (there.length === asked.length) break;
    }
    return there;
  };

  /**
   * Deletes one page of versions. Where the answer is lost, the listing tells what has gone and the rest is asked for
   * again; where that does not answer either, the rest is unsure.
   */
  const deleteVersions = async (
    scope: Scope,
    versions: readonly StoredVersion[],
    signal?: AbortSignal,
  ): Promise<Outcome> => {
    let rest = versions;
    let gone = NOTHING;
    for (let attempt = 1; ; attempt += 1) {
      try {
        const outcome = await deleteOnce(rest, signal);
        return { ...outcome, ...sumUp(outcome, gone) };
      } catch (error) {
        if (!(error instanceof Error) || error instanceof TypeError || isRefusal(error)) throw error;
        try {
          const there = await stillListed(scope, rest, signal);
          const left = new Set(there.map(idOf));
          gone = sumOf(
            rest.filter((version) => !left.has(idOf(version))),
            gone,
          );
          rest = there;
        } catch {
          return { ...gone, failures: [], error, unsure: sumOf(rest) };
        }
        if (rest.length === 0) return { ...gone, failures: [] };
        if (attempt === READ_BACKS) return { ...gone, failures: [], error };
      }
    }
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
    const outcome = { ...NOTHING, uploads: ended, failures };
    return failure === undefined ? outcome : { ...outcome, error: failure, unsure: { ...NOTHING, uploads: unsure } };
  };

  return {
    async remove(scope, limit, signal) {
      let removed = NOTHING;
      let unsure: Sum | undefined;
      const failures: RemovalFailure[] = [];
      const add = (outcome: Outcome): void => {
        removed = sumUp(removed, outcome);
        failures.push(...outcome.failures.slice(0, MAX_FAILURES - failures.length));
        if (outcome.unsure) unsure = sumUp(unsure ?? NOTHING, outcome.unsure);
      };
      const left = () => limit - removed.objects - removed.markers - removed.uploads;
      const page = Math.min(pageSize, limit);
      const uploads = lookingAhead(uploadPages(scope, page, signal));
      const versions = lookingAhead(versionPages(scope, page, signal));
      try {
        // Open uploads first: from here on none of them can become an object.
        const isDone =
          (await drain(uploads, 1, left, add, (some) => abortUploads(some, signal))) &&
          (await drain(versions, DELETES_AT_A_TIME, left, add, (some) => deleteVersions(scope, some, signal)));
        return { ...removed, failures, progress: isDone ? 'COMPLETE' : 'PARTIAL' };
      } catch (error) {
        // What is gone is told rather than lost with the error; the next call meets the error again, and throws.
        if (left() === limit && !unsure) throw error;
        return { ...removed, failures, progress: 'PARTIAL', ...(unsure ? { unsure } : {}) };
      }
    },

    async count(scope) {
      const counted = { versions: 0, markers: 0, uploads: 0, bytes: 0 };
      for await (const page of versionPages(scope)) {
        for (const { isMarker, bytes } of page) {
          counted[isMarker ? 'markers' : 'versions'] += 1;
          counted.bytes += bytes;
        }
      }
      for await (const page of uploadPages(scope)) counted.uploads += page.length;
      return counted;
    },
  };
}
