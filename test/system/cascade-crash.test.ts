import { access, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import type { ServiceName } from '#deploy/local/stack.ts';
import { BulkDeletionState } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import {
  BULK_CRASH_POINTS,
  CASCADE_CRASH_POINTS,
  DELETION_CRASH_POINTS,
  PARTICIPANT_CRASH_POINTS,
} from '#test/support/crash-points.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { evidenceOf, incidentsOf, makeRunGraph, NOTHING, settled } from '#test/support/run-graph.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; crashFile: string }>;

test.before(async (t) => {
  t.context.crashFile = join(tmpdir(), `lethe-crash-${newId()}`);
  const LETHE_CRASH_FILE = t.context.crashFile;
  t.context.stack = await startTestStack({
    services: ['run', 'job', 'incident'],
    envOf: {
      // A lease that a crash leaves behind runs out soon, so that the test does not wait.
      run: {
        LETHE_CRASH_FILE,
        LETHE_PARTICIPANT_TIMEOUT_MS: '400',
        // However long a busy machine takes to start the killed service again, its call is made soon after.
        LETHE_DELETION_ATTEMPTS: '1000',
        LETHE_DELETION_BACKOFF_MS: '50',
        LETHE_DELETION_BACKOFF_MAX_MS: '500',
        LETHE_BULK_LEASE_MS: '500',
        LETHE_BULK_CHUNK: '3',
        LETHE_BULK_UNDER_WAY: '3',
      },
      incident: { LETHE_CRASH_FILE },
      job: { LETHE_CRASH_FILE, LETHE_DELETION_LEASE_MS: '500', LETHE_DELETION_OBJECTS_PER_BATCH: '2' },
    },
  });
});
test.after.always(async (t) => {
  await t.context.stack?.dispose();
  for (const file of [t.context.crashFile, `${t.context.crashFile}.struck`]) await rm(file, { force: true });
});

/** Arms the point, orders until the order is taken, and waits until another process stands where one was killed. */
async function orderThroughCrash(
  { stack, crashFile }: { stack: TestStack; crashFile: string },
  service: ServiceName,
  point: string,
  order: () => Promise<string | undefined>,
): Promise<string | undefined> {
  await rm(`${crashFile}.struck`, { force: true });
  const pid = stack.pid(service);
  await writeFile(crashFile, point);
  await order().catch(() => undefined);
  await until('the process was killed', () => access(`${crashFile}.struck`).then(() => true));
  let deletionId: string | undefined;
  await until('another one is there', async () => {
    const now = stack.pid(service);
    if (now === pid || now === undefined) return false;
    deletionId = await order();
    return true;
  });
  return deletionId;
}

const POINTS = [
  ...CASCADE_CRASH_POINTS.map((point) => ['run', point] as const),
  // The first one is DeleteJob's own: a cascade commits its intent to delete jobs otherwise.
  ...DELETION_CRASH_POINTS.filter((point) => point !== 'job.delete.after-intent').map(
    (point) => ['job', point] as const,
  ),
  ...PARTICIPANT_CRASH_POINTS.filter((point) => point.startsWith('incident.cascade.')).map(
    (point) => ['incident', point] as const,
  ),
];

for (const [service, point] of POINTS) {
  test.serial(
    `a run's purge that is killed at ${point} ends complete, exact, and with its neighbours untouched`,
    async (t) => {
      const { stack } = t.context;
      const { runs } = stack.clients({ tenantId: 'acme', role: 'admin' });
      const graph = await makeRunGraph(stack, 'acme', { steps: 5, jobs: 2, objectsPerJob: 3, incidents: 2 });
      const neighbour = await makeRunGraph(stack, 'acme', { incidents: 1 });
      const stranger = await makeRunGraph(stack, 'acme-2');
      const near = await evidenceOf(stack, neighbour);
      const far = await evidenceOf(stack, stranger);
      const order = { runId: graph.runId, requestId: newId(), reason: 'crash test' };
      const deletionId = await orderThroughCrash(t.context, service, point, async () => {
        return (await runs.purgeRun(order)).deletion?.id;
      });
      const receipt = await settled(stack, 'acme', deletionId);
      t.is(receipt.state, DeletionState.COMPLETE, receipt.lastError);
      t.deepEqual(await evidenceOf(stack, graph), NOTHING);
      t.deepEqual(await evidenceOf(stack, neighbour), near);
      t.deepEqual(await evidenceOf(stack, stranger), far);
      t.deepEqual(await incidentsOf(stack, graph), { shells: 2, payloads: 0, purged: 2 });
      t.deepEqual(await incidentsOf(stack, neighbour), { shells: 1, payloads: 1, purged: 0 });
      const told = Object.fromEntries(
        receipt.participants.flatMap(({ resourceCounts }) =>
          resourceCounts.map(({ resourceType, deleted }) => [resourceType, Number(deleted)]),
        ),
      );
      t.like(told, { run: 1, run_step: 5, job: 2, object_version: 6, incident_payload: 2 }, 'the receipt is exact');
    },
  );
}

for (const point of CASCADE_CRASH_POINTS.filter((name) => !/verify|own-batches/.test(name))) {
  test.serial(`a run is hidden whole and brought back whole when its cascades are killed at ${point}`, async (t) => {
    const { stack } = t.context;
    const { runs } = stack.clients({ tenantId: 'globex', role: 'admin' });
    const graph = await makeRunGraph(stack, 'globex', { steps: 2, jobs: 2, objectsPerJob: 1 });
    const { runId } = graph;
    const before = await evidenceOf(stack, graph);
    const hide = { runId, requestId: newId() };
    const hidden = await orderThroughCrash(t.context, 'run', point, async () => {
      return (await runs.deleteRun(hide)).deletion?.id;
    });
    t.is((await settled(stack, 'globex', hidden)).state, DeletionState.COMPLETE);
    t.deepEqual(await evidenceOf(stack, graph), { ...before, hiddenRuns: 1, hiddenSteps: 2, hiddenJobs: 2 });
    const show = { runId, requestId: newId() };
    const shown = await orderThroughCrash(t.context, 'run', point, async () => {
      return (await runs.undeleteRun(show)).deletion?.id;
    });
    t.is((await settled(stack, 'globex', shown)).state, DeletionState.COMPLETE);
    t.deepEqual(await evidenceOf(stack, graph), before);
  });
}

for (const point of BULK_CRASH_POINTS.map((name) => `run.${name}`)) {
  test.serial(
    `a bulk deletion that is killed at ${point} deletes each of its items once, and counts them`,
    async (t) => {
      const { stack } = t.context;
      const tenantId = `bulk-${newId()}`;
      const { runs } = stack.clients({ tenantId, role: 'admin' });
      const seed = (state: string, count: number) =>
        queryOnce(
          stack.superuserUrl('run'),
          `insert into workflow_runs (tenant_id, id, workflow, display_name, state)
         select $1, gen_random_uuid(), 'sync', '', $2 from generate_series(1, $3) n`,
          [tenantId, state, count],
        );
      await seed('COMPLETED', 7);
      await seed('RUNNING', 2);
      const order = { filter: { workflow: 'sync' }, reason: 'crash test', requestId: newId(), expectedCount: 9n };
      const bulkDeletionId = await orderThroughCrash(t.context, 'run', point, async () => {
        return (await runs.purgeRuns(order)).bulkDeletion?.id;
      });
      let bulk = (await runs.getBulkDeletion({ bulkDeletionId: bulkDeletionId ?? '' })).bulkDeletion;
      await until('it ends', async () => {
        bulk = (await runs.getBulkDeletion({ bulkDeletionId: bulkDeletionId ?? '' })).bulkDeletion;
        return bulk?.state === BulkDeletionState.COMPLETE;
      });
      t.like(bulk?.counts, { matched: 9n, pending: 0n, completed: 7n, skipped: 2n, stuck: 0n, cancelled: 0n });
      t.is((await runs.listBulkDeletions({})).bulkDeletions.length, 1);
      const [counted] = await queryOnce<{ deletions: number; complete: number; targets: number; left: number }>(
        stack.superuserUrl('run'),
        `select count(*)::int as deletions, count(distinct run_id)::int as targets,
              count(*) filter (where state = 'COMPLETE' and bulk_deletion_id = $2)::int as complete,
              (select count(*)::int from workflow_runs where tenant_id = $1) as left
       from deletions where tenant_id = $1`,
        [tenantId, bulkDeletionId],
      );
      t.deepEqual(counted, { deletions: 7, complete: 7, targets: 7, left: 2 });
    },
  );
}
