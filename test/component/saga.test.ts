import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import pg from 'pg';
import { DomainError, dependencyUnavailable, fieldInvalid } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { MOST_STEPS } from '#services/run/domain/step.ts';
import type { Workflow } from '#services/run/domain/workflow.ts';
import type { SagaRepository } from '#services/run/use-cases/saga-ports.ts';
import { clientToDelivery } from '#services/run/workflows/client-to-delivery/workflow.ts';
import { findInDatabase } from '#test/support/find-text.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';
import {
  COMPLETE,
  callerIn,
  countTen,
  inputOf,
  makeEngine,
  makeFakeParticipant,
  NOTHING,
  TEN_TABLES,
} from '#test/support/saga-harness.ts';
import { until } from '#test/support/test-stack.ts';

interface Context {
  readonly postgres: TestPostgres;
  readonly created: TestDatabase;
  readonly database: Database;
}

const file = anyTest as TestFn<Context>;
// One after the other: side by side, their engines open so many connections that a busy machine makes some too late.
const test = file.serial;

// Most tests share a database, each with a tenant of its own. A test that lets its engine take up whatever is due has a
// database of its own, or the engine would take up the others' runs too.
file.before(async (t) => {
  const postgres = await startTestPostgres();
  const created = await postgres.createDatabase(runMigrations);
  Object.assign(t.context, { postgres, created, database: created.open({ poolSize: 20 }) });
});
file.after.always(async (t) => {
  await t.context.database?.close();
  await t.context.postgres?.stop();
});

async function ownDatabase(t: ExecutionContext<Context>): Promise<{ created: TestDatabase; database: Database }> {
  const created = await t.context.postgres.createDatabase(runMigrations);
  const database = created.open({ poolSize: 20 });
  t.teardown(() => database.close());
  return { created, database };
}

/** What each step makes, three channels given and quality control passed. */
const MADE_BY = {
  brief: { onboarding_intake: 1, onboarding_brief: 1 },
  strategy: { strategy_document: 1 },
  draft: { production_bundle_assets: 3, production_bundles: 1, production_drafts: 1, job: 1 },
  qc: { qc_issues: 0, qc_results: 1 },
  delivery: { delivery_artifacts: 3, delivery_packages: 1 },
} as const;

/** The workflow whose step of that name fails once its effects are there. */
const failingAt = (name: string): Workflow => ({
  ...clientToDelivery,
  steps: clientToDelivery.steps.map((step) => ({
    ...step,
    act: (context) => {
      const action = step.act(context);
      if (step.name !== name) return action;
      return { ...action, finish: (answer) => ({ ...action.finish(answer), failure: 'TOLD: to fail.' }) };
    },
  })),
});

const ledgerOf = (created: TestDatabase, runId: string) =>
  created.query<{ name: string; state: string; removed: Record<string, number>; compensated_at: unknown }>(
    'select name, state, removed, compensated_at from workflow_run_steps where run_id = $1 order by position',
    [runId],
  );

const participants = () => [makeFakeParticipant('job'), makeFakeParticipant('incident')] as const;

test('a run completes with all its rows, its job, and what it resulted in', async (t) => {
  const { created, database } = t.context;
  const [job, incident] = participants();
  const run = await makeEngine(database, [job, incident], { tenantId: 'well' }).run(inputOf());
  t.is(run.state, 'COMPLETED');
  t.deepEqual(await countTen(created, 'well', run.runId), COMPLETE);
  t.deepEqual([...job.effects.keys()], [`${run.runId}/draft`]);
  t.is(incident.effects.size, 0);
  t.like(run.output, { job_id: run.runId, files: 3 });
  const [row] = await created.query(
    'select state, driver, due_at, claim_owner, output from workflow_runs where id = $1',
    [run.runId],
  );
  t.like(row, { state: 'COMPLETED', driver: 'ENGINE', due_at: null, claim_owner: null, output: { files: 3 } });
});

