import { Code } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import { connect } from '#libs/grpc/client.ts';
import { newId } from '#libs/kernel/id.ts';
import { type ForeignParticipant, startForeignParticipant } from '#test/support/foreign-participant.ts';
import { evidenceOf, makeRunGraph, NOTHING, settled } from '#test/support/run-graph.ts';
import { refusalOf, startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

// Short enough to wait for it twice, long enough that none but the late participant misses it on a busy machine.
const PARTICIPANT_TIMEOUT_MS = 5_000;

const test = anyTest as TestFn<{ stack: TestStack; foreign: ForeignParticipant }>;

test.before(async (t) => {
  const foreign = await startForeignParticipant(PARTICIPANT_TIMEOUT_MS * 2);
  t.context.foreign = foreign;
  t.context.stack = await startTestStack({
    services: ['run', 'job'],
    foreignParticipants: { notes: foreign.address },
    envOf: {
      run: {
        LETHE_PARTICIPANT_TIMEOUT_MS: String(PARTICIPANT_TIMEOUT_MS),
        LETHE_DELETION_ATTEMPTS: '4',
        LETHE_DELETION_BACKOFF_MS: '50',
        LETHE_DELETION_BACKOFF_MAX_MS: '200',
        LETHE_RUN_ATTEMPTS: '2',
      },
    },
  });
});
test.after.always(async (t) => {
  await t.context.stack?.dispose();
  await t.context.foreign.close();
});

const runsOf = (stack: TestStack, tenantId: string) => stack.clients({ tenantId, role: 'admin' }).runs;

const noteCounts = (deletion: Awaited<ReturnType<typeof settled>>) =>
  deletion.participants
    .find(({ participant }) => participant === 'notes')
    ?.resourceCounts.map(({ found, deleted, left }) => `${found} ${deleted} ${left}`);

test.serial(
  'a deletion that always fails at one participant is parked with the reason, a hundred others complete meanwhile, and a redrive completes it',
  async (t) => {
    const { stack, foreign } = t.context;
    const runs = runsOf(stack, 'parks');
    const bad = await makeRunGraph(stack, 'parks', { jobs: 1, objectsPerJob: 1 });
    foreign.put(bad.runId, 3);
    foreign.treat(bad.runId, 'fails');
    const others = await Promise.all(
      Array.from({ length: 100 }, () => makeRunGraph(stack, 'parks', { steps: 1, jobs: 1, objectsPerJob: 1 })),
    );
    const { deletion } = await runs.purgeRun({ runId: bad.runId, reason: 'stuck' });
    const begun = await Promise.all(others.map(({ runId }) => runs.purgeRun({ runId, reason: 'meanwhile' })));
    for (const other of begun) {
      t.is((await settled(stack, 'parks', other.deletion?.id)).state, DeletionState.COMPLETE);
    }
    for (const graph of others) t.deepEqual(await evidenceOf(stack, graph), NOTHING);

    const parked = await settled(stack, 'parks', deletion?.id);
    t.is(parked.state, DeletionState.STUCK);
    t.regex(parked.lastError, /^DEPENDENCY_UNAVAILABLE: /);
    t.is(foreign.callsOf(bad.runId), 4, 'the attempts are bounded');
    t.is(parked.attempts, 4);
    const states = parked.participants.map(({ participant, state }) => [participant, state]);
    t.deepEqual(states, [
      ['job', DeletionState.VERIFYING],
      ['notes', DeletionState.STUCK],
      ['run', DeletionState.PENDING],
    ]);
    t.is((await evidenceOf(stack, bad)).runs, 1, 'the run stands while something of it is left');
    t.is((await refusalOf(runs.purgeRun({ runId: bad.runId, reason: 'again' }))).reason, 'OPERATION_IN_PROGRESS');
    t.is((await refusalOf(runs.undeleteRun({ runId: bad.runId }))).reason, 'OPERATION_IN_PROGRESS');

    foreign.treat(bad.runId, 'well');
    const redriven = await runs.redriveDeletion({ deletionId: deletion?.id ?? '', reason: 'unlocked' });
    t.is(redriven.deletion?.attempts, 0);
    const complete = await settled(stack, 'parks', deletion?.id);
    t.is(complete.state, DeletionState.COMPLETE);
    t.is(complete.lastError, '');
    t.deepEqual(noteCounts(complete), ['3 3 0']);
    t.deepEqual(await evidenceOf(stack, bad), NOTHING);
    t.is(foreign.countOf(bad.runId), 0);
    t.is((await refusalOf(runs.redriveDeletion({ deletionId: deletion?.id ?? '' }))).reason, 'DELETION_FINISHED');
  },
);

test.serial('a participant that says it is done and is not is never called complete', async (t) => {
  const { stack, foreign } = t.context;
  const graph = await makeRunGraph(stack, 'lies', { jobs: 1, objectsPerJob: 1 });
  foreign.put(graph.runId, 2);
  foreign.treat(graph.runId, 'keeps');
  const { deletion } = await runsOf(stack, 'lies').purgeRun({ runId: graph.runId, reason: 'lies' });
  const parked = await settled(stack, 'lies', deletion?.id);
  t.is(parked.state, DeletionState.STUCK);
  t.regex(parked.lastError, /^NOT_EMPTY: 2 are left/);
  t.deepEqual(noteCounts(parked), ['2 2 2']);
  t.is((await evidenceOf(stack, graph)).runs, 1);
});

test.serial(
  'a participant that is never done and removes nothing is parked with the reason, and a redrive goes on',
  async (t) => {
    const { stack, foreign } = t.context;
    const graph = await makeRunGraph(stack, 'stalls', { jobs: 1, objectsPerJob: 1 });
    foreign.put(graph.runId, 2);
    foreign.treat(graph.runId, 'stalls');
    const { deletion } = await runsOf(stack, 'stalls').purgeRun({ runId: graph.runId, reason: 'stalls' });
    const parked = await settled(stack, 'stalls', deletion?.id);
    t.is(parked.state, DeletionState.STUCK);
    t.regex(parked.lastError, /^NO_PROGRESS: /);
    t.is(foreign.callsOf(graph.runId), 5, 'the first answer told of something new, and four did not');
    t.is((await evidenceOf(stack, graph)).runs, 1);
    foreign.treat(graph.runId, 'well');
    await runsOf(stack, 'stalls').redriveDeletion({ deletionId: deletion?.id ?? '', reason: 'goes on' });
    t.is((await settled(stack, 'stalls', deletion?.id)).state, DeletionState.COMPLETE);
  },
);

test.serial('a participant that has other work to do first is waited for, however often that is', async (t) => {
  const { stack, foreign } = t.context;
  const graph = await makeRunGraph(stack, 'queues', { jobs: 1, objectsPerJob: 1 });
  foreign.put(graph.runId, 2);
  foreign.treat(graph.runId, 'queues');
  const runs = runsOf(stack, 'queues');
  const { deletion } = await runs.purgeRun({ runId: graph.runId, reason: 'queues' });
  // More often than a participant may stall.
  await until('it was asked often', async () => foreign.callsOf(graph.runId) > 8);
  const { deletion: waiting } = await runs.getDeletion({ deletionId: deletion?.id ?? '' });
  t.like(waiting, { state: DeletionState.CASCADING, lastError: '' });
  foreign.treat(graph.runId, 'well');
  t.is((await settled(stack, 'queues', deletion?.id)).state, DeletionState.COMPLETE);
});

test.serial('a parked run whose purge is not over is not retried', async (t) => {
  const { stack, foreign } = t.context;
  const runs = runsOf(stack, 'retries');
  // The notebook takes nothing of a single step back.
  const { runId } = await makeRunGraph(stack, 'retries', { jobs: 0, participants: ['notes'], isFinished: false });
  await runs.failRun({ runId, error: 'broke' });
  const runOf = async () => (await runs.getRun({ runId })).run;
  await until('it is parked', async () => (await runOf())?.state === RunState.FAILED);
  foreign.treat(runId, 'queues');
  const { deletion } = await runs.purgeRun({ runId, reason: 'gone' });
  t.like(await refusalOf(runs.retryRun({ runId })), {
    code: Code.Aborted,
    reason: 'OPERATION_IN_PROGRESS',
    metadata: { operation_id: deletion?.id },
  });
  t.is((await runOf())?.state, RunState.FAILED);
  foreign.treat(runId, 'well');
  t.is((await settled(stack, 'retries', deletion?.id)).state, DeletionState.COMPLETE);
});

test.serial('a participant that answers after its deadline is asked again, and counts once', async (t) => {
  const { stack, foreign } = t.context;
  const graph = await makeRunGraph(stack, 'late', { jobs: 1, objectsPerJob: 1 });
  foreign.put(graph.runId, 5);
  foreign.treat(graph.runId, 'late');
  const { deletion } = await runsOf(stack, 'late').purgeRun({ runId: graph.runId, reason: 'late' });
  await until('it was called', async () => foreign.callsOf(graph.runId) >= 2);
  foreign.treat(graph.runId, 'well');
  const complete = await settled(stack, 'late', deletion?.id);
  t.is(complete.state, DeletionState.COMPLETE);
  t.deepEqual(noteCounts(complete), ['5 5 0']);
  t.deepEqual(await evidenceOf(stack, graph), NOTHING);
});

test.serial(
  'a deletion waits for a participant that is down without using up its attempts, and a preview is refused',
  async (t) => {
    const { stack, foreign } = t.context;
    const runs = runsOf(stack, 'down');
    const graph = await makeRunGraph(stack, 'down', { jobs: 1, objectsPerJob: 1 });
    const hidden = await makeRunGraph(stack, 'down', { jobs: 1, objectsPerJob: 0 });
    foreign.put(graph.runId, 1);
    const { deletion } = await (async () => {
      const begun = await runs.purgeRun({ runId: graph.runId, reason: 'soon down' });
      await foreign.down();
      return begun;
    })();
    t.is((await refusalOf(runs.previewPurgeRun({ runId: hidden.runId }))).reason, 'DEPENDENCY_UNAVAILABLE');
    t.is((await refusalOf(runs.purgeRun({ runId: hidden.runId, reason: 'no' }))).reason, 'DEPENDENCY_UNAVAILABLE');
    const hide = await runs.deleteRun({ runId: hidden.runId });
    t.truthy(hide.run?.deleteTime, 'hiding does not wait for anybody');
    const ids = [deletion?.id ?? '', hide.deletion?.id ?? ''];
    // Each failure is told by another time: more of them than there are attempts.
    const failures = ids.map(() => new Set<string>());
    await until('it was tried more often than there are attempts', async () => {
      for (const [index, deletionId] of ids.entries()) {
        const { deletion: waiting } = await runs.getDeletion({ deletionId });
        t.not(waiting?.state, DeletionState.STUCK);
        if (waiting?.lastError) failures[index]?.add(`${waiting.updateTime?.seconds}.${waiting.updateTime?.nanos}`);
      }
      return failures.every(({ size }) => size > 4);
    });
    await foreign.up();
    for (const deletionId of ids) {
      const { state, attempts } = await settled(stack, 'down', deletionId);
      t.is(state, DeletionState.COMPLETE);
      t.is(attempts, 0);
    }
    t.deepEqual(await evidenceOf(stack, graph), NOTHING);
  },
);

test.serial('a blocker of a participant that answers stops a deletion, whoever else is down', async (t) => {
  const { stack, foreign } = t.context;
  const { runs, jobs } = stack.clients({ tenantId: 'blocks', role: 'admin' });
  const { runId } = await makeRunGraph(stack, 'blocks', { jobs: 0 });
  await jobs.createJob({ runId, step: 'step-1', taskNames: ['transcribe'] });
  await foreign.down();
  try {
    for (const order of [runs.deleteRun, runs.purgeRun])
      t.is((await refusalOf(order({ runId, reason: 'now' }))).reason, 'JOB_NOT_TERMINAL');
    t.falsy((await runs.getRun({ runId })).run?.deleteTime);
  } finally {
    await foreign.up();
  }
});

test.serial(
  'a JobService that stands still for longer than its deadline loses nothing and removes nothing twice',
  async (t) => {
    const { stack } = t.context;
    const runs = runsOf(stack, 'still');
    const graph = await makeRunGraph(stack, 'still', { jobs: 3, objectsPerJob: 2 });
    const neighbour = await makeRunGraph(stack, 'still');
    const near = await evidenceOf(stack, neighbour);
    const { deletion } = await runs.purgeRun({ runId: graph.runId, reason: 'still' });
    const pid = stack.pid('job') ?? 0;
    process.kill(pid, 'SIGSTOP');
    try {
      await until('an attempt has failed or the purge was faster', async () => {
        const { deletion: now } = await runs.getDeletion({ deletionId: deletion?.id ?? '' });
        return now?.lastError !== '' || now?.state === DeletionState.COMPLETE;
      });
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    const complete = await settled(stack, 'still', deletion?.id);
    t.is(complete.state, DeletionState.COMPLETE);
    const objects = complete.participants[0]?.resourceCounts.find(
      ({ resourceType }) => resourceType === 'object_version',
    );
    t.is(objects?.deleted, 6n);
    t.deepEqual(await evidenceOf(stack, graph), NOTHING);
    t.deepEqual(await evidenceOf(stack, neighbour), near);
  },
);

test.serial('a receipt says where a participant told lower bounds, and not exact counts', async (t) => {
  const { stack, foreign } = t.context;
  const runs = runsOf(stack, 'guesses');
  const graph = await makeRunGraph(stack, 'guesses', { jobs: 1, objectsPerJob: 0 });
  foreign.put(graph.runId, 4);
  foreign.treat(graph.runId, 'guesses');
  const { deletion } = await runs.purgeRun({ runId: graph.runId, reason: 'guesses' });
  const receipt = await settled(stack, 'guesses', deletion?.id);
  t.is(receipt.state, DeletionState.COMPLETE);
  const told = receipt.participants.flatMap(({ resourceCounts }) =>
    resourceCounts.filter(({ atLeast }) => atLeast).map(({ resourceType, deleted }) => [resourceType, deleted]),
  );
  t.deepEqual(told, [['note', 4n]]);
  const listed = (await runs.listDeletions({ runId: graph.runId })).deletions[0];
  t.deepEqual(listed?.participants, receipt.participants);
});

test.serial('the tokens that a participant was given end nothing at another service', async (t) => {
  const { stack, foreign } = t.context;
  const runs = runsOf(stack, 'replays');
  const [previewed, other] = [await makeRunGraph(stack, 'replays'), await makeRunGraph(stack, 'replays')];
  await runs.previewPurgeRun({ runId: previewed.runId });
  await runs.deleteRun({ runId: previewed.runId });
  await until('it was asked to hide the run', async () => foreign.tokensOf('SoftDelete').length > 0);
  const before = await Promise.all([previewed, other].map((graph) => evidenceOf(stack, graph)));
  for (const token of [foreign.tokensOf('Preview')[0], foreign.tokensOf('SoftDelete')[0]]) {
    if (!token) return t.fail('it was given no token');
    for (const service of ['job', 'run'] as const) {
      const connection = connect({ address: stack.addresses[service], token: async () => token });
      t.teardown(() => connection.close());
      const participant = connection.client(ParticipantService);
      for (const { runId } of [other, previewed]) {
        const request = { runId, key: { operationId: newId(), step: service }, reason: 'replayed' };
        const step = { runId, key: { operationId: runId, step: 'step-1' } };
        for (const call of [participant.purge(request), participant.softDelete(request), participant.compensate(step)])
          t.like(await refusalOf(call), { code: Code.Unauthenticated, reason: 'TOKEN_INVALID' });
      }
    }
  }
  t.deepEqual(await Promise.all([previewed, other].map((graph) => evidenceOf(stack, graph))), before);
});
