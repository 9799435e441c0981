import { create } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import { uploadArtifact } from '#deploy/local/sample/speech-worker.ts';
import type { StackClients } from '#deploy/local/stack.ts';
import { DeletionState, Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ArtifactKind, JobState, TaskState } from '#gen/lethe/job/v1/job_pb.ts';
import { UploadArtifactRequestSchema } from '#gen/lethe/job/v1/job_service_pb.ts';
import { connect } from '#libs/grpc/client.ts';
import { newId } from '#libs/kernel/id.ts';
import { stackParticipant } from '#test/support/participant-clients.ts';
import { holdRows, queryOnce } from '#test/support/postgres.ts';
import { storedPaths } from '#test/support/stored-files.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['job'] });
});
test.after.always((t) => t.context.stack.dispose());

type Jobs = StackClients['jobs'];

const jobsOf = (stack: TestStack, tenantId: string, role: 'viewer' | 'member' | 'admin' = 'admin'): Jobs =>
  stack.clients({ tenantId, role }).jobs;

/** A new job of a tenant of its own, in the state asked for. */
async function jobIn(jobs: Jobs, state: keyof typeof JobState): Promise<{ id: string; leaseToken: bigint }> {
  const { job } = await jobs.createJob({ displayName: 'x', taskNames: ['transcribe'] });
  const id = job?.id ?? '';
  const input = { kind: ArtifactKind.INPUT, name: 'a.wav', contentType: 'audio/wav', content: Buffer.from('sound') };
  await uploadArtifact(jobs, id, input);
  if (state === 'PENDING') return { id, leaseToken: 0n };
  if (state === 'CANCELLED') {
    await jobs.cancelJob({ jobId: id });
    return { id, leaseToken: 0n };
  }
  const { leaseToken } = await jobs.claimJob({ workerId: 'w' });
  const claim = { jobId: id, leaseToken };
  if (state === 'CANCELLING') await jobs.cancelJob({ jobId: id });
  if (state === 'COMPLETED') await jobs.finishJob({ ...claim, state: JobState.COMPLETED });
  if (state === 'FAILED') await jobs.finishJob({ ...claim, state: JobState.FAILED, error: 'no speech' });
  return { id, leaseToken };
}

const rowsOf = (stack: TestStack, table: string, jobId: string) =>
  queryOnce<{ count: number }>(
    stack.superuserUrl('job'),
    `select count(*)::int as count from ${table} where ${table === 'jobs' ? 'id' : 'job_id'} = $1`,
    [jobId],
  ).then(([row]) => row?.count);

/** As if the time of the job's lease were over. */
const endLease = (stack: TestStack, jobId: string) =>
  queryOnce(stack.superuserUrl('job'), 'update jobs set lease_expires_at = now() where id = $1', [jobId]);

const auditOf = (stack: TestStack, targetId: string) =>
  queryOnce<{ action: string; outcome: string; reason: string | null }>(
    stack.superuserUrl('job'),
    'select action, outcome, reason from audit_entries where target_id = $1 order by at',
    [targetId],
  );

const DELETABLE = ['COMPLETED', 'FAILED', 'CANCELLED'] as const;
const REFUSED = [
  ['PENDING', 'Cannot delete pending job. Use cancel instead.'],
  ['RUNNING', 'Cannot delete running job. Use cancel instead.'],
  ['CANCELLING', 'Cannot delete job while cancellation is in progress.'],
] as const;

