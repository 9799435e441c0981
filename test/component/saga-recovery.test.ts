import { setTimeout as delay } from 'node:timers/promises';
import anyTest, { type TestFn } from 'ava';
import { dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { makeSagaRepository } from '#services/run/adapters/postgres/saga-repository.ts';
import { cancelSaga, retrySaga } from '#services/run/domain/saga.ts';
import type { Workflow } from '#services/run/domain/workflow.ts';
import type { SagaRepository } from '#services/run/use-cases/saga-ports.ts';
import { clientToDelivery } from '#services/run/workflows/client-to-delivery/workflow.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import {
  COMPLETE,
  callerIn,
  countTen,
  type Engine,
  inputOf,
  makeEngine,
  makeFakeParticipant,
  NOTHING,
} from '#test/support/saga-harness.ts';
import { until } from '#test/support/test-stack.ts';

// Each test has a database of its own: workers take up whatever is due in it.
const file = anyTest as TestFn<{ postgres: TestPostgres }>;
// One after the other: side by side, their engines open so many connections that a busy machine makes some too late.
const test = file.serial;

file.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
file.after.always((t) => t.context.postgres.stop());

interface Ground {
  readonly created: TestDatabase;
  readonly database: Database;
}

async function ground(t: {
  context: { postgres: TestPostgres };
  teardown(f: () => Promise<void>): void;
}): Promise<Ground> {
  const created = await t.context.postgres.createDatabase(runMigrations);
  const database = created.open({ poolSize: 10 });
  t.teardown(() => database.close());
  return { created, database };
}

const stateOf = async ({ created }: Ground, runId: string) => {
  const [run] = await created.query<{ state: string; parked_reason: string | null; attempts: number; version: number }>(
    'select state, parked_reason, attempts, version::int from workflow_runs where id = $1',
    [runId],
  );
  if (!run) throw new Error('there is no such run');
  return run;
};

const begin = async (engine: Engine, input = inputOf()): Promise<string> =>
  (
    await engine.startRun({
      caller: callerIn('acme'),
      workflow: clientToDelivery.name,
      displayName: '',
      input,
      requestId: undefined,
    })
  ).id;

/** A job participant whose first execute stands still, after its effect is there, until it is let go. */
function standingJob() {
  const job = makeFakeParticipant('job');
  const reached = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  let isFirst = true;
  job.afterExecute = async () => {
    if (!isFirst) return;
    isFirst = false;
    reached.resolve();
    await gate.promise;
  };
  return { job, reached: reached.promise, release: gate.resolve };
}

const orderIn = (runId: string, action: 'cancel' | 'retry') =>
  ({
    ...{ tenantId: 'acme', runId, action, reason: undefined },
    ...{ actor: 'eve', subject: 'service:console', trustEntry: 'console' },
  }) as const;

/** What the audit tells of a run, and by which key whoever is behind it came. */
const auditOf = async ({ created }: Ground, runId: string) => {
  const sql = 'select action, outcome, actor, subject, trust_entry from audit_entries where target_id = $1 order by at';
  const rows = await created.query<Record<string, string>>(sql, [runId]);
  return rows.map((row) => Object.values(row).join(' '));
};

test('a worker that stood still past its lease writes nothing: the other has finished the run, once', async (t) => {
  const on = await ground(t);
  const { job, reached, release } = standingJob();
  const incident = makeFakeParticipant('incident');
  const slow = makeEngine(on.database, [job, incident], { workerId: 'slow', leaseMs: 50 });
  const quick = makeEngine(on.database, [job, incident], { workerId: 'quick' });
  const runId = await begin(slow);
  await reached;
  await until('the other worker has finished it', async () => {
    await quick.drain();
    return (await stateOf(on, runId)).state === 'COMPLETED';
  });
  const before = await stateOf(on, runId);
  release();
  await slow.idle();
  t.deepEqual(await stateOf(on, runId), before);
  t.deepEqual(await countTen(on.created, 'acme'), COMPLETE);
  t.is(job.effects.size, 1);
});

test('a write whose answer was lost counts, and is not done over', async (t) => {
  const on = await ground(t);
  const all = [makeFakeParticipant('job'), makeFakeParticipant('incident')];
  const sagas = makeSagaRepository(on.database, clientToDelivery.types);
  let writes = 0;
  const lossy: SagaRepository = {
    ...sagas,
    async write(claim, write) {
      const removed = await sagas.write(claim, write);
      writes += 1;
      // The third is the draft's: its answer gets lost on its way.
      if (writes === 3) throw dependencyUnavailable('database');
      return removed;
    },
  };
  const runId = await (async () => {
    const engine = makeEngine(lossy, all, { workerId: 'deaf', leaseMs: 50 });
    const id = await begin(engine);
    await engine.idle();
    return id;
  })();
  t.like(await stateOf(on, runId), { state: 'RUNNING', attempts: 0 }, 'the deaf worker wrote nothing after it');
  const other = makeEngine(on.database, all, { workerId: 'other' });
  await until('the other worker has finished it', async () => {
    await other.drain();
    return (await stateOf(on, runId)).state === 'COMPLETED';
  });
  t.deepEqual(await countTen(on.created, 'acme'), COMPLETE);
  t.deepEqual(all[0]?.calls, ['execute draft']);
});

