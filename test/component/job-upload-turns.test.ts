import { create } from '@bufbuild/protobuf';
import anyTest, { type TestFn } from 'ava';
import { uploadArtifact } from '#deploy/local/sample/speech-worker.ts';
import type { StackClients } from '#deploy/local/stack.ts';
import { ArtifactKind } from '#gen/lethe/job/v1/job_pb.ts';
import { UploadArtifactRequestSchema } from '#gen/lethe/job/v1/job_service_pb.ts';
import { storedPaths } from '#test/support/stored-files.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['job'], env: { LETHE_UPLOADS_AT_ONCE: '2' } });
});
test.after.always((t) => t.context.stack.dispose());

/** Sends something of an artifact, and the rest after `then`. */
const slowUpload = (jobs: StackClients['jobs'], jobId: string, then: Promise<void>, signal?: AbortSignal) =>
  jobs.uploadArtifact(
    (async function* () {
      const value = { jobId, kind: ArtifactKind.INPUT, name: 'slow.wav', contentType: 'audio/wav' };
      yield create(UploadArtifactRequestSchema, { part: { case: 'header', value: value as never } });
      yield create(UploadArtifactRequestSchema, { part: { case: 'chunk', value: Buffer.alloc(100_000) } });
      await then;
      yield create(UploadArtifactRequestSchema, { part: { case: 'chunk', value: Buffer.alloc(100_000) } });
    })(),
    signal ? { signal } : {},
  );

test('the slow uploads of one tenant wait for one another, and those of another tenant for none of them', async (t) => {
  const { stack } = t.context;
  const slow = stack.clients({ tenantId: 'slow', role: 'member' }).jobs;
  const quick = stack.clients({ tenantId: 'quick', role: 'member' }).jobs;
  const ids: string[] = [];
  for (let made = 0; made < 3; made += 1) ids.push((await slow.createJob({})).job?.id ?? '');
  const [first = '', second = '', third = ''] = ids;
  const isRead = async (jobId: string) => (await storedPaths(stack, { tenantId: 'slow', jobId })).length > 0;
  const gate = Promise.withResolvers<void>();
  const leaving = new AbortController();

  const firstUpload = slowUpload(slow, first, gate.promise);
  await until('the first is read', () => isRead(first));
  const gone = refusalOf(slowUpload(slow, second, gate.promise, leaving.signal));
  const thirdUpload = slowUpload(slow, third, Promise.resolve());

  const jobId = (await quick.createJob({})).job?.id ?? '';
  const input = { kind: ArtifactKind.INPUT, name: 'a.wav', contentType: 'audio/wav', content: Buffer.from('sound') };
  for (let times = 0; times < 3; times += 1) await uploadArtifact(quick, jobId, input);
  t.deepEqual([await isRead(second), await isRead(third)], [false, false]);

  leaving.abort();
  t.is((await gone).reason, undefined);
  gate.resolve();
  t.is((await firstUpload).artifact?.sizeBytes, 200_000n);
  t.is((await thirdUpload).artifact?.sizeBytes, 200_000n);
  t.false(await isRead(second), 'nobody waits for a caller who has gone');
});