for (const state of DELETABLE) {
  test(`a ${state} job is deleted with its rows and its objects, and leaves a receipt`, async (t) => {
    const { stack } = t.context;
    const tenantId = `del-${state.toLowerCase()}`;
    const jobs = jobsOf(stack, tenantId);
    const { id } = await jobIn(jobs, state);
    const stored = () => storedPaths(stack, { tenantId, jobId: id });
    t.true((await stored()).length > 0);
    const { deletion } = await jobs.deleteJob({ jobId: id, reason: 'asked for' });
    t.is((await refusalOf(jobs.getJob({ jobId: id }))).code, Code.NotFound);
    await until('complete', async () => {
      const now = await jobs.getDeletion({ deletionId: deletion?.id ?? '' });
      return now.deletion?.state === DeletionState.COMPLETE;
    });
    for (const table of ['jobs', 'job_tasks', 'artifacts']) t.is(await rowsOf(stack, table, id), 0, table);
    t.deepEqual(await stored(), []);
    const audit = await queryOnce<{ actor: string; reason: string; outcome: string; counts: Record<string, number> }>(
      stack.superuserUrl('job'),
      "select * from audit_entries where target_id = $1 and action = 'delete'",
      [id],
    );
    t.is(audit.length, 1);
    t.like(audit[0], { outcome: 'COMPLETE', reason: 'asked for', counts: { jobs: 1, tasks: 1, objects: 1, bytes: 5 } });
  });
}

for (const [state, message] of REFUSED) {
  test(`a ${state} job is not deleted, and the refusal says why`, async (t) => {
    const { stack } = t.context;
    const jobs = jobsOf(stack, `keep-${state.toLowerCase()}`);
    const { id } = await jobIn(jobs, state);
    const refusal = await refusalOf(jobs.deleteJob({ jobId: id, reason: 'too early' }));
    t.like(refusal, { code: Code.FailedPrecondition, reason: 'JOB_NOT_TERMINAL', message, metadata: { state } });
    const refused = { action: 'delete', outcome: 'JOB_NOT_TERMINAL', reason: 'too early' };
    t.deepEqual((await auditOf(stack, id)).at(-1), refused);
    t.is((await jobs.getJob({ jobId: id })).job?.state, JobState[state]);
    t.is(await rowsOf(stack, 'job_deletions', id), 0);
  });
}

test("another tenant's job, an unknown one and a deleted one are the same answer in every RPC that takes its id", async (t) => {
  const { stack } = t.context;
  const { id: theirs } = await jobIn(jobsOf(stack, 'owner-tenant'), 'COMPLETED');
  const jobs = jobsOf(stack, 'stranger');
  const { id: gone } = await jobIn(jobs, 'CANCELLED');
  await jobs.deleteJob({ jobId: gone });
  const calls: Record<string, (jobId: string) => Promise<unknown>> = {
    getJob: (jobId) => jobs.getJob({ jobId }),
    cancelJob: (jobId) => jobs.cancelJob({ jobId }),
    listArtifacts: (jobId) => jobs.listArtifacts({ jobId }),
    finishJob: (jobId) => jobs.finishJob({ jobId, leaseToken: 1n, state: JobState.COMPLETED }),
    updateTask: (jobId) => jobs.updateTask({ jobId, leaseToken: 1n, taskName: 'transcribe', state: TaskState.RUNNING }),
    uploadArtifact: (jobId) =>
      uploadArtifact(jobs, jobId, {
        kind: ArtifactKind.INPUT,
        name: 'b',
        contentType: 'x/y',
        content: Buffer.from('b'),
      }),
    downloadArtifact: async (jobId) => {
      for await (const _ of jobs.downloadArtifact({ jobId, kind: ArtifactKind.INPUT, name: 'a.wav' }));
    },
  };
  const before = await queryOnce(stack.superuserUrl('job'), 'select * from jobs where id = $1', [theirs]);
  for (const [name, call] of Object.entries(calls)) {
    const unknown = await refusalOf(call(newId()));
    t.is(unknown.reason, 'JOB_NOT_FOUND', name);
    t.deepEqual(await refusalOf(call(theirs)), unknown, `${name} of another tenant's`);
    t.deepEqual(await refusalOf(call(gone)), unknown, `${name} of a deleted one`);
  }
  const unknown = await refusalOf(jobs.deleteJob({ jobId: newId() }));
  t.deepEqual(await refusalOf(jobs.deleteJob({ jobId: theirs })), unknown);
  t.deepEqual(await queryOnce(stack.superuserUrl('job'), 'select * from jobs where id = $1', [theirs]), before);
  t.true((await storedPaths(stack, { tenantId: 'owner-tenant', jobId: theirs })).length > 0);
});

