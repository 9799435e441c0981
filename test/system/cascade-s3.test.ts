import { PutObjectCommand } from '@aws-sdk/client-s3';
import anyTest, { type TestFn } from 'ava';
import pg from 'pg';
import { uploadArtifact } from '#deploy/local/sample/speech-worker.ts';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ArtifactKind } from '#gen/lethe/job/v1/job_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { MARKER_KEY } from '#services/job/use-cases/check-store.ts';
import { type CephGateway, hasCeph, startCephGateway } from '#test/support/ceph-gateway.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { testIfFound } from '#test/support/require.ts';
import { evidenceOf, makeRunGraph, NOTHING, type RunGraph, settled } from '#test/support/run-graph.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';
import { deleteInEveryWay, inGateway } from '#test/support/what-stays.ts';

const test = anyTest as TestFn<unknown>;
const isFound = hasCeph();
const BUCKET = 'runs';

let gateway: CephGateway;
let stack: TestStack;

test.before(async () => {
  if (!isFound) return;
  gateway = await startCephGateway();
  await gateway.createBucket(BUCKET, { versioned: true });
  stack = await startTestStack({
    env: {
      ...gateway.environment(BUCKET),
      LETHE_DELETION_LEASE_MS: '1500',
      LETHE_DELETION_OBJECTS_PER_BATCH: '1',
      LETHE_DELETION_BACKOFF_MS: '200',
      LETHE_DELETION_BACKOFF_MAX_MS: '1000',
      LETHE_DELETION_ATTEMPTS: '100',
    },
  });
});
test.after.always(async () => {
  await stack?.dispose();
  await gateway?.stop();
});

/** Everything in the bucket whose key names a job of the graph, by the gateway's own listing. */
async function everythingOf({ jobIds }: RunGraph): Promise<number> {
  const keys = await gateway.listEverything(BUCKET);
  return keys.filter((key) => jobIds.some((jobId) => key.includes(jobId))).length;
}

testIfFound(
  test.serial,
  isFound,
  "Ceph's gateway",
  'after each kind of deletion no version, header, tag or unfinished upload of any bucket has a text, and the tables only what README says',
  async (t) => {
    t.timeout(300_000);
    await deleteInEveryWay(t, stack, inGateway(gateway, BUCKET));
    t.deepEqual(await gateway.listEverything(BUCKET), [MARKER_KEY]);
  },
);

testIfFound(
  test.serial,
  isFound,
  "Ceph's gateway",
  'a purge whose S3 server dies in the middle goes on when it is back, to no row, no version and no upload',
  async (t) => {
    t.timeout(300_000);
    const { runs } = stack.clients({ tenantId: 'acme', role: 'admin' });
    const graph = await makeRunGraph(stack, 'acme', { jobs: 6, objectsPerJob: 5 });
    const neighbour = await makeRunGraph(stack, 'acme', { jobs: 1, objectsPerJob: 2 });
    t.is(await everythingOf(graph), 30);
    const { deletion } = await runs.purgeRun({ runId: graph.runId, reason: 'S3 dies' });
    await gateway.kill9();
    const deletionId = deletion?.id ?? '';
    await until('JobService has noticed', async () => {
      const sql = "select 1 from job_deletions where run_id = $1 and last_error like '%object store is unavailable%'";
      return (await queryOnce(stack.superuserUrl('job'), sql, [graph.runId])).length > 0;
    });
    const { deletion: meanwhile } = await runs.getDeletion({ deletionId });
    t.not(meanwhile?.state, DeletionState.COMPLETE, 'nothing is called complete while its store is away');
    t.is((await evidenceOf(stack, graph)).runs, 1, 'the run stands while something of it may be left');
    t.is((await refusalOf(runs.previewPurgeRun({ runId: neighbour.runId }))).reason, 'DEPENDENCY_UNAVAILABLE');

    await gateway.restart();
    const receipt = await settled(stack, 'acme', deletionId, 90_000);
    t.is(receipt.state, DeletionState.COMPLETE);
    t.is(await everythingOf(graph), 0);
    t.deepEqual(await evidenceOf(stack, graph), NOTHING);
    t.is(await everythingOf(neighbour), 2);
    const job = receipt.participants.find(({ participant }) => participant === 'job');
    t.is(job?.resourceCounts.find(({ resourceType }) => resourceType === 'object_version')?.deleted, 30n);
  },
);

testIfFound(
  test.serial,
  isFound,
  "Ceph's gateway",
  'another bucket in the middle of a purge and of an upload: nothing is complete that is not, it says why, and all ends when its own is back',
  async (t) => {
    t.timeout(300_000);
    const tenantId = 'swapped';
    const { runs, jobs } = stack.clients({ tenantId, role: 'admin' });
    const graph = await makeRunGraph(stack, tenantId, { jobs: 2, objectsPerJob: 2 });
    const neighbour = await makeRunGraph(stack, tenantId, { jobs: 1, objectsPerJob: 2 });
    const jobId = (await jobs.createJob({})).job?.id ?? '';
    const held = new pg.Client(stack.superuserUrl('job'));
    await held.connect();
    t.teardown(() => held.end());
    await held.query('begin');
    await held.query('select from jobs where tenant_id = $1 and run_id = $2 for update', [tenantId, graph.runId]);
    const { deletion } = await runs.purgeRun({ runId: graph.runId, reason: 'asked for' });
    const deletionId = deletion?.id ?? '';
    await until('the purge cascades', async () => {
      return (await runs.getDeletion({ deletionId })).deletion?.state === DeletionState.CASCADING;
    });

    // All that the other bucket has is another installation's marker.
    await gateway.renameBucket(BUCKET, 'own');
    await gateway.createBucket(BUCKET, { versioned: true });
    await gateway.s3.send(new PutObjectCommand({ Bucket: BUCKET, Key: MARKER_KEY, Body: newId() }));
    const swappedAt = performance.now();
    await until('a good answer about the store holds no longer', async () => performance.now() - swappedAt > 1_100);
    await held.query('rollback');
    await until('the purge says why it waits', async () => {
      return /^STORE_NOT_OURS: /.test((await runs.getDeletion({ deletionId })).deletion?.lastError ?? '');
    });
    t.not((await runs.getDeletion({ deletionId })).deletion?.state, DeletionState.COMPLETE);
    t.is((await refusalOf(runs.previewPurgeRun({ runId: neighbour.runId }))).reason, 'STORE_NOT_OURS');
    const artifact = {
      kind: ArtifactKind.INPUT,
      name: 'late.wav',
      contentType: 'audio/wav',
      content: Buffer.from('x'),
    };
    t.is((await refusalOf(uploadArtifact(jobs, jobId, artifact))).reason, 'STORE_NOT_OURS');
    t.deepEqual(await gateway.listEverything(BUCKET), [MARKER_KEY], 'the other bucket is left as it was');

    await gateway.renameBucket(BUCKET, 'another');
    await gateway.renameBucket('own', BUCKET);
    const receipt = await settled(stack, tenantId, deletionId, 90_000);
    t.is(receipt.state, DeletionState.COMPLETE, receipt.lastError);
    t.deepEqual(await evidenceOf(stack, graph), NOTHING);
    t.is(await everythingOf(graph), 0);
    t.is(await everythingOf(neighbour), 2);
    await t.notThrowsAsync(uploadArtifact(jobs, jobId, artifact));
  },
);
