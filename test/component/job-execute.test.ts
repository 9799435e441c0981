import type { JsonObject } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import type { StackClients } from '#deploy/local/stack.ts';
import { ArtifactKind, JobState, TaskState } from '#gen/lethe/job/v1/job_pb.ts';
import { type Connection, connect } from '#libs/grpc/client.ts';
import { newId } from '#libs/kernel/id.ts';
import { openDatabase } from '#libs/postgres/open-database.ts';
import { makeArtifactIndex } from '#services/job/adapters/postgres/artifact-index.ts';
import type { Participant } from '#test/contract/participant.ts';
import { stackParticipant } from '#test/support/participant-clients.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; connection: Connection }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['job'], envOf: { job: { LETHE_MAX_ARTIFACT_BYTES: '1000' } } });
  t.context.connection = connect({ address: t.context.stack.addresses.job, token: async () => '' });
});
test.after.always(async (t) => {
  t.context.connection?.close();
  await t.context.stack?.dispose();
});

interface Fixture {
  readonly jobs: StackClients['jobs'];
  readonly participant: Participant;
  readonly runId: string;
  execute(input: JsonObject, step?: string): ReturnType<Participant['execute']>;
}

/** A tenant and a run of its own. */
function fixture({ stack, connection }: { stack: TestStack; connection: Connection }): Fixture {
  const [tenantId, runId] = [`t-${newId()}`, newId()];
  const participant = stackParticipant(stack, connection, 'job', tenantId);
  return {
    jobs: stack.clients({ tenantId, role: 'admin' }).jobs,
    participant,
    runId,
    execute: (input, step = 'draft') =>
      participant.execute({ key: { operationId: runId, step }, runId, action: 'create-job', input }),
  };
}

async function download(jobs: StackClients['jobs'], jobId: string, name: string): Promise<[string, string]> {
  let type = '';
  const chunks: Uint8Array[] = [];
  for await (const { part } of jobs.downloadArtifact({ jobId, kind: ArtifactKind.OUTPUT, name })) {
    if (part.case === 'artifact') type = part.value.contentType;
    if (part.case === 'chunk') chunks.push(part.value);
  }
  return [type, Buffer.concat(chunks).toString('latin1')];
}

test('create-job with state COMPLETED makes a finished job of the run and step, its assets readable as output', async (t) => {
  const { jobs, runId, execute } = fixture(t.context);
  const { output, resourceCounts } = await execute({
    display_name: 'Campaign draft',
    task_names: ['write', 'check'],
    assets: [
      { name: 'draft.md', content_type: 'text/markdown', text: '# Grüße' },
      { name: 'cover.bin', base64: 'AP8Q' },
      { name: 'empty' },
    ],
    state: 'COMPLETED',
  });
  const jobId = String(output?.['job_id']);
  const { job } = await jobs.getJob({ jobId });
  t.like(job, { runId, step: 'draft', displayName: 'Campaign draft', state: JobState.COMPLETED });
  t.deepEqual(
    job?.tasks.map(({ name, state }) => [name, state]),
    [
      ['write', TaskState.COMPLETED],
      ['check', TaskState.COMPLETED],
    ],
  );
  t.deepEqual(await download(jobs, jobId, 'draft.md'), ['text/markdown', Buffer.from('# Grüße').toString('latin1')]);
  t.deepEqual(await download(jobs, jobId, 'cover.bin'), ['application/octet-stream', '\x00\xff\x10']);
  t.deepEqual(output, {
    job_id: jobId,
    state: 'COMPLETED',
    assets: [
      { name: 'draft.md', size_bytes: 9 },
      { name: 'cover.bin', size_bytes: 3 },
      { name: 'empty', size_bytes: 0 },
    ],
  });
  t.deepEqual(
    resourceCounts.map(({ resourceType, found, bytes }) => [resourceType, found, bytes]),
    [
      ['job', 1n, 0n],
      ['job_task', 2n, 0n],
      ['artifact', 3n, 0n],
      ['object_version', 3n, 12n],
    ],
  );
});

test('create-job without a state waits for a worker, which gets it with its assets there', async (t) => {
  const { jobs, execute } = fixture(t.context);
  const { output } = await execute({ assets: [{ name: 'script.txt', text: 'hello' }], task_names: ['speak'] });
  t.is(output?.['state'], 'PENDING');
  const claimed = await jobs.claimJob({ workerId: 'w' });
  t.is(claimed.job?.id, String(output?.['job_id']));
  t.deepEqual(await download(jobs, claimed.job?.id ?? '', 'script.txt'), ['application/octet-stream', 'hello']);
});

test('a job whose action is not done yet is no worker’s, and is refused for ever once somebody ended it', async (t) => {
  const { jobs, runId, execute } = fixture(t.context);
  const input = { display_name: 'half' };
  const { output } = await execute(input);
  const jobId = String(output?.['job_id']);
  // As a process leaves it that died between the intent and the outcome.
  await queryOnce(t.context.stack.superuserUrl('job'), 'update step_actions set outcome = null where run_id = $1', [
    runId,
  ]);
  t.is((await jobs.claimJob({ workerId: 'w' })).job, undefined);
  await jobs.cancelJob({ jobId });
  const refused = { code: Code.FailedPrecondition, reason: 'ACTION_REFUSED' };
  t.like(await refusalOf(execute(input)), refused);
  await jobs.deleteJob({ jobId });
  t.like(await refusalOf(execute(input)), refused);
});