test('a request id makes a deletion repeatable, also after the job is gone, and refuses another body', async (t) => {
  const jobs = jobsOf(t.context.stack, 'repeater');
  const { id } = await jobIn(jobs, 'FAILED');
  const order = { jobId: id, requestId: newId(), reason: 'once' };
  const first = await jobs.deleteJob(order);
  const deletionId = first.deletion?.id ?? '';
  await until('gone', async () => (await jobs.getDeletion({ deletionId })).deletion?.state === DeletionState.COMPLETE);
  t.is((await jobs.deleteJob(order)).deletion?.id, deletionId);
  t.is((await refusalOf(jobs.deleteJob({ ...order, reason: 'twice' }))).reason, 'REQUEST_ID_REUSED');
  t.is((await refusalOf(jobs.deleteJob({ jobId: id }))).reason, 'JOB_NOT_FOUND');
  t.is((await jobs.deleteJob({ jobId: id, allowMissing: true })).deletion, undefined);
});

test('what is refused to a person or to a cascade is in the audit with its reason', async (t) => {
  const { stack } = t.context;
  const tenantId = 'refused';
  const jobs = jobsOf(stack, tenantId);
  const { id } = await jobIn(jobs, 'COMPLETED');
  const deletionId = (await jobs.deleteJob({ jobId: id })).deletion?.id ?? '';
  await until('gone', async () => (await jobs.getDeletion({ deletionId })).deletion?.state === DeletionState.COMPLETE);
  t.is((await refusalOf(jobs.redriveDeletion({ deletionId, reason: 'again' }))).reason, 'DELETION_FINISHED');
  t.deepEqual(await auditOf(stack, deletionId), [{ action: 'redrive', outcome: 'DELETION_FINISHED', reason: 'again' }]);

  const connection = connect({ address: stack.addresses.job, token: async () => 'no token' });
  t.teardown(() => connection.close());
  const participant = stackParticipant(stack, connection, 'job', tenantId);
  const runId = newId();
  const jobId = (await jobs.createJob({ runId })).job?.id ?? '';
  const order = () => ({ key: { operationId: newId(), step: 's' }, runId, reason: 'asked for' });
  t.is((await refusalOf(participant.softDelete(order()))).reason, 'JOB_NOT_TERMINAL');
  t.is((await refusalOf(participant.purge(order()))).reason, 'JOB_NOT_TERMINAL');
  await jobs.cancelJob({ jobId });
  await participant.purge(order());
  const restore = { ...order(), softDeleteOperationId: newId() };
  t.is((await refusalOf(participant.restore(restore))).reason, 'OPERATION_IN_PROGRESS');
  t.deepEqual(await auditOf(stack, runId), [
    { action: 'soft-delete', outcome: 'JOB_NOT_TERMINAL', reason: 'asked for' },
    { action: 'purge', outcome: 'JOB_NOT_TERMINAL', reason: 'asked for' },
    { action: 'undelete', outcome: 'OPERATION_IN_PROGRESS', reason: 'asked for' },
  ]);
});

test('a purge tries every parked removal of its run anew, more than are named at once, and no other run’s', async (t) => {
  const { stack } = t.context;
  const tenantId = 'parker';
  const connection = connect({ address: stack.addresses.job, token: async () => 'no token' });
  t.teardown(() => connection.close());
  const participant = stackParticipant(stack, connection, 'job', tenantId);
  const [runId, otherRun, parkedBy] = [newId(), newId(), newId()];
  for (const run of [runId, otherRun]) {
    await queryOnce(
      stack.superuserUrl('job'),
      `insert into job_deletions (tenant_id, id, job_id, run_id, operation_id, state, actor, subject, counts, attempts,
                                  last_error, next_attempt_at)
       select $1, gen_random_uuid(), gen_random_uuid(), $2, $3, 'STUCK', 'a', 'a', '{}', 5, 'OBJECTS_LEFT: k', null
       from generate_series(1, 40)`,
      [tenantId, run, parkedBy],
    );
  }
  const order = { key: { operationId: newId(), step: 's' }, runId, reason: 'asked for' };
  await until('purged', async () => (await participant.purge(order)).progress === Progress.COMPLETE);
  const states = await queryOnce<{ run_id: string; state: string; count: number }>(
    stack.superuserUrl('job'),
    'select run_id, state, count(*)::int as count from job_deletions where tenant_id = $1 group by 1, 2 order by 2',
    [tenantId],
  );
  t.deepEqual(states, [
    { run_id: runId, state: 'COMPLETE', count: 40 },
    { run_id: otherRun, state: 'STUCK', count: 40 },
  ]);
});