test('many workers on one run write once', async (t) => {
  const on = await ground(t);
  const all = [makeFakeParticipant('job'), makeFakeParticipant('incident')];
  const engines = Array.from({ length: 8 }, (_, index) =>
    makeEngine(on.database, all, { workerId: `w${index}`, slots: 0 }),
  );
  const [first] = engines as [Engine];
  const runs = await Promise.all(Array.from({ length: 5 }, () => begin(first)));
  await Promise.all(engines.map((engine) => engine.drain()));
  for (const runId of runs) {
    t.is((await stateOf(on, runId)).state, 'COMPLETED');
    t.deepEqual(await countTen(on.created, 'acme', runId), COMPLETE);
    const steps = await on.created.query('select name from workflow_run_steps where run_id = $1', [runId]);
    t.is(steps.length, 5);
  }
  t.is(all[0]?.calls.filter((call) => call === 'execute draft').length, 5);
});

test('a run that is cancelled in the middle of a call gives everything up, the late answer included', async (t) => {
  const on = await ground(t);
  const { job, reached, release } = standingJob();
  const all = [job, makeFakeParticipant('incident')];
  const acting = makeEngine(on.database, all, { workerId: 'acting' });
  const other = makeEngine(on.database, all, { workerId: 'other' });
  const runId = await begin(acting);
  await reached;
  const cancelled = await other.sagas.order(orderIn(runId, 'cancel'), (_, saga) => cancelSaga(saga));
  t.is(cancelled?.state, 'COMPENSATING');
  await other.drain();
  t.is((await stateOf(on, runId)).state, 'CANCELLED');
  release();
  await acting.idle();
  t.is((await stateOf(on, runId)).state, 'CANCELLED');
  t.deepEqual(await countTen(on.created, 'acme'), NOTHING);
  t.is(job.effects.size, 0);
  t.deepEqual(await auditOf(on, runId), [
    'cancel COMPENSATING eve service:console console',
    'compensation CANCELLED eve service:console console',
  ]);
});

test('an action whose participant never answers fails its step within the bounded attempts, and the run is compensated', async (t) => {
  const on = await ground(t);
  const job = makeFakeParticipant('job');
  job.fail.execute = dependencyUnavailable('job');
  const engine = makeEngine(on.database, [job, makeFakeParticipant('incident')], { maxAttempts: 3 });
  const runId = await begin(engine);
  await engine.idle();
  await until('it is over', async () => {
    await engine.drain();
    return (await stateOf(on, runId)).state === 'COMPENSATED';
  });
  t.is(job.calls.filter((call) => call === 'execute draft').length, 3);
  t.deepEqual(await countTen(on.created, 'acme'), NOTHING);
});

test('a compensation that fails for ever parks the run within the bounded attempts; the next thousand are unaffected, and a retry ends it', async (t) => {
  const on = await ground(t);
  const job = makeFakeParticipant('job');
  const incident = makeFakeParticipant('incident');
  job.fail.compensate = dependencyUnavailable('job');
  const engine = makeEngine(on.database, [job, incident], { maxAttempts: 3 });
  const runId = await begin(engine, inputOf({ force_delivery_fail: true }));
  await engine.idle();
  await until('it is parked', async () => {
    await engine.drain();
    return (await stateOf(on, runId)).state === 'FAILED';
  });
  t.is(job.calls.filter((call) => call === 'compensate draft').length, 3);
  t.like(await stateOf(on, runId), {
    parked_reason: 'DEPENDENCY_UNAVAILABLE: The job is unavailable; try again later.',
  });
  t.is(await engine.sagas.parkedCount(), 1);
  t.is(await engine.sagas.oldestUnfinishedSeconds(), 0, 'a person has it now');
  const left = await countTen(on.created, 'acme');
  t.is(left['production_drafts'], 1, 'what could not be taken back with its job is still there');
  t.is(left['delivery_packages'], 0);

  job.fail.compensate = undefined;
  await Promise.all(
    Array.from({ length: 10 }, async () => {
      for (let count = 0; count < 100; count += 1) {
        const run = await engine.run(inputOf());
        if (run.state !== 'COMPLETED') throw new Error(`a run ended ${run.state}`);
      }
    }),
  );
  t.is((await stateOf(on, runId)).state, 'FAILED', 'nobody touched the parked one meanwhile');
  await engine.sagas.order(orderIn(runId, 'retry'), (_, saga) => retrySaga(saga));
  await engine.drain();
  t.like(await stateOf(on, runId), { state: 'COMPENSATED', parked_reason: null });
  t.is(await engine.sagas.parkedCount(), 0);
  t.deepEqual(await countTen(on.created, 'acme', runId), NOTHING);
  t.deepEqual(
    await auditOf(on, runId),
    [
      'compensation FAILED ana ana company',
      'retry COMPENSATING eve service:console console',
      'compensation COMPENSATED ana ana company',
    ],
    'a retry is its own entry, and does not change on whose behalf the run is compensated',
  );
});

