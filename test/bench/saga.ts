import { readFileSync } from 'node:fs';
import pg from 'pg';
import { RunState } from '#gen/lethe/run/v1/run_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import type { JsonObject } from '#services/run/domain/run.ts';
import { type Effects, toDeclaration, type Workflow } from '#services/run/domain/workflow.ts';
import { clientToDelivery } from '#services/run/workflows/client-to-delivery/workflow.ts';
import { makeMemorySagas } from '#test/support/memory-sagas.ts';
import { startTestPostgres, type TestDatabase } from '#test/support/postgres.ts';
import { type Engine, inputOf, makeEngine, makeFakeParticipant } from '#test/support/saga-harness.ts';
import { startTestStack } from '#test/support/test-stack.ts';
import type { Bench } from './bench.ts';
import { median } from './median.ts';

const CONCURRENCIES = [1, 16, 64] as const;
const ROUND_MS = 2_000;
const ROUNDS = 3;
const LONG_SAGAS = Number(process.env['LETHE_BENCH_SAGAS'] ?? 100_000);
const LONG_CONCURRENCY = 16;
const FRESH_SAGAS = LONG_SAGAS / 3;

/** client_to_delivery with nobody to ask: five steps, all of them local. */
const localWorkflow: Workflow = {
  ...clientToDelivery,
  name: 'local_delivery',
  steps: clientToDelivery.steps.map((step) => ({
    ...step,
    participants: {},
    ...(step.lookUp ? { lookUp: step.lookUp } : {}),
    act: (context) => {
      const { finish } = step.act(context);
      return { finish: () => finish({}) };
    },
  })),
};

/** One saga after another in `concurrency` lines for a while; sagas a second. */
async function rate(concurrency: number, saga: () => Promise<void>, roundMs = ROUND_MS): Promise<number> {
  const startedAt = performance.now();
  let sagas = 0;
  await Promise.all(
    Array.from({ length: concurrency }, async () => {
      while (performance.now() - startedAt < roundMs) {
        await saga();
        sagas += 1;
      }
    }),
  );
  return sagas / ((performance.now() - startedAt) / 1_000);
}

/** The same rows by prepared statements, one commit a step, without log, lease, tenant wall or anybody to take over. */
function makeBareSagas(pool: pg.Pool) {
  const shapes = new Map(
    localWorkflow.types.map((type) => [type.name, { ...mapValues(type.parents, 'uuid'), ...type.columns }]),
  );
  const declaration = toDeclaration(localWorkflow);
  const insert = async (runId: string, step: string, effects: Effects): Promise<void> => {
    const made = Object.entries(effects).filter(([, rows]) => rows.length > 0);
    const ctes = made.map(([type, rows], index) => {
      const columns = Object.entries({ id: 'uuid', ...shapes.get(type) });
      const names = columns.map(([name]) => name).join(', ');
      const source = rows.length === 1 ? 'jsonb_to_record' : 'jsonb_to_recordset';
      return `e${index} as (insert into ${type} (tenant_id, run_id, step, ${names}) select $1, $2::uuid, $3,
        ${names} from ${source}($${index + 4}::jsonb) as row(${columns.map((column) => column.join(' ')).join(', ')}))`;
    });
    const values = made.map(([, rows]) => JSON.stringify(rows.length === 1 ? rows[0] : rows));
    const name = `insert-${step}-${made.length}`;
    await pool.query({ name, text: `with ${ctes.join(', ')} select 1`, values: ['bare', runId, step, ...values] });
  };
  const remove = async (runId: string, step: string): Promise<void> => {
    const tables = declaration.steps.find(({ name }) => name === step)?.removes ?? [];
    const ctes = tables.map(
      (table, index) => `d${index} as (delete from ${table} where tenant_id = $1 and run_id = $2 and step = $3)`,
    );
    await pool.query({
      name: `remove-${step}`,
      text: `with ${ctes.join(', ')} select 1`,
      values: ['bare', runId, step],
    });
  };
  return async (input: JsonObject): Promise<void> => {
    const runId = newId();
    const outputs: Record<string, JsonObject> = {};
    const done: string[] = [];
    for (const step of localWorkflow.steps) {
      const { effects, output, failure } = step
        .act({ tenantId: 'bare', runId, input, outputs, found: undefined })
        .finish({});
      await insert(runId, step.name, effects);
      outputs[step.name] = output;
      done.push(step.name);
      if (failure === undefined) continue;
      for (const name of done.toReversed()) await remove(runId, name);
      return;
    }
  };
}

const mapValues = <V>(of: Readonly<Record<string, unknown>>, value: V): Record<string, V> =>
  Object.fromEntries(Object.keys(of).map((key) => [key, value]));

