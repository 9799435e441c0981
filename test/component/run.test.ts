import { setTimeout as delay } from 'node:timers/promises';
import { toJsonString } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import type { StackClients } from '#deploy/local/stack.ts';
import { DeletionMode, type DeletionSchema, DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { JobSchema } from '#gen/lethe/job/v1/job_pb.ts';
import { RunSchema, RunState, RunStepSchema, StepState } from '#gen/lethe/run/v1/run_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { MOST_STEPS } from '#services/run/domain/step.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { evidenceOf, makeRunGraph, NOTHING, settled } from '#test/support/run-graph.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['run', 'job'] });
});
test.after.always((t) => t.context.stack.dispose());

type Runs = StackClients['runs'];
type DeletionMessage = import('@bufbuild/protobuf').MessageShape<typeof DeletionSchema>;

const admin = (stack: TestStack, tenantId: string): StackClients => stack.clients({ tenantId, role: 'admin' });

const countsOf = (deletion: DeletionMessage | undefined, participant: string): Record<string, string> =>
  Object.fromEntries(
    (deletion?.participants.find((one) => one.participant === participant)?.resourceCounts ?? []).map(
      ({ resourceType, found, deleted, left }) => [resourceType, `${found} ${deleted} ${left}`],
    ),
  );

/** Everything that a reader can see of a run, as text. */
async function everythingRead({ runs, jobs }: StackClients, runId: string, jobIds: readonly string[], shown = false) {
  const read = async (call: () => Promise<string>): Promise<string> =>
    call().catch(async (error) => (await refusalOf(Promise.reject(error))).reason ?? 'unknown');
  return {
    run: await read(async () => {
      const { run } = await runs.getRun({ runId, showDeleted: shown });
      return run ? toJsonString(RunSchema, run) : '';
    }),
    steps: await read(async () => {
      const { steps } = await runs.listRunSteps({ runId, showDeleted: shown });
      return steps.map((step) => toJsonString(RunStepSchema, step)).join();
    }),
    listed: await read(async () => {
      const { runs: listed } = await runs.listRuns({ showDeleted: shown });
      return listed.map((run) => toJsonString(RunSchema, run)).join();
    }),
    jobs: await read(async () => {
      const { jobs: listed } = await jobs.listJobs({ runId, showDeleted: shown });
      return listed.map((job) => toJsonString(JobSchema, job)).join();
    }),
    job: await read(async () => {
      const { job } = await jobs.getJob({ jobId: jobIds[0] ?? '', showDeleted: shown });
      return job ? toJsonString(JobSchema, job) : '';
    }),
    artifacts: await read(async () => {
      const { artifacts } = await jobs.listArtifacts({ jobId: jobIds[0] ?? '', showDeleted: shown });
      return artifacts.map(({ name, sizeBytes }) => `${name} ${sizeBytes}`).join();
    }),
  };
}

test('a deleted run is hidden from every read with its steps and jobs, shown to admins, and back byte for byte', async (t) => {
  const { stack } = t.context;
  const tenantId = 'hides';
  const clients = admin(stack, tenantId);
  const graph = await makeRunGraph(stack, tenantId);
  const { runId, jobIds } = graph;
  const before = await everythingRead(clients, runId, jobIds);
  t.true(before.run.includes('step') || before.run.includes(runId));
  t.true(before.jobs.includes(jobIds[0] ?? '-'));

  const { run, deletion } = await clients.runs.deleteRun({ runId, reason: 'by mistake' });
  t.is(run?.deletedBy, `admin@${tenantId}`);
  t.is(run?.deleteReason, 'by mistake');
  const hidden = await settled(stack, tenantId, deletion?.id);
  t.is(hidden.state, DeletionState.COMPLETE);
  t.deepEqual(countsOf(hidden, 'run'), { run: '1 1 0', run_step: '2 2 0' });
  t.deepEqual(countsOf(hidden, 'job'), { job: '2 2 0' });
  t.deepEqual(await everythingRead(clients, runId, jobIds), {
    run: 'RUN_NOT_FOUND',
    steps: 'RUN_NOT_FOUND',
    listed: '',
    jobs: '',
    job: 'JOB_NOT_FOUND',
    artifacts: 'JOB_NOT_FOUND',
  });
  const shown = await everythingRead(clients, runId, jobIds, true);
  t.regex(shown.run, /"deleteTime"/);
  t.regex(shown.steps, /"deletedBy"/);
  t.regex(shown.jobs, /"deleteTime"/);
  const viewer = stack.clients({ tenantId, role: 'member' });
  t.is((await refusalOf(viewer.runs.getRun({ runId, showDeleted: true }))).reason, 'ROLE_TOO_LOW');
  t.is((await refusalOf(viewer.runs.listRuns({ showDeleted: true }))).reason, 'ROLE_TOO_LOW');
  t.is((await refusalOf(viewer.runs.listRunSteps({ runId, showDeleted: true }))).reason, 'ROLE_TOO_LOW');

  const undeleted = await clients.runs.undeleteRun({ runId, reason: 'it was one' });
  t.is((await settled(stack, tenantId, undeleted.deletion?.id)).state, DeletionState.COMPLETE);
  t.deepEqual(await everythingRead(clients, runId, jobIds), before);
});

