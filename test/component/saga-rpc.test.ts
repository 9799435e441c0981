import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { Code } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import type { StackClients } from '#deploy/local/stack.ts';
import { DeletionMode, DeletionState, type ResourceCount } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ReferenceState, RunDriver, RunState, StepState } from '#gen/lethe/run/v1/run_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { findText } from '#test/support/find-text.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { settled } from '#test/support/run-graph.ts';
import { COMPLETE, countTen, inputOf, NOTHING } from '#test/support/saga-harness.ts';
import { storedFiles } from '#test/support/stored-files.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

const SERVICES = ['run', 'job', 'incident'] as const;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: SERVICES });
});
test.after.always((t) => t.context.stack.dispose());

const tenOf = (stack: TestStack, tenantId: string, runId?: string) =>
  countTen({ query: (sql, values) => queryOnce(stack.superuserUrl('run'), sql, values) }, tenantId, runId);

const countOf = async (stack: TestStack, service: 'job' | 'incident', sql: string, runId: string): Promise<number> => {
  const [row] = await queryOnce<{ count: number }>(stack.superuserUrl(service), sql, [runId]);
  return row?.count ?? Number.NaN;
};

const jobsOf = (stack: TestStack, runId: string) =>
  countOf(stack, 'job', 'select count(*)::int as count from jobs where run_id = $1', runId);

const objectsOf = (stack: TestStack, tenantId: string) => storedFiles(stack, { tenantId, areas: ['objects'] });

async function environmentIn({ incidents }: StackClients): Promise<string> {
  const { environment } = await incidents.createEnvironment({ displayName: 'production' });
  return environment?.id ?? '';
}

/** A timestamp to the microsecond; NaN for an absent one. */
const toMicroseconds = (time: Timestamp | undefined): number =>
  time ? Number(time.seconds) * 1_000_000 + time.nanos / 1_000 : Number.NaN;

const settledRun = async ({ watchRun }: StackClients['runs'], runId: string): Promise<void> => {
  for await (const _ of watchRun({ runId }));
};

/** Begins a run and watches it to its end. */
async function follow({ runs }: StackClients, input: ReturnType<typeof inputOf>) {
  const { run } = await runs.startRun({ workflow: 'client_to_delivery', input: input as never });
  const steps = new Map<string, StepState>();
  let last = run;
  for await (const sighting of runs.watchRun({ runId: run?.id ?? '' })) {
    last = sighting.run;
    for (const step of sighting.steps) steps.set(step.name, step.state);
  }
  return { runId: run?.id ?? '', begun: run, last, steps };
}

test('a run goes through the services to its end, and is watched on its way', async (t) => {
  const { stack } = t.context;
  const clients = stack.clients({ tenantId: 'well', role: 'member' });
  const environmentId = await environmentIn(clients);
  const { runId, begun, last, steps } = await follow(clients, inputOf({ environment_id: environmentId }));
  t.like(begun, { state: RunState.RUNNING, driver: RunDriver.ENGINE, currentStep: 'brief' });
  t.is(last?.state, RunState.COMPLETED, last?.error);
  t.deepEqual(
    [...steps.values()],
    Array.from({ length: 5 }, () => StepState.COMPLETED),
  );
  t.deepEqual(await tenOf(stack, 'well', runId), COMPLETE);
  t.is(await jobsOf(stack, runId), 1);
  t.is((await objectsOf(stack, 'well')).length, 3);
  t.is(String(last?.output?.['job_id']).length, 36);
});