async function benchLocal(database: TestDatabase, figures: Record<string, number>): Promise<void> {
  for (const concurrency of CONCURRENCIES) {
    const pool = new pg.Pool({ connectionString: database.ownerUrl, max: concurrency });
    pool.on('error', () => undefined);
    const opened = database.open({ poolSize: concurrency });
    const bare = makeBareSagas(pool);
    const engine = makeEngine(opened, [], { workflow: localWorkflow, tenantId: 'bench' });
    const inputs = { ok: inputOf(), compensated: inputOf({ force_qc_fail: true }) };
    const expected = { ok: 'COMPLETED', compensated: 'COMPENSATED' };
    try {
      for (const kind of ['ok', 'compensated'] as const) {
        const rates: { bare: number; engine: number }[] = [];
        for (let round = 0; round <= ROUNDS; round += 1) {
          const bareRate = await rate(concurrency, () => bare(inputs[kind]));
          const engineRate = await rate(concurrency, async () => {
            const { state, error } = await engine.run(inputs[kind]);
            if (state !== expected[kind]) throw new Error(`a saga ended ${state}: ${error}`);
          });
          engine.settled.length = 0;
          // The first round warms both up and fills the tables; then the planner knows them, as it does soon anywhere.
          if (round > 0) rates.push({ bare: bareRate, engine: engineRate });
          else await database.query('analyze');
        }
        figures[`saga_bare_${kind}_per_s_c${concurrency}`] = Math.round(median(rates.map((each) => each.bare)));
        figures[`saga_engine_${kind}_per_s_c${concurrency}`] = Math.round(median(rates.map((each) => each.engine)));
        figures[`saga_${kind}_slowdown_c${concurrency}`] = Number(
          median(rates.map((each) => each.bare / each.engine)).toFixed(2),
        );
      }
    } finally {
      await pool.end();
      await opened.close();
    }
  }
}

/** The whole workflow one after another, over the database and over memory; the same fake participants for both. */
async function benchMemory(database: TestDatabase, figures: Record<string, number>): Promise<void> {
  const opened = database.open({ poolSize: 1 });
  const participants = () => [makeFakeParticipant('job'), makeFakeParticipant('incident')];
  const over = { db: makeEngine(opened, participants()), memory: makeEngine(makeMemorySagas(), participants()) };
  const inputs = [inputOf(), inputOf({ force_qc_fail: true }), inputOf({ force_delivery_fail: true })];
  const measure = async (engine: Engine): Promise<number> => {
    const perSecond = await rate(1, async () => {
      for (const input of inputs) await engine.run(input);
      engine.settled.length = 0;
    });
    return 1_000 / perSecond;
  };
  try {
    const rounds: { db: number; memory: number }[] = [];
    for (let round = 0; round <= ROUNDS; round += 1) {
      const measured = { db: await measure(over.db), memory: await measure(over.memory) };
      if (round > 0) rounds.push(measured);
    }
    figures['saga_db_three_ways_ms'] = Number(median(rounds.map(({ db }) => db)).toFixed(2));
    figures['saga_memory_three_ways_ms'] = Number(median(rounds.map(({ memory }) => memory)).toFixed(2));
    figures['saga_db_over_memory'] = Number(median(rounds.map(({ db, memory }) => db / memory)).toFixed(2));
  } finally {
    await opened.close();
  }
}

/** A long row of sagas: whether the last are as quick as the first, and the memory flat. */
async function benchLong(database: TestDatabase, figures: Record<string, number>): Promise<void> {
  const opened = database.open({ poolSize: LONG_CONCURRENCY });
  const engine = makeEngine(opened, [], { workflow: localWorkflow, tenantId: 'long' });
  const inputs = [inputOf(), inputOf({ force_qc_fail: true })];
  const part = LONG_SAGAS / 10;
  const rates: number[] = [];
  const rss: number[] = [];
  try {
    for (let at = 0; at < 10; at += 1) {
      const startedAt = performance.now();
      let begun = 0;
      const line = async (): Promise<void> => {
        while (begun < part) {
          begun += 1;
          await engine.run(inputs[begun % 2] ?? {});
          engine.settled.length = 0;
        }
      };
      await Promise.all(Array.from({ length: LONG_CONCURRENCY }, line));
      rates.push(part / ((performance.now() - startedAt) / 1_000));
      rss.push(process.memoryUsage().rss / 2 ** 20);
    }
  } finally {
    await opened.close();
  }
  const [first = Number.NaN] = rates;
  figures['saga_long_count'] = LONG_SAGAS;
  figures['saga_first_per_s'] = Math.round(first);
  figures['saga_last_per_s'] = Math.round(rates.at(-1) ?? Number.NaN);
  figures['saga_last_over_first'] = Number(((rates.at(-1) ?? Number.NaN) / first).toFixed(3));
  figures['saga_rss_mb_first'] = Math.round(rss[0] ?? Number.NaN);
  figures['saga_rss_mb_last'] = Math.round(rss.at(-1) ?? Number.NaN);
}