test('while a run is deleted no job is made for it, after its undelete again, and after its purge never', async (t) => {
  const { stack } = t.context;
  const { runs, jobs } = admin(stack, 'late-jobs');
  const { runId } = await makeRunGraph(stack, 'late-jobs', { jobs: 1 });
  const late = { runId, step: 'late', displayName: 'late' };
  await settled(stack, 'late-jobs', (await runs.deleteRun({ runId })).deletion?.id);
  t.like(await refusalOf(jobs.createJob(late)), {
    code: Code.FailedPrecondition,
    reason: 'RUN_DELETED',
    metadata: { run_id: runId },
  });
  t.is((await jobs.listJobs({ runId, showDeleted: true })).jobs.length, 1);

  await settled(stack, 'late-jobs', (await runs.undeleteRun({ runId })).deletion?.id);
  const { job } = await jobs.createJob(late);
  await jobs.cancelJob({ jobId: job?.id ?? '' });
  // A second round is a deletion of its own, whose tombstone the first undelete must not have taken for its own.
  await settled(stack, 'late-jobs', (await runs.deleteRun({ runId })).deletion?.id);
  t.is((await refusalOf(jobs.createJob(late))).reason, 'RUN_DELETED');

  await settled(stack, 'late-jobs', (await runs.purgeRun({ runId, reason: 'asked for' })).deletion?.id);
  t.is((await refusalOf(jobs.createJob(late))).reason, 'STEP_COMPENSATED');
});

test('a second delete keeps the first tombstone, and an undelete of what is not hidden has no deletion', async (t) => {
  const { stack } = t.context;
  const { runs } = admin(stack, 'twice');
  const { runId } = await makeRunGraph(stack, 'twice', { jobs: 1 });
  t.is((await runs.undeleteRun({ runId })).deletion, undefined);
  const first = await runs.deleteRun({ runId, reason: 'first' });
  await settled(stack, 'twice', first.deletion?.id);
  const second = await runs.deleteRun({ runId, reason: 'second' });
  t.is(second.deletion?.id, first.deletion?.id);
  t.deepEqual(second.run, first.run);
});

test('what an undelete takes back while it is under way is given up, and comes back whole', async (t) => {
  const { stack } = t.context;
  const { runs } = admin(stack, 'quick');
  const graph = await makeRunGraph(stack, 'quick', { jobs: 5, objectsPerJob: 0 });
  const hide = await runs.deleteRun({ runId: graph.runId });
  const show = await runs.undeleteRun({ runId: graph.runId });
  const [hidden, shown] = await Promise.all([
    settled(stack, 'quick', hide.deletion?.id),
    settled(stack, 'quick', show.deletion?.id),
  ]);
  t.true(hidden.state === DeletionState.CANCELLED || hidden.state === DeletionState.COMPLETE);
  t.is(shown.state, DeletionState.COMPLETE);
  t.like(await evidenceOf(stack, graph), { runs: 1, hiddenRuns: 0, hiddenSteps: 0, jobs: 5, hiddenJobs: 0 });
});

