import anyTest, { type TestFn } from 'ava';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type CephGateway, hasCeph, startCephGateway } from '#test/support/ceph-gateway.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { testIfFound } from '#test/support/require.ts';
import { evidenceOf, makeRunGraph, NOTHING, type RunGraph, settled } from '#test/support/run-graph.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

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
    services: ['run', 'job'],
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
  test,
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