test('a job with thousands of rows in the index goes with every one of them, counted once', async (t) => {
  const { stack } = t.context;
  const jobs = jobsOf(stack, 'hoarder');
  const { id } = await jobIn(jobs, 'CANCELLED');
  await queryOnce(
    stack.superuserUrl('job'),
    `insert into artifacts (tenant_id, job_id, kind, name, content_type)
     select 'hoarder', $1, 'OUTPUT', n, 'a/b' from generate_series(1, 2500) n`,
    [id],
  );
  const deletionId = (await jobs.deleteJob({ jobId: id })).deletion?.id ?? '';
  await until('gone', async () => (await jobs.getDeletion({ deletionId })).deletion?.state === DeletionState.COMPLETE);
  t.is(await rowsOf(stack, 'artifacts', id), 0);
  const { deletion } = await jobs.getDeletion({ deletionId });
  const counts = deletion?.participants[0]?.resourceCounts.map(({ resourceType, deleted }) => [resourceType, deleted]);
  t.deepEqual(counts, [
    ['job', 1n],
    ['job_task', 1n],
    ['artifact', 2_501n],
    ['object_version', 1n],
  ]);
});

test('validate_only counts what would go and changes nothing', async (t) => {
  const jobs = jobsOf(t.context.stack, 'careful');
  const { id } = await jobIn(jobs, 'COMPLETED');
  const { deletion } = await jobs.deleteJob({ jobId: id, validateOnly: true });
  t.is(deletion?.id, '');
  const found = deletion?.participants[0]?.resourceCounts.map(({ resourceType, left }) => [resourceType, left]);
  t.deepEqual(found, [
    ['job', 1n],
    ['job_task', 1n],
    ['artifact', 1n],
    ['object_version', 1n],
  ]);
  t.is((await jobs.getJob({ jobId: id })).job?.state, JobState.COMPLETED);
});

test('bad input gets its documented error with the field, and none reaches the database', async (t) => {
  const { stack } = t.context;
  const jobs = jobsOf(stack, 'sloppy');
  await jobIn(jobs, 'PENDING');
  await jobIn(jobs, 'PENDING');
  const { nextPageToken } = await jobsOf(stack, 'sloppy').listJobs({ pageSize: 1 });
  t.not(nextPageToken, '');
  const cases: [string, string, Promise<unknown>][] = [
    ['job_id', 'FIELD_INVALID', jobs.getJob({ jobId: "x' or 1=1" })],
    ['page_size', 'FIELD_INVALID', jobs.listJobs({ pageSize: -1 })],
    ['page_token', 'FIELD_INVALID', jobsOf(stack, 'other').listJobs({ pageSize: 1, pageToken: nextPageToken })],
    ['page_token', 'FIELD_INVALID', jobs.listJobs({ pageToken: 'rubbish' })],
    ['run_id', 'FIELD_INVALID', jobs.createJob({ runId: 'x' })],
    ['task_names[0]', 'FIELD_INVALID', jobs.createJob({ taskNames: ['No'] })],
    ['request_id', 'FIELD_INVALID', jobs.createJob({ requestId: '1' })],
    [
      'lease_duration',
      'FIELD_INVALID',
      jobs.claimJob({ workerId: 'w', leaseDuration: { seconds: 1_000_000n, nanos: 0 } }),
    ],
    [
      'header.name',
      'FIELD_INVALID',
      uploadArtifact(jobs, newId(), {
        kind: ArtifactKind.INPUT,
        name: '../x',
        contentType: 'a/b',
        content: Buffer.of(1),
      }),
    ],
  ];
  for (const [field, reason, call] of cases) {
    const refusal = await refusalOf(call);
    t.like(refusal, { code: Code.InvalidArgument, reason }, field);
    t.true(refusal.metadata['fields']?.split(',').includes(field), `${field} in ${refusal.metadata['fields']}`);
  }
});