/** Sagas on tables that were made a moment ago, and on the same tables right after their first statistics. */
async function benchFresh(database: TestDatabase, figures: Record<string, number>): Promise<void> {
  const tables = await database.query<{ name: string }>(
    `select oid::regclass::text as name from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace`,
  );
  // Autovacuum would analyze them in the middle.
  for (const { name } of tables) await database.query(`alter table ${name} set (autovacuum_enabled = false)`);
  const opened = database.open({ poolSize: LONG_CONCURRENCY });
  const engine = makeEngine(opened, [], { workflow: localWorkflow, tenantId: 'fresh' });
  const inputs = [inputOf(), inputOf({ force_qc_fail: true })];
  let begun = 0;
  const saga = async (): Promise<void> => {
    begun += 1;
    await engine.run(inputs[begun % 2] ?? {});
    engine.settled.length = 0;
  };
  const rounds = async (): Promise<number> => {
    const rates: number[] = [];
    for (let round = 0; round < ROUNDS; round += 1) rates.push(await rate(LONG_CONCURRENCY, saga));
    return median(rates);
  };
  try {
    while (begun < FRESH_SAGAS) await rate(LONG_CONCURRENCY, saga);
    const fresh = await rounds();
    await database.query('analyze');
    await rate(LONG_CONCURRENCY, saga); // Connections plan their statements anew.
    const analyzed = await rounds();
    figures['saga_fresh_per_s'] = Math.round(fresh);
    figures['saga_analyzed_per_s'] = Math.round(analyzed);
    figures['saga_fresh_over_analyzed'] = Number((fresh / analyzed).toFixed(2));
  } finally {
    await opened.close();
  }
}

/** client_to_delivery as its callers see it, and which service its processor time goes to. */
async function benchServices(figures: Record<string, number>): Promise<void> {
  const services = ['run', 'job', 'incident'] as const;
  const stack = await startTestStack({
    fromSources: true,
    services,
    env: { LETHE_CALLS_PER_SECOND: '1000000', LETHE_LOG_LEVEL: 'error' },
  });
  try {
    const { runs, incidents } = stack.clients({ tenantId: 'bench', role: 'member' });
    const { environment } = await incidents.createEnvironment({ displayName: 'production' });
    const environmentId = environment?.id ?? '';
    const kinds = {
      ok: { input: inputOf({ environment_id: environmentId }), state: RunState.COMPLETED },
      compensated: {
        input: inputOf({ environment_id: environmentId, force_qc_fail: true }),
        state: RunState.COMPENSATED,
      },
    };
    for (const [kind, { input, state }] of Object.entries(kinds)) {
      const saga = async (): Promise<void> => {
        const { run } = await runs.startRun({ workflow: 'client_to_delivery', input: input as never });
        let last = run?.state;
        for await (const told of runs.watchRun({ runId: run?.id ?? '' })) last = told.run?.state;
        if (last !== state) throw new Error(`a run ended as ${last}`);
      };
      await rate(4, saga); // Warms everybody up.
      for (const concurrency of CONCURRENCIES) {
        const before = services.map((name) => processorTicks(stack.pid(name)));
        figures[`saga_grpc_${kind}_per_s_c${concurrency}`] = Number((await rate(concurrency, saga)).toFixed(1));
        const spent = services.map((name, index) => processorTicks(stack.pid(name)) - (before[index] ?? 0));
        const sum = spent.reduce((total, ticks) => total + ticks, 0);
        for (const [index, name] of services.entries()) {
          figures[`saga_grpc_${kind}_share_${name}_c${concurrency}`] = Number(((spent[index] ?? 0) / sum).toFixed(2));
        }
      }
    }
  } finally {
    await stack.dispose();
  }
}

/** Processor time of a process so far, user's and system's, by the kernel's count. */
function processorTicks(pid: number | undefined): number {
  const [, fields = ''] = /\) (.*)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? [];
  const [, , , , , , , , , , , user = '0', system = '0'] = fields.split(' ');
  return Number(user) + Number(system);
}

/** Sagas against the bare SQL of the same rows, through all services, over memory, and very many of them. */
export const benchSaga: Bench = async () => {
  const figures: Record<string, number> = {};
  const postgres = await startTestPostgres('usual');
  try {
    await benchLocal(await postgres.createDatabase(runMigrations), figures);
    await benchMemory(await postgres.createDatabase(runMigrations), figures);
    await benchFresh(await postgres.createDatabase(runMigrations), figures);
    await benchLong(await postgres.createDatabase(runMigrations), figures);
  } finally {
    await postgres.stop();
  }
  await benchServices(figures);
  return figures;
};
