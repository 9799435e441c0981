import { readFile, writeFile } from 'node:fs/promises';
import {
  DeleteObjectsCommand,
  ListObjectVersionsCommand,
  PutBucketVersioningCommand,
  PutObjectCommand,
} from '@aws-sdk/client-s3';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type CephGateway, startCephGateway } from '#test/support/ceph-gateway.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';
import type { Bench } from './main.ts';
import { median } from './median.ts';

const OBJECTS = 10_000;
const MANY_OBJECTS = 100_000;
const FEW_OBJECTS = 1_000;
const ROUNDS = 3;
const BUCKET = 'bench';
const PUTS_AT_A_TIME = 64;
const DEADLINE_MS = 3_600_000;

/**
 * DeleteJob of a job with 10,000 small objects in a versioned bucket on Ceph's gateway, against a bare loop of
 * DeleteObjects with the same keys; and the peak memory of JobService for 1,000 and 100,000 objects. A quarter of an
 * hour on two cores, most of it the gateway's; how far it is goes to stderr.
 */
export const benchArtifacts: Bench = async () => {
  const gateway = await startCephGateway();
  await gateway.createBucket(BUCKET, { versioned: false });
  const stack = await startTestStack({
    services: ['job'],
    env: {
      ...gateway.environment(BUCKET),
    },
  });
  try {
    // What is there before a bucket becomes versioned is a version like the others, and costs half as much to put.
    const [few, many] = [await makeJob(stack), await makeJob(stack)];
    await putObjects(gateway, keysOf(few), FEW_OBJECTS);
    await putObjects(gateway, keysOf(many), MANY_OBJECTS);
    const VersioningConfiguration = { Status: 'Enabled' } as const;
    await gateway.s3.send(new PutBucketVersioningCommand({ Bucket: BUCKET, VersioningConfiguration }));

    const bare: number[] = [];
    const own: number[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      await putObjects(gateway, `bare/${round}/`, OBJECTS);
      bare.push(OBJECTS / (await bareLoop(gateway, `bare/${round}/`)));
      const jobId = await makeJob(stack);
      await putObjects(gateway, keysOf(jobId), OBJECTS);
      own.push(OBJECTS / (await deleteJob(stack, jobId, OBJECTS)));
      tell(`round ${round + 1} of ${ROUNDS}: ${Math.round(own.at(-1) ?? 0)}/s, bare ${Math.round(bare.at(-1) ?? 0)}/s`);
    }
    const ratios = own.map((value, index) => value / (bare[index] ?? Number.NaN));
    const rssOf = async (jobId: string, objects: number): Promise<number> => {
      await resetPeak(stack);
      await deleteJob(stack, jobId, objects);
      return peakMegabytes(stack);
    };
    return {
      artifacts_ratio: Number(median(ratios).toFixed(3)),
      artifacts_per_s: Math.round(median(own)),
      bare_delete_objects_per_s: Math.round(median(bare)),
      artifacts_rss_mb_1k: await rssOf(few, FEW_OBJECTS),
      artifacts_rss_mb_100k: await rssOf(many, MANY_OBJECTS),
    };
  } finally {
    await stack.dispose();
    await gateway.stop();
  }
};

const tell = (progress: string): void => console.error(`artifacts: ${progress}`);

const keysOf = (jobId: string): string => `tenants/bench/jobs/${jobId}/output/`;

async function makeJob(stack: TestStack): Promise<string> {
  const { jobs } = stack.clients({ tenantId: 'bench', role: 'admin' });
  return (await jobs.createJob({})).job?.id ?? '';
}

async function putObjects({ s3 }: CephGateway, prefix: string, count: number): Promise<void> {
  let next = 0;
  const startedAt = performance.now();
  await Promise.all(
    Array.from({ length: PUTS_AT_A_TIME }, async () => {
      while (next < count) {
        next += 1;
        await s3.send(new PutObjectCommand({ Bucket: BUCKET, Key: `${prefix}${next}`, Body: 'x' }));
      }
    }),
  );
  tell(`${count} objects put in ${Math.round((performance.now() - startedAt) / 1_000)} s`);
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

/** Seconds from DeleteJob to COMPLETE, read-back and rows included; throws unless the receipt tells of every object. */
async function deleteJob(stack: TestStack, jobId: string, objects: number): Promise<number> {
  const { jobs } = stack.clients({ tenantId: 'bench', role: 'admin' });
  await jobs.cancelJob({ jobId });
  const startedAt = performance.now();
  const { deletion } = await jobs.deleteJob({ jobId });
  const deletionId = deletion?.id ?? '';
  const look = async () => (await jobs.getDeletion({ deletionId })).deletion;
  const isComplete = async () => (await look())?.state === DeletionState.COMPLETE;
  await until('the deletion is complete', isComplete, DEADLINE_MS);
  const seconds = (performance.now() - startedAt) / 1_000;
  const counts = (await look())?.participants[0]?.resourceCounts ?? [];
  const removed = counts.find(({ resourceType }) => resourceType === 'object_version')?.deleted;
  if (removed !== BigInt(objects)) throw new Error(`${removed} of ${objects} objects were removed`);
  tell(`${objects} objects removed in ${Math.round(seconds)} s`);
  return seconds;
}

/** Starts the kernel's peak of this process anew. */
const resetPeak = (stack: TestStack): Promise<void> => writeFile(`/proc/${stack.pid('job')}/clear_refs`, '5');

async function peakMegabytes(stack: TestStack): Promise<number> {
  const status = await readFile(`/proc/${stack.pid('job')}/status`, 'utf8');
  return Math.round(Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / 1_024);
}
