import { access, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PutObjectCommand, PutObjectLegalHoldCommand } from '@aws-sdk/client-s3';
import { Code, type ConnectError } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import { uploadArtifact } from '#deploy/local/sample/speech-worker.ts';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ArtifactKind } from '#gen/lethe/job/v1/job_pb.ts';
import { StatusService } from '#gen/lethe/status/v1/status_service_pb.ts';
import { connect } from '#libs/grpc/client.ts';
import { newId } from '#libs/kernel/id.ts';
import { type CephGateway, hasCeph, startCephGateway } from '#test/support/ceph-gateway.ts';
import { DELETION_CRASH_POINTS } from '#test/support/crash-points.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { testIfFound } from '#test/support/require.ts';
import {
  DEMANDS_MD5,
  isDeleteObjects,
  isListing,
  leavesOut,
  listsAtMost,
  type S3Front,
  type S3Quirk,
  startS3Front,
} from '#test/support/s3-front.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<unknown>;
const isFound = hasCeph();
const declare = (title: string, body: Parameters<typeof testIfFound>[4]) =>
  testIfFound(test.serial, isFound, "Ceph's gateway", title, body);
const BUCKET = 'jobs';
const crashFile = join(tmpdir(), `lethe-crash-${newId()}`);

let gateway: CephGateway;
let front: S3Front;
let stack: TestStack;