test('what begins has begun no later than it last changed: created, started and updated in this order', async (t) => {
  const { stack } = t.context;
  const clients = stack.clients({ tenantId: 'order', role: 'member' });
  const { runs } = clients;
  const input = inputOf({ environment_id: await environmentIn(clients) });
  const { run } = await runs.startRun({ workflow: 'client_to_delivery', input: input as never });
  const { steps } = await runs.listRunSteps({ runId: run?.id ?? '' });
  const order = [run?.createTime, run?.startTime, run?.updateTime].map(toMicroseconds);
  t.deepEqual(order, order.toSorted());
  t.is(toMicroseconds(steps[0]?.startTime), toMicroseconds(run?.startTime));
  await settledRun(runs, run?.id ?? '');
  for (const service of SERVICES) {
    const tables = await queryOnce<{ name: string }>(
      stack.superuserUrl(service),
      `select table_schema || '.' || table_name as name from information_schema.columns
       where column_name in ('started_at', 'updated_at') and table_schema = 'public' group by 1 having count(*) = 2`,
    );
    for (const { name } of tables) {
      const late = await queryOnce(stack.superuserUrl(service), `select * from ${name} where started_at > updated_at`);
      t.deepEqual(late, [], name);
    }
  }
});

test('a run that fails quality control leaves no row, no job, no object and no payload; the incident stays as a shell', async (t) => {
  const { stack } = t.context;
  const clients = stack.clients({ tenantId: 'qc', role: 'member' });
  const environmentId = await environmentIn(clients);
  const { runId, last, steps } = await follow(clients, inputOf({ environment_id: environmentId, force_qc_fail: true }));
  t.is(last?.state, RunState.COMPENSATED, last?.parkedReason);
  t.is(last?.error, 'QC_FAILED: 1 blocking issues.');
  t.deepEqual(
    [...steps.entries()],
    ['brief', 'strategy', 'draft', 'qc'].map((name) => [name, StepState.COMPENSATED]),
  );
  t.deepEqual(await tenOf(stack, 'qc'), NOTHING);
  t.is(await jobsOf(stack, runId), 0);
  t.deepEqual(await objectsOf(stack, 'qc'), []);
  t.is(await countOf(stack, 'incident', 'select count(*)::int as count from incidents where run_id = $1', runId), 1);
  const payloads = `select count(*)::int as count from incident_payloads p join incidents i
    on i.tenant_id = p.tenant_id and i.id = p.incident_id where i.run_id = $1`;
  t.is(await countOf(stack, 'incident', payloads, runId), 0);
  const { incidents } = await clients.incidents.listIncidents({});
  t.is(incidents.length, 1);
});

/** What a run is given, with a mark in every text that the workflow takes. */
const markedInput = (mark: string, more: Parameters<typeof inputOf>[0]) =>
  inputOf({
    brief: {
      client: `Client ${mark}`,
      product: `Product ${mark}`,
      audience: `Audience ${mark}`,
      tone: `tone ${mark}`,
      goals: [`goal ${mark}`],
      channels: [mark],
    },
    ...more,
  });