test('a role too low, a missing scope and no tenant are refused', async (t) => {
  const { stack } = t.context;
  const { id } = await jobIn(jobsOf(stack, 'guarded'), 'COMPLETED');
  const member = jobsOf(stack, 'guarded', 'member');
  t.like(await refusalOf(member.deleteJob({ jobId: id })), { code: Code.PermissionDenied, reason: 'ROLE_TOO_LOW' });
  const scopeless = stack.clients({ tenantId: 'guarded', role: 'owner', scopes: ['jobs:read'] }).jobs;
  t.like(await refusalOf(scopeless.deleteJob({ jobId: id })), { code: Code.PermissionDenied, reason: 'SCOPE_MISSING' });
  const nobody = stack.clients({ role: 'admin' }).jobs;
  // The trust file lets no key sign for a person without a tenant.
  t.like(await refusalOf(nobody.getJob({ jobId: id })), { code: Code.Unauthenticated, reason: 'TOKEN_INVALID' });
  t.like(await refusalOf(member.getJob({ jobId: id, showDeleted: true })), { reason: 'ROLE_TOO_LOW' });
});

/** Uploads one half of an artifact, and the other after `then`. */
const slowUpload = (
  jobs: Jobs,
  header: { jobId: string; kind: ArtifactKind; leaseToken?: bigint },
  then: Promise<void>,
): Promise<unknown> =>
  jobs.uploadArtifact(
    (async function* () {
      const value = { ...header, name: 'slow.wav', contentType: 'audio/wav' };
      yield create(UploadArtifactRequestSchema, { part: { case: 'header', value: value as never } });
      yield create(UploadArtifactRequestSchema, { part: { case: 'chunk', value: Buffer.alloc(100_000) } });
      await then;
      yield create(UploadArtifactRequestSchema, { part: { case: 'chunk', value: Buffer.alloc(100_000) } });
    })(),
  );

test('an upload that is still running when its job is deleted fails and leaves nothing', async (t) => {
  const { stack } = t.context;
  const jobs = jobsOf(stack, 'racer');
  const { job } = await jobs.createJob({});
  const id = job?.id ?? '';
  const stored = () => storedPaths(stack, { tenantId: 'racer', jobId: id });
  const gate = Promise.withResolvers<void>();
  const upload = slowUpload(jobs, { jobId: id, kind: ArtifactKind.INPUT }, gate.promise);
  const refused = refusalOf(upload);
  await until('the upload is under way', async () => (await stored()).length > 0);
  await jobs.cancelJob({ jobId: id });
  const { deletion } = await jobs.deleteJob({ jobId: id });
  gate.resolve();
  t.is((await refused).reason, 'JOB_NOT_FOUND');
  const deletionId = deletion?.id ?? '';
  await until('gone', async () => (await jobs.getDeletion({ deletionId })).deletion?.state === DeletionState.COMPLETE);
  t.deepEqual(await stored(), []);
  t.is(await rowsOf(stack, 'artifacts', id), 0);
});

