import { readFile, writeFile } from 'node:fs/promises';
import { DeleteObjectsCommand, ListObjectVersionsCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type CephGateway, startCephGateway } from '#test/support/ceph-gateway.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';
import type { Bench } from './main.ts';
import { median } from './median.ts';

const OBJECTS = 10_000;
const ROUNDS = 3;
const BUCKET = 'bench';
const PUTS_AT_A_TIME = 32;

/**
 * DeleteJob of a job with 10,000 small objects in a versioned bucket on Ceph's gateway, against a bare loop of
 * DeleteObjects with the same keys; and the peak memory of JobService for 1,000 and 100,000 objects.
 */
export const benchArtifacts: Bench = async () => {
  const gateway = await startCephGateway();
  await gateway.createBucket(BUCKET, { versioned: true });
  const stack = await startTestStack({
    services: ['job'],
    env: {
      LETHE_OBJECT_STORE: 's3',
      LETHE_S3_ENDPOINT: gateway.endpoint,
      LETHE_S3_BUCKET: BUCKET,
      LETHE_S3_REGION: gateway.region,
      AWS_ACCESS_KEY_ID: gateway.accessKeyId,
      AWS_SECRET_ACCESS_KEY: gateway.secretAccessKey,
    },
  });
  try {
    const bare: number[] = [];
    const own: number[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      await putObjects(gateway, `bare/${round}/`, OBJECTS);
      bare.push(OBJECTS / (await bareLoop(gateway, `bare/${round}/`)));
      own.push(OBJECTS / (await deleteJobOf(stack, gateway, OBJECTS)));
    }
    const ratios = own.map((value, index) => value / (bare[index] ?? Number.NaN));
    const rssOf = async (objects: number): Promise<number> => {
      await resetPeak(stack);
      await deleteJobOf(stack, gateway, objects);
      return peakMegabytes(stack);
    };
    return {
      artifacts_ratio: Number(median(ratios).toFixed(3)),
      artifacts_per_s: Math.round(median(own)),
      bare_delete_objects_per_s: Math.round(median(bare)),
      artifacts_rss_mb_1k: await rssOf(1_000),
      artifacts_rss_mb_100k: await rssOf(100_000),
    };
  } finally {
    await stack.dispose();
    await gateway.stop();
  }
};

async function putObjects({ s3 }: CephGateway, prefix: string, count: number): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: PUTS_AT_A_TIME }, async () => {
      while (next < count) {
        next += 1;
        await s3.send(new PutObjectCommand({ Bucket: BUCKET, Key: `${prefix}${next}`, Body: 'x' }));
      }
    }),
  );
}

/** Seconds that it takes to delete everything below a prefix, one page after the other, without a look back. */
async function bareLoop({ s3 }: CephGateway, Prefix: string): Promise<number> {
  const pages = [];
  for (let at: { KeyMarker?: string; VersionIdMarker?: string } = {}; ; ) {
    const page = await s3.send(new ListObjectVersionsCommand({ Bucket: BUCKET, Prefix, ...at }));
    pages.push((page.Versions ?? []).map(({ Key = '', VersionId = '' }) => ({ Key, VersionId })));
    if (!page.IsTruncated) break;
    at = { KeyMarker: page.NextKeyMarker ?? '', VersionIdMarker: page.NextVersionIdMarker ?? '' };
  }
  const startedAt = performance.now();
  for (const Objects of pages) {
    await s3.send(new DeleteObjectsCommand({ Bucket: BUCKET, Delete: { Objects, Quiet: true } }));
  }
  return (performance.now() - startedAt) / 1_000;
}

/** Seconds from DeleteJob to COMPLETE, read-back and rows included. */
async function deleteJobOf(stack: TestStack, gateway: CephGateway, objects: number): Promise<number> {
  const { jobs } = stack.clients({ tenantId: 'bench', role: 'admin' });
  const jobId = (await jobs.createJob({})).job?.id ?? '';
  await putObjects(gateway, `tenants/bench/jobs/${jobId}/output/`, objects);
  await jobs.cancelJob({ jobId });
  const startedAt = performance.now();
  const { deletion } = await jobs.deleteJob({ jobId });
  const deletionId = deletion?.id ?? '';
  const isComplete = async () => (await jobs.getDeletion({ deletionId })).deletion?.state === DeletionState.COMPLETE;
  await until('the deletion is complete', isComplete, 600_000);
  return (performance.now() - startedAt) / 1_000;
}

/** Starts the kernel's peak of this process anew. */
const resetPeak = (stack: TestStack): Promise<void> => writeFile(`/proc/${stack.pid('job')}/clear_refs`, '5');

async function peakMegabytes(stack: TestStack): Promise<number> {
  const status = await readFile(`/proc/${stack.pid('job')}/status`, 'utf8');
  return Math.round(Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / 1_024);
}
