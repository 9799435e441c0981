import {
  DeleteObjectsCommand,
  ListMultipartUploadsCommand,
  ListObjectVersionsCommand,
  PutObjectCommand,
} from '@aws-sdk/client-s3';
import pg from 'pg';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { type CephGateway, startCephGateway } from '#test/support/ceph-gateway.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';
import type { Bench } from './bench.ts';
import { quantile } from './median.ts';

const AT_ONCE = 16;
// A run on a smaller machine, or one that is to be over soon, can do with a part of the runs.
const SCALE = Number(process.env['LETHE_BENCH_SCALE'] ?? 1);
const RUNS = Math.max(8, 2 * Math.round(16 * SCALE));
const SHAPE = { steps: 100, jobs: 10, objects: 10, incidents: 2 } as const;
const SLICE = Math.max(100, Math.round(1_000 * SCALE));
const MANY_RUNS = 10 * SLICE;
const SMALL_SHAPE = { steps: 3, jobs: 1, objects: 0, incidents: 1 } as const;
const BUCKET = 'bench';
const TENANT = 'bench';

type Shape = Readonly<Record<keyof typeof SHAPE, number>>;

interface Graph {
  readonly runId: string;
  readonly jobIds: readonly string[];
}

/**
 * Purges of runs with 10 jobs of 10 objects, 100 steps and 2 incidents through the three services on Ceph's gateway, 16 at
 * once, against the same SQL and S3 calls made directly, 16 at once too; and whether the last thousand of 10,000 small
 * runs go as fast as the first.
 */
export const benchCascade: Bench = async () => {
  const gateway = await startCephGateway();
  await gateway.createBucket(BUCKET, { versioned: true });
  const limits = { LETHE_CALLS_PER_SECOND: '1000000' };
  const onCeph = await startTestStack({
    fromSources: true,
    services: ['run', 'job', 'incident'],
    env: {
      ...limits,
      ...gateway.environment(BUCKET),
    },
  });
  let figures: Record<string, number>;
  try {
    const warmUp = await makeGraphs(onCeph, AT_ONCE, SHAPE, gateway);
    const through = await makeGraphs(onCeph, RUNS, SHAPE, gateway);
    const bare = await makeGraphs(onCeph, RUNS, SHAPE, gateway);
    // Services that have just started are still being compiled, and their databases know no statistics.
    await purgeAll(onCeph, warmUp.slice(0, AT_ONCE / 2));
    await purgeBare(onCeph, gateway, warmUp.slice(AT_ONCE / 2));
    for (const name of ['run', 'job', 'incident'] as const) {
      await withClient(onCeph.superuserUrl(name), async (client) => {
        await client.query('analyze');
      });
    }
    // Halves in turn, so that a machine that grows slower or faster meets both.
    const own = [await purgeAll(onCeph, through.slice(0, RUNS / 2))];
    const floor = [await purgeBare(onCeph, gateway, bare.slice(0, RUNS / 2))];
    floor.push(await purgeBare(onCeph, gateway, bare.slice(RUNS / 2)));
    own.push(await purgeAll(onCeph, through.slice(RUNS / 2)));
    const perSecond = RUNS / own.reduce((sum, { seconds }) => sum + seconds, 0);
    const barePerSecond = RUNS / floor.reduce((sum, seconds) => sum + seconds, 0);
    const times = own.flatMap(({ latencies }) => latencies);
    figures = {
      cascade_ratio: perSecond / barePerSecond,
      cascade_purges_per_s: perSecond,
      cascade_bare_per_s: barePerSecond,
      cascade_p50_ms: quantile(times, 0.5),
      cascade_p99_ms: quantile(times, 0.99),
    };
  } finally {
    await onCeph.dispose();
    await gateway.stop();
  }

  const onFiles = await startTestStack({ fromSources: true, services: ['run', 'job', 'incident'], env: limits });
  try {
    const graphs = await makeGraphs(onFiles, MANY_RUNS, SMALL_SHAPE);
    const rates: number[] = [];
    for (let at = 0; at < MANY_RUNS; at += SLICE) {
      rates.push(SLICE / (await purgeAll(onFiles, graphs.slice(at, at + SLICE))).seconds);
    }
    const first = rates[0] ?? Number.NaN;
    figures = {
      ...figures,
      cascade_last_over_first: (rates.at(-1) ?? Number.NaN) / first,
      cascade_first_thousand_per_s: first,
    };
  } finally {
    await onFiles.dispose();
  }
  return Object.fromEntries(Object.entries(figures).map(([name, value]) => [name, Number(value.toPrecision(4))]));
};