for (const flag of ['force_qc_fail', 'force_delivery_fail'] as const) {
  test(`${flag}: of a compensated run no text is left in any table of any service, in the store or in a log, and its receipt counts what went`, async (t) => {
    const { stack } = t.context;
    const tenantId = `marked-${flag.replaceAll('_', '-')}`;
    const mark = `zq${newId().slice(-12)}`;
    const clients = stack.clients({ tenantId, role: 'admin' });
    const environmentId = await environmentIn(clients);
    const { runId, last } = await follow(clients, markedInput(mark, { environment_id: environmentId, [flag]: true }));
    t.is(last?.state, RunState.COMPENSATED, last?.parkedReason);
    t.deepEqual(await findText(stack, SERVICES, mark), []);
    const kept = `zq${newId().slice(-12)}`;
    await follow(clients, markedInput(kept, { environment_id: environmentId }));
    const places = await findText(stack, SERVICES, kept);
    for (const place of ['run.workflow_runs.input', 'run.workflow_run_steps.output', 'job.artifacts.name', 'store'])
      t.true(places.includes(place), `the search sees ${place}`);
    const { run } = await clients.runs.getRun({ runId });
    t.deepEqual([run?.input, run?.output], [undefined, undefined]);

    const { steps } = await clients.runs.listRunSteps({ runId });
    const removedOf = (name: string) =>
      Object.fromEntries(
        steps.find((step) => step.name === name)?.removed.map((count) => [count.resourceType, count]) ?? [],
      );
    t.like(removedOf('brief'), { onboarding_brief: { found: 1n, deleted: 1n, left: 0n } });
    t.like(removedOf('draft'), { job: { found: 1n, deleted: 1n, left: 0n }, production_drafts: { deleted: 1n } });
    t.true((removedOf('draft')['object']?.bytes ?? removedOf('draft')['object_version']?.bytes ?? 0n) > 0n);

    const { deletions } = await clients.runs.listDeletions({ runId, mode: DeletionMode.COMPENSATION });
    const [receipt] = deletions;
    t.is(deletions.length, 1);
    t.like(receipt, { state: DeletionState.COMPLETE, targetType: 'run', targetId: runId, reason: '' });
    t.deepEqual(
      receipt?.participants.map(({ participant, state }) => [participant, state]),
      [...(flag === 'force_qc_fail' ? ['incident'] : []), 'job', 'run'].map((name) => [name, DeletionState.COMPLETE]),
    );
    t.truthy(receipt?.participants[0]?.verifyTime, 'what others held was read back as gone');
    for (const step of steps) {
      for (const { resourceType, deleted } of step.removed) {
        const total = receipt?.participants.flatMap(({ resourceCounts }) => resourceCounts);
        t.is(total?.find((count) => count.resourceType === resourceType)?.deleted, deleted, resourceType);
      }
    }
    // The receipt outlives the run.
    const { deletion } = await clients.runs.purgeRun({ runId, reason: 'asked for' });
    for await (const _ of clients.runs.watchDeletion({ deletionId: deletion?.id ?? '' }));
    t.is((await clients.runs.getDeletion({ deletionId: receipt?.id ?? '' })).deletion?.targetId, runId);
  });
}

test('a run whose delivery fails leaves no row, no job and no object', async (t) => {
  const { stack } = t.context;
  const clients = stack.clients({ tenantId: 'delivery', role: 'member' });
  const environmentId = await environmentIn(clients);
  const { runId, last } = await follow(clients, inputOf({ environment_id: environmentId, force_delivery_fail: true }));
  t.is(last?.state, RunState.COMPENSATED, last?.parkedReason);
  t.deepEqual(await tenOf(stack, 'delivery'), NOTHING);
  t.is(await jobsOf(stack, runId), 0);
  t.deepEqual(await objectsOf(stack, 'delivery'), []);
});

test('a run of a caller that fails is compensated through the participants that its steps name', async (t) => {
  const { stack } = t.context;
  const clients = stack.clients({ tenantId: 'external', role: 'admin' });
  const { runs, jobs } = clients;
  const { run } = await runs.createRun({ workflow: 'made-elsewhere' });
  const runId = run?.id ?? '';
  await jobs.createJob({ runId, step: 'render', taskNames: ['transcribe'] });
  await jobs.createJob({ runId, step: 'other', taskNames: ['transcribe'] });
  await runs.recordStep({ runId, name: 'prepare', state: StepState.COMPLETED });
  await runs.recordStep({ runId, name: 'render', state: StepState.RUNNING, participants: ['job'] });
  const failing = await runs.failRun({ runId, error: 'it broke elsewhere' });
  t.is(failing.run?.state, RunState.COMPENSATING);
  let last = failing.run;
  for await (const sighting of runs.watchRun({ runId })) last = sighting.run;
  t.is(last?.parkedReason, '');
  t.like(last, { state: RunState.COMPENSATED, error: 'it broke elsewhere', driver: RunDriver.CALLER });
  t.is(await jobsOf(stack, runId), 1, 'what another step made, of which nobody told, stays');
  t.is((await runs.failRun({ runId, error: 'again' })).run?.error, 'it broke elsewhere');
  const { entries } = await runs.listAuditEntries({ filter: { action: 'compensation' } });
  t.deepEqual(
    entries.map(({ actor, subject, trustEntry, outcome }) => [actor, subject, trustEntry, outcome]),
    [['admin@external', 'admin@external', 'user', 'COMPENSATED']],
    'who said so is in the audit, and by which key',
  );
});