test.before(async () => {
  if (!isFound) return;
  gateway = await startCephGateway();
  await gateway.createBucket(BUCKET, { versioned: true, objectLock: true });
  front = await startS3Front(gateway.endpoint, DEMANDS_MD5);
  stack = await startTestStack({
    services: ['job'],
    env: {
      ...gateway.environment(BUCKET),
      LETHE_S3_ENDPOINT: front.endpoint,
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
  front?.close();
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

const isBroken = { refuse: () => ({ status: 404, code: 'NoSuchBucket' }) };
const isEndless: S3Quirk = {
  alter: (text, call) => {
    const cut = listsAtMost(2).alter?.(text, call) ?? text;
    return leavesOut('NextKeyMarker').alter?.(cut, call) ?? text;
  },
};
const hold = async (Key: string, Status: 'ON' | 'OFF'): Promise<void> =>
  void (await gateway.s3.send(new PutObjectLegalHoldCommand({ Bucket: BUCKET, Key, LegalHold: { Status } })));

for (const [what, error, begin, mend] of [
  [
    'one object is locked',
    /^STORE_REFUSED: .*\(AccessDenied\)/,
    async (jobId: string) => hold((await everythingOf(jobId))[0] ?? '', 'ON'),
    async (jobId: string) => hold((await everythingOf(jobId))[0] ?? '', 'OFF'),
  ],
  [
    'the bucket is missing',
    /^STORE_REFUSED: .*\(NoSuchBucket\)/,
    () => front.behave(isBroken),
    () => front.behave(DEMANDS_MD5),
  ],
  [
    'listings never end',
    /^STORE_MISBEHAVES: .*where it goes on/,
    () => front.behave(isEndless),
    () => front.behave(DEMANDS_MD5),
  ],
] as const) {
  declare(
    `while ${what}, a deletion is parked at once with the code of the store, and a redrive ends it`,
    async (t) => {
      const { jobs } = stack.clients({ tenantId: 'acme', role: 'admin' });
      const doomed = await cancelledJob('acme');
      await begin(doomed);
      const { deletion } = await jobs.deleteJob({ jobId: doomed });
      const deletionId = deletion?.id ?? '';
      const now = async () => (await jobs.getDeletion({ deletionId })).deletion;
      await until('parked', async () => (await now())?.state === DeletionState.STUCK);
      t.regex((await now())?.lastError ?? '', error);
      t.is((await now())?.attempts, 1);
      await mend(doomed);
      await jobs.redriveDeletion({ deletionId, reason: 'mended' });
      await until('complete', async () => (await now())?.state === DeletionState.COMPLETE);
      t.deepEqual(await everythingOf(doomed), []);
      const versions = (await now())?.participants[0]?.resourceCounts.find(
        ({ resourceType }) => resourceType === 'object_version',
      );
      t.is(versions?.deleted, 6n);
    },
  );
}

declare('a preview of a deletion whose caller has gone asks the object store for no other page', async (t) => {
  const { jobs } = stack.clients({ tenantId: 'acme', role: 'admin' });
  const doomed = await cancelledJob('acme');
  const gone = new AbortController();
  let listings = 0;
  let leaveAt = Number.POSITIVE_INFINITY;
  const { alter } = listsAtMost(1);
  front.behave({
    alter(text, call) {
      if (!call.path.includes(doomed)) return text;
      listings += isListing(call) ? 1 : 0;
      if (listings === leaveAt) gone.abort();
      return alter?.(text, call) ?? text;
    },
    delayMs: (call) => (isListing(call) ? 50 : 0),
  });
  const preview = (signal?: AbortSignal) =>
    jobs.deleteJob({ jobId: doomed, validateOnly: true }, signal ? { signal } : {});
  await preview();
  const all = listings;
  [listings, leaveAt] = [0, 2];
  t.is((await t.throwsAsync<ConnectError>(preview(gone.signal)))?.code, Code.Canceled);
  leaveAt = Number.POSITIVE_INFINITY;
  // Asked behind it and answered: by then the first would have listed everything too.
  await preview();
  t.true(listings >= all && listings < 2 * all - 1, `${listings} listings, and ${all} for one preview`);
  front.behave(DEMANDS_MD5);
});

declare('attempts that come forward are none that failed, however many of them an outage ends', async (t) => {
  const { jobs } = stack.clients({ tenantId: 'acme', role: 'admin' });
  const doomed = await cancelledJob('acme');
  const [first = ''] = await everythingOf(doomed);
  for (let at = 0; at < 18; at += 1) {
    await gateway.s3.send(new PutObjectCommand({ Bucket: BUCKET, Key: first, Body: 'newer' }));
  }
  // In each attempt one call goes through, and none after it is answered.
  let isOut = false;
  front.behave({
    refuse(call) {
      if (!isDeleteObjects(call)) return DEMANDS_MD5.refuse?.(call);
      if (isOut) return 'hang up';
      isOut = true;
      return DEMANDS_MD5.refuse?.(call);
    },
  });
  const { deletion } = await jobs.deleteJob({ jobId: doomed });
  const deletionId = deletion?.id ?? '';
  let [outages, attempts] = [0, 0];
  await until('complete', async () => {
    const sql = 'select state, attempts, lease_owner from job_deletions where id = $1';
    const [now] = await queryOnce<{ state: string; attempts: number; lease_owner: string | null }>(
      stack.superuserUrl('job'),
      sql,
      [deletionId],
    );
    if (now?.state === 'COMPLETE') return true;
    attempts = Math.max(attempts, Number(now?.attempts));
    if (!isOut || now?.lease_owner !== null) return false;
    outages += 1;
    isOut = false;
    return false;
  });
  front.behave(DEMANDS_MD5);
  t.true(outages >= 3, `${outages} attempts that an outage ended`);
  t.true(attempts < outages, `${attempts} attempts are counted of ${outages}`);
  t.deepEqual(await everythingOf(doomed), []);
});

for (const [what, quirk, told] of [
  ['a wrong secret', { refuse: () => ({ status: 403, code: 'SignatureDoesNotMatch' }) }, /\(SignatureDoesNotMatch\)/],
  ['a missing bucket', { refuse: () => ({ status: 404, code: 'NoSuchBucket' }) }, /\(NoSuchBucket\)/],
  ['a dead endpoint', { refuse: () => 'hang up' }, /is unavailable/],
  ['a silent endpoint', { delayMs: () => 3_000 }, /does not answer/],
] as readonly (readonly [string, S3Quirk, RegExp])[]) {
  declare(
    `/ready names ${what} of the object store, serves what needs none, and is well once it is mended`,
    async (t) => {
      const url = `http://${stack.environment('job')['LETHE_METRICS_ADDRESS']}/ready`;
      const storeLine = async () => /^object store: (.*)$/m.exec(await (await fetch(url)).text())?.[1] ?? '';
      front.behave(quirk);
      await until('told', async () => told.test(await storeLine()));
      t.is((await fetch(url)).status, 200);
      const { jobs } = stack.clients({ tenantId: 'acme', role: 'admin' });
      await t.notThrowsAsync(jobs.listJobs({}));
      front.behave(DEMANDS_MD5);
      await until('well again', async () => (await storeLine()) === 'ok');
    },
  );
}

declare('a server that demands Content-MD5 is told by the status of the service', async (t) => {
  const address = stack.addresses.job ?? '';
  const connection = connect({ address, token: () => stack.token({ role: 'platform' }) });
  t.teardown(() => connection.close());
  const { checks } = await connection.client(StatusService).getStatus({});
  t.regex(checks.find(({ name }) => name === 'STORE_CHECKSUM')?.message ?? '', /Content-MD5/);
});

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
