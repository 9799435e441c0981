import { setTimeout as delay } from 'node:timers/promises';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import { Code } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import { type Deletion, DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type CephGateway, hasCeph, startCephGateway } from '#test/support/ceph-gateway.ts';
import { makeRunOfManyJobs } from '#test/support/many-jobs.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { testIfFound } from '#test/support/require.ts';
import { isListing, type S3Front, startS3Front } from '#test/support/s3-front.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<unknown>;
const isFound = hasCeph();
const declare = (title: string, body: Parameters<typeof testIfFound>[4]) =>
  testIfFound(test.serial, isFound, "Ceph's gateway", title, body);
const BUCKET = 'runs';
const JOBS = 600;
const LISTING_MS = 20;
// So that a look has hardly begun when its caller goes.
const SLOW_LISTING_MS = 500;
// One listing after the other would take several times as long. Longer than JobService waits for its own removals, which
// it then tells as PARTIAL: on a slow machine, too, no call counts as a failed attempt.
const TIMEOUT_MS = 5_000;

let gateway: CephGateway;
let front: S3Front;
let stack: TestStack;
let listings = 0;
let listingMs = LISTING_MS;

test.before(async () => {
  if (!isFound) return;
  gateway = await startCephGateway();
  await gateway.createBucket(BUCKET, { versioned: true });
  front = await startS3Front(gateway.endpoint, {
    delayMs: (call) => {
      if (!isListing(call)) return 0;
      // The service also looks now and then whether the bucket answers, by another kind of listing.
      if (!/[?&]list-type=/.test(call.path)) listings += 1;
      return listingMs;
    },
  });
  stack = await startTestStack({
    services: ['run', 'job'],
    env: {
      ...gateway.environment(BUCKET),
      LETHE_S3_ENDPOINT: front.endpoint,
      LETHE_PARTICIPANT_TIMEOUT_MS: String(TIMEOUT_MS),
      LETHE_CALLS_PER_SECOND: '1000000',
    },
  });
});
test.after.always(async () => {
  await stack?.dispose();
  front?.close();
  await gateway?.stop();
});

/** Resolves once the figure has been the same for so long. */
async function untilStill(figure: () => number, ms: number): Promise<void> {
  for (let seen: number | undefined; seen !== figure(); ) {
    seen = figure();
    await delay(ms);
  }
}

const clients = () => stack.clients({ tenantId: 'acme', role: 'admin' }).runs;

const countsOf = (deletion: Deletion | undefined, participant: string) =>
  (deletion?.participants.find((part) => part.participant === participant)?.resourceCounts ?? []).map(
    ({ resourceType, deleted, left }) => [resourceType, Number(deleted), Number(left)],
  );

declare('a run of many jobs behind a slow store is previewed, hidden, brought back and purged', async (t) => {
  t.timeout(300_000);
  const runs = clients();
  const runId = await makeRunOfManyJobs(stack, gateway, { tenantId: 'acme', bucket: BUCKET, jobs: JOBS });

  const { participants } = await runs.previewPurgeRun({ runId });
  const told = participants.find(({ participant }) => participant === 'job')?.resourceCounts ?? [];
  const found = told.map(({ resourceType, found: count }) => [resourceType, Number(count)]);
  t.deepEqual(found, [
    ['job', JOBS],
    ['artifact', JOBS],
    ['object_version', JOBS],
  ]);

  // Whoever orders waits for no listing, nor does whoever asks what hiding would do.
  const before = listings;
  await runs.deleteRun({ runId, validateOnly: true });
  t.is(listings, before);
  for (const order of [runs.deleteRun, runs.undeleteRun]) {
    const { deletion } = await order({ runId, reason: 'by mistake' });
    const hiding = async () => (await runs.getDeletion({ deletionId: deletion?.id ?? '' })).deletion;
    await until('it is over', async () => (await hiding())?.state === DeletionState.COMPLETE, 60_000);
  }
  const { deletion } = await runs.purgeRun({ runId, reason: 'contract ended' });
  t.true(listings - before < JOBS, `${listings - before} listings`);

  const deletionId = deletion?.id ?? '';
  const look = async () => (await runs.getDeletion({ deletionId })).deletion;
  await until('it has ended', async () => (await look())?.state === DeletionState.COMPLETE, 240_000);
  t.deepEqual(
    countsOf(await look(), 'job'),
    found.map(([type, count]) => [type, count, 0]),
  );
  const keys = await gateway.listEverything(BUCKET);
  t.deepEqual(
    keys.filter((key) => key.includes('/jobs/')),
    [],
  );
  t.deepEqual(await queryOnce(stack.superuserUrl('job'), "select id from jobs where tenant_id = 'acme'"), []);
});

declare('a preview, or a dry run of a purge, whose caller has gone lists no further', async (t) => {
  t.timeout(300_000);
  const runs = clients();
  const runId = await makeRunOfManyJobs(stack, gateway, { tenantId: 'acme', bucket: BUCKET, jobs: JOBS });
  const before = listings;
  await runs.previewPurgeRun({ runId });
  const whole = listings - before;
  listingMs = SLOW_LISTING_MS;
  t.teardown(() => {
    listingMs = LISTING_MS;
  });
  for (const ask of [
    (signal: AbortSignal) => runs.previewPurgeRun({ runId }, { signal }),
    (signal: AbortSignal) => runs.purgeRun({ runId, reason: 'only asked', validateOnly: true }, { signal }),
  ]) {
    const before = listings;
    const leaving = new AbortController();
    const asked = refusalOf(ask(leaving.signal));
    await until('it has begun', async () => listings > before);
    leaving.abort();
    t.is((await asked).code, Code.Canceled);
    // What was under way when it went comes to an end; a look that went on would list all.
    await untilStill(() => listings, 6 * SLOW_LISTING_MS);
    t.true(listings - before < whole / 2, `${listings - before} of ${whole} listings`);
  }
});

// The last one: its purge goes on looking.
declare('what is left behind a cursor keeps a purge from being COMPLETE', async (t) => {
  t.timeout(300_000);
  const runs = clients();
  const runId = await makeRunOfManyJobs(stack, gateway, { tenantId: 'acme', bucket: BUCKET, jobs: JOBS });
  const [last] = await queryOnce<{ id: string }>(
    stack.superuserUrl('job'),
    `select id from jobs where tenant_id = 'acme' and run_id = $1 order by id desc limit 1`,
    [runId],
  );
  const jobId = last?.id ?? '';
  const { jobs } = stack.clients({ tenantId: 'acme', role: 'admin' });
  const { deletion: ofJob } = await jobs.deleteJob({ jobId, reason: 'alone' });
  const isGone = async () =>
    (await jobs.getDeletion({ deletionId: ofJob?.id ?? '' })).deletion?.state === DeletionState.COMPLETE;
  await until('the last job is deleted', isGone, 60_000);
  // By somebody who writes to the bucket without Lethe.
  const Key = `tenants/acme/jobs/${jobId}/output/late.txt`;
  await gateway.s3.send(new PutObjectCommand({ Bucket: BUCKET, Key, Body: 'late' }));

  const { deletion } = await runs.purgeRun({ runId, reason: 'contract ended' });
  const look = async () => (await runs.getDeletion({ deletionId: deletion?.id ?? '' })).deletion;
  const sentences = async () => (await look())?.participants.map(({ lastError }) => lastError).join(' ') ?? '';
  await until('it was read back', async () => (await sentences()).includes('NOT_EMPTY: 1 '), 240_000);
  t.not((await look())?.state, DeletionState.COMPLETE);
});
