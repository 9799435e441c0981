import { access, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ArtifactKind, JobState } from '#gen/lethe/job/v1/job_pb.ts';
import { JobService } from '#gen/lethe/job/v1/job_service_pb.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Participant } from '#test/contract/participant.ts';
import { DELETION_CRASH_POINTS, EXECUTE_CRASH_POINTS } from '#test/support/crash-points.ts';
import { stackParticipant } from '#test/support/participant-clients.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { AREAS, storedFiles } from '#test/support/stored-files.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; crashFile: string; connection: Connection }>;

const TENANT = 'acme';

test.before(async (t) => {
  t.context.crashFile = join(tmpdir(), `lethe-crash-${newId()}`);
  t.context.stack = await startTestStack({
    services: ['job'],
    envOf: {
      job: {
        LETHE_CRASH_FILE: t.context.crashFile,
        LETHE_DELETION_LEASE_MS: '500',
        LETHE_UPLOAD_LEASE_MS: '500',
        LETHE_DELETION_OBJECTS_PER_BATCH: '2',
      },
    },
  });
  t.context.connection = connect({ address: t.context.stack.addresses.job, token: async () => 'no token' });
});
test.after.always(async (t) => {
  t.context.connection?.close();
  await t.context.stack?.dispose();
  for (const file of [t.context.crashFile, `${t.context.crashFile}.struck`]) await rm(file, { force: true });
});

const ASSETS = ['a', 'b', 'c'].map((name) => ({ name, text: `text of ${name}` }));

const execute = (participant: Participant, runId: string) =>
  participant.execute({
    key: { operationId: runId, step: 'draft' },
    runId,
    action: 'create-job',
    input: { task_names: ['write'], assets: ASSETS, state: 'COMPLETED' },
  });

const compensate = (participant: Participant, runId: string) =>
  participant.compensate({ key: { operationId: runId, step: 'draft' }, runId });

/** Repeats one call with one key, through refusals of a process that is not there, until it is COMPLETE. */
async function repeat<T extends { progress: Progress }>(call: () => Promise<T>): Promise<T> {
  let last: T | undefined;
  await until('COMPLETE', async () => {
    last = await call();
    return last.progress === Progress.COMPLETE;
  });
  if (!last) throw new Error('no answer');
  return last;
}

/** Lets the process die at the point while `call` is under way. */
async function killAt(
  { crashFile, stack }: { crashFile: string; stack: TestStack },
  point: string,
  call: () => Promise<unknown>,
): Promise<void> {
  await rm(`${crashFile}.struck`, { force: true });
  await writeFile(crashFile, point);
  const pid = stack.pid('job');
  await call().catch(() => undefined);
  await until(`the process was killed at ${point}`, () => access(`${crashFile}.struck`).then(() => true));
  await until('another one is there', async () => ![pid, undefined].includes(stack.pid('job')));
}

/** Ids of the run's jobs and paths of their files, by SQL and the file system. */
async function remains(stack: TestStack, runId: string): Promise<{ jobs: string[]; rows: number; files: string[] }> {
  const url = stack.superuserUrl('job');
  const ids = await queryOnce<{ id: string; there: boolean }>(
    url,
    `select id, true as there from jobs where run_id = $1
     union all select job_id, false from job_deletions where run_id = $1`,
    [runId],
  );
  const [count] = await queryOnce<{ rows: number }>(
    url,
    `select ((select count(*) from job_tasks where job_id = any($1)) +
             (select count(*) from artifacts where job_id = any($1)))::int as rows`,
    [ids.map(({ id }) => id)],
  );
  const files: string[] = [];
  for (const area of AREAS) {
    for (const jobId of new Set(ids.map(({ id }) => id))) {
      const found = await storedFiles(stack, { tenantId: TENANT, jobId, areas: [area] });
      files.push(...found.map((path) => `${area}/${basename(path).replace(/^[0-9a-f-]{36}-/, '')}`));
    }
  }
  return { jobs: ids.filter(({ there }) => there).map(({ id }) => id), rows: count?.rows ?? 0, files };
}

const NOTHING = { jobs: [], rows: 0, files: [] };
const WHOLE = ['objects', 'meta'].flatMap((area) => ASSETS.map(({ name }) => `${area}/${name}`)).toSorted();

for (const point of EXECUTE_CRASH_POINTS) {
  test.serial(`an action that is killed at ${point} is finished by the same key, and done once`, async (t) => {
    const { stack, connection } = t.context;
    const participant = stackParticipant(stack, connection, 'job', TENANT);
    const runId = newId();
    await killAt(t.context, point, () => execute(participant, runId));
    const { output } = await repeat(() => execute(participant, runId));
    // What the killed process left of its upload is removed by whichever replica comes first.
    await until('nothing else is left', async () => (await remains(stack, runId)).files.length === WHOLE.length);
    const { jobs, rows, files } = await remains(stack, runId);
    t.deepEqual(jobs, [output?.['job_id']]);
    t.is(rows, 1 + ASSETS.length);
    t.deepEqual(files.toSorted(), WHOLE);
    // On the connection that has found the new process; another one may still wait before it looks again.
    const client = connection.client(JobService, () => stack.token({ tenantId: TENANT, role: 'viewer' }));
    t.is((await client.getJob({ jobId: jobs[0] ?? '' })).job?.state, JobState.COMPLETED);
    for (const { name, text } of ASSETS) {
      const chunks: Uint8Array[] = [];
      const asked = { jobId: jobs[0] ?? '', kind: ArtifactKind.OUTPUT, name };
      for await (const { part } of client.downloadArtifact(asked)) if (part.case === 'chunk') chunks.push(part.value);
      t.is(Buffer.concat(chunks).toString(), text);
    }
  });

  test.serial(`an action that is killed at ${point} and compensated leaves nothing`, async (t) => {
    const { stack, connection } = t.context;
    const participant = stackParticipant(stack, connection, 'job', TENANT);
    const [runId, neighbour] = [newId(), newId()];
    await repeat(() => execute(participant, neighbour));
    const before = await remains(stack, neighbour);
    await killAt(t.context, point, () => execute(participant, runId));
    await repeat(() => compensate(participant, runId));
    t.deepEqual(await remains(stack, runId), NOTHING);
    t.deepEqual(await remains(stack, neighbour), before);
  });
}

for (const point of DELETION_CRASH_POINTS.filter((name) => name !== 'job.delete.after-intent')) {
  test.serial(`a compensation that is killed at ${point} is finished by the same key`, async (t) => {
    const { stack, connection } = t.context;
    const participant = stackParticipant(stack, connection, 'job', TENANT);
    const runId = newId();
    await repeat(() => execute(participant, runId));
    await killAt(t.context, point, () => compensate(participant, runId));
    const { resourceCounts } = await repeat(() => compensate(participant, runId));
    t.deepEqual(await remains(stack, runId), NOTHING);
    const deleted = Object.fromEntries(resourceCounts.map((count) => [count.resourceType, count.deleted]));
    t.like(deleted, { job: 1n, job_task: 1n, artifact: 3n, object_version: 3n }, 'the counts are exact');
  });
}
