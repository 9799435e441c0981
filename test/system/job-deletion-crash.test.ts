import { access, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { uploadArtifact } from '#deploy/local/sample/speech-worker.ts';
import { BulkDeletionState } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { ArtifactKind, JobState } from '#gen/lethe/job/v1/job_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { armCrash } from '#test/support/arm-crash.ts';
import { DELETION_CRASH_POINTS, DISCARD_CRASH_POINTS } from '#test/support/crash-points.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { storedPaths } from '#test/support/stored-files.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; crashFile: string }>;

test.before(async (t) => {
  t.context.crashFile = join(tmpdir(), `lethe-crash-${newId()}`);
  t.context.stack = await startTestStack({
    services: ['job'],
    envOf: {
      job: {
        LETHE_CRASH_FILE: t.context.crashFile,
        LETHE_DELETION_LEASE_MS: '500',
        LETHE_DELETION_OBJECTS_PER_BATCH: '2',
        LETHE_BULK_LEASE_MS: '500',
        LETHE_BULK_CHUNK: '3',
      },
    },
  });
});
test.after.always(async (t) => {
  await t.context.stack.dispose();
  for (const file of [t.context.crashFile, `${t.context.crashFile}.struck`]) await rm(file, { force: true });
});

for (const point of DELETION_CRASH_POINTS) {
  test.serial(
    `a job's deletion that is killed at ${point} ends with nothing of the job left and all of its neighbours`,
    async (t) => {
      const { stack, crashFile } = t.context;
      const { jobs } = stack.clients({ tenantId: 'acme', role: 'admin' });
      const cancelledJob = async (of: typeof jobs): Promise<string> => {
        const { job } = await of.createJob({ taskNames: ['transcribe'] });
        const jobId = job?.id ?? '';
        for (const name of ['a', 'b', 'c', 'd', 'e']) {
          await uploadArtifact(of, jobId, {
            kind: ArtifactKind.INPUT,
            name,
            contentType: 'a/b',
            content: Buffer.from(name),
          });
        }
        await of.cancelJob({ jobId });
        return jobId;
      };
      const doomed = await cancelledJob(jobs);
      const neighbour = await cancelledJob(jobs);
      const stranger = await cancelledJob(stack.clients({ tenantId: 'acme-2', role: 'admin' }).jobs);
      const stored = (tenantId: string, jobId: string) => storedPaths(stack, { tenantId, jobId });
      const neighbours = { near: await stored('acme', neighbour), far: await stored('acme-2', stranger) };
      t.true(neighbours.near.length > 0 && neighbours.far.length > 0);

      await rm(`${crashFile}.struck`, { force: true });
      await writeFile(crashFile, point);
      const pid = stack.pid('job');
      const requestId = newId();
      const order = { jobId: doomed, requestId, reason: 'crash test' };
      await jobs.deleteJob(order).catch(() => undefined);
      await until('the process was killed', () => access(`${crashFile}.struck`).then(() => true));
      await until('another one is there', async () => {
        const now = stack.pid('job');
        if (now === pid || now === undefined) return false;
        await jobs.deleteJob(order);
        return true;
      });
      await until('the deletion is complete', async () => {
        const [row] = await queryOnce<{ state: string }>(
          stack.superuserUrl('job'),
          'select state from job_deletions where job_id = $1',
          [doomed],
        );
        return row?.state === 'COMPLETE';
      });
      for (const [table, column] of [
        ['jobs', 'id'],
        ['job_tasks', 'job_id'],
        ['artifacts', 'job_id'],
      ]) {
        t.deepEqual(
          await queryOnce(stack.superuserUrl('job'), `select 1 from ${table} where ${column} = $1`, [doomed]),
          [],
        );
      }
      t.deepEqual(await stored('acme', doomed), []);
      t.deepEqual(await stored('acme', neighbour), neighbours.near);
      t.deepEqual(await stored('acme-2', stranger), neighbours.far);
      const kept = await queryOnce<{ count: number }>(
        stack.superuserUrl('job'),
        'select count(*)::int as count from artifacts where job_id = any($1)',
        [[neighbour, stranger]],
      );
      t.is(kept[0]?.count, 10);
      const audit = await queryOnce<{ counts: object }>(
        stack.superuserUrl('job'),
        "select counts from audit_entries where target_id = $1 and action = 'delete'",
        [doomed],
      );
      t.is(audit.length, 1);
      t.like(audit[0]?.counts, { objects: 5, bytes: 5, artifacts: 5, tasks: 1, jobs: 1 }, 'the receipt is exact');
    },
  );
}

// The others are tried with runs: the code is the same but for the order of one item's deletion.
for (const point of ['job.bulk.after-intent', 'job.bulk.after-item', 'job.bulk.before-end']) {
  test.serial(
    `a bulk deletion that is killed at ${point} deletes each of its items once, and counts them`,
    async (t) => {
      const { stack, crashFile } = t.context;
      const tenantId = `bulk-${newId()}`;
      const { jobs } = stack.clients({ tenantId, role: 'admin' });
      await queryOnce(
        stack.superuserUrl('job'),
        `insert into jobs (tenant_id, id, display_name, state)
       select $1, gen_random_uuid(), '', case when n < 8 then 'COMPLETED' else 'PENDING' end from generate_series(1, 9) n`,
        [tenantId],
      );
      const states = [JobState.COMPLETED, JobState.PENDING];
      const order = { filter: { states }, reason: 'crash test', requestId: newId() };
      const struck = await armCrash(crashFile, point);
      await jobs.deleteJobs(order).catch(() => undefined);
      await until('the process was killed', struck);
      let bulkDeletionId = '';
      await until('another one ends it', async () => {
        bulkDeletionId ||= (await jobs.deleteJobs(order)).bulkDeletion?.id ?? '';
        const { bulkDeletion } = await jobs.getBulkDeletion({ bulkDeletionId });
        return bulkDeletion?.state === BulkDeletionState.COMPLETE;
      });
      const { bulkDeletion } = await jobs.getBulkDeletion({ bulkDeletionId });
      t.like(bulkDeletion?.counts, { matched: 9n, pending: 0n, completed: 7n, skipped: 2n, stuck: 0n, cancelled: 0n });
      const [counted] = await queryOnce<{ complete: number; targets: number; left: number }>(
        stack.superuserUrl('job'),
        `select count(*) filter (where state = 'COMPLETE')::int as complete, count(distinct job_id)::int as targets,
              (select count(*)::int from jobs where tenant_id = $1) as left
       from job_deletions where tenant_id = $1`,
        [tenantId],
      );
      t.deepEqual(counted, { complete: 7, targets: 7, left: 2 });
    },
  );
}

for (const point of DISCARD_CRASH_POINTS) {
  test.serial(`an object that was replaced is gone although the process is killed at ${point}`, async (t) => {
    const { stack, crashFile } = t.context;
    const tenantId = 'replacing';
    const { jobs } = stack.clients({ tenantId, role: 'admin' });
    const { job } = await jobs.createJob({ taskNames: ['transcribe'] });
    const jobId = job?.id ?? '';
    const upload = (content: string) =>
      uploadArtifact(jobs, jobId, {
        kind: ArtifactKind.INPUT,
        name: 'a',
        contentType: 'a/b',
        content: Buffer.from(content),
      });
    await upload('before');
    const before = await storedPaths(stack, { tenantId, jobId });
    const wasStruck = await armCrash(crashFile, point);
    await upload('after').catch(() => undefined);
    await until('the process was killed', wasStruck);
    await until('another one has removed what was replaced, and forgotten it', async () => {
      const uploads = await queryOnce(stack.superuserUrl('job'), 'select from artifact_uploads where job_id = $1', [
        jobId,
      ]);
      return uploads.length === 0;
    });
    const after = await storedPaths(stack, { tenantId, jobId });
    t.is(after.length, before.length);
    t.notDeepEqual(after, before);
    await until('the new one is read', async () => {
      const chunks: Uint8Array[] = [];
      for await (const { part } of jobs.downloadArtifact({ jobId, kind: ArtifactKind.INPUT, name: 'a' }))
        if (part.case === 'chunk') chunks.push(part.value);
      return Buffer.concat(chunks).toString() === 'after';
    });
  });
}
