import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { BulkDeletionState } from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';
import type { Bench } from './bench.ts';
import { quantile } from './median.ts';

// A run on a smaller machine, or one that is to be over soon, can do with a part of the rows.
const SCALE = Number(process.env['LETHE_BENCH_SCALE'] ?? 1);
const MATCHES = Math.max(100, Math.round(10_000 * SCALE));
const SINGLES = Math.max(100, Math.round(2_000 * SCALE));
// As many as JobService has under way of one bulk deletion; RunService has fewer.
const LANES = 16;
const FOREGROUND_PER_S = 50;
const QUIET_MS = Math.max(2_000, 10_000 * SCALE);

type Kind = 'run' | 'job';

/**
 * Bulk deletions of 10,000 runs, and of 10,000 jobs, from the order to the end, over the same deletions ordered one by one
 * by as many callers as a bulk deletion has items under way. The tables are fresh: nothing was analysed. Beside it another
 * tenant reads its runs at a steady rate, with and without the bulk deletion of runs.
 */
export const benchBulk: Bench = async () => {
  const stack = await startTestStack({
    fromSources: true,
    services: ['run', 'job', 'incident'],
    env: { LETHE_CALLS_PER_SECOND: '1000000' },
  });
  try {
    // Services that have just started are still being compiled.
    for (const kind of ['run', 'job'] as const) {
      await oneByOne(stack, kind, 'warm-singles', LANES * 10);
      await inBulk(stack, kind, 'warm-bulk', LANES * 10);
    }
    await seed(stack, 'run', 'foreground', 100);
    await steadyReads(stack, delay(2_000));
    const before = await steadyReads(stack, delay(QUIET_MS));
    await writeFile(`/proc/${stack.pid('run')}/clear_refs`, '5');
    const whole = inBulk(stack, 'run', 'felt', MATCHES);
    const during = await steadyReads(stack, whole);
    const rss = await peakMegabytes(stack);
    const after = await steadyReads(stack, delay(QUIET_MS));
    const runs = [await oneByOne(stack, 'run', 'runs-1', SINGLES)];
    const runsInBulk = await inBulk(stack, 'run', 'runs', MATCHES);
    runs.push(await oneByOne(stack, 'run', 'runs-2', SINGLES));
    const jobs = [await oneByOne(stack, 'job', 'jobs-1', SINGLES)];
    const jobsInBulk = await inBulk(stack, 'job', 'jobs', MATCHES);
    jobs.push(await oneByOne(stack, 'job', 'jobs-2', SINGLES));
    const perSecond = (times: readonly number[]) => (SINGLES * times.length) / times.reduce((sum, s) => sum + s, 0);
    const figures = {
      bulk_runs_per_s: MATCHES / runsInBulk,
      bulk_jobs_per_s: MATCHES / jobsInBulk,
      bulk_runs_singles_per_s: perSecond(runs),
      bulk_jobs_singles_per_s: perSecond(jobs),
      bulk_runs_ratio: MATCHES / runsInBulk / perSecond(runs),
      bulk_jobs_ratio: MATCHES / jobsInBulk / perSecond(jobs),
      bulk_runs_felt_per_s: MATCHES / (await whole),
      bulk_foreground_p99_ms: quantile(during, 0.99),
      bulk_foreground_quiet_p99_ms: quantile([...before, ...after], 0.99),
      bulk_rss_mb: rss,
    };
    return Object.fromEntries(Object.entries(figures).map(([name, value]) => [name, Number(value.toPrecision(4))]));
  } finally {
    await stack.dispose();
  }
};

/** Makes finished runs of three steps, or finished jobs of one task, without jobs and objects; answers their ids. */
async function seed(stack: TestStack, kind: Kind, tenantId: string, count: number): Promise<readonly string[]> {
  return withClient(stack, kind, async (client) => {
    if (kind === 'job') {
      const { rows } = await client.query<{ id: string }>(
        `insert into jobs (tenant_id, id, display_name, state, created_at, finished_at)
         select $1, gen_random_uuid(), '', 'COMPLETED', now() - n * interval '1 ms', now()
         from generate_series(1, $2::int) n returning id`,
        [tenantId, count],
      );
      await client.query(
        `insert into job_tasks (tenant_id, job_id, name, position, state)
         select tenant_id, id, 'transcribe', 1, 'COMPLETED' from jobs where tenant_id = $1`,
        [tenantId],
      );
      return rows.map(({ id }) => id);
    }
    const { rows } = await client.query<{ id: string }>(
      `insert into workflow_runs (tenant_id, id, workflow, display_name, state, created_at, finished_at)
       select $1, gen_random_uuid(), 'bench', '', 'COMPLETED', now() - n * interval '1 ms', now()
       from generate_series(1, $2::int) n returning id`,
      [tenantId, count],
    );
    await client.query(
      `insert into workflow_run_steps (tenant_id, run_id, name, position, state)
       select tenant_id, id, 'step-' || n, n, 'COMPLETED' from workflow_runs, generate_series(1, 3) n where tenant_id = $1`,
      [tenantId],
    );
    return rows.map(({ id }) => id);
  });
}

