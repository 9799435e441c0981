import pg from 'pg';
import { newId } from '#libs/kernel/id.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import type { JsonObject } from '#services/run/domain/run.ts';
import { type Effects, toDeclaration, type Workflow } from '#services/run/domain/workflow.ts';
import { clientToDelivery } from '#services/run/workflows/client-to-delivery/workflow.ts';
import { startTestPostgres, type TestDatabase } from '#test/support/postgres.ts';
import { inputOf, makeEngine } from '#test/support/saga-harness.ts';
import type { Bench } from './main.ts';
import { median } from './median.ts';

const CONCURRENCIES = [1, 16, 64] as const;
const ROUND_MS = 2_000;
const ROUNDS = 3;

/** client_to_delivery with nobody to ask: five steps, all of them local. */
export const localWorkflow: Workflow = {
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
export async function rate(concurrency: number, saga: () => Promise<void>, roundMs = ROUND_MS): Promise<number> {
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
export function makeBareSagas(pool: pg.Pool) {
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
          if (round > 0) rates.push({ bare: bareRate, engine: engineRate }); // The first round warms both up.
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

/** Sagas against the bare SQL of the same rows; see the issue for the figures' names. */
export const benchSaga: Bench = async () => {
  const figures: Record<string, number> = {};
  const postgres = await startTestPostgres();
  try {
    await benchLocal(await postgres.createDatabase(runMigrations), figures);
  } finally {
    await postgres.stop();
  }
  return figures;
};