test('a run of a caller that is cancelled is compensated too, and ends as CANCELLED', async (t) => {
  const { stack } = t.context;
  const { runs, jobs } = stack.clients({ tenantId: 'cancelled', role: 'member' });
  const { run } = await runs.createRun({ workflow: 'made-elsewhere' });
  const runId = run?.id ?? '';
  await runs.recordStep({ runId, name: 'render', state: StepState.RUNNING, participants: ['job'] });
  await jobs.createJob({ runId, step: 'render', taskNames: ['transcribe'] });
  t.is((await runs.cancelRun({ runId, reason: 'no longer needed' })).run?.state, RunState.COMPENSATING);
  let last = run;
  for await (const sighting of runs.watchRun({ runId })) last = sighting.run;
  t.like(last, { state: RunState.CANCELLED, error: '', parkedReason: '' });
  t.is((await runs.cancelRun({ runId })).run?.etag, last?.etag, 'again changes nothing');
  t.is(await jobsOf(stack, runId), 0);
  const late = await refusalOf(jobs.createJob({ runId, step: 'render', taskNames: ['transcribe'] }));
  t.is(late.reason, 'STEP_COMPENSATED');
});

test('each RPC of the saga refuses what it must, with its reason', async (t) => {
  const { stack } = t.context;
  const clients = stack.clients({ tenantId: 'refusals', role: 'admin' });
  const { runs } = clients;
  const environmentId = await environmentIn(clients);
  const input = inputOf({ environment_id: environmentId }) as never;
  const unknown = await refusalOf(runs.startRun({ workflow: 'nobody_knows' }));
  t.like(unknown, { code: Code.NotFound, reason: 'WORKFLOW_NOT_FOUND' });
  t.like(await refusalOf(runs.startRun({ workflow: 'client_to_delivery' })), {
    code: Code.InvalidArgument,
    reason: 'FIELD_INVALID',
  });
  const requestId = newId();
  const first = await runs.startRun({ requestId, workflow: 'client_to_delivery', input });
  t.is((await runs.startRun({ requestId, workflow: 'client_to_delivery', input })).run?.id, first.run?.id);
  t.like(await refusalOf(runs.startRun({ requestId, workflow: 'client_to_delivery', input, displayName: 'x' })), {
    code: Code.InvalidArgument,
    reason: 'REQUEST_ID_REUSED',
  });
  const runId = first.run?.id ?? '';
  for await (const _ of runs.watchRun({ runId }));
  const driven = { code: Code.FailedPrecondition, reason: 'RUN_DRIVEN_BY_ENGINE' };
  t.like(await refusalOf(runs.failRun({ runId, error: 'x' })), driven);
  t.like(await refusalOf(runs.finishRun({ runId, state: RunState.COMPLETED })), driven);
  t.like(await refusalOf(runs.recordStep({ runId, name: 'a', state: StepState.RUNNING })), driven);
  t.like(await refusalOf(runs.cancelRun({ runId })), { code: Code.FailedPrecondition, reason: 'RUN_NOT_RUNNING' });
  t.like(await refusalOf(runs.retryRun({ runId })), { code: Code.FailedPrecondition, reason: 'RUN_NOT_PARKED' });
  const { run } = await runs.createRun({ workflow: 'x' });
  t.like(await refusalOf(runs.cancelRun({ runId: run?.id ?? '', etag: '"7"' })), {
    code: Code.Aborted,
    reason: 'ETAG_MISMATCH',
  });
  const stranger = stack.clients({ tenantId: 'stranger', role: 'admin' }).runs;
  for (const call of [
    (id: string) => stranger.cancelRun({ runId: id }),
    (id: string) => stranger.retryRun({ runId: id }),
    (id: string) => stranger.failRun({ runId: id, error: 'x' }),
    async (id: string) => {
      for await (const _ of stranger.watchRun({ runId: id }));
    },
  ]) {
    t.deepEqual(await refusalOf(call(runId)), await refusalOf(call(newId())));
  }
});