for (const isHidden of [false, true]) {
  test(`a ${isHidden ? 'hidden' : 'visible'} run is purged from every store, the receipt agrees with the preview, and neighbours stay`, async (t) => {
    const { stack } = t.context;
    const tenantId = isHidden ? 'purge-hidden' : 'purge-visible';
    const { runs } = admin(stack, tenantId);
    const graph = await makeRunGraph(stack, tenantId, { steps: 3, jobs: 3, objectsPerJob: 2 });
    const neighbour = await makeRunGraph(stack, tenantId);
    const stranger = await makeRunGraph(stack, `${tenantId}-2`);
    const near = await evidenceOf(stack, neighbour);
    const far = await evidenceOf(stack, stranger);
    t.true(near.objects > 0 && far.objects > 0);
    const { runId } = graph;
    if (isHidden) await settled(stack, tenantId, (await runs.deleteRun({ runId })).deletion?.id);

    const preview = await runs.previewPurgeRun({ runId });
    t.deepEqual(preview.blockers, []);
    t.is(preview.totalBytes, 6n * 7n);
    const { deletion } = await runs.purgeRun({ runId, reason: 'asked for' });
    const receipt = await settled(stack, tenantId, deletion?.id);
    t.is(receipt.state, DeletionState.COMPLETE);
    t.deepEqual(await evidenceOf(stack, graph), NOTHING);
    t.deepEqual(await evidenceOf(stack, neighbour), near);
    t.deepEqual(await evidenceOf(stack, stranger), far);

    for (const { participant, resourceCounts } of preview.participants) {
      const told = Object.fromEntries(
        resourceCounts.map(({ resourceType, found }) => [resourceType, `${found} ${found} 0`]),
      );
      t.deepEqual(countsOf(receipt, participant), told, participant);
    }
    t.true(receipt.participants.every(({ state, verifyTime }) => state === DeletionState.COMPLETE && verifyTime));
    t.is((await refusalOf(runs.getRun({ runId, showDeleted: true }))).reason, 'RUN_NOT_FOUND');
    t.is((await refusalOf(runs.purgeRun({ runId, reason: 'again' }))).reason, 'RUN_NOT_FOUND');
    t.is((await runs.purgeRun({ runId, reason: 'again', allowMissing: true })).deletion, undefined);
    const audit = await queryOnce<{ action: string; actor: string; reason: string; counts: object }>(
      stack.superuserUrl('run'),
      `select action, actor, reason, counts from audit_entries
       where target_id = $1 and action in ('PURGE', 'purge-rows') and outcome = 'COMPLETE' order by at`,
      [runId],
    );
    const by = { actor: `admin@${tenantId}`, reason: 'asked for' };
    t.like(audit[0], { action: 'purge-rows', ...by, counts: { run: 1, run_step: 3 } });
    t.like(audit[1], { action: 'PURGE', ...by });
    t.is(audit.length, 2);
  });
}

test('a run that is still active, and one with jobs that are, are neither hidden nor purged, and the preview says why', async (t) => {
  const { stack } = t.context;
  const { runs, jobs } = admin(stack, 'active');
  const active = await makeRunGraph(stack, 'active', { isFinished: false });
  for (const call of [
    () => runs.deleteRun({ runId: active.runId }),
    () => runs.purgeRun({ runId: active.runId, reason: 'no' }),
    () => runs.purgeRun({ runId: active.runId, reason: 'no', validateOnly: true }),
  ]) {
    t.like(await refusalOf(call()), { code: Code.FailedPrecondition, reason: 'RUN_NOT_TERMINAL' });
  }
  const working = await makeRunGraph(stack, 'active');
  const { job } = await jobs.createJob({ runId: working.runId, taskNames: ['transcribe'] });
  const before = await evidenceOf(stack, working);
  for (const call of [
    () => runs.deleteRun({ runId: working.runId }),
    () => runs.purgeRun({ runId: working.runId, reason: 'no' }),
  ]) {
    t.like(await refusalOf(call()), {
      code: Code.FailedPrecondition,
      reason: 'JOB_NOT_TERMINAL',
      metadata: { job_id: job?.id },
    });
  }
  const { blockers } = await runs.previewPurgeRun({ runId: working.runId });
  t.like(blockers, [{ reason: 'JOB_NOT_TERMINAL', resourceType: 'job', resourceId: job?.id ?? '' }]);
  t.deepEqual(await evidenceOf(stack, working), before);
  const refusals = await queryOnce<{ outcome: string }>(
    stack.superuserUrl('run'),
    'select outcome from audit_entries where target_id = $1 order by at',
    [working.runId],
  );
  t.deepEqual(refusals, [{ outcome: 'JOB_NOT_TERMINAL' }, { outcome: 'JOB_NOT_TERMINAL' }]);
});

