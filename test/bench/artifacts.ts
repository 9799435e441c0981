import { randomBytes, randomUUID } from 'node:crypto';
import { mkdir, open, readFile, rename, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  DeleteObjectsCommand,
  ListObjectVersionsCommand,
  PutBucketVersioningCommand,
  PutObjectCommand,
} from '@aws-sdk/client-s3';
import { makeTemporaryFolder } from '#deploy/local/end-with-me.ts';
import { uploadArtifact } from '#deploy/local/sample/speech-worker.ts';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ArtifactKind } from '#gen/lethe/job/v1/job_pb.ts';
import { type CephGateway, startCephGateway } from '#test/support/ceph-gateway.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';
import type { Bench } from './bench.ts';
import { median } from './median.ts';

const SCALE = Number(process.env['LETHE_BENCH_SCALE'] ?? 1);
const scaled = (count: number): number => Math.max(1, Math.round(count * SCALE));
const OBJECTS = scaled(10_000);
const MANY_OBJECTS = scaled(100_000);
const FEW_OBJECTS = scaled(1_000);
const UPLOADS = scaled(4_000);
const UPLOADS_AT_A_TIME = 16;
const UPLOAD = randomBytes(64 * 1_024);
const ROUNDS = 3;
const BUCKET = 'bench';
const PUTS_AT_A_TIME = 64;
const DEADLINE_MS = 3_600_000;

/**
 * DeleteJob of a job with 10,000 small objects in a versioned bucket on Ceph's gateway, against a bare loop of
 * DeleteObjects with the same keys; the peak memory of JobService for 1,000 and 100,000 objects; and uploads of 64 KiB
 * against the same writes to the same store without Lethe, for S3 and the file store. A quarter of an hour on two cores,
 * most of it the gateway's; progress goes to stderr. LETHE_BENCH_SCALE scales every count.
 */
export const benchArtifacts: Bench = async () => {
  const gateway = await startCephGateway();
  await gateway.createBucket(BUCKET, { versioned: false });
  const stack = await startTestStack({
    fromSources: true,
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
    const { s3 } = gateway;
    const s3Uploads = await compareUploads('S3', stack, (key) =>
      s3.send(new PutObjectCommand({ Bucket: BUCKET, Key: key, Body: UPLOAD })),
    );
    const fileUploads = await benchFileUploads();
    return {
      upload_ratio_s3: s3Uploads.ratio,
      uploads_per_s_s3: s3Uploads.own,
      bare_writes_per_s_s3: s3Uploads.bare,
      upload_ratio_file: fileUploads.ratio,
      uploads_per_s_file: fileUploads.own,
      bare_writes_per_s_file: fileUploads.bare,
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

/** Uploads to a file store, against a file that is written, synced and renamed into a synced folder. */
async function benchFileUploads(): Promise<UploadFigures> {
  const stack = await startTestStack({ fromSources: true, services: ['job'] });
  const { path: folder, remove } = await makeTemporaryFolder('lethe-bench-files-');
  try {
    return await compareUploads('file store', stack, async (key) => {
      const path = join(folder, key);
      await mkdir(dirname(path), { recursive: true });
      const file = await open(`${path}.new`, 'wx');
      await file.writeFile(UPLOAD);
      await file.sync();
      await file.close();
      await rename(`${path}.new`, path);
      const parent = await open(dirname(path), 'r');
      await parent.sync();
      await parent.close();
    });
  } finally {
    await stack.dispose();
    await remove();
  }
}

interface UploadFigures {
  readonly ratio: number;
  /** Uploads a second through JobService. */
  readonly own: number;
  /** Writes a second without it. */
  readonly bare: number;
}

/** Rounds of the same number of writes without Lethe and through it, by turns. */
async function compareUploads(
  store: string,
  stack: TestStack,
  write: (key: string) => Promise<unknown>,
): Promise<UploadFigures> {
  const { jobs } = stack.clients({ tenantId: 'bench', role: 'admin' });
  const [own, bare]: [number[], number[]] = [[], []];
  for (let round = 0; round < ROUNDS; round += 1) {
    const jobIds = await Promise.all(Array.from({ length: UPLOADS_AT_A_TIME }, () => makeJob(stack)));
    bare.push(await perSecond((_, at) => write(`bare-uploads/${round}/${at}/${randomUUID()}`)));
    own.push(
      await perSecond((index, at) =>
        uploadArtifact(jobs, jobIds[at] ?? '', {
          kind: ArtifactKind.INPUT,
          name: `${index}`,
          contentType: 'a/b',
          content: UPLOAD,
        }),
      ),
    );
    tell(`${store}: ${Math.round(own.at(-1) ?? 0)} uploads/s, bare ${Math.round(bare.at(-1) ?? 0)}/s`);
  }
  const ratios = own.map((value, index) => value / (bare[index] ?? Number.NaN));
  return { ratio: Number(median(ratios).toFixed(3)), own: Math.round(median(own)), bare: Math.round(median(bare)) };
}

/** How often a second `work` is done, some at a time. */
async function perSecond(work: (index: number, at: number) => Promise<unknown>): Promise<number> {
  let next = 0;
  const startedAt = performance.now();
  await Promise.all(
    Array.from({ length: UPLOADS_AT_A_TIME }, async (_, at) => {
      while (next < UPLOADS) {
        next += 1;
        await work(next, at);
      }
    }),
  );
  return (UPLOADS * 1_000) / (performance.now() - startedAt);
}

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
