import { createHash } from 'node:crypto';
import {
  DeleteObjectsCommand,
  type DeleteObjectsCommandInput,
  type DeleteObjectsCommandOutput,
  type S3Client,
  S3ServiceException,
} from '@aws-sdk/client-s3';
import type { DeleteChecksum } from './object-store.ts';

/** DeleteObjects, with the checksum that the server takes. */
export interface DeleteObjects {
  send(
    input: DeleteObjectsCommandInput,
    options: { readonly abortSignal?: AbortSignal },
  ): Promise<DeleteObjectsCommandOutput>;
  /** What it is sent with. */
  checksum(): DeleteChecksum;
  /** Asks once for the removal of a version that never was, which leaves no marker, to learn which checksum it takes. */
  findChecksum(Bucket: string): Promise<void>;
}

// No key of this name is ever written.
const NEVER_STORED = 'lethe/never-stored';

/** Whether the store has answered that it does not do it; anything else may have been done. */
export const isRefusal = (error: unknown): error is S3ServiceException =>
  error instanceof S3ServiceException && error.$fault === 'client';

/**
 * S3 demands a checksum of this call. The SDK sends a CRC32, which older servers do not know; when one asks for
 * Content-MD5, the call is repeated with that, and so is every later one.
 */
export function makeDeleteObjects(s3: S3Client): DeleteObjects {
  let checksum: DeleteChecksum = 'CRC32';
  s3.middlewareStack.add(
    (next, context) => async (args) => {
      if (checksum === 'CONTENT_MD5' && context['commandName'] === 'DeleteObjectsCommand') setContentMd5(args.request);
      return next(args);
    },
    // After the SDK has added its own checksum, and before the request is signed.
    { step: 'build', priority: 'low', name: 'contentMd5OfDeleteObjects' },
  );
  const send: DeleteObjects['send'] = async (input, options) => {
    const sentWith = checksum;
    try {
      return await s3.send(new DeleteObjectsCommand(input), options);
    } catch (error) {
      if (sentWith === 'CONTENT_MD5' || !demandsContentMd5(error)) throw error;
      checksum = 'CONTENT_MD5';
      return await s3.send(new DeleteObjectsCommand(input), options);
    }
  };
  let found: Promise<void> | undefined;
  return {
    send,
    checksum: () => checksum,
    findChecksum(Bucket) {
      found ??= send({ Bucket, Delete: { Objects: [{ Key: NEVER_STORED, VersionId: 'null' }], Quiet: true } }, {}).then(
        () => undefined,
        (error: unknown) => {
          found = undefined;
          if (!isRefusal(error)) throw error;
        },
      );
      return found;
    },
  };
}

/** Servers name it differently; what they have in common is the header's name. */
const demandsContentMd5 = (error: unknown): boolean =>
  isRefusal(error) &&
  (error.name === 'MissingSecurityHeader' || /content-?md5/i.test(`${error.name} ${error.message}`));

function setContentMd5(request: unknown): void {
  const { headers, body } = request as { headers: Record<string, string>; body: string | Uint8Array };
  for (const name of Object.keys(headers)) {
    if (/^x-amz-(sdk-)?checksum-/i.test(name)) delete headers[name];
  }
  headers['content-md5'] = createHash('md5').update(body).digest('base64');
}