const ROLE_TABLE = [
  ['viewer', 'ROLE_TOO_LOW'],
  ['member', 'ROLE_TOO_LOW'],
  ['admin', 'OK'],
  ['owner', 'OK'],
] as const;
const ENDING = {
  deleteRun: (runs: Runs, runId: string) => runs.deleteRun({ runId, validateOnly: true }),
  undeleteRun: (runs: Runs, runId: string) => runs.undeleteRun({ runId, validateOnly: true }),
  purgeRun: (runs: Runs, runId: string) => runs.purgeRun({ runId, reason: 'x', validateOnly: true }),
  previewPurgeRun: (runs: Runs, runId: string) => runs.previewPurgeRun({ runId }),
} as const;

for (const [name, call] of Object.entries(ENDING)) {
  test(`${name} is for admins and owners with the scope, and for nobody else`, async (t) => {
    const { stack } = t.context;
    const tenantId = `roles-${name.toLowerCase()}`;
    const { runId } = await makeRunGraph(stack, tenantId, { jobs: 1 });
    for (const [role, expected] of ROLE_TABLE) {
      const { runs } = stack.clients({ tenantId, role });
      const outcome = await call(runs, runId).then(
        () => 'OK',
        async (error) => (await refusalOf(Promise.reject(error))).reason,
      );
      t.is(outcome, expected, role);
    }
    const scopeless = stack.clients({ tenantId, role: 'owner', scopes: ['workflows:read', 'workflows:write'] });
    t.like(await refusalOf(call(scopeless.runs, runId)), { code: Code.PermissionDenied, reason: 'SCOPE_MISSING' });
    const homeless = stack.clients({ role: 'platform' });
    t.like(await refusalOf(call(homeless.runs, runId)), { code: Code.PermissionDenied, reason: 'TENANT_MISSING' });
  });
}

test("another tenant's run, an unknown one and a purged one are the same answer in every RPC that takes an id, and nothing changes", async (t) => {
  const { stack } = t.context;
  const theirs = await makeRunGraph(stack, 'victim');
  const theirDeletion = await admin(stack, 'victim').runs.deleteRun({ runId: theirs.runId });
  await settled(stack, 'victim', theirDeletion.deletion?.id);
  const { runs } = admin(stack, 'stranger');
  const gone = await makeRunGraph(stack, 'stranger', { jobs: 1 });
  const purge = await runs.purgeRun({ runId: gone.runId, reason: 'gone' });
  await settled(stack, 'stranger', purge.deletion?.id);

  const byRun: Record<string, (runId: string) => Promise<unknown>> = {
    getRun: (runId) => runs.getRun({ runId }),
    getRunShown: (runId) => runs.getRun({ runId, showDeleted: true }),
    listRunSteps: (runId) => runs.listRunSteps({ runId }),
    recordStep: (runId) => runs.recordStep({ runId, name: 'x', state: StepState.RUNNING }),
    finishRun: (runId) => runs.finishRun({ runId, state: RunState.CANCELLED }),
    deleteRun: (runId) => runs.deleteRun({ runId }),
    undeleteRun: (runId) => runs.undeleteRun({ runId }),
    previewPurgeRun: (runId) => runs.previewPurgeRun({ runId }),
    purgeRun: (runId) => runs.purgeRun({ runId, reason: 'theirs' }),
  };
  const byDeletion: Record<string, (deletionId: string) => Promise<unknown>> = {
    getDeletion: (deletionId) => runs.getDeletion({ deletionId }),
    redriveDeletion: (deletionId) => runs.redriveDeletion({ deletionId }),
    watchDeletion: async (deletionId) => {
      for await (const _ of runs.watchDeletion({ deletionId }));
    },
  };
  const tables = ['workflow_runs', 'workflow_run_steps', 'deletions', 'deletion_steps'];
  const look = () =>
    Promise.all(
      tables.map((table) =>
        queryOnce(
          stack.superuserUrl('run'),
          `select md5(string_agg(x::text, ',' order by x::text)) from ${table} x where tenant_id = 'victim'`,
        ),
      ),
    );
  const before = { run: await look(), graph: await evidenceOf(stack, theirs) };
  for (const [name, call] of Object.entries(byRun)) {
    const unknown = await refusalOf(call(newId()));
    t.like(unknown, { code: Code.NotFound, reason: 'RUN_NOT_FOUND' }, name);
    t.deepEqual(await refusalOf(call(theirs.runId)), unknown, `${name} of another tenant's`);
    t.deepEqual(await refusalOf(call(gone.runId)), unknown, `${name} of a purged one`);
  }
  for (const [name, call] of Object.entries(byDeletion)) {
    const unknown = await refusalOf(call(newId()));
    t.like(unknown, { code: Code.NotFound, reason: 'DELETION_NOT_FOUND' }, name);
    t.deepEqual(await refusalOf(call(theirDeletion.deletion?.id ?? '')), unknown, `${name} of another tenant's`);
  }
  t.deepEqual((await runs.listRuns({ showDeleted: true })).runs, []);
  t.deepEqual((await runs.listDeletions({ runId: theirs.runId })).deletions, []);
  t.deepEqual({ run: await look(), graph: await evidenceOf(stack, theirs) }, before);
});