test('a run begins with its declaration also where the database has forgotten it, and once for a request id', async (t) => {
  const { created, database } = await ownDatabase(t);
  const engine = makeEngine(database, participants());
  await engine.run(inputOf());
  await created.query('delete from workflow_declarations');
  const requestId = newId();
  const run = await engine.run(inputOf({ force_qc_fail: true }), { requestId });
  t.is(run.state, 'COMPENSATED');
  t.deepEqual(await countTen(created, 'acme', run.runId), NOTHING);
  const begun = { caller: callerIn('acme'), workflow: clientToDelivery.name, displayName: '', requestId };
  t.is((await engine.startRun({ ...begun, input: inputOf({ force_qc_fail: true }) })).id, run.runId);
  t.deepEqual(await created.query('select count(*) from workflow_runs where declaration is null'), [{ count: '0' }]);
});

/** A workflow of so many steps, each with a row here, of which the last one fails. */
function workflowOf(length: number): Workflow {
  const brief = { client: 'a', product: 'b', audience: 'c', tone: 'd', goals: [], channels: [] };
  const steps = Array.from({ length }, (_, at) => ({
    name: `step-${at + 1}`,
    creates: ['onboarding_brief'],
    participants: {},
    act: () => ({
      finish: () => ({
        effects: { onboarding_brief: [{ id: newId(), ...brief }] },
        output: {},
        failure: at + 1 === length ? 'TOLD: to fail.' : undefined,
      }),
    }),
  }));
  return { ...clientToDelivery, name: `of-${length}`, steps, output: () => ({}) };
}

test('runs of few steps and of many are driven and compensated by the same prepared statements', async (t) => {
  const { created } = await ownDatabase(t);
  const database = created.open({ poolSize: 1 });
  t.teardown(() => database.close());
  const prepared = async () => {
    const [row] = await database.acrossTenants<{ count: number; longest: number }>({
      text: `select count(*) as count, max(length(statement)) as longest from pg_prepared_statements`,
      values: [],
    });
    return row;
  };
  const engineOf = (length: number) =>
    makeEngine(database, [], { workflow: workflowOf(length), tenantId: 'acme', leaseMs: 600_000 });
  const drive = async (length: number): Promise<void> => {
    const run = await engineOf(length).run(inputOf());
    t.is(run.state, 'COMPENSATED');
    t.deepEqual(
      run.steps.map(({ removed }) => removed),
      Array.from({ length }, () => ({ onboarding_brief: 1 })),
    );
  };
  // What a caller says it did elsewhere has no rows here.
  const driveTheirs = async (length: number): Promise<void> => {
    const runId = newId();
    await created.query(
      `with run as (
         insert into workflow_runs (tenant_id, id, workflow, display_name, state, driver, ending, due_at)
         values ('acme', $1, 'theirs', '', 'COMPENSATING', 'CALLER', 'COMPENSATED', now()) returning tenant_id, id)
       insert into workflow_run_steps (tenant_id, run_id, name, position, state, participants)
       select tenant_id, id, 'step-' || at, at, 'COMPLETED', '{}' from run, generate_series(1, $2) at`,
      [runId, length],
    );
    await engineOf(1).drain();
    const states = await created.query(
      `select r.state, s.state as step, count(*)::int from workflow_runs r join workflow_run_steps s on s.run_id = r.id
       where r.id = $1 group by 1, 2`,
      [runId],
    );
    t.deepEqual(states, [{ state: 'COMPENSATED', step: 'COMPENSATED', count: length }]);
  };
  for (const length of [1, 2, 3]) await drive(length);
  await driveTheirs(1);
  const few = await prepared();
  for (const length of [4, 7, 12, 23, 60]) await drive(length);
  for (const length of [2, 60, MOST_STEPS]) await driveTheirs(length);
  t.deepEqual(await prepared(), few);
  t.true((few?.longest ?? 0) < 6_000);
});

for (const [position, [name, made]] of Object.entries(MADE_BY).entries()) {
  test(`step ${name}: what it made is removed, counted in the ledger, and nothing else is left either`, async (t) => {
    const { created, database } = t.context;
    const [job, incident] = participants();
    const tenantId = `alone-${name}`;
    const engine = makeEngine(database, [job, incident], { tenantId, workflow: failingAt(name) });
    const brief = { client: 'Zqmark', product: `Zqmark ${name}`, audience: 'zqmark', goals: ['zqmark'] };
    const channels = ['zqmark-1', 'zqmark-2', 'zqmark-3'];
    const run = await engine.run(inputOf({ brief: { ...brief, channels } }));
    t.is(run.state, 'COMPENSATED');
    t.is(run.error, 'TOLD: to fail.');
    t.deepEqual([...(await findInDatabase(created.superuserUrl, `zqmark ${name}`)).keys()], []);
    const ledger = await ledgerOf(created, run.runId);
    t.is(ledger.length, position + 1);
    t.deepEqual(ledger.at(-1)?.removed, made);
    t.true(ledger.every(({ state, compensated_at }) => state === 'COMPENSATED' && compensated_at !== null));
    t.deepEqual(await countTen(created, tenantId), NOTHING);
    t.is(job.effects.size, 0);
  });
}