test('a worker whose lease ran out writes nothing more, and its job goes to the next', async (t) => {
  const jobs = jobsOf(t.context.stack, 'leaser');
  const { job } = await jobs.createJob({ taskNames: ['transcribe'] });
  const jobId = job?.id ?? '';
  const first = await jobs.claimJob({ workerId: 'first' });
  t.is(first.job?.id, jobId);
  t.is((await jobs.claimJob({ workerId: 'second' })).job, undefined);
  await endLease(t.context.stack, jobId);
  let second: Awaited<ReturnType<Jobs['claimJob']>> | undefined;
  await until('claimable again', async () => {
    second = await jobs.claimJob({ workerId: 'second' });
    return second.job !== undefined;
  });
  t.is(second?.job?.id, jobId);
  const stale = { jobId, leaseToken: first.leaseToken };
  const reasons = [
    await refusalOf(jobs.finishJob({ ...stale, state: JobState.COMPLETED })),
    await refusalOf(jobs.updateTask({ ...stale, taskName: 'transcribe', state: TaskState.COMPLETED })),
    await refusalOf(
      uploadArtifact(jobs, jobId, {
        kind: ArtifactKind.OUTPUT,
        name: 'late',
        contentType: 'a/b',
        content: Buffer.of(1),
        leaseToken: first.leaseToken,
      }),
    ),
  ].map(({ reason }) => reason);
  t.deepEqual(reasons, ['LEASE_LOST', 'LEASE_LOST', 'LEASE_LOST']);
  await jobs.finishJob({ jobId, leaseToken: second?.leaseToken ?? 0n, state: JobState.COMPLETED });
  t.is((await jobs.getJob({ jobId })).job?.state, JobState.COMPLETED);
});

test('a renewed lease changes neither etag nor update time, and an etag from before it still cancels', async (t) => {
  const jobs = jobsOf(t.context.stack, 'renewer');
  const { id: jobId, leaseToken } = await jobIn(jobs, 'RUNNING');
  const claim = { jobId, leaseToken };
  const read = async () => (await jobs.getJob({ jobId })).job;
  const { leaseExpireTime: first } = await jobs.updateTask(claim);
  const before = await read();
  const renewed = await jobs.updateTask({ ...claim, leaseDuration: { seconds: 600n, nanos: 0 } });
  t.true((renewed.leaseExpireTime?.seconds ?? 0n) > (first?.seconds ?? 0n), 'the lease does go on');
  t.deepEqual(renewed.job, before);
  t.deepEqual(await read(), before);
  const running = { ...claim, taskName: 'transcribe', state: TaskState.RUNNING };
  const changed = (await jobs.updateTask(running)).job;
  t.not(changed?.etag, before?.etag);
  t.notDeepEqual(changed?.updateTime, before?.updateTime);
  // Told again, as after a lost answer: the task is RUNNING already.
  t.deepEqual((await jobs.updateTask(running)).job, changed);
  t.is((await refusalOf(jobs.cancelJob({ jobId, etag: before?.etag ?? '' }))).reason, 'ETAG_MISMATCH');
  t.is((await jobs.cancelJob({ jobId, etag: changed?.etag ?? '' })).job?.state, JobState.CANCELLING);
});

test('of two uploads of one name at once the second is refused, and the first is what a download gives', async (t) => {
  const { stack } = t.context;
  const tenantId = 'two-at-once';
  const jobs = jobsOf(stack, tenantId);
  const jobId = (await jobs.createJob({})).job?.id ?? '';
  const gate = Promise.withResolvers<void>();
  const first = slowUpload(jobs, { jobId, kind: ArtifactKind.INPUT }, gate.promise);
  await until('it is under way', async () => (await storedPaths(stack, { tenantId, jobId })).length > 0);
  const late = { kind: ArtifactKind.INPUT, name: 'slow.wav', contentType: 'audio/wav', content: Buffer.of(1) };
  t.is((await refusalOf(uploadArtifact(jobs, jobId, late))).reason, 'OPERATION_IN_PROGRESS');
  gate.resolve();
  await first;
  const { artifacts } = await jobs.listArtifacts({ jobId });
  t.deepEqual(
    artifacts.map(({ name, sizeBytes }) => [name, sizeBytes]),
    [['slow.wav', 200_000n]],
  );
});