test('a request id gives the same deletion per RPC, also when everything is gone, and refuses another body', async (t) => {
  const { stack } = t.context;
  const { runs } = admin(stack, 'repeats');
  const { runId } = await makeRunGraph(stack, 'repeats', { jobs: 1 });
  const requestId = newId();
  const hide = await runs.deleteRun({ runId, requestId });
  t.is((await runs.deleteRun({ runId, requestId })).deletion?.id, hide.deletion?.id);
  t.like(await refusalOf(runs.deleteRun({ runId, requestId, reason: 'other' })), {
    code: Code.InvalidArgument,
    reason: 'REQUEST_ID_REUSED',
  });
  await settled(stack, 'repeats', hide.deletion?.id);
  const show = await runs.undeleteRun({ runId, requestId });
  t.not(show.deletion?.id, hide.deletion?.id, 'a request id belongs to one RPC');
  await settled(stack, 'repeats', show.deletion?.id);
  t.is((await runs.deleteRun({ runId, requestId })).deletion?.id, hide.deletion?.id, 'a late repetition hides nothing');
  t.is((await runs.getRun({ runId })).run?.id, runId);

  const order = { runId, requestId: newId(), reason: 'for good' };
  const purge = await runs.purgeRun(order);
  t.is((await runs.purgeRun(order)).deletion?.id, purge.deletion?.id);
  await settled(stack, 'repeats', purge.deletion?.id);
  t.is((await runs.purgeRun(order)).deletion?.id, purge.deletion?.id, 'the receipt outlives the run');
  const created = { workflow: 'w', requestId: newId() };
  const first = await runs.createRun(created);
  t.is((await runs.createRun(created)).run?.id, first.run?.id);
  t.is((await refusalOf(runs.createRun({ ...created, displayName: 'x' }))).reason, 'REQUEST_ID_REUSED');
});

test('two purges without a request id: one begins, the other is told which', async (t) => {
  const { stack } = t.context;
  const { runs } = admin(stack, 'races');
  const { runId } = await makeRunGraph(stack, 'races', { jobs: 3 });
  const outcomes = await Promise.allSettled(Array.from({ length: 5 }, () => runs.purgeRun({ runId, reason: 'race' })));
  const won = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value.deletion?.id] : []));
  t.is(won.length, 1);
  for (const outcome of outcomes) {
    if (outcome.status === 'fulfilled') continue;
    const refusal = await refusalOf(Promise.reject(outcome.reason));
    if (refusal.reason === 'RUN_NOT_FOUND') continue; // It came after the end.
    t.like(refusal, { code: Code.Aborted, reason: 'OPERATION_IN_PROGRESS', metadata: { operation_id: won[0] } });
  }
  t.is((await settled(stack, 'races', won[0])).state, DeletionState.COMPLETE);
});

