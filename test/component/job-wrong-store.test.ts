import { cp, mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { freePort } from '#deploy/local/free-port.ts';
import { uploadArtifact } from '#deploy/local/sample/speech-worker.ts';
import { startServiceProcess } from '#deploy/local/service-process.ts';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ArtifactKind } from '#gen/lethe/job/v1/job_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { bundleOf } from '#test/support/programs.ts';
import { storedFiles } from '#test/support/stored-files.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.beforeEach(async (t) => {
  t.context.stack = await startTestStack({ services: ['job'], env: { LETHE_DELETION_BACKOFF_MS: '100' } });
});
test.afterEach.always((t) => t.context.stack.dispose());

async function cancelledJob(stack: TestStack): Promise<string> {
  const { jobs } = stack.clients({ tenantId: 'acme', role: 'admin' });
  const jobId = (await jobs.createJob({})).job?.id ?? '';
  const content = Buffer.from('sound');
  for (const name of ['a', 'b', 'c']) {
    await uploadArtifact(jobs, jobId, { kind: ArtifactKind.INPUT, name, contentType: 'a/b', content });
  }
  await jobs.cancelJob({ jobId });
  return jobId;
}

const deletionOf = async (stack: TestStack, deletionId: string) =>
  (await stack.clients({ tenantId: 'acme', role: 'admin' }).jobs.getDeletion({ deletionId })).deletion;

test.serial('JobService refuses to start on another, empty store, and says why', async (t) => {
  const { stack } = t.context;
  await cancelledJob(stack);
  const other = join(stack.folder, 'another-store');
  await mkdir(other);
  const logFile = join(stack.folder, 'logs', 'lost.log');
  const service = await startServiceProcess({
    name: 'lost',
    program: await bundleOf('services/job/main.ts'),
    env: {
      ...stack.environment('job'),
      LETHE_FILE_STORE_ROOT: other,
      LETHE_GRPC_ADDRESS: `127.0.0.1:${await freePort()}`,
      LETHE_METRICS_ADDRESS: `127.0.0.1:${await freePort()}`,
    },
    logFile,
    onGivingUp: () => undefined,
  });
  t.teardown(() => service.stop());
  await until(
    'it says why',
    async () => /STORE_NOT_OURS|not this installation/.test(await readFile(logFile, 'utf8')),
    60_000,
  );
  t.pass();
});

test.serial(
  'a deletion is not claimed on a store that has lost its marker, says why, and goes on when it is back',
  async (t) => {
    const { stack } = t.context;
    const jobId = await cancelledJob(stack);
    const away = join(stack.folder, 'away');
    // As if the disk had been replaced by an empty one.
    await cp(stack.objectFolder, away, { recursive: true });
    await rm(stack.objectFolder, { recursive: true });
    await mkdir(stack.objectFolder);
    const { jobs } = stack.clients({ tenantId: 'acme', role: 'admin' });
    // A good answer about the store holds for a second.
    const emptiedAt = performance.now();
    await until('the last good answer is too old', async () => performance.now() - emptiedAt > 1_500);
    await until('the store is seen to be another', async () => {
      const probe = await jobs.deleteJob({ jobId, requestId: PROBE });
      const error = (await deletionOf(stack, probe.deletion?.id ?? ''))?.lastError ?? '';
      return error.startsWith('STORE_NOT_OURS: ');
    });
    const deletionId = (await jobs.deleteJob({ jobId, requestId: PROBE })).deletion?.id ?? '';
    t.not((await deletionOf(stack, deletionId))?.state, DeletionState.COMPLETE);
    await cp(away, stack.objectFolder, { recursive: true });
    await until(
      'complete',
      async () => (await deletionOf(stack, deletionId))?.state === DeletionState.COMPLETE,
      60_000,
    );
    t.deepEqual(await storedFiles(stack, { tenantId: 'acme' }), []);
    const counts = (await deletionOf(stack, deletionId))?.participants[0]?.resourceCounts ?? [];
    t.like(
      counts.find(({ resourceType }) => resourceType === 'object_version'),
      { deleted: 3n, atLeast: false },
    );
  },
);

const PROBE = newId();

test.serial('a job whose objects are not in the store is not COMPLETE until a person accepts it', async (t) => {
  const { stack } = t.context;
  const jobId = await cancelledJob(stack);
  await rm(join(stack.objectFolder, 'objects/tenants'), { recursive: true });
  const { jobs } = stack.clients({ tenantId: 'acme', role: 'admin' });
  const deletionId = (await jobs.deleteJob({ jobId })).deletion?.id ?? '';
  await until('stuck', async () => (await deletionOf(stack, deletionId))?.state === DeletionState.STUCK);
  t.regex((await deletionOf(stack, deletionId))?.lastError ?? '', /^OBJECTS_MISSING: The database knows 3 objects/);
  await jobs.redriveDeletion({ deletionId, reason: 'the disk is lost' });
  await until('complete', async () => (await deletionOf(stack, deletionId))?.state === DeletionState.COMPLETE);
  const counts = (await deletionOf(stack, deletionId))?.participants[0]?.resourceCounts ?? [];
  t.deepEqual(
    counts.filter(({ resourceType }) => resourceType === 'object_version'),
    [],
    'the receipt claims none of them',
  );
});
