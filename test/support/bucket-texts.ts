import { GetObjectCommand, ListMultipartUploadsCommand, ListObjectVersionsCommand } from '@aws-sdk/client-s3';
import type { CephGateway } from './ceph-gateway.ts';

/** All that a bucket holds as text: of a version its key, headers and content, of the others the key. */
export interface BucketTexts {
  readonly versions: readonly string[];
  readonly markers: readonly string[];
  readonly uploads: readonly string[];
}

/** Reads every version, delete marker and open upload of a bucket, past everything of the product's own client. */
export async function readBucketTexts({ s3 }: Pick<CephGateway, 's3'>, Bucket: string): Promise<BucketTexts> {
  const [listed, open] = await Promise.all([
    s3.send(new ListObjectVersionsCommand({ Bucket })),
    s3.send(new ListMultipartUploadsCommand({ Bucket })),
  ]);
  if (listed.IsTruncated || open.IsTruncated) throw new Error('the bucket has more than one page');
  const { Versions = [], DeleteMarkers = [] } = listed;
  const versions = await Promise.all(
    Versions.map(async ({ Key = '', VersionId }) => {
      const found = await s3.send(new GetObjectCommand({ Bucket, Key, VersionId })).catch((error: Error) => {
        // What was replaced is removed in the background.
        if (error.name === 'NoSuchKey' || error.name === 'NoSuchVersion') return undefined;
        throw error;
      });
      const content = await found?.Body?.transformToString('latin1');
      return found ? [[Key, found.ContentType, JSON.stringify(found.Metadata), content].join('\n')] : [];
    }),
  );
  return {
    versions: versions.flat(),
    markers: DeleteMarkers.map(({ Key = '' }) => Key),
    uploads: (open.Uploads ?? []).map(({ Key = '' }) => Key),
  };
}