test("a hidden run's brief begins no run of a member's, and its text is not in any other run", async (t) => {
  const { stack } = t.context;
  const tenantId = 'hides';
  const mark = `zq${newId().slice(-12)}`;
  const admin = stack.clients({ tenantId, role: 'admin' });
  const environmentId = await environmentIn(admin);
  const briefId = newId();
  const owner = await follow(admin, markedInput(mark, { environment_id: environmentId, brief_id: briefId }));
  const { deletion } = await admin.runs.deleteRun({ runId: owner.runId, reason: 'hide it' });
  for await (const _ of admin.runs.watchDeletion({ deletionId: deletion?.id ?? '' }));
  const { runs } = stack.clients({ tenantId, role: 'member' });
  const input = { environment_id: environmentId, brief_id: briefId };
  t.like(await refusalOf(runs.startRun({ workflow: 'client_to_delivery', input })), {
    code: Code.FailedPrecondition,
    reason: 'RUN_DELETED',
    metadata: { run_id: owner.runId },
  });
  t.deepEqual((await runs.listRuns({})).runs, []);
  await admin.runs.undeleteRun({ runId: owner.runId });
  const { last } = await follow(admin, input as never);
  t.is(last?.state, RunState.COMPLETED, last?.error);
});

test("StartRun names a wrong environment by its field, and another tenant's looks like an unknown one", async (t) => {
  const { stack } = t.context;
  const clients = stack.clients({ tenantId: 'environs', role: 'member' });
  const foreign = await environmentIn(stack.clients({ tenantId: 'elsewhere', role: 'member' }));
  const own = await environmentIn(clients);
  const start = (environmentId: string) =>
    clients.runs.startRun({
      workflow: 'client_to_delivery',
      input: inputOf({ environment_id: environmentId, force_qc_fail: true }) as never,
    });
  const refused = await refusalOf(start(foreign));
  t.like(refused, {
    code: Code.InvalidArgument,
    reason: 'FIELD_INVALID',
    message: 'input.environment_id names no environment.',
    metadata: { fields: 'input.environment_id' },
  });
  t.deepEqual(await refusalOf(start(newId())), refused);
  t.deepEqual((await clients.runs.listRuns({})).runs, []);
  t.is((await start(own)).run?.state, RunState.RUNNING);
});

test("the deletion of a run's job says that the run keeps its own text, and the run shows no id of a job that is gone", async (t) => {
  const { stack } = t.context;
  const tenantId = 'jobless';
  const mark = `zq${newId().slice(-12)}`;
  const clients = stack.clients({ tenantId, role: 'admin' });
  const environmentId = await environmentIn(clients);
  const { runId, last } = await follow(clients, markedInput(mark, { environment_id: environmentId }));
  const jobId = String(last?.output?.['job_id']);
  const reference = { field: 'job_id', participant: 'job', resourceType: 'job' };
  t.like(last?.references, [{ ...reference, state: ReferenceState.EXISTS }]);
  const { deletion } = await clients.jobs.deleteJob({ jobId, reason: 'asked for' });
  t.is(deletion?.runId, runId);
  await until('the job is gone', async () => (await jobsOf(stack, runId)) === 0);
  const places = await findText(stack, SERVICES, mark);
  t.deepEqual(
    places.filter((place) => !place.startsWith('run.')),
    [],
    'JobService holds none of it',
  );
  t.true(places.includes('run.production_bundle_assets.copy'), 'RunService does, as the answer says');
  const seen = [
    (await clients.runs.getRun({ runId })).run,
    (await Array.fromAsync(clients.runs.watchRun({ runId }))).at(-1)?.run,
    (await clients.runs.deleteRun({ runId, validateOnly: true })).run,
  ];
  for (const run of seen) {
    t.like(run?.references, [{ ...reference, state: ReferenceState.GONE }]);
    t.false(JSON.stringify(run?.output).includes(jobId));
    t.is(run?.output?.['files'], 1);
  }
  const purge = await clients.runs.purgeRun({ runId, reason: 'asked for' });
  for await (const _ of clients.runs.watchDeletion({ deletionId: purge.deletion?.id ?? '' }));
  t.deepEqual(await findText(stack, SERVICES, mark), []);
});

