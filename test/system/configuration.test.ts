import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import pg from 'pg';
import { runToEnd } from '#deploy/local/service-process.ts';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import { makeKeyPair } from '#libs/auth/keys.ts';
import { provisionDatabase } from '#libs/postgres/provision.ts';
import { type ForeignParticipant, startForeignParticipant } from '#test/support/foreign-participant.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { bundleOf } from '#test/support/programs.ts';
import { evidenceOf, incidentsOf, makeRunGraph, NOTHING, settled } from '#test/support/run-graph.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

// What a service knows survives what its configuration forgets. One stack; each test leaves it as it was.
const test = anyTest as TestFn<{ stack: TestStack; foreign: ForeignParticipant }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({
    services: ['run', 'job', 'incident'],
    envOf: {
      run: {
        LETHE_PARTICIPANT_TIMEOUT_MS: '3000',
        // While a purge stands still for a lock, each answer without progress is an attempt.
        LETHE_DELETION_ATTEMPTS: '20',
        LETHE_DELETION_BACKOFF_MS: '50',
        LETHE_DELETION_BACKOFF_MAX_MS: '100',
        LETHE_RUN_ATTEMPTS: '2',
        LETHE_RUN_BACKOFF_MS: '50',
      },
    },
  });
});
test.before(async (t) => {
  t.context.foreign = await startForeignParticipant(1_000);
});
test.after.always(async (t) => {
  await t.context.stack?.dispose();
  await t.context.foreign?.close();
});
test.afterEach.always(async (t) => {
  if (t.passed) return;
  await t.context.stack.restart('run');
  await t.context.stack.restart('incident');
});

const without = ({ addresses }: TestStack) => ({ LETHE_PARTICIPANTS: `incident=${addresses.incident}` });

for (const [title, steps] of [
  ['recorded steps name', 2],
  ['no step names, which holds jobs made with run_id,', 0],
] as const) {
  test.serial(`a participant that ${title} and that is no longer configured stops a run's purge`, async (t) => {
    const { stack } = t.context;
    const tenantId = `forgotten-${steps}`;
    const { runs } = stack.clients({ tenantId, role: 'admin' });
    const graph = await makeRunGraph(stack, tenantId, { steps, jobs: 1 });
    const { runId } = graph;
    const before = await evidenceOf(stack, graph);
    await stack.restart('run', without(stack));
    t.is((await refusalOf(runs.previewPurgeRun({ runId }))).reason, 'PARTICIPANT_UNKNOWN');
    for (const validateOnly of [true, false]) {
      const refusal = await refusalOf(runs.purgeRun({ runId, reason: 'asked for', validateOnly }));
      t.is(refusal.reason, 'PARTICIPANT_UNKNOWN');
      t.regex(refusal.message, /job/);
    }
    const hidden = await settled(stack, tenantId, (await runs.deleteRun({ runId })).deletion?.id);
    t.is(hidden.state, DeletionState.STUCK);
    t.regex(hidden.lastError, /^PARTICIPANT_UNKNOWN: .*job/);
    t.like(await evidenceOf(stack, graph), { ...before, hiddenRuns: 1, hiddenSteps: steps });

    await stack.restart('run');
    await runs.redriveDeletion({ deletionId: hidden.id });
    t.is((await settled(stack, tenantId, hidden.id)).state, DeletionState.COMPLETE);
    const { deletion } = await runs.purgeRun({ runId, reason: 'asked for' });
    const receipt = await settled(stack, tenantId, deletion?.id);
    t.is(receipt.state, DeletionState.COMPLETE);
    t.deepEqual(
      receipt.participants.map(({ participant }) => participant),
      ['job', 'incident', 'run'],
    );
    t.deepEqual(await evidenceOf(stack, graph), NOTHING);
  });
}

