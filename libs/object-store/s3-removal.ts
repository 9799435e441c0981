import type { S3Client } from '@aws-sdk/client-s3';
import { abortUploads } from './abort-uploads.ts';
import { type DeleteObjects, isRefusal } from './delete-objects.ts';
import { drain, lookingAhead } from './drain-pages.ts';
import { type Contents, MAX_FAILURES, type Removal, type RemovalFailure } from './object-store.ts';
import { NOTHING, type Outcome, type Sum, sumOf, sumUp } from './removal-outcome.ts';
import { abortable, idOf, type S3Listing, type Scope, type StoredVersion } from './s3-listing.ts';
import { isPermanentRefusal } from './store-errors.ts';

/** Removes what a bucket holds below a prefix or under a key, and counts what is there. */
export interface S3Removal {
  /** As ObjectStore's removePrefix, with the SDK's own errors. */
  remove(scope: Scope, limit: number, signal: AbortSignal | undefined): Promise<Removal>;
  /** As ObjectStore's count, with the SDK's own errors. */
  count(scope: Scope, signal?: AbortSignal): Promise<Contents>;
}

const DELETES_AT_A_TIME = 4;
const READ_BACKS = 3;

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
          (await drain(uploads, 1, left, add, (some) => abortUploads(s3, Bucket, some, signal))) &&
          (await drain(versions, DELETES_AT_A_TIME, left, add, (some) => deleteVersions(scope, some, signal)));
        return { ...removed, failures, progress: isDone ? 'COMPLETE' : 'PARTIAL' };
      } catch (error) {
        // What is gone is told rather than lost with the error; the next call meets the error again, and throws.
        if (left() === limit && !unsure) throw error;
        return { ...removed, failures, progress: 'PARTIAL', ...(unsure ? { unsure } : {}) };
      }
    },

    async count(scope, signal) {
      const counted = { versions: 0, markers: 0, uploads: 0, bytes: 0 };
      for await (const page of versionPages(scope, undefined, signal)) {
        for (const { isMarker, bytes } of page) {
          counted[isMarker ? 'markers' : 'versions'] += 1;
          counted.bytes += bytes;
        }
      }
      for await (const page of uploadPages(scope, undefined, signal)) counted.uploads += page.length;
      return counted;
    },
  };
}