// Before all others, which would wait for its lock.
test.serial(
  'a download whose caller goes while the database is slow ends alone, and the service goes on',
  async (t) => {
    const { stack } = t.context;
    const jobs = jobsOf(stack, 'leaver');
    const { id: jobId } = await jobIn(jobs, 'PENDING');
    const asked = { jobId, kind: ArtifactKind.INPUT, name: 'a.wav' };
    const pid = stack.pid('job');
    const held = await holdRows(stack.superuserUrl('job'), 'lock table artifacts in access exclusive mode');
    const caller = new AbortController();
    const gone = refusalOf(Array.fromAsync(jobs.downloadArtifact(asked, { signal: caller.signal })));
    await until('it is being looked up', held.isAwaited);
    caller.abort();
    t.is((await gone).code, Code.Canceled);
    // A later answer on the same connection: the service has heard of the end of the call by then.
    await jobs.getJob({ jobId });
    await held.release();
    t.true((await Array.fromAsync(jobs.downloadArtifact(asked))).length > 0);
    t.is(stack.pid('job'), pid);
  },
);

test('an upload whose worker loses its job meanwhile is refused, also where no other has taken it up', async (t) => {
  const { stack } = t.context;
  const tenantId = 'slow-worker';
  const jobs = jobsOf(stack, tenantId);
  const jobId = (await jobs.createJob({})).job?.id ?? '';
  const { leaseToken } = await jobs.claimJob({ workerId: 'w' });
  const stored = () => storedPaths(stack, { tenantId, jobId });
  const gate = Promise.withResolvers<void>();
  const refused = refusalOf(slowUpload(jobs, { jobId, kind: ArtifactKind.OUTPUT, leaseToken }, gate.promise));
  await until('the upload is under way', async () => (await stored()).length > 0);
  await endLease(stack, jobId);
  gate.resolve();
  t.is((await refused).reason, 'LEASE_LOST');
  t.is(await rowsOf(stack, 'artifacts', jobId), 0);
});

test('a job stuck in CANCELLING becomes CANCELLED when its worker is gone', async (t) => {
  const jobs = jobsOf(t.context.stack, 'abandoner');
  const { job } = await jobs.createJob({});
  const jobId = job?.id ?? '';
  await jobs.claimJob({ workerId: 'dies' });
  t.is((await jobs.cancelJob({ jobId })).job?.state, JobState.CANCELLING);
  await endLease(t.context.stack, jobId);
  await until('cancelled', async () => (await jobs.getJob({ jobId })).job?.state === JobState.CANCELLED);
});

test('however many abandoned cancellations are being removed or hidden, another tenant waits for none of them', async (t) => {
  const { stack } = t.context;
  const jobs = jobsOf(stack, 'patient');
  for (const column of ['deletion_id', 'deleted_at']) {
    await queryOnce(
      stack.superuserUrl('job'),
      `insert into jobs (tenant_id, id, display_name, state, lease_owner, lease_token, lease_expires_at, ${column})
       select 'in-the-way', gen_random_uuid(), '', 'CANCELLING', 'w', 1, now() - interval '1 day',
              ${column === 'deletion_id' ? 'gen_random_uuid()' : 'now()'} from generate_series(1, 100)`,
    );
  }
  const jobId = (await jobs.createJob({})).job?.id ?? '';
  await jobs.claimJob({ workerId: 'dies' });
  await jobs.cancelJob({ jobId });
  await endLease(stack, jobId);
  await until('cancelled', async () => (await jobs.getJob({ jobId })).job?.state === JobState.CANCELLED);
  const found = 'select count(*)::int as count from abandoned_cancellations(1000)';
  t.deepEqual(await queryOnce(stack.superuserUrl('job'), found), [{ count: 0 }]);
});

test('a list goes on page by page and shows every job once', async (t) => {
  const jobs = jobsOf(t.context.stack, 'pager');
  const made: string[] = [];
  for (let index = 0; index < 7; index += 1) made.push((await jobs.createJob({})).job?.id ?? '');
  const seen: string[] = [];
  for (let pageToken = '', first = true; first || pageToken !== ''; first = false) {
    const page = await jobs.listJobs({ pageSize: 3, pageToken });
    seen.push(...page.jobs.map(({ id }) => id));
    pageToken = page.nextPageToken;
  }
  t.deepEqual(seen, made.toReversed());
});