test.serial(
  'a purge that has begun is parked while its participant is not configured, and goes on after',
  async (t) => {
    const { stack } = t.context;
    const { runs } = stack.clients({ tenantId: 'begun', role: 'admin' });
    const graph = await makeRunGraph(stack, 'begun', { jobs: 1 });
    const held = new pg.Client(stack.superuserUrl('job'));
    await held.connect();
    t.teardown(() => held.end());
    await held.query('begin');
    await held.query("select 1 from jobs where tenant_id = 'begun' for update");
    const { deletion } = await runs.purgeRun({ runId: graph.runId, reason: 'asked for' });
    const deletionId = deletion?.id ?? '';
    const stateOf = async () => (await runs.getDeletion({ deletionId })).deletion?.state;
    await until('it cascades', async () => (await stateOf()) === DeletionState.CASCADING);
    await stack.restart('run', without(stack));
    await held.query('rollback');
    const parked = await settled(stack, 'begun', deletionId);
    t.is(parked.state, DeletionState.STUCK);
    t.regex(parked.lastError, /^PARTICIPANT_UNKNOWN: .*job/);
    t.is((await evidenceOf(stack, graph)).runs, 1);

    await stack.restart('run');
    await runs.redriveDeletion({ deletionId });
    t.is((await settled(stack, 'begun', deletionId)).state, DeletionState.COMPLETE);
    t.deepEqual(await evidenceOf(stack, graph), NOTHING);
  },
);

test.serial(
  'a compensation is parked while a participant of a step is not configured, and goes on after',
  async (t) => {
    const { stack } = t.context;
    const { runs } = stack.clients({ tenantId: 'undoes', role: 'admin' });
    const graph = await makeRunGraph(stack, 'undoes', { jobs: 1, isFinished: false });
    const { runId } = graph;
    const before = await evidenceOf(stack, graph);
    await stack.restart('run', without(stack));
    await runs.failRun({ runId, error: 'broke' });
    const runOf = async () => (await runs.getRun({ runId })).run;
    await until('it is parked', async () => (await runOf())?.state === RunState.FAILED);
    t.regex((await runOf())?.parkedReason ?? '', /^PARTICIPANT_UNKNOWN: .*job/);
    t.deepEqual(await evidenceOf(stack, graph), before);

    await stack.restart('run');
    await runs.retryRun({ runId });
    await until('it is compensated', async () => (await runOf())?.state === RunState.COMPENSATED);
    t.like(await evidenceOf(stack, graph), { jobs: 0, tasks: 0, artifacts: 0, objects: 0 });
  },
);

test.serial(
  'only a participant that is not configured can be retired, by the platform, and deletions then do without it',
  async (t) => {
    const { stack, foreign } = t.context;
    const { runs } = stack.clients({ tenantId: 'retires', role: 'admin' });
    const platform = stack.clients({ role: 'platform' }).runs;
    const known = async () => {
      const { participants } = await platform.listParticipants({});
      return participants.map(({ name, configured, retiredBy }) => [name, configured, retiredBy]);
    };
    const configured = stack.environment('run')['LETHE_PARTICIPANTS'];
    await stack.restart('run', { LETHE_PARTICIPANTS: `${configured},notes=${foreign.address}` });
    const notes = { name: 'notes', reason: 'shut down' };
    t.is((await refusalOf(platform.retireParticipant(notes))).reason, 'PARTICIPANT_CONFIGURED');
    const [begun, later] = [await makeRunGraph(stack, 'retires', { jobs: 1 }), await makeRunGraph(stack, 'retires')];
    foreign.put(begun.runId, 2);
    foreign.treat(begun.runId, 'fails');
    const { deletion } = await runs.purgeRun({ runId: begun.runId, reason: 'asked for' });
    t.is((await settled(stack, 'retires', deletion?.id)).state, DeletionState.STUCK);

    await stack.restart('run');
    t.is((await refusalOf(runs.purgeRun({ runId: later.runId, reason: 'x' }))).reason, 'PARTICIPANT_UNKNOWN');
    t.is((await refusalOf(runs.retireParticipant(notes))).reason, 'ROLE_TOO_LOW');
    t.is((await refusalOf(platform.retireParticipant({ ...notes, reason: '' }))).reason, 'REASON_REQUIRED');
    t.is((await refusalOf(platform.retireParticipant({ ...notes, name: 'x' }))).reason, 'PARTICIPANT_NOT_FOUND');
    const retired = await platform.retireParticipant(notes);
    t.deepEqual(await platform.retireParticipant({ ...notes, reason: 'again' }), retired);
    const by = retired.participant?.retiredBy ?? '';
    t.deepEqual(await known(), [
      ['incident', true, ''],
      ['job', true, ''],
      ['notes', false, by],
    ]);
    const audited = await queryOnce(
      stack.superuserUrl('run'),
      "select action, target_type, target_id, actor, reason from installation_audit where action = 'retire'",
    );
    t.deepEqual(audited, [
      { action: 'retire', target_type: 'participant', target_id: 'notes', actor: by, reason: 'shut down' },
    ]);

    const purge = await runs.purgeRun({ runId: later.runId, reason: 'asked for' });
    t.is((await settled(stack, 'retires', purge.deletion?.id)).state, DeletionState.COMPLETE);
    await runs.redriveDeletion({ deletionId: deletion?.id ?? '' });
    const receipt = await settled(stack, 'retires', deletion?.id);
    t.is(receipt.state, DeletionState.COMPLETE);
    const part = receipt.participants.find(({ participant }) => participant === 'notes');
    t.is(part?.state, DeletionState.CANCELLED);
    t.regex(part?.lastError ?? '', /^PARTICIPANT_RETIRED: .*shut down/);
    t.deepEqual(await evidenceOf(stack, begun), NOTHING);

    await stack.restart('run', { LETHE_PARTICIPANTS: `${configured},notes=${foreign.address}` });
    t.deepEqual((await known()).at(-1), ['notes', true, '']);
    await stack.restart('run');
    const again = await makeRunGraph(stack, 'retires', { jobs: 0 });
    t.is((await refusalOf(runs.previewPurgeRun({ runId: again.runId }))).reason, 'PARTICIPANT_UNKNOWN');
    await platform.retireParticipant(notes);
  },
);