test('what was done is answered for ever, also when somebody has deleted the job since', async (t) => {
  const { jobs, execute } = fixture(t.context);
  const input = { state: 'COMPLETED', assets: [{ name: 'a', text: 'a' }] };
  const first = await execute(input);
  const jobId = String(first.output?.['job_id']);
  await jobs.deleteJob({ jobId });
  const isGone = async () =>
    (await queryOnce(t.context.stack.superuserUrl('job'), 'select from jobs where id = $1', [jobId])).length === 0;
  await until('the job is gone', isGone);
  // Counted as it was, and without the name of what is gone.
  const output = { ...first.output, assets: [{ name: '', size_bytes: 1 }] };
  t.deepEqual(await execute(input), { ...first, output });
  t.is((await jobs.listJobs({})).jobs.length, 0);
});

test('an asset that no artifact may be as large as is refused for ever, before anything is made', async (t) => {
  const { jobs, execute } = fixture(t.context);
  const refusal = await refusalOf(execute({ assets: [{ name: 'a', text: 'x'.repeat(1_001) }] }));
  t.like(refusal, { code: Code.FailedPrecondition, reason: 'ACTION_REFUSED' });
  t.is((await jobs.listJobs({})).jobs.length, 0);
});

test('every bad field of an input is named by its path, and nothing is made', async (t) => {
  const { jobs, participant, runId, execute } = fixture(t.context);
  const cases: [string, JsonObject][] = [
    ['input', { dispaly_name: 'x' }],
    ['input', { display_name: 'x'.repeat(1_048_576) }],
    ['input.display_name', { display_name: 1 }],
    ['input.display_name', { display_name: 'x'.repeat(201) }],
    ['input.task_names', { task_names: 'write' }],
    ['input.task_names', { task_names: ['a', 'a'] }],
    ['input.task_names[1]', { task_names: ['a', 'B'] }],
    ['input.state', { state: 'FAILED' }],
    ['input.assets', { assets: { name: 'x' } }],
    ['input.assets', { assets: [{ name: 'x' }, { name: 'x' }] }],
    ['input.assets', { assets: Array.from({ length: 101 }, (_, index) => ({ name: `a${index}` })) }],
    ['input.assets[0]', { assets: ['x'] }],
    ['input.assets[0]', { assets: [{ name: 'x', kind: 'INPUT' }] }],
    ['input.assets[0].name', { assets: [{ name: '../x' }] }],
    ['input.assets[1].name', { assets: [{ name: 'x' }, {}] }],
    ['input.assets[0].content_type', { assets: [{ name: 'x', content_type: 'x'.repeat(101) }] }],
    ['input.assets[0].text', { assets: [{ name: 'x', text: 1 }] }],
    ['input.assets[0].base64', { assets: [{ name: 'x', base64: '%' }] }],
    ['input.assets[0].base64', { assets: [{ name: 'x', base64: 'AA==', text: 'x' }] }],
  ];
  for (const [field, input] of cases) {
    const refusal = await refusalOf(execute(input));
    t.like(refusal, { code: Code.InvalidArgument, reason: 'FIELD_INVALID' }, field);
    t.true(refusal.metadata['fields']?.split(',').includes(field), `${field} in ${refusal.metadata['fields']}`);
  }
  const several = await refusalOf(execute({ state: 'x', assets: [{ name: '/' }, { name: '', text: 1 }] }));
  t.is(several.metadata['fields'], 'input.assets[0].name,input.assets[1].name,input.assets[1].text,input.state');
  const stranger = { key: { operationId: newId(), step: 'draft' }, runId, action: 'create-job' };
  t.is((await refusalOf(participant.execute(stranger))).metadata['fields'], 'key.operation_id');
  t.is((await jobs.listJobs({})).jobs.length, 0);
});

test('a call that comes late to an asset does not store it over the one that another call has stored', async (t) => {
  const { stack, connection } = t.context;
  const [tenantId, runId] = [`t-${newId()}`, newId()];
  const participant = stackParticipant(stack, connection, 'job', tenantId);
  const { output } = await participant.execute({
    key: { operationId: runId, step: 'draft' },
    runId,
    action: 'create-job',
    input: { assets: [{ name: 'draft.md', text: 'a' }], state: 'COMPLETED' },
  });
  const database = openDatabase({
    url: stack.environment('job')['LETHE_DATABASE_URL'] ?? '',
    poolSize: 1,
    applicationName: 'test',
    statementTimeoutMs: 10_000,
    lockTimeoutMs: 10_000,
  });
  t.teardown(() => database.close());
  const upload = (ifAbsent: boolean) => ({
    tenantId,
    jobId: String(output?.['job_id']),
    uploadId: newId(),
    kind: 'OUTPUT' as const,
    name: 'draft.md',
    contentType: 'text/markdown',
    leaseToken: undefined,
    leaseMs: 60_000,
    ifAbsent,
  });
  const index = makeArtifactIndex(database);
  await t.throwsAsync(
    index.begin(upload(true), () => undefined),
    { message: /already under way/ },
  );
  await t.notThrowsAsync(index.begin(upload(false), () => undefined));
});