test('an etag is for one version, allow_missing and validate_only change nothing', async (t) => {
  const { stack } = t.context;
  const { runs } = admin(stack, 'aip');
  const { runId } = await makeRunGraph(stack, 'aip', { jobs: 2, objectsPerJob: 1 });
  t.like(await refusalOf(runs.deleteRun({ runId, etag: '"0"' })), { code: Code.Aborted, reason: 'ETAG_MISMATCH' });
  t.like(await refusalOf(runs.purgeRun({ runId, reason: 'x', etag: '"0"' })), { reason: 'ETAG_MISMATCH' });
  t.deepEqual(
    await runs.deleteRun({ runId: newId(), allowMissing: true }).then(({ run, deletion }) => [run, deletion]),
    [undefined, undefined],
  );
  const checked = await runs.purgeRun({ runId, reason: 'x', validateOnly: true });
  t.is(checked.deletion?.id, '');
  t.deepEqual(countsOf(checked.deletion, 'job')['job'], '2 0 2');
  const hideChecked = await runs.deleteRun({ runId, validateOnly: true });
  t.is(hideChecked.deletion?.id, '');
  t.is(hideChecked.deletion?.mode, DeletionMode.SOFT_DELETE);
  t.deepEqual((await runs.listDeletions({ runId })).deletions, []);
  const { run } = await runs.getRun({ runId });
  const hidden = await runs.deleteRun({ runId, etag: run?.etag ?? '' });
  t.not(hidden.run?.etag, run?.etag);
  await settled(stack, 'aip', hidden.deletion?.id);
});

test('a purge needs a reason, force needs an owner, and bad fields are named', async (t) => {
  const { stack } = t.context;
  const { runs } = admin(stack, 'fields');
  const { runId } = await makeRunGraph(stack, 'fields', { jobs: 0 });
  t.like(await refusalOf(runs.purgeRun({ runId })), { code: Code.InvalidArgument, reason: 'REASON_REQUIRED' });
  t.like(await refusalOf(runs.purgeRun({ runId, reason: '  ' })), { reason: 'REASON_REQUIRED' });
  t.like(await refusalOf(runs.purgeRun({ runId, reason: 'x', force: true })), {
    code: Code.PermissionDenied,
    reason: 'ROLE_TOO_LOW',
  });
  for (const call of [
    () => runs.getRun({ runId: 'x' }),
    () => runs.deleteRun({ runId: `${runId}'; drop table workflow_runs; --` }),
    () => runs.purgeRun({ runId, reason: 'x'.repeat(501) }),
    () => runs.listRuns({ pageSize: -1 }),
    () => runs.listRuns({ pageToken: 'AAAA' }),
    () => runs.recordStep({ runId, name: 'A b', state: StepState.RUNNING }),
    () => runs.recordStep({ runId, name: 'a', state: StepState.COMPENSATED }),
    () => runs.createRun({ workflow: '' }),
    () => runs.finishRun({ runId, state: RunState.COMPENSATED }),
  ]) {
    t.like(await refusalOf(call()), { code: Code.InvalidArgument, reason: 'FIELD_INVALID' });
  }
});