/** A purge of a new run that stands still in JobService until `release` is called. */
async function standingPurge(t: ExecutionContext<{ stack: TestStack }>, tenantId: string) {
  const { stack } = t.context;
  const { runs } = stack.clients({ tenantId, role: 'admin' });
  const graph = await makeRunGraph(stack, tenantId, { jobs: 2, incidents: 1 });
  const lock = new pg.Client(stack.superuserUrl('job'));
  await lock.connect();
  t.teardown(() => lock.end());
  await lock.query('begin');
  await lock.query('select 1 from jobs where tenant_id = $1 for update', [tenantId]);
  const { deletion } = await runs.purgeRun({ runId: graph.runId, reason: 'asked for' });
  const deletionId = deletion?.id ?? '';
  await until('it cascades', async () => {
    return (await runs.getDeletion({ deletionId })).deletion?.state === DeletionState.CASCADING;
  });
  return { graph, runs, deletionId, release: () => lock.query('rollback') };
}

/** What is configured otherwise in the middle of a purge, and why it is parked; undefined where it goes on. */
const CHANGES: readonly {
  readonly title: string;
  readonly changed: (stack: TestStack, foreign: ForeignParticipant) => Readonly<Record<string, string>>;
  readonly parkedWith?: RegExp;
  readonly participants?: readonly string[];
}[] = [
  {
    title: 'participants that are reordered',
    changed: ({ addresses: { job, incident } }) => ({ LETHE_PARTICIPANTS: `incident=${incident},job=${job}` }),
    participants: ['job', 'incident', 'run'],
  },
  {
    title: 'a participant that is added',
    changed: ({ addresses: { job, incident } }, { address }) => ({
      LETHE_PARTICIPANTS: `notes=${address},job=${job},incident=${incident}`,
    }),
    participants: ['job', 'incident', 'notes', 'run'],
  },
  {
    title: 'a participant at the address of another',
    changed: ({ addresses: { incident } }) => ({ LETHE_PARTICIPANTS: `job=${incident},incident=${incident}` }),
    parkedWith: /^DEPENDENCY_UNAVAILABLE: .*job refuses RunService's token/,
  },
  {
    title: 'a key that nobody believes',
    changed: (stack) => ({ LETHE_SERVICE_KEY: join(stack.folder, 'keys', 'stranger.private.json') }),
    parkedWith: /^DEPENDENCY_UNAVAILABLE: .*job refuses RunService's token/,
  },
];