test('a participant that says it removed and did not is never believed: the run is parked', async (t) => {
  const on = await ground(t);
  const job = makeFakeParticipant('job');
  job.lies = true;
  const engine = makeEngine(on.database, [job, makeFakeParticipant('incident')], { maxAttempts: 2 });
  const runId = await begin(engine, inputOf({ force_delivery_fail: true }));
  await engine.idle();
  await until('it is parked', async () => {
    await engine.drain();
    return (await stateOf(on, runId)).state === 'FAILED';
  });
  t.like(await stateOf(on, runId), { parked_reason: 'NOT_EMPTY: 1 are left after the purge.' });
});

test('a step that every worker dies of fails within the bounded attempts', async (t) => {
  const on = await ground(t);
  const engine = makeEngine(on.database, [makeFakeParticipant('job'), makeFakeParticipant('incident')], {
    slots: 0,
    maxAttempts: 4,
  });
  const runId = await begin(engine);
  for (let deaths = 0; deaths < 5; deaths += 1) {
    await until(
      'it is due again',
      async () => (await engine.sagas.claim({ tenantId: 'acme', runId }, 'dying', 1)) !== undefined,
    );
  }
  await delay(5);
  await engine.drain();
  t.is((await stateOf(on, runId)).state, 'COMPENSATED');
  const [row] = await on.created.query<{ error: string }>('select error from workflow_runs where id = $1', [runId]);
  t.is(row?.error, 'WORKER_LOST: Every worker that took this step up vanished.');
});

/** A later version: a step more in the middle, and the issues of quality control made by it. */
const later: Workflow = {
  ...clientToDelivery,
  steps: clientToDelivery.steps.flatMap((step) =>
    step.name !== 'qc'
      ? [step]
      : [
          { ...step, creates: ['qc_results'] },
          {
            name: 'second-opinion',
            creates: ['qc_issues'],
            participants: {},
            act: () => ({ finish: () => ({ effects: {}, output: {}, failure: undefined }) }),
          },
        ],
  ),
};

test('a run that a deploy interrupts in the middle of its compensation is compensated as it was declared when it began', async (t) => {
  const on = await ground(t);
  const job = makeFakeParticipant('job');
  const incident = makeFakeParticipant('incident');
  incident.fail.compensate = dependencyUnavailable('incident');
  const before = makeEngine(on.database, [job, incident], { maxAttempts: 100 });
  const runId = await begin(before, inputOf({ force_qc_fail: true }));
  await before.idle();
  t.is((await stateOf(on, runId)).state, 'COMPENSATING');
  t.is((await countTen(on.created, 'acme'))['qc_issues'], 1);

  incident.fail.compensate = undefined;
  const after = makeEngine(on.database, [job, incident], { workflow: later, workerId: 'after' });
  await until('it is over', async () => {
    await after.drain();
    return (await stateOf(on, runId)).state === 'COMPENSATED';
  });
  t.deepEqual(await countTen(on.created, 'acme'), NOTHING);
  t.is(job.effects.size + incident.effects.size, 0);
});

test('a run that a deploy interrupts on its way goes on by the steps that it began with', async (t) => {
  const on = await ground(t);
  const all = [makeFakeParticipant('job'), makeFakeParticipant('incident')];
  const before = makeEngine(on.database, all, { slots: 0 });
  const runId = await begin(before);
  const after = makeEngine(on.database, all, { workflow: later });
  await after.drain();
  t.is((await stateOf(on, runId)).state, 'COMPLETED');
  const steps = await on.created.query<{ name: string }>(
    'select name from workflow_run_steps where run_id = $1 order by position',
    [runId],
  );
  t.deepEqual(
    steps.map(({ name }) => name),
    ['brief', 'strategy', 'draft', 'qc', 'delivery'],
  );
  const fresh = await after.run(inputOf());
  t.is(fresh.steps.length, 6);
});

test('a replica that stops gives its runs to the others at the next step', async (t) => {
  const on = await ground(t);
  const { job, reached, release } = standingJob();
  const all = [job, makeFakeParticipant('incident')];
  const leaving = makeEngine(on.database, all, { workerId: 'leaving' });
  const runId = await begin(leaving);
  await reached;
  const stopped = leaving.own.stop();
  release();
  await stopped;
  t.like(await stateOf(on, runId), { state: 'RUNNING', attempts: 0 });
  await makeEngine(on.database, all, { workerId: 'staying' }).drain();
  t.is((await stateOf(on, runId)).state, 'COMPLETED');
  t.deepEqual(await countTen(on.created, 'acme'), COMPLETE);
});

test('a request repeated while its run is under way answers with that run', async (t) => {
  const on = await ground(t);
  const { job, reached, release } = standingJob();
  const engine = makeEngine(on.database, [job, makeFakeParticipant('incident')]);
  const command = {
    caller: callerIn('acme'),
    workflow: clientToDelivery.name,
    displayName: '',
    input: inputOf(),
    requestId: newId(),
  };
  const { id } = await engine.startRun(command);
  await reached;
  t.is((await engine.startRun(command)).id, id);
  release();
  await engine.idle();
  t.is(job.effects.size, 1);
});