test('steps are recorded in order, repeated without a change, and end with their run', async (t) => {
  const { stack } = t.context;
  const { runs } = admin(stack, 'steps');
  const { run } = await runs.createRun({ workflow: 'external' });
  const runId = run?.id ?? '';
  const record = (name: string, state: StepState, more = {}) => runs.recordStep({ runId, name, state, ...more });
  await record('first', StepState.RUNNING, { participants: ['job'] });
  t.is((await runs.getRun({ runId })).run?.currentStep, 'first');
  const { run: etagBefore } = await runs.getRun({ runId });
  await record('first', StepState.RUNNING);
  t.is((await runs.getRun({ runId })).run?.etag, etagBefore?.etag, 'the same again changes nothing');
  await record('first', StepState.FAILED, { error: 'no sound' });
  await record('first', StepState.RUNNING);
  await record('first', StepState.COMPLETED);
  await record('second', StepState.COMPLETED);
  t.is((await refusalOf(record('first', StepState.RUNNING))).reason, 'STEP_TRANSITION_ILLEGAL');
  t.is(
    (await refusalOf(record('third', StepState.RUNNING, { participants: ['nobody'] }))).reason,
    'PARTICIPANT_UNKNOWN',
  );
  const { steps } = await runs.listRunSteps({ runId });
  t.deepEqual(
    steps.map(({ name, position, state, attempts, participants }) => [name, position, state, attempts, participants]),
    [
      ['first', 1, StepState.COMPLETED, 1, ['job']],
      ['second', 2, StepState.COMPLETED, 0, []],
    ],
  );
  const page = await runs.listRunSteps({ runId, pageSize: 1 });
  t.is(page.steps.length, 1);
  const rest = await runs.listRunSteps({ runId, pageSize: 1, pageToken: page.nextPageToken });
  t.deepEqual([rest.steps[0]?.name, rest.nextPageToken], ['second', '']);
  await queryOnce(
    stack.superuserUrl('run'),
    `insert into workflow_run_steps (tenant_id, run_id, name, position, state, participants)
     select tenant_id, run_id, 'more-' || at, at, 'PENDING', '{}' from workflow_run_steps, generate_series(3, $2) at
     where run_id = $1 and position = 1`,
    [runId, MOST_STEPS],
  );
  await record('more-3', StepState.RUNNING);
  const refusal = await refusalOf(record('one-more', StepState.RUNNING));
  t.deepEqual([refusal.reason, refusal.metadata], ['TOO_MANY_STEPS', { most: '1000' }]);
  await runs.finishRun({ runId, state: RunState.FAILED, error: 'given up' });
  t.is((await refusalOf(record('third', StepState.RUNNING))).reason, 'RUN_NOT_RUNNING');
});

test('runs are listed by state, workflow and time, page after page, and a token is for its own list', async (t) => {
  const { stack } = t.context;
  const { runs } = admin(stack, 'lists');
  const ids: string[] = [];
  for (let index = 0; index < 5; index += 1) {
    const { run } = await runs.createRun({ workflow: index % 2 === 0 ? 'even' : 'odd', input: { index } });
    ids.push(run?.id ?? '');
    if (index < 2) await runs.finishRun({ runId: run?.id ?? '', state: RunState.COMPLETED });
  }
  const first = await runs.listRuns({ pageSize: 2 });
  const second = await runs.listRuns({ pageSize: 2, pageToken: first.nextPageToken });
  const third = await runs.listRuns({ pageSize: 2, pageToken: second.nextPageToken });
  const listed = [first, second, third].flatMap((page) => page.runs);
  t.deepEqual(
    listed.map(({ id }) => id),
    ids.toReversed(),
  );
  t.is(listed[0]?.input, undefined, 'lists leave out what a run was given');
  t.is(third.nextPageToken, '');
  t.is((await runs.listRuns({ workflow: 'odd' })).runs.length, 2);
  t.is((await runs.listRuns({ state: RunState.COMPLETED })).runs.length, 2);
  const cut = listed[2]?.createTime;
  t.is((await runs.listRuns(cut ? { minCreateTime: cut } : {})).runs.length, 3);
  t.is((await runs.listRuns(cut ? { maxCreateTime: cut } : {})).runs.length, 2);
  for (const runId of ids.slice(0, 2).toReversed()) {
    const { deletion } = await runs.deleteRun({ runId });
    await settled(stack, 'lists', deletion?.id);
  }
  const hidden = await runs.listRuns({ deletedOnly: true, pageSize: 1 });
  const [last, end] = [
    hidden,
    await runs.listRuns({ deletedOnly: true, pageSize: 1, pageToken: hidden.nextPageToken }),
  ];
  t.deepEqual([last.runs[0]?.id, end.runs[0]?.id, end.nextPageToken], [ids[0], ids[1], ''], 'the last hidden first');
  const member = stack.clients({ tenantId: 'lists', role: 'member' }).runs;
  t.is((await refusalOf(member.listRuns({ deletedOnly: true }))).reason, 'ROLE_TOO_LOW');
  for (const call of [
    () => runs.listRuns({ deletedOnly: true, pageToken: first.nextPageToken }),
    () => runs.listRuns({ workflow: 'odd', pageToken: first.nextPageToken }),
    () => admin(stack, 'lists-2').runs.listRuns({ pageToken: first.nextPageToken }),
  ]) {
    t.is((await refusalOf(call())).reason, 'FIELD_INVALID');
  }
});