test('a run that fails quality control opens an incident, and leaves nothing', async (t) => {
  const { created, database } = t.context;
  const [job, incident] = participants();
  const run = await makeEngine(database, [job, incident], { tenantId: 'qc' }).run(inputOf({ force_qc_fail: true }));
  t.is(run.state, 'COMPENSATED');
  t.is(run.error, 'QC_FAILED: 1 blocking issues.');
  t.deepEqual(incident.calls, ['execute qc', 'compensate qc']);
  t.deepEqual(job.calls, ['execute draft', 'compensate draft']);
  t.is(job.effects.size + incident.effects.size, 0);
  t.deepEqual(await countTen(created, 'qc'), NOTHING);
});

test('a run whose delivery fails leaves nothing', async (t) => {
  const { created, database } = t.context;
  const [job, incident] = participants();
  const engine = makeEngine(database, [job, incident], { tenantId: 'delivery' });
  const run = await engine.run(inputOf({ force_delivery_fail: true }));
  t.is(run.state, 'COMPENSATED');
  t.deepEqual(incident.calls, [], 'nobody who was not asked is asked to take back');
  t.is(job.effects.size, 0);
  t.deepEqual(await countTen(created, 'delivery'), NOTHING);
});

test('the whole workflow twice back to back on one database: each way, each time, the same, in less than 10 s', async (t) => {
  const { created, database } = t.context;
  const engine = makeEngine(database, participants(), { tenantId: 'twice' });
  for (const times of [1, 2]) {
    for (const [input, end] of [
      [{}, 'COMPLETED'],
      [{ force_qc_fail: true }, 'COMPENSATED'],
      [{ force_delivery_fail: true }, 'COMPENSATED'],
    ] as const) {
      const began = performance.now();
      t.is((await engine.run(inputOf(input))).state, end);
      t.true(performance.now() - began < 10_000, `${end} in less than 10 s`);
    }
    const all = Object.fromEntries(Object.entries(COMPLETE).map(([table, count]) => [table, count * times]));
    t.deepEqual(await countTen(created, 'twice'), all);
  }
});

test('a compensation takes nothing of another run, byte for byte', async (t) => {
  const { created, database } = t.context;
  const engine = makeEngine(database, participants(), { tenantId: 'negative' });
  const kept = await engine.run(inputOf());
  const stranger = await makeEngine(database, participants(), { tenantId: 'negative-2' }).run(inputOf());
  const dump = async () => {
    const rows: unknown[] = [];
    for (const table of TEN_TABLES) {
      rows.push(
        await created.query(`select * from ${table} where run_id = any($1) order by id`, [
          [kept.runId, stranger.runId],
        ]),
      );
    }
    return rows;
  };
  const before = await dump();
  await engine.run(inputOf({ force_qc_fail: true }));
  await engine.run(inputOf({ force_delivery_fail: true }));
  t.deepEqual(await dump(), before);
});

test('a compensation leaves its trace in the audit, with what it removed, on whose behalf, and by which key', async (t) => {
  const { created, database } = t.context;
  const run = await makeEngine(database, participants(), { tenantId: 'audit' }).run(
    inputOf({ force_delivery_fail: true }),
  );
  const audit = await created.query(
    'select actor, subject, trust_entry, action, outcome, reason, counts from audit_entries where target_id = $1',
    [run.runId],
  );
  t.deepEqual(audit, [
    {
      actor: 'ana',
      subject: 'ana',
      trust_entry: 'company',
      action: 'compensation',
      outcome: 'COMPENSATED',
      reason: 'DELIVERY_FAILED: The run was told to fail its delivery.',
      counts: { ...COMPLETE, job: 1 },
    },
  ]);
  const receipts = 'select actor, subject, trust_entry from deletions where run_id = $1';
  t.deepEqual(await created.query(receipts, [run.runId]), [{ actor: 'ana', subject: 'ana', trust_entry: 'company' }]);
});

