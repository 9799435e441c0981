import { access, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Code } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Participant } from '#test/contract/participant.ts';
import { type CephGateway, hasCeph, startCephGateway } from '#test/support/ceph-gateway.ts';
import { stackParticipant } from '#test/support/participant-clients.ts';
import { testIfFound } from '#test/support/require.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<unknown>;
const isFound = hasCeph();
const declare = (title: string, body: Parameters<typeof testIfFound>[4]) =>
  testIfFound(test.serial, isFound, "Ceph's gateway", title, body);
const BUCKET = 'jobs';
const crashFile = join(tmpdir(), `lethe-crash-${newId()}`);

let gateway: CephGateway;
let stack: TestStack;
let connection: Connection;

test.before(async () => {
  if (!isFound) return;
  gateway = await startCephGateway();
  await gateway.createBucket(BUCKET, { versioned: true });
  stack = await startTestStack({
    services: ['job'],
    env: {
      ...gateway.environment(BUCKET),
      LETHE_CRASH_FILE: crashFile,
      LETHE_DELETION_LEASE_MS: '1500',
      LETHE_UPLOAD_LEASE_MS: '1500',
      LETHE_DELETION_BACKOFF_MS: '200',
      LETHE_DELETION_BACKOFF_MAX_MS: '1000',
    },
  });
  connection = connect({ address: stack.addresses.job, token: async () => 'no token' });
});
test.after.always(async () => {
  connection?.close();
  await stack?.dispose();
  await gateway?.stop();
  for (const file of [crashFile, `${crashFile}.struck`]) await rm(file, { force: true });
});

/** Everything in the bucket, by the gateway's own listing. */
const everything = (): Promise<string[]> => gateway.listEverything(BUCKET);

const execute = (participant: Participant, runId: string) =>
  participant.execute({
    key: { operationId: runId, step: 'draft' },
    runId,
    action: 'create-job',
    input: { assets: ['a', 'b'].map((name) => ({ name, text: name })), state: 'COMPLETED' },
  });

const compensate = (participant: Participant, runId: string) =>
  participant.compensate({ key: { operationId: runId, step: 'draft' }, runId });

const untilComplete = (call: () => Promise<{ progress: Progress }>) =>
  until('COMPLETE', async () => (await call()).progress === Progress.COMPLETE);

for (const point of ['upload.after-intent', 'upload.after-put', 'job.execute.between-objects']) {
  declare(`an action that is killed at ${point} and compensated leaves no version, marker or upload`, async (t) => {
    const participant = stackParticipant(stack, connection, 'job', 'acme');
    const [runId, neighbour] = [newId(), newId()];
    await untilComplete(() => execute(participant, neighbour));
    const before = await everything();
    await rm(`${crashFile}.struck`, { force: true });
    await writeFile(crashFile, point);
    await execute(participant, runId).catch(() => undefined);
    await until('the process was killed', () => access(`${crashFile}.struck`).then(() => true));
    await untilComplete(() => compensate(participant, runId));
    t.deepEqual(await everything(), before);
  });
}

declare('an action that meets a dead S3 server is UNAVAILABLE, and done by the same key when it is back', async (t) => {
  const participant = stackParticipant(stack, connection, 'job', 'acme');
  const runId = newId();
  const before = await everything();
  await gateway.kill9();
  t.like(await refusalOf(execute(participant, runId)), { code: Code.Unavailable, reason: 'DEPENDENCY_UNAVAILABLE' });
  await gateway.restart();
  await untilComplete(() => execute(participant, runId));
  t.is((await everything()).length, before.length + 2);
  await untilComplete(() => compensate(participant, runId));
  t.deepEqual(await everything(), before);
});