/** Puts finished runs straight into databases and store: what is measured is how they go. */
async function makeGraphs(stack: TestStack, count: number, shape: Shape, gateway?: CephGateway): Promise<Graph[]> {
  const graphs = Array.from({ length: count }, () => ({
    runId: newId(),
    jobIds: Array.from({ length: shape.jobs }, () => newId()),
  }));
  const runIds = graphs.map(({ runId }) => runId);
  const jobs = graphs.flatMap(({ runId, jobIds }) => jobIds.map((jobId) => ({ runId, jobId })));
  await withClient(stack.superuserUrl('run'), async (client) => {
    await client.query(
      `insert into workflow_runs (tenant_id, id, workflow, display_name, state, finished_at)
       select $1, id, 'bench', '', 'COMPLETED', now() from unnest($2::uuid[]) r(id)`,
      [TENANT, runIds],
    );
    await client.query(
      `insert into workflow_run_steps (tenant_id, run_id, name, position, state)
       select $1, id, 'step-' || n, n, 'COMPLETED' from unnest($2::uuid[]) r(id), generate_series(1, $3::int) n`,
      [TENANT, runIds, shape.steps],
    );
    await client.query('analyze');
  });
  await withClient(stack.superuserUrl('job'), async (client) => {
    const pairs = [jobs.map(({ runId }) => runId), jobs.map(({ jobId }) => jobId)];
    await client.query(
      `insert into jobs (tenant_id, id, run_id, step, display_name, state, finished_at)
       select $1, job_id, run_id, 'step-1', '', 'COMPLETED', now() from unnest($2::uuid[], $3::uuid[]) j(run_id, job_id)`,
      [TENANT, ...pairs],
    );
    await client.query(
      `insert into job_tasks (tenant_id, job_id, name, position, state)
       select $1, job_id, 'transcribe', 1, 'COMPLETED' from unnest($2::uuid[]) j(job_id)`,
      [TENANT, pairs[1]],
    );
    await client.query(
      `insert into artifacts (tenant_id, job_id, kind, name, content_type, bytes, stored_at)
       select $1, job_id, 'OUTPUT', n || '.txt', 'text/plain', 1, now()
       from unnest($2::uuid[]) j(job_id), generate_series(1, $3::int) n`,
      [TENANT, pairs[1], shape.objects],
    );
    await client.query('analyze');
  });
  await withClient(stack.superuserUrl('incident'), async (client) => {
    const environmentId = newId();
    await client.query('insert into environments (tenant_id, id, display_name) values ($1, $2::uuid, $2::uuid::text)', [
      TENANT,
      environmentId,
    ]);
    const incidents = runIds.flatMap((runId) =>
      Array.from({ length: shape.incidents }, () => [runId, newId()] as const),
    );
    const pairs = [incidents.map(([runId]) => runId), incidents.map(([, id]) => id)];
    await client.query(
      `insert into incidents (tenant_id, id, environment_id, run_id, step, title, state, closed_at)
       select $1, id, $4, run_id, 'step-1', 'bench', 'CLOSED', now() from unnest($2::uuid[], $3::uuid[]) i(run_id, id)`,
      [TENANT, ...pairs, environmentId],
    );
    await client.query(
      `insert into incident_payloads (tenant_id, incident_id, payload_json)
       select $1, id, jsonb_build_object('diff', repeat('x', 1000)) from unnest($2::uuid[]) i(id)`,
      [TENANT, pairs[1]],
    );
    await client.query('analyze');
  });
  if (gateway) {
    const keys = jobs.flatMap(({ jobId }) =>
      Array.from({ length: shape.objects }, (_, index) => `${prefixOf(jobId)}output/${index + 1}.txt`),
    );
    await inLanes(keys, 32, async (Key) => {
      await gateway.s3.send(new PutObjectCommand({ Bucket: BUCKET, Key, Body: 'x' }));
    });
  }
  return graphs;
}