test('a brief that was there before the runs survives them, and counts for more than what they bring', async (t) => {
  const { created, database } = t.context;
  const tenantId = 'before';
  const briefId = newId();
  await created.query(
    `insert into onboarding_brief (tenant_id, id, client, product, audience, tone, goals, channels)
     values ($1, $2, 'Old', 'Tram', 'everybody', 'plain', '["stay"]', '["web"]')`,
    [tenantId, briefId],
  );
  const engine = makeEngine(database, participants(), { tenantId });
  const failed = await engine.run(inputOf({ brief_id: briefId, force_qc_fail: true }));
  t.is(failed.state, 'COMPENSATED');
  t.deepEqual(await countTen(created, tenantId), { ...NOTHING, onboarding_brief: 1 });
  const { brief: _, ...bare } = inputOf({ brief_id: briefId });
  const run = await engine.run(bare);
  t.is(run.state, 'COMPLETED');
  t.like(await countTen(created, tenantId, run.runId), {
    onboarding_brief: 0,
    onboarding_intake: 1,
    delivery_artifacts: 1,
  });
  const [document] = await created.query<{ title: string }>('select title from strategy_document where run_id = $1', [
    run.runId,
  ]);
  t.is(document?.title, 'How Tram reaches everybody');
});

test('a brief that is neither there nor given fails the run', async (t) => {
  const { created, database } = t.context;
  const { brief: _, ...bare } = inputOf({ brief_id: newId() });
  const run = await makeEngine(database, participants(), { tenantId: 'no-brief' }).run(bare);
  t.is(run.state, 'COMPENSATED');
  t.is(run.error, 'BRIEF_NOT_FOUND: The brief does not exist.');
  t.deepEqual(await countTen(created, 'no-brief'), NOTHING);
});

test('a brief passes to a run that shares it when its maker is compensated, and goes with the last', async (t) => {
  const { created, database } = t.context;
  const tenantId = 'heirs';
  const briefId = newId();
  // The maker stops before its delivery until the other has begun to share.
  const [job, incident] = participants();
  const gate = Promise.withResolvers<void>();
  const reached = Promise.withResolvers<void>();
  job.afterExecute = async () => {
    reached.resolve();
    await gate.promise;
  };
  const maker = makeEngine(database, [job, incident], { tenantId });
  const making = maker.run(inputOf({ brief_id: briefId, force_delivery_fail: true }));
  await reached.promise;
  const sharer = await makeEngine(database, participants(), { tenantId }).run(inputOf({ brief_id: briefId }));
  t.is(sharer.state, 'COMPLETED');
  gate.resolve();
  const made = await making;
  t.is(made.state, 'COMPENSATED');
  t.deepEqual(await countTen(created, tenantId, made.runId), NOTHING);
  t.deepEqual(await countTen(created, tenantId, sharer.runId), COMPLETE, 'the brief is the other run’s now');
});

/** Hides a run as DeleteRun does: under its row's lock. */
const hide = (created: TestDatabase, runId: string) =>
  created.query('update workflow_runs set deleted_at = now(), deletion_id = $2 where id = $1', [runId, newId()]);

const SECRET = {
  client: 'Zqhidden',
  product: 'Zqhidden tram',
  audience: 'zqhidden people',
  goals: ['be zqhidden'],
  channels: ['web'],
};

/** Everywhere that the text of the brief stands, except with the run that it belongs to. */
async function copiesOf(created: TestDatabase, ownerId: string, tenantId: string): Promise<unknown[]> {
  const found: unknown[] = [];
  for (const table of [...TEN_TABLES, 'workflow_run_steps']) {
    found.push(
      ...(await created.query(
        `select '${table}' as table, run_id from ${table} t
         where tenant_id = $2 and run_id is distinct from $1 and t::text ilike '%zqhidden%'`,
        [ownerId, tenantId],
      )),
    );
  }
  return found;
}

