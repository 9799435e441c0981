import { access, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ConnectError } from '@connectrpc/connect';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { DeletionState, type ResourceCount } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { type CephGateway, hasCeph, startCephGateway } from '#test/support/ceph-gateway.ts';
import { LOOK_CRASH_POINTS } from '#test/support/crash-points.ts';
import { makeRunOfManyJobs } from '#test/support/many-jobs.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { testIfFound } from '#test/support/require.ts';
import { startRunReplica } from '#test/support/run-replica.ts';
import { isListing, type S3Front, startS3Front } from '#test/support/s3-front.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<unknown>;
const isFound = hasCeph();
const declare = (title: string, body: Parameters<typeof testIfFound>[4]) =>
  testIfFound(test.serial, isFound, "Ceph's gateway", title, body);
const BUCKET = 'parts';
const TENANT = 'acme';
// In parts: a preview looks at 32 jobs by one listing, which takes longer than the time for an answer, and a read-back lists
// each of 16 jobs twice, which takes more than half of that time.
const JOBS = 64;
const OF_PREVIEW_MS = 1_200;
const OF_PURGE_MS = 300;
const TIMEOUT_MS = 3_000;
const [POINT] = LOOK_CRASH_POINTS;
const crashFile = join(tmpdir(), `lethe-crash-${newId()}`);

let gateway: CephGateway;
let front: S3Front;
let stack: TestStack;
let listings = 0;
let listingMs = OF_PURGE_MS;

test.before(async () => {
  if (!isFound) return;
  gateway = await startCephGateway();
  await gateway.createBucket(BUCKET, { versioned: true });
  front = await startS3Front(gateway.endpoint, {
    delayMs(call) {
      if (!isListing(call)) return 0;
      listings += 1;
      return listingMs;
    },
  });
  stack = await startTestStack({
    services: ['run', 'job'],
    env: { ...gateway.environment(BUCKET), LETHE_S3_ENDPOINT: front.endpoint, LETHE_CALLS_PER_SECOND: '1000000' },
    envOf: {
      run: {
        LETHE_CRASH_FILE: crashFile,
        LETHE_PARTICIPANT_TIMEOUT_MS: String(TIMEOUT_MS),
        LETHE_DELETION_ATTEMPTS: '1000',
        LETHE_DELETION_BACKOFF_MS: '50',
        LETHE_DELETION_BACKOFF_MAX_MS: '500',
      },
    },
  });
});
test.after.always(async () => {
  await stack?.dispose();
  front?.close();
  await gateway?.stop();
  for (const file of [crashFile, `${crashFile}.struck`]) await rm(file, { force: true });
});

const clients = () => stack.clients({ tenantId: TENANT, role: 'admin' });
const seed = () => makeRunOfManyJobs(stack, gateway, { tenantId: TENANT, bucket: BUCKET, jobs: JOBS });
const arm = async (what: string) => {
  await rm(`${crashFile}.struck`, { force: true });
  await writeFile(crashFile, what);
};
const struck = () => until('it has struck', () => access(`${crashFile}.struck`).then(() => true));

/** Ends JobService as a power cut would, and waits until another process answers in its place. */
async function replaceJobService(): Promise<void> {
  const pid = stack.pid('job') ?? 0;
  process.kill(pid, 'SIGKILL');
  await until('another one is there', async () => ![pid, undefined].includes(stack.pid('job')));
  await until('it answers', async () => (await clients().jobs.listJobs({ pageSize: 1 })).jobs.length >= 0);
}

const told = (counts: readonly ResourceCount[]) =>
  counts.map(({ resourceType, found, left }) => [resourceType, Number(found), Number(left)]);

/** A preview tells of everything once. */
async function assertPreview(t: ExecutionContext, runId: string): Promise<void> {
  listingMs = OF_PREVIEW_MS;
  const { participants } = await clients().runs.previewPurgeRun({ runId });
  listingMs = OF_PURGE_MS;
  const counts = participants.find(({ participant }) => participant === 'job')?.resourceCounts ?? [];
  t.deepEqual(told(counts), [
    ['job', JOBS, JOBS],
    ['artifact', JOBS, JOBS],
    ['object_version', JOBS, JOBS],
  ]);
}