/** Purges every run through RunService; each from its order to COMPLETE. */
async function purgeAll(
  stack: TestStack,
  graphs: readonly Graph[],
): Promise<{ readonly seconds: number; readonly latencies: readonly number[] }> {
  const { runs } = stack.clients({ tenantId: TENANT, role: 'admin' });
  const latencies: number[] = [];
  const startedAt = performance.now();
  await inLanes(graphs, AT_ONCE, async ({ runId }) => {
    const orderedAt = performance.now();
    const { deletion } = await runs.purgeRun({ runId, reason: 'bench' });
    let last: DeletionState | undefined;
    for await (const update of runs.watchDeletion({ deletionId: deletion?.id ?? '' })) last = update.deletion?.state;
    if (last !== DeletionState.COMPLETE) throw new Error(`a purge ended as ${last}`);
    latencies.push(performance.now() - orderedAt);
  });
  return { seconds: (performance.now() - startedAt) / 1_000, latencies };
}

/** The same rows and objects with nothing around them: each statement committed by itself, each prefix listed as often. */
async function purgeBare(stack: TestStack, { s3 }: CephGateway, graphs: readonly Graph[]): Promise<number> {
  const pools = {
    run: new pg.Pool({ connectionString: stack.superuserUrl('run'), max: AT_ONCE }),
    job: new pg.Pool({ connectionString: stack.superuserUrl('job'), max: AT_ONCE }),
    incident: new pg.Pool({ connectionString: stack.superuserUrl('incident'), max: AT_ONCE }),
  };
  const list = async (Prefix: string) => {
    const [{ Versions = [] }] = await Promise.all([
      s3.send(new ListObjectVersionsCommand({ Bucket: BUCKET, Prefix })),
      s3.send(new ListMultipartUploadsCommand({ Bucket: BUCKET, Prefix })),
    ]);
    return Versions.map(({ Key = '', VersionId = '' }) => ({ Key, VersionId }));
  };
  const startedAt = performance.now();
  await inLanes(graphs, AT_ONCE, async ({ runId, jobIds }) => {
    const of = [TENANT, runId];
    for (const jobId of jobIds) await list(prefixOf(jobId));
    await pools.job.query('select * from jobs where tenant_id = $1 and run_id = $2', of);
    for (const jobId of jobIds) {
      const Objects = await list(prefixOf(jobId));
      await s3.send(new DeleteObjectsCommand({ Bucket: BUCKET, Delete: { Objects, Quiet: true } }));
      await list(prefixOf(jobId));
      await pools.job.query('delete from artifacts where tenant_id = $1 and job_id = $2', [TENANT, jobId]);
      await pools.job.query('delete from job_tasks where tenant_id = $1 and job_id = $2', [TENANT, jobId]);
      await pools.job.query('delete from jobs where tenant_id = $1 and id = $2', [TENANT, jobId]);
    }
    for (const jobId of jobIds) await list(prefixOf(jobId));
    await pools.incident.query(
      `with gone as (delete from incident_payloads p using incidents i
         where p.tenant_id = i.tenant_id and p.incident_id = i.id and i.tenant_id = $1 and i.run_id = $2
         returning p.incident_id)
       update incidents set payload_purged_at = now() where tenant_id = $1 and id in (select incident_id from gone)`,
      of,
    );
    await pools.run.query('delete from workflow_run_steps where tenant_id = $1 and run_id = $2', of);
    await pools.run.query('delete from workflow_runs where tenant_id = $1 and id = $2', of);
  });
  const seconds = (performance.now() - startedAt) / 1_000;
  for (const pool of Object.values(pools)) await pool.end();
  return seconds;
}

const prefixOf = (jobId: string): string => `tenants/${TENANT}/jobs/${jobId}/`;

async function inLanes<T>(items: readonly T[], lanes: number, work: (item: T) => Promise<void>): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: lanes }, async () => {
      for (let item = items[next++]; item !== undefined; item = items[next++]) await work(item);
    }),
  );
}

async function withClient(connectionString: string, work: (client: pg.Client) => Promise<void>): Promise<void> {
  const client = new pg.Client({ connectionString });
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}