test('a run on the brief of a hidden run is refused at its start, and begins again once that one is undeleted', async (t) => {
  const { created, database } = t.context;
  const tenantId = 'hidden-start';
  const briefId = newId();
  const engine = makeEngine(database, participants(), { tenantId });
  const owner = await engine.run(inputOf({ brief_id: briefId, brief: SECRET }));
  const { brief: _, ...bare } = inputOf({ brief_id: briefId });
  const command = { caller: callerIn(tenantId), workflow: 'client_to_delivery', displayName: '', requestId: newId() };
  const before = await engine.startRun({ ...command, input: bare });
  await engine.idle();
  await hide(created, owner.runId);
  const count = async () =>
    (await created.query('select 1 from workflow_runs where tenant_id = $1', [tenantId])).length;
  for (const input of [bare, inputOf({ brief_id: briefId })]) {
    const error = await t.throwsAsync(engine.startRun({ ...command, requestId: newId(), input }));
    t.like(error, { reason: 'RUN_DELETED', metadata: { run_id: owner.runId } });
  }
  t.is(await count(), 2, 'nothing has begun');
  t.is((await engine.startRun({ ...command, input: bare })).id, before.id, 'a request that was answered still is');
  await created.query('update workflow_runs set deleted_at = null where id = $1', [owner.runId]);
  t.is((await engine.run(bare)).state, 'COMPLETED');
});

test('a brief whose run is hidden after the start and before the step reads it fails the run, which keeps none of it', async (t) => {
  const { created, database } = t.context;
  const tenantId = 'hidden-read';
  const briefId = newId();
  const engine = makeEngine(database, participants(), { tenantId });
  const owner = await engine.run(inputOf({ brief_id: briefId, brief: SECRET }));
  const { brief: _, ...bare } = inputOf({ brief_id: briefId });
  // The start's own look is the first, the step's the second.
  let looks = 0;
  const sagas: SagaRepository = {
    ...engine.sagas,
    async findEffect(...wanted) {
      looks += 1;
      if (looks === 2) await hide(created, owner.runId);
      return engine.sagas.findEffect(...wanted);
    },
  };
  const run = await makeEngine(sagas, participants(), { tenantId }).run(bare);
  t.is(run.state, 'COMPENSATED');
  t.regex(run.error ?? '', /^RUN_DELETED: /);
  t.deepEqual(await copiesOf(created, owner.runId, tenantId), []);
});

