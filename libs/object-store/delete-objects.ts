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
}

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
  return {
    checksum: () => checksum,
    async send(input, options) {
      const sentWith = checksum;
      try {
        return await s3.send(new DeleteObjectsCommand(input), options);
      } catch (error) {
        if (sentWith === 'CONTENT_MD5' || !demandsContentMd5(error)) throw error;
        checksum = 'CONTENT_MD5';
        return await s3.send(new DeleteObjectsCommand(input), options);
      }
    },
  };
}

/** Servers name it differently; what they have in common is the header's name. */
const demandsContentMd5 = (error: unknown): boolean =>
  error instanceof S3ServiceException &&
  error.$fault === 'client' &&
  (error.name === 'MissingSecurityHeader' || /content-?md5/i.test(`${error.name} ${error.message}`));

function setContentMd5(request: unknown): void {
  const { headers, body } = request as { headers: Record<string, string>; body: string | Uint8Array };
  for (const name of Object.keys(headers)) {
    if (/^x-amz-(sdk-)?checksum-/i.test(name)) delete headers[name];
  }
  headers['content-md5'] = createHash('md5').update(body).digest('base64');
}
