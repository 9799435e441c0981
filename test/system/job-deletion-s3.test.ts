import { access, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import anyTest, { type TestFn } from 'ava';
import { uploadArtifact } from '#deploy/local/sample/speech-worker.ts';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ArtifactKind } from '#gen/lethe/job/v1/job_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { DELETION_CRASH_POINTS } from '#services/job/use-cases/run-deletions.ts';
import { type CephGateway, hasCeph, startCephGateway } from '#test/support/ceph-gateway.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { testIfFound } from '#test/support/require.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<unknown>;
const isFound = hasCeph();
const declare = (title: string, body: Parameters<typeof testIfFound>[4]) =>
  testIfFound(test.serial, isFound, "Ceph's gateway", title, body);
const BUCKET = 'jobs';
const crashFile = join(tmpdir(), `lethe-crash-${newId()}`);

let gateway: CephGateway;
let stack: TestStack;

test.before(async () => {
  if (!isFound) return;
  gateway = await startCephGateway();
  await gateway.createBucket(BUCKET, { versioned: true });
  stack = await startTestStack({
    services: ['job'],
    env: {
      ...gateway.environment(BUCKET),
      LETHE_CRASH_FILE: crashFile,
      LETHE_DELETION_LEASE_MS: '1500',
      LETHE_DELETION_OBJECTS_PER_BATCH: '4',
      LETHE_DELETION_BACKOFF_MS: '200',
      LETHE_DELETION_BACKOFF_MAX_MS: '1000',
      LETHE_DELETION_ATTEMPTS: '100',
    },
  });
});
test.after.always(async () => {
  await stack?.dispose();
  await gateway?.stop();
  for (const file of [crashFile, `${crashFile}.struck`]) await rm(file, { force: true });
});

/** Everything in the bucket whose key names the job, by the gateway's own listing. */
async function everythingOf(jobId: string): Promise<string[]> {
  return (await gateway.listEverything(BUCKET)).filter((key) => key.includes(jobId));
}

async function cancelledJob(tenantId: string): Promise<string> {
  const { jobs } = stack.clients({ tenantId, role: 'admin' });
  const jobId = (await jobs.createJob({})).job?.id ?? '';
  for (const name of ['a', 'b', 'c']) {
    const content = Buffer.from('old');
    await uploadArtifact(jobs, jobId, { kind: ArtifactKind.INPUT, name, contentType: 'a/b', content });
  }
  // Lethe writes a key once; other writers make the second version.
  for (const Key of await everythingOf(jobId)) {
    await gateway.s3.send(new PutObjectCommand({ Bucket: BUCKET, Key, Body: 'new' }));
  }
  await jobs.cancelJob({ jobId });
  return jobId;
}

declare('deleting a job takes every version of its objects and none of another job', async (t) => {
  const { jobs } = stack.clients({ tenantId: 'acme', role: 'admin' });
  const [doomed, neighbour] = [await cancelledJob('acme'), await cancelledJob('acme')];
  t.is((await everythingOf(doomed)).length, 6);
  const { deletion } = await jobs.deleteJob({ jobId: doomed });
  const deletionId = deletion?.id ?? '';
  await until(
    'complete',
    async () => (await jobs.getDeletion({ deletionId })).deletion?.state === DeletionState.COMPLETE,
  );
  t.deepEqual(await everythingOf(doomed), []);
  t.is((await everythingOf(neighbour)).length, 6);
});

declare(
  'an S3 server that dies in the middle does not lose the job: its deletion goes on when the server is back',
  async (t) => {
    const { jobs } = stack.clients({ tenantId: 'acme', role: 'admin' });
    const [doomed, neighbour] = [await cancelledJob('acme'), await cancelledJob('acme')];
    await gateway.kill9();
    const { deletion } = await jobs.deleteJob({ jobId: doomed });
    const deletionId = deletion?.id ?? '';
    await until('an attempt has failed', async () => {
      const now = (await jobs.getDeletion({ deletionId })).deletion;
      return /object store is unavailable/.test(now?.lastError ?? '');
    });
    const rows = await queryOnce(stack.superuserUrl('job'), 'select 1 from jobs where id = $1', [doomed]);
    t.is(rows.length, 1, 'the row is there as long as an object is');
    await gateway.restart();
    await until(
      'complete',
      async () => (await jobs.getDeletion({ deletionId })).deletion?.state === DeletionState.COMPLETE,
    );
    t.deepEqual(await everythingOf(doomed), []);
    t.is((await everythingOf(neighbour)).length, 6);
  },
);

for (const point of DELETION_CRASH_POINTS) {
  declare(`a deletion that is killed at ${point} ends with no row, version, marker or upload of the job`, async (t) => {
    const { jobs } = stack.clients({ tenantId: 'acme', role: 'admin' });
    const [doomed, neighbour] = [await cancelledJob('acme'), await cancelledJob('acme')];
    await rm(`${crashFile}.struck`, { force: true });
    await writeFile(crashFile, point);
    const order = { jobId: doomed, requestId: newId() };
    await jobs.deleteJob(order).catch(() => undefined);
    await until('the process was killed', () => access(`${crashFile}.struck`).then(() => true));
    await until('the deletion is ordered', () => jobs.deleteJob(order).then(() => true));
    const sql = "select 1 from job_deletions where job_id = $1 and state = 'COMPLETE'";
    await until('complete', async () => (await queryOnce(stack.superuserUrl('job'), sql, [doomed])).length === 1);
    t.deepEqual(await everythingOf(doomed), []);
    t.deepEqual(await queryOnce(stack.superuserUrl('job'), 'select 1 from jobs where id = $1', [doomed]), []);
    t.is((await everythingOf(neighbour)).length, 6);
  });
}
