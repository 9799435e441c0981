import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Code } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { evidenceOf, makeRunGraph, NOTHING, settled } from '#test/support/run-graph.ts';
import { refusalOf, startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({
    services: ['run', 'job'],
    envOf: { run: { WORKFLOW_MIN_PURGE_AGE_HOURS: '24' } },
  });
});
test.after.always((t) => t.context.stack.dispose());

test('a run younger than the guard is not purged, and the refusal tells from when it can be', async (t) => {
  const { stack } = t.context;
  const { runs } = stack.clients({ tenantId: 'young', role: 'admin' });
  const graph = await makeRunGraph(stack, 'young', { jobs: 1 });
  const before = await evidenceOf(stack, graph);
  const refusal = await refusalOf(runs.purgeRun({ runId: graph.runId, reason: 'too early' }));
  t.like(refusal, { code: Code.FailedPrecondition, reason: 'RETENTION_GUARD' });
  const { run } = await runs.getRun({ runId: graph.runId });
  const ended = Temporal.Instant.fromEpochMilliseconds(Number(run?.finishTime?.seconds ?? 0n) * 1_000);
  const purgeable = Temporal.Instant.from(refusal.metadata['purgeable_time'] ?? '');
  t.is(Math.round(purgeable.since(ended).total('hours')), 24);
  const preview = await runs.previewPurgeRun({ runId: graph.runId });
  t.is(preview.blockers[0]?.reason, 'RETENTION_GUARD');
  t.truthy(preview.purgeableTime);
  t.deepEqual(await evidenceOf(stack, graph), before);
  // Hiding is reversible, so no guard stands before it.
  const { deletion } = await runs.deleteRun({ runId: graph.runId });
  t.is((await settled(stack, 'young', deletion?.id)).state, DeletionState.COMPLETE);
});

test("an owner's force overrides the guard, and the receipt says so", async (t) => {
  const { stack } = t.context;
  const { runs } = stack.clients({ tenantId: 'forced', role: 'owner' });
  const graph = await makeRunGraph(stack, 'forced', { jobs: 1 });
  const { deletion } = await runs.purgeRun({ runId: graph.runId, reason: 'now', force: true });
  t.true((await settled(stack, 'forced', deletion?.id)).force);
  t.deepEqual(await evidenceOf(stack, graph), NOTHING);
});

test("the platform's force overrides the guard in the tenant that its credential names", async (t) => {
  const { stack } = t.context;
  const { runs } = stack.clients({ tenantId: 'operated', role: 'platform' });
  const graph = await makeRunGraph(stack, 'operated', { jobs: 0 });
  const { deletion } = await runs.purgeRun({ runId: graph.runId, reason: 'now', force: true });
  t.is((await settled(stack, 'operated', deletion?.id)).state, DeletionState.COMPLETE);
});

test('a long run that has just ended is as young as its end', async (t) => {
  const { stack } = t.context;
  const { runs } = stack.clients({ tenantId: 'long', role: 'admin' });
  const graph = await makeRunGraph(stack, 'long', { jobs: 0 });
  await queryOnce(
    stack.superuserUrl('run'),
    `update workflow_runs set created_at = clock_timestamp() - interval '40 days',
            finished_at = clock_timestamp() - interval '1 minute' where tenant_id = 'long' and id = $1`,
    [graph.runId],
  );
  t.is((await refusalOf(runs.purgeRun({ runId: graph.runId, reason: 'early' }))).reason, 'RETENTION_GUARD');
  const { blockers } = await runs.previewPurgeRun({ runId: graph.runId });
  t.is(blockers[0]?.reason, 'RETENTION_GUARD');
});

test('a run that has come of age is purged without force: the age is by the database, to the microsecond', async (t) => {
  const { stack } = t.context;
  const { runs } = stack.clients({ tenantId: 'aged', role: 'admin' });
  const graph = await makeRunGraph(stack, 'aged', { jobs: 1 });
  const age = (interval: string) =>
    queryOnce(
      stack.superuserUrl('run'),
      `update workflow_runs set created_at = clock_timestamp() - cast($2 as interval),
              finished_at = clock_timestamp() - cast($2 as interval) where tenant_id = 'aged' and id = $1`,
      [graph.runId, interval],
    );
  await age('23 hours 59 minutes');
  t.is((await refusalOf(runs.purgeRun({ runId: graph.runId, reason: 'early' }))).reason, 'RETENTION_GUARD');
  await age('24 hours');
  const { deletion } = await runs.purgeRun({ runId: graph.runId, reason: 'of age' });
  t.is((await settled(stack, 'aged', deletion?.id)).state, DeletionState.COMPLETE);
});

test('each delete, soft or hard, done or refused, is a line of the log with who and why, and one more in the metrics', async (t) => {
  const { stack } = t.context;
  const tenantId = 'told';
  const metricsUrl = `http://${stack.environment('run')['LETHE_METRICS_ADDRESS']}/metrics`;
  const counted = async (kind: string, outcome: string): Promise<number> => {
    const text = await (await fetch(metricsUrl)).text();
    const labels = `kind="${kind}",outcome="${outcome}"`;
    return Number(new RegExp(`^lethe_deletions_total\\{${labels},[^}]*\\} (\\d+)$`, 'm').exec(text)?.[1] ?? 0);
  };
  const counts = async () => ({
    soft: await counted('SOFT_DELETE', 'COMPLETE'),
    hard: await counted('PURGE', 'COMPLETE'),
    refused: await counted('PURGE', 'REFUSED'),
  });
  const before = await counts();
  const { runs } = stack.clients({ tenantId, role: 'owner', subject: 'ada' });
  const { runId } = await makeRunGraph(stack, tenantId, { jobs: 1 });
  const soft = await runs.deleteRun({ runId, reason: 'by mistake' });
  await settled(stack, tenantId, soft.deletion?.id);
  await refusalOf(runs.purgeRun({ runId, reason: 'too early' }));
  const hard = await runs.purgeRun({ runId, reason: 'contract ended', force: true });
  await settled(stack, tenantId, hard.deletion?.id);

  const log = await readFile(join(stack.folder, 'logs/run.log'), 'utf8');
  const lines = log
    .split('\n')
    .filter((line) => line.includes('"audit":true') && line.includes(runId))
    .map((line) => JSON.parse(line));
  const told = lines.map(({ action, actor, reason, outcome }) => `${action} ${outcome} by ${actor}: ${reason}`);
  for (const line of [
    'SOFT_DELETE COMPLETE by ada: by mistake',
    'PURGE REFUSED by ada: too early',
    'PURGE COMPLETE by ada: contract ended',
  ]) {
    t.true(told.includes(line), `${line} in ${told.join('; ')}`);
  }
  const after = await counts();
  for (const kind of ['soft', 'hard', 'refused'] as const) t.true(after[kind] > before[kind], kind);
});