/** Seconds from the order of one bulk deletion to its end. */
async function inBulk(stack: TestStack, kind: Kind, tenantId: string, count: number): Promise<number> {
  await seed(stack, kind, tenantId, count);
  const { runs, jobs } = stack.clients({ tenantId, role: 'admin' });
  const startedAt = performance.now();
  const { bulkDeletion } =
    kind === 'run'
      ? await runs.purgeRuns({ filter: { workflow: 'bench' }, reason: 'bench' })
      : await jobs.deleteJobs({ filter: { maxCreateTime: { seconds: 4_000_000_000n, nanos: 0 } }, reason: 'bench' });
  const bulkDeletionId = bulkDeletion?.id ?? '';
  for (;;) {
    const { bulkDeletion: bulk } = await (kind === 'run' ? runs : jobs).getBulkDeletion({ bulkDeletionId });
    if (bulk?.state === BulkDeletionState.COMPLETE) {
      if (Number(bulk.counts?.completed) !== count) throw new Error(`${bulk.counts?.completed} of ${count} went`);
      return (performance.now() - startedAt) / 1_000;
    }
    if (bulk?.state !== BulkDeletionState.SELECTING && bulk?.state !== BulkDeletionState.RUNNING)
      throw new Error(`the bulk deletion ended as ${bulk?.state}`);
    await delay(100);
  }
}

/** Seconds from the first of single orders, given by LANES callers, until everything is gone. */
async function oneByOne(stack: TestStack, kind: Kind, tenantId: string, count: number): Promise<number> {
  const ids = (await seed(stack, kind, tenantId, count)).values();
  const { runs, jobs } = stack.clients({ tenantId, role: 'admin' });
  const startedAt = performance.now();
  await Promise.all(
    Array.from({ length: LANES }, async () => {
      for (const id of ids)
        await (kind === 'run'
          ? runs.purgeRun({ runId: id, reason: 'bench' })
          : jobs.deleteJob({ jobId: id, reason: 'bench' }));
    }),
  );
  await withClient(stack, kind, async (client) => {
    const table = kind === 'run' ? 'workflow_runs' : 'jobs';
    while ((await client.query(`select from ${table} where tenant_id = $1 limit 1`, [tenantId])).rowCount)
      await delay(20);
  });
  return (performance.now() - startedAt) / 1_000;
}

/** Latencies in milliseconds of another tenant's reads, due by a clock and not by the answers, until `work` is done. */
async function steadyReads(stack: TestStack, work: Promise<unknown>): Promise<readonly number[]> {
  const { runs } = stack.clients({ tenantId: 'foreground', role: 'viewer' });
  const latencies: number[] = [];
  const underWay: Promise<unknown>[] = [];
  let isOver = false;
  const finish = (): void => {
    isOver = true;
  };
  work.then(finish, finish);
  const startedAt = performance.now();
  for (let sent = 0; !isOver; sent += 1) {
    const due = startedAt + (sent * 1_000) / FOREGROUND_PER_S;
    await delay(Math.max(0, due - performance.now()));
    underWay.push(
      runs.listRuns({ pageSize: 20 }).then(
        () => latencies.push(performance.now() - due),
        () => latencies.push(Number.POSITIVE_INFINITY),
      ),
    );
  }
  await Promise.all([work, ...underWay]);
  return latencies;
}

async function peakMegabytes(stack: TestStack): Promise<number> {
  const status = await readFile(`/proc/${stack.pid('run')}/status`, 'utf8');
  return Math.round(Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / 1_024);
}

async function withClient<T>(stack: TestStack, kind: Kind, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: stack.superuserUrl(kind) });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}
