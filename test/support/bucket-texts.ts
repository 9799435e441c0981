import {
  GetObjectCommand,
  GetObjectTaggingCommand,
  ListBucketsCommand,
  ListMultipartUploadsCommand,
  ListObjectVersionsCommand,
  ListPartsCommand,
  type S3Client,
} from '@aws-sdk/client-s3';

/**
 * Everything that all buckets of an S3 server hold, as text, past the product's own client: of each version its key,
 * headers, user metadata, tags and content, of each delete marker its key, of each unfinished upload its key and parts.
 */
export async function readAllTexts({ s3 }: { readonly s3: S3Client }): Promise<readonly string[]> {
  const { Buckets = [] } = await s3.send(new ListBucketsCommand());
  return (await Promise.all(Buckets.map(({ Name = '' }) => readBucket(s3, Name)))).flat();
}

async function readBucket(s3: S3Client, Bucket: string): Promise<readonly string[]> {
  const [listed, open] = await Promise.all([
    s3.send(new ListObjectVersionsCommand({ Bucket })),
    s3.send(new ListMultipartUploadsCommand({ Bucket })),
  ]);
  // What is told of a bucket is evidence, and a first page of it would be none.
  if (listed.IsTruncated || open.IsTruncated) throw new Error('the bucket has more than one page');
  const versions = (listed.Versions ?? []).map(async ({ Key = '', VersionId }) => {
    const at = { Bucket, Key, VersionId };
    const got = await unlessGone(
      Promise.all([s3.send(new GetObjectCommand(at)), s3.send(new GetObjectTaggingCommand(at))]),
    );
    if (!got) return Key;
    const [found, tags] = got;
    const { Body, $metadata: _, ...headers } = found;
    return [Key, JSON.stringify(headers), JSON.stringify(tags.TagSet), await Body?.transformToString('latin1')].join(
      '\n',
    );
  });
  const uploads = (open.Uploads ?? []).map(async ({ Key = '', UploadId }) => {
    const parts = await unlessGone(s3.send(new ListPartsCommand({ Bucket, Key, UploadId })));
    return `${Key}\n${JSON.stringify(parts)}`;
  });
  const markers = (listed.DeleteMarkers ?? []).map(({ Key = '' }) => Key);
  return [...markers, ...(await Promise.all([...versions, ...uploads]))];
}

/** What was replaced or given up is removed in the background, while this reads. */
async function unlessGone<T>(read: Promise<T>): Promise<T | undefined> {
  return read.catch((error: Error) => {
    if (/^NoSuch(Key|Version|Upload)$/.test(error.name)) return undefined;
    throw error;
  });
}