/** The purge ends, removes everything, and its receipt tells of everything once. */
async function assertPurged(t: ExecutionContext, runId: string, deletionId: string, runs = clients().runs) {
  const look = async () => (await runs.getDeletion({ deletionId })).deletion;
  await until('it has ended', async () => (await look())?.state === DeletionState.COMPLETE, 120_000);
  const counts = (await look())?.participants.find(({ participant }) => participant === 'job')?.resourceCounts ?? [];
  t.deepEqual(told(counts), [
    ['job', JOBS, 0],
    ['artifact', JOBS, 0],
    ['object_version', JOBS, 0],
  ]);
  const removed = await queryOnce<{ job_id: string }>(
    stack.superuserUrl('job'),
    'select job_id from job_deletions where run_id = $1 and not exists (select from jobs where run_id = $1)',
    [runId],
  );
  t.is(removed.length, JOBS);
  const keys = await gateway.listEverything(BUCKET);
  t.deepEqual(
    keys.filter((key) => removed.some(({ job_id }) => key.includes(job_id))),
    [],
  );
}

declare(
  'a preview that is killed between two parts is refused or whole, and whole when it is asked for again',
  async (t) => {
    t.timeout(300_000);
    const runId = await seed();
    const pid = stack.pid('run');
    await arm(POINT);
    // Its caller may ask again by itself.
    await assertPreview(t, runId).catch((error: unknown) => t.true(error instanceof ConnectError));
    await struck();
    await until('another one is there', async () => ![pid, undefined].includes(stack.pid('run')));
    await until('it answers', async () => (await clients().runs.getRun({ runId })).run !== undefined);
    await assertPreview(t, runId);
    await purge(t, runId);
  },
);

declare('a preview goes on at another JobService where the one before has left off', async (t) => {
  t.timeout(300_000);
  const runId = await seed();
  const pid = stack.pid('run') ?? 0;
  await arm(`${POINT} stop`);
  const preview = assertPreview(t, runId);
  await struck();
  try {
    await replaceJobService();
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  await preview;
  await purge(t, runId);
});

declare('a purge that is killed between two parts of its read-back is read back whole, and exact', async (t) => {
  t.timeout(300_000);
  const runId = await seed();
  await arm(POINT);
  const { deletion } = await clients().runs.purgeRun({ runId, reason: 'killed' });
  await struck();
  await assertPurged(t, runId, deletion?.id ?? '');
});

declare('a read-back goes on at another JobService where the one before has left off', async (t) => {
  t.timeout(300_000);
  const runId = await seed();
  const pid = stack.pid('run') ?? 0;
  await arm(`${POINT} stop`);
  const { deletion } = await clients().runs.purgeRun({ runId, reason: 'another JobService' });
  await struck();
  const before = listings;
  try {
    await replaceJobService();
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  await assertPurged(t, runId, deletion?.id ?? '');
  t.true(listings - before < 4 * JOBS, `${listings - before} listings`);
});

declare('a replica that is stopped between two parts past its lease writes nothing of its read-back', async (t) => {
  t.timeout(300_000);
  const runId = await seed();
  const pid = stack.pid('run') ?? 0;
  await arm(`${POINT} stop`);
  const { deletion } = await clients().runs.purgeRun({ runId, reason: 'stopped past its lease' });
  const deletionId = deletion?.id ?? '';
  await struck();
  t.teardown(() => void process.kill(pid, 'SIGCONT'));
  const replica = await startRunReplica(stack, 'run-2');
  t.teardown(() => replica.stop());
  await assertPurged(t, runId, deletionId, replica.runs({ tenantId: TENANT, role: 'admin' }));
  const query = (sql: string) => queryOnce(stack.superuserUrl('run'), sql, [deletionId]);
  const dump = async () => [
    await query(
      'select state, attempts, lease_token, updated_at::text, finished_at::text from deletions where id = $1',
    ),
    await query('select participant, state, counts, verified_at::text from deletion_steps where deletion_id = $1'),
    await queryOnce(stack.superuserUrl('run'), 'select action, outcome from audit_entries where target_id = $1', [
      runId,
    ]),
  ];
  const before = await dump();
  t.true(before.every(({ length }) => length > 0));
  const seen = listings;
  process.kill(pid, 'SIGCONT');
  await until('it has asked for the next part', async () => listings > seen);
  // It is awake, and has had the time to save, once it has looked at a whole run.
  const other = await seed();
  await assertPreview(t, other);
  t.deepEqual(await dump(), before);
  await purge(t, other);
});

async function purge(t: ExecutionContext, runId: string): Promise<void> {
  const { deletion } = await clients().runs.purgeRun({ runId, reason: 'done' });
  await assertPurged(t, runId, deletion?.id ?? '');
}
