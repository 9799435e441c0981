import { AbortMultipartUploadCommand, type S3Client } from '@aws-sdk/client-s3';
import { isRefusal } from './delete-objects.ts';
import type { RemovalFailure } from './object-store.ts';
import { NOTHING, type Outcome } from './removal-outcome.ts';
import { abortable, type OpenUpload } from './s3-listing.ts';
import { isPermanentRefusal } from './store-errors.ts';

const ABORTS_AT_A_TIME = 16;

/** Ends open uploads, a few at a time; one that is gone already counts for nobody. */
export async function abortUploads(
  s3: S3Client,
  Bucket: string,
  uploads: readonly OpenUpload[],
  signal?: AbortSignal,
): Promise<Outcome> {
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
}