test('a brief whose run is being hidden while the step writes fails the run, which keeps none of it', async (t) => {
  const { created, database } = t.context;
  const tenantId = 'hidden-write';
  const briefId = newId();
  const engine = makeEngine(database, participants(), { tenantId });
  const owner = await engine.run(inputOf({ brief_id: briefId, brief: SECRET }));
  const { brief: _, ...bare } = inputOf({ brief_id: briefId });
  const hiding = new pg.Client({ connectionString: created.superuserUrl });
  await hiding.connect();
  t.teardown(() => hiding.end());
  let writes = 0;
  const sagas: SagaRepository = {
    ...engine.sagas,
    async write(...order) {
      writes += 1;
      if (writes !== 1) return engine.sagas.write(...order);
      // The soft delete has the run's lock, and commits only once the write waits for it.
      await hiding.query('begin');
      await hiding.query('select 1 from workflow_runs where id = $1 for update', [owner.runId]);
      const writing = engine.sagas.write(...order);
      writing.catch(() => undefined);
      await until('the write waits', async () => {
        const waiting = await created.query(
          "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        );
        return waiting.length > 0;
      });
      await hiding.query('update workflow_runs set deleted_at = now() where id = $1', [owner.runId]);
      await hiding.query('commit');
      return writing;
    },
  };
  const run = await makeEngine(sagas, participants(), { tenantId }).run(bare);
  t.is(run.state, 'COMPENSATED');
  t.regex(run.error ?? '', /^RUN_DELETED: /);
  t.deepEqual(await copiesOf(created, owner.runId, tenantId), []);
});

test('the error of a run is its first cause, also when reporting that cause is refused or never answered', async (t) => {
  const { created, database } = t.context;
  for (const [index, [failure, ofStep]] of [
    [new DomainError('failed-precondition', 'ACTION_REFUSED', 'Environment not found.'), /^ACTION_REFUSED: /],
    [dependencyUnavailable('incident'), /^DEPENDENCY_UNAVAILABLE: /],
  ].entries() as ArrayIterator<[number, [Error, RegExp]]>) {
    const [job, incident] = participants();
    incident.fail.execute = failure;
    const engine = makeEngine(database, [job, incident], { tenantId: `cause-${index}`, maxAttempts: 1 });
    const run = await engine.run(inputOf({ force_qc_fail: true }));
    t.like(run, { state: 'COMPENSATED', error: 'QC_FAILED: 1 blocking issues.' });
    t.regex(run.steps.find(({ name }) => name === 'qc')?.error ?? '', ofStep, 'the step says what failed last');
    const [audit] = await created.query<{ reason: string }>('select reason from audit_entries where target_id = $1', [
      run.runId,
    ]);
    t.is(audit?.reason, 'QC_FAILED: 1 blocking issues.');
  }
});

test('an action that a participant would refuse lets no run begin; one that cannot check lets it', async (t) => {
  const { created, database } = t.context;
  const [job, incident] = participants();
  const engine = makeEngine(database, [job, incident], { tenantId: 'check' });
  incident.fail.check = fieldInvalid('input.environment_id', 'names no environment');
  await t.throwsAsync(engine.run(inputOf()), { message: 'input.environment_id names no environment.' });
  incident.fail.check = dependencyUnavailable('incident');
  t.like(await t.throwsAsync(engine.run(inputOf())), { reason: 'DEPENDENCY_UNAVAILABLE' });
  t.deepEqual(await created.query("select 1 from workflow_runs where tenant_id = 'check'"), []);
  incident.fail.check = undefined;
  t.is((await engine.run(inputOf())).state, 'COMPLETED');
});

test('200 runs at once on 20 shared briefs, half of them failing: the others are complete, the briefs are there', async (t) => {
  const { created, database } = await ownDatabase(t);
  const tenantId = 'crowd';
  const existing = Array.from({ length: 10 }, () => newId());
  for (const id of existing) {
    await created.query(
      `insert into onboarding_brief (tenant_id, id, client, product, audience, tone, goals, channels)
       values ($1, $2, 'Old', 'Tram', 'everybody', 'plain', '["stay"]', '["web"]')`,
      [tenantId, id],
    );
  }
  const briefs = [...existing, ...Array.from({ length: 10 }, () => newId())];
  const engine = makeEngine(database, participants(), { tenantId, maxAttempts: 50 });
  const inputs = Array.from({ length: 200 }, (_, index) =>
    inputOf({
      brief_id: briefs[index % briefs.length],
      ...(index % 4 === 1 ? { force_qc_fail: true } : {}),
      ...(index % 4 === 3 ? { force_delivery_fail: true } : {}),
    }),
  );
  const begun = await Promise.all(
    inputs.map((input) =>
      engine.startRun({
        caller: callerIn(tenantId),
        workflow: 'client_to_delivery',
        displayName: '',
        input,
        requestId: undefined,
      }),
    ),
  );
  await engine.idle();
  await engine.drain();
  const states = await created.query<{ id: string; state: string }>(
    'select id, state from workflow_runs where tenant_id = $1',
    [tenantId],
  );
  const stateOf = new Map(states.map(({ id, state }) => [id, state]));
  const survivors = begun.filter((_, index) => index % 2 === 0).map(({ id }) => id);
  const failed = begun.filter((_, index) => index % 2 === 1).map(({ id }) => id);
  t.deepEqual(new Set(survivors.map((id) => stateOf.get(id))), new Set(['COMPLETED']));
  t.deepEqual(new Set(failed.map((id) => stateOf.get(id))), new Set(['COMPENSATED']));
  for (const table of TEN_TABLES) {
    const left = await created.query(`select 1 from ${table} where run_id = any($1)`, [failed]);
    t.deepEqual(left, [], table);
    if (table === 'onboarding_brief' || table === 'qc_issues') continue;
    const whole = await created.query(`select distinct run_id from ${table} where run_id = any($1)`, [survivors]);
    t.is(whole.length, survivors.length, table);
  }
  const kept = await created.query<{ id: string; run_id: string | null }>(
    'select id, run_id from onboarding_brief where tenant_id = $1',
    [tenantId],
  );
  const used = new Set(inputs.filter((_, index) => index % 2 === 0).map((input) => input['brief_id']));
  t.deepEqual(kept.map(({ id }) => id).toSorted(), [...new Set([...existing, ...used])].toSorted());
  for (const { id, run_id } of kept) t.is(run_id === null, existing.includes(id), 'what was there before is nobody’s');
});

test('runs at once on one brief that they all bring and that all fail leave nothing, the brief included', async (t) => {
  const { created, database } = await ownDatabase(t);
  const tenantId = 'all-fail';
  const engine = makeEngine(database, participants(), { tenantId, maxAttempts: 100 });
  for (const round of [1, 2, 3]) {
    const briefId = newId();
    await Promise.all(
      Array.from({ length: 40 }, (_, index) =>
        engine.startRun({
          caller: callerIn(tenantId),
          workflow: 'client_to_delivery',
          displayName: '',
          input: inputOf({
            brief_id: briefId,
            ...(index % 2 ? { force_qc_fail: true } : { force_delivery_fail: true }),
          }),
          requestId: undefined,
        }),
      ),
    );
    await engine.idle();
    await engine.drain();
    const states = await created.query('select distinct state from workflow_runs where tenant_id = $1', [tenantId]);
    t.deepEqual(states, [{ state: 'COMPENSATED' }], `round ${round}`);
    t.deepEqual(await countTen(created, tenantId), NOTHING, `round ${round}`);
  }
});

test('the same request begins one run, another body under its id none', async (t) => {
  const { created, database } = t.context;
  const engine = makeEngine(database, participants(), { tenantId: 'request' });
  const command = {
    caller: callerIn('request'),
    workflow: 'client_to_delivery',
    displayName: '',
    input: inputOf(),
    requestId: newId(),
  };
  const runs = await Promise.all(Array.from({ length: 8 }, () => engine.startRun(command)));
  t.is(new Set(runs.map(({ id }) => id)).size, 1);
  await t.throwsAsync(engine.startRun({ ...command, displayName: 'other' }), {
    message: /used before with another body/,
  });
  await engine.idle();
  t.deepEqual(await countTen(created, 'request'), COMPLETE);
});

test('a workflow that is not known, and an input that no step can work with, begin nothing', async (t) => {
  const { created, database } = t.context;
  const engine = makeEngine(database, participants(), { tenantId: 'refused' });
  const command = { caller: callerIn('refused'), displayName: '', requestId: undefined };
  await t.throwsAsync(engine.startRun({ ...command, workflow: 'x', input: inputOf() }), {
    message: 'There is no workflow x.',
  });
  for (const [input, message] of [
    [{}, /input.brief is required.*input.environment_id must be a UUID/],
    [inputOf({ force_qc_fail: 'yes' }), /input.force_qc_fail must be true or false/],
    [
      inputOf({ brief: { client: '', goals: [], channels: ['a/b'] } }),
      /brief.client.*brief.product.*brief.goals.*brief.channels/,
    ],
    [inputOf({ colour: 1 }), /input.colour is not known/],
  ] as const) {
    await t.throwsAsync(engine.startRun({ ...command, workflow: 'client_to_delivery', input }), { message });
  }
  t.deepEqual(await created.query('select 1 from workflow_runs where tenant_id = $1', ['refused']), []);
});

test('every table of effects is declared, and its foreign keys are the edges of the declaration', async (t) => {
  const { created } = t.context;
  const tables = await created.query<{ table: string }>(
    `select c.relname as table from pg_class c
     where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace
       and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'run_id')
       and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'step')
       and c.relname <> 'participant_operations'
     order by 1`,
  );
  t.deepEqual(
    tables.map(({ table }) => table),
    clientToDelivery.types.map(({ name }) => name).toSorted(),
  );
  const keys = await created.query<{ child: string; column: string; parent: string }>(
    `select k.conrelid::regclass::text as child, a.attname as column, k.confrelid::regclass::text as parent
     from pg_constraint k join pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[2]
     where k.contype = 'f' and k.conrelid::regclass::text = any($1) order by 1, 2`,
    [tables.map(({ table }) => table)],
  );
  const edges = clientToDelivery.types.flatMap(({ name, parents }) =>
    Object.entries(parents).map(([column, parent]) => ({ child: name, column, parent })),
  );
  t.deepEqual(
    keys,
    edges.toSorted((a, b) => (a.child < b.child ? -1 : 1)),
  );
});