test('a purged run leaves nothing of its content, and a brief that another run shares', async (t) => {
  const { stack } = t.context;
  const clients = stack.clients({ tenantId: 'purge', role: 'admin' });
  const environmentId = await environmentIn(clients);
  const briefId = newId();
  const first = await follow(clients, inputOf({ environment_id: environmentId, brief_id: briefId }));
  const second = await follow(clients, inputOf({ environment_id: environmentId, brief_id: briefId }));
  const purge = async (runId: string) => {
    const { deletion } = await clients.runs.purgeRun({ runId, reason: 'asked for' });
    let state = 0;
    for await (const told of clients.runs.watchDeletion({ deletionId: deletion?.id ?? '' }))
      state = told.deletion?.state ?? 0;
    return state;
  };
  t.is(await purge(first.runId), 4);
  t.deepEqual(await tenOf(stack, 'purge', first.runId), NOTHING);
  t.deepEqual(await tenOf(stack, 'purge', second.runId), COMPLETE);
  t.is(await purge(second.runId), 4);
  t.deepEqual(await tenOf(stack, 'purge'), NOTHING);
  t.deepEqual(await objectsOf(stack, 'purge'), []);
});

test('a purge passes a shared brief on to the run that shares it, and preview and receipt say so and add up', async (t) => {
  const { stack } = t.context;
  const clients = stack.clients({ tenantId: 'shares', role: 'admin' });
  const { runs } = clients;
  const input = inputOf({ environment_id: await environmentIn(clients), brief_id: newId() });
  const maker = await follow(clients, input);
  const sharer = await follow(clients, input);
  const briefOf = (participants: readonly { readonly resourceCounts: readonly ResourceCount[] }[]) =>
    participants
      .flatMap(({ resourceCounts }) => resourceCounts)
      .filter(({ resourceType }) => resourceType === 'onboarding_brief')
      .map(({ found, deleted, left, passedOn }) => ({ found, deleted, left, passedOn }));
  const purge = async (runId: string) => {
    const preview = await runs.previewPurgeRun({ runId });
    const { deletion } = await runs.purgeRun({ runId, reason: 'asked for' });
    const receipt = await settled(stack, 'shares', deletion?.id);
    t.is(receipt.state, DeletionState.COMPLETE);
    const told = preview.participants.flatMap(({ resourceCounts }) => resourceCounts);
    const done = receipt.participants.flatMap(({ resourceCounts }) => resourceCounts);
    for (const { resourceType, found, deleted, left, passedOn } of [...told, ...done])
      t.is(found, deleted + left + passedOn, resourceType);
    t.deepEqual(
      done.map(({ resourceType, found, passedOn }) => [resourceType, found, passedOn]),
      told.map(({ resourceType, found, passedOn }) => [resourceType, found, passedOn]),
    );
    return { told: briefOf(preview.participants), done: briefOf(receipt.participants) };
  };

  t.deepEqual(await purge(maker.runId), {
    told: [{ found: 1n, deleted: 0n, left: 0n, passedOn: 1n }],
    done: [{ found: 1n, deleted: 0n, left: 0n, passedOn: 1n }],
  });
  t.deepEqual(await tenOf(stack, 'shares', sharer.runId), COMPLETE, 'the brief is the heir’s');
  t.deepEqual(await purge(sharer.runId), {
    told: [{ found: 1n, deleted: 0n, left: 1n, passedOn: 0n }],
    done: [{ found: 1n, deleted: 1n, left: 0n, passedOn: 0n }],
  });
  t.deepEqual(await tenOf(stack, 'shares'), NOTHING);
});