test('a watch tells of every participant until the end', async (t) => {
  const { stack } = t.context;
  const { runs } = admin(stack, 'watches');
  const { runId } = await makeRunGraph(stack, 'watches', { jobs: 4 });
  const { deletion } = await runs.purgeRun({ runId, reason: 'watched' });
  const states: DeletionState[] = [];
  for await (const { deletion: now } of runs.watchDeletion({ deletionId: deletion?.id ?? '' })) {
    states.push(now?.state ?? DeletionState.UNSPECIFIED);
  }
  t.is(states.at(-1), DeletionState.COMPLETE);
  t.is(states.filter((state) => state === DeletionState.COMPLETE).length, 1);
});

test('two hundred watchers of an idle run are no load for the database, and all learn of its end', async (t) => {
  const { stack } = t.context;
  const { runs } = admin(stack, 'watched');
  const runId = (await runs.createRun({ workflow: 'elsewhere' })).run?.id ?? '';
  const stop = new AbortController();
  t.teardown(() => stop.abort());
  let begun = 0;
  const watchers = Array.from({ length: 200 }, async () => {
    let last: RunState | undefined;
    for await (const { run } of runs.watchRun({ runId }, { signal: stop.signal })) {
      if (last === undefined) begun += 1;
      last = run?.state;
    }
    return last;
  });
  const ended = Promise.all(watchers);
  ended.catch(() => undefined);
  await until('all watch', async () => begun === watchers.length);
  const transactions = async (): Promise<number> => {
    const [row] = await queryOnce<{ count: number }>(
      stack.superuserUrl('run'),
      `select xact_commit::int as count, pg_stat_clear_snapshot()
       from pg_stat_database where datname = current_database()`,
    );
    return row?.count ?? 0;
  };
  const before = await transactions();
  const since = performance.now();
  await delay(2_000);
  const perSecond = ((await transactions()) - before) / ((performance.now() - since) / 1_000);
  t.log(`${Math.round(perSecond)} transactions a second`);
  // Ten looks a second, and what the loops and the other tests do; were each watcher to look, two thousand.
  t.true(perSecond < 500, `${perSecond} transactions a second`);
  await runs.finishRun({ runId, state: RunState.COMPLETED });
  t.deepEqual(new Set(await ended), new Set([RunState.COMPLETED]));
});

test('a run with more in it than one message may hold is watched in several, and the last has it whole', async (t) => {
  const { runs } = admin(t.context.stack, 'large');
  const text = { text: 'x'.repeat(1_000_000) };
  const runId = (await runs.createRun({ workflow: 'elsewhere', input: text })).run?.id ?? '';
  for (const name of ['first', 'last']) {
    await runs.recordStep({ runId, name, state: StepState.RUNNING });
    await runs.recordStep({ runId, name, state: StepState.COMPLETED });
  }
  // As many as would take minutes by RecordStep.
  await queryOnce(
    t.context.stack.superuserUrl('run'),
    `insert into workflow_run_steps (tenant_id, run_id, name, position, state, error)
     select tenant_id, run_id, 'step-' || n, 1 + n, state, repeat('x', 2000)
     from workflow_run_steps, generate_series(2, 1500) n where run_id = $1 and name = 'first'`,
    [runId],
  );
  await runs.finishRun({ runId, state: RunState.COMPLETED, output: text });
  const seen = await Array.fromAsync(runs.watchRun({ runId }));
  const last = seen.pop();
  t.true(seen.length > 0);
  t.true(seen.every(({ run, moreFollows }) => moreFollows && run?.id === runId && !run.input && !run.output));
  t.false(last?.moreFollows);
  t.deepEqual([last?.run?.input, last?.run?.output], [text, text]);
  const steps = [...seen.flatMap((message) => message.steps), ...(last?.steps ?? [])];
  t.is(new Set(steps.map(({ name }) => name)).size, 1_501);
  t.is(steps.length, 1_501, 'and each step once');
});