for (const [index, { title, changed, parkedWith, participants }] of CHANGES.entries()) {
  const outcome = parkedWith ? 'parks it, with a reason to read' : 'lets it end with nothing left';
  test.serial(`${title} in the middle of a purge ${outcome}`, async (t) => {
    const { stack, foreign } = t.context;
    const { privateJwk } = await makeKeyPair();
    await writeFile(join(stack.folder, 'keys', 'stranger.private.json'), JSON.stringify(privateJwk));
    const { graph, runs, deletionId, release } = await standingPurge(t, `change-${index}`);
    foreign.put(graph.runId, 2);
    await stack.restart('run', changed(stack, foreign));
    await release();
    let last = await settled(stack, graph.tenantId, deletionId);
    if (parkedWith) {
      t.is(last.state, DeletionState.STUCK);
      t.regex(last.lastError, parkedWith);
      t.is((await evidenceOf(stack, graph)).runs, 1);
      await stack.restart('run');
      await runs.redriveDeletion({ deletionId });
      last = await settled(stack, graph.tenantId, deletionId);
    }
    t.is(last.state, DeletionState.COMPLETE, last.lastError);
    t.deepEqual(await evidenceOf(stack, graph), NOTHING);
    t.is((await incidentsOf(stack, graph)).payloads, 0);
    if (!participants) return;
    t.deepEqual(
      last.participants.map(({ participant }) => participant),
      participants,
    );
    t.is(foreign.countOf(graph.runId), participants.includes('notes') ? 0 : 2);
    await stack.restart('run');
    for (const name of participants.filter((each) => each === 'notes'))
      await stack.clients({ role: 'platform' }).runs.retireParticipant({ name, reason: 'test over' });
  });
}

test.serial(
  'a participant that answers from another database in the middle of a purge ends nothing by its word',
  async (t) => {
    const { stack } = t.context;
    const platform = stack.clients({ role: 'platform' }).runs;
    const incident = async () => {
      const { participants } = await platform.listParticipants({});
      return participants.find(({ name }) => name === 'incident');
    };
    const other = await provisionDatabase({
      superuserUrl: stack.superuserUrl('incident'),
      database: 'lethe_other',
      ownerPassword: 'owner',
      appPassword: 'app',
    });
    const migrating = { LETHE_DATABASE_OWNER_URL: other.ownerUrl, LETHE_DATABASE_APP_ROLE: other.appRole };
    await runToEnd([await bundleOf('services/incident/main.ts'), 'migrate'], migrating);
    const later = await makeRunGraph(stack, 'another-database', { jobs: 0 });
    const { graph, runs, deletionId, release } = await standingPurge(t, 'another-database');
    await stack.restart('incident', { LETHE_DATABASE_URL: other.appUrl });
    await release();
    const parked = await settled(stack, graph.tenantId, deletionId);
    t.is(parked.state, DeletionState.STUCK);
    t.regex(parked.lastError, /^PARTICIPANT_CHANGED: .*incident/);
    t.true((await incidentsOf(stack, graph)).payloads > 0);
    t.is((await refusalOf(runs.previewPurgeRun({ runId: later.runId }))).reason, 'PARTICIPANT_CHANGED');
    t.not((await incident())?.claimedDataId, '');

    await stack.restart('incident');
    await runs.redriveDeletion({ deletionId });
    const receipt = await settled(stack, graph.tenantId, deletionId);
    t.is(receipt.state, DeletionState.COMPLETE, receipt.lastError);
    t.is((await incidentsOf(stack, graph)).payloads, 0);
    t.is((await incident())?.claimedDataId, '');

    await stack.restart('incident', { LETHE_DATABASE_URL: other.appUrl });
    t.is((await refusalOf(runs.previewPurgeRun({ runId: later.runId }))).reason, 'PARTICIPANT_CHANGED');
    const order = { name: 'incident', reason: 'moved' };
    t.is((await refusalOf(runs.confirmParticipant(order))).reason, 'ROLE_TOO_LOW');
    await platform.confirmParticipant(order);
    await t.notThrowsAsync(runs.previewPurgeRun({ runId: later.runId }));
    await stack.restart('incident');
  },
);
