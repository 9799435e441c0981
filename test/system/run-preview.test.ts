import anyTest, { type TestFn } from 'ava';
import fc from 'fast-check';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { evidenceOf, makeRunGraph, NOTHING, settled } from '#test/support/run-graph.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

const ROWS_PER_CALL = 10;

test.before(async (t) => {
  t.context.stack = await startTestStack({
    services: ['run', 'job'],
    envOf: {
      run: { LETHE_PURGE_LIMIT: String(ROWS_PER_CALL) },
      job: { LETHE_DELETION_OBJECTS_PER_BATCH: '2' },
    },
  });
});
test.after.always((t) => t.context.stack.dispose());

const graph = fc.record({
  steps: fc.integer({ min: ROWS_PER_CALL * 3 + 1, max: ROWS_PER_CALL * 6 }),
  jobs: fc.nat({ max: 6 }),
  objectsPerJob: fc.nat({ max: 5 }),
  isHidden: fc.boolean(),
});

test('what a preview tells is what the purge takes, over more than three batches, for generated graphs', async (t) => {
  const { stack } = t.context;
  const { runs } = stack.clients({ tenantId: 'previews', role: 'admin' });
  await fc.assert(
    fc.asyncProperty(graph, async ({ isHidden, ...size }) => {
      const made = await makeRunGraph(stack, 'previews', size);
      const { runId } = made;
      if (isHidden) await settled(stack, 'previews', (await runs.deleteRun({ runId })).deletion?.id);
      const preview = await runs.previewPurgeRun({ runId });
      const { deletion } = await runs.purgeRun({ runId, reason: 'previewed' });
      const receipt = await settled(stack, 'previews', deletion?.id);
      t.is(receipt.state, DeletionState.COMPLETE);
      const foretold = preview.participants.map(({ participant, resourceCounts }) => ({
        participant,
        counts: resourceCounts.map(({ resourceType, found, bytes }) => [resourceType, found, found, 0n, bytes]),
      }));
      const done = receipt.participants.map(({ participant, resourceCounts }) => ({
        participant,
        counts: resourceCounts.map(({ resourceType, found, deleted, left, bytes }) => [
          resourceType,
          found,
          deleted,
          left,
          bytes,
        ]),
      }));
      t.deepEqual(done, foretold);
      t.deepEqual(await evidenceOf(stack, made), NOTHING);
    }),
    { numRuns: 15, endOnFailure: true },
  );
});
