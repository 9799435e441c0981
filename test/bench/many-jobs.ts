import pg from 'pg';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { openFileStore } from '#libs/object-store/file-store.ts';
import { hasCeph, startCephGateway } from '#test/support/ceph-gateway.ts';
import { makeRunOfManyJobs } from '#test/support/many-jobs.ts';
import { startS3Front } from '#test/support/s3-front.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';
import type { Bench } from './bench.ts';
import { median, quantile } from './median.ts';

// A run on a smaller machine, or one that is to be over soon, can do with a part of the jobs.
const SCALE = Number(process.env['LETHE_BENCH_SCALE'] ?? 1);
const LARGE_JOBS = Math.max(8, Math.round(40 * SCALE));
const OBJECTS = 500;
const SMALL_JOBS = 5;
const ROUNDS = 3;
const LANES = 16;
const JOBS_OF_RUN = Math.max(20, Math.round(2_000 * SCALE));
const STORE_CALL_MS = 20;
const BUCKET = 'bench';
// However slow the machine is, it is measured.
const DEADLINE_MS = 3_600_000;

type Figures = Readonly<Record<string, number>>;

/** Many jobs of one tenant beside few of another, and many jobs of one run on a slow store. */
export const benchManyJobs: Bench = async () => {
  const figures = { ...(await measureFairness()), ...(await measureRunOfManyJobs()) };
  return Object.fromEntries(Object.entries(figures).map(([name, value]) => [name, Number(value.toPrecision(4))]));
};

/**
 * How long it takes to preview and to purge a run of 2,000 jobs, of one object each, on Ceph's gateway, each call of which
 * takes 20 ms longer. Without the gateway there are no such figures, and stderr says so.
 */
async function measureRunOfManyJobs(): Promise<Figures> {
  if (!hasCeph()) {
    console.error("many_jobs_preview_ms and many_jobs_purge_s are left out: Ceph's gateway was not found");
    return {};
  }
  const gateway = await startCephGateway();
  await gateway.createBucket(BUCKET, { versioned: true });
  const front = await startS3Front(gateway.endpoint, { delayMs: () => STORE_CALL_MS });
  const stack = await startTestStack({
    fromSources: true,
    services: ['run', 'job'],
    env: { ...gateway.environment(BUCKET), LETHE_S3_ENDPOINT: front.endpoint, LETHE_CALLS_PER_SECOND: '1000000' },
  });
  try {
    const { runs } = stack.clients({ tenantId: 'acme', role: 'admin' });
    const runId = await makeRunOfManyJobs(stack, gateway, { tenantId: 'acme', bucket: BUCKET, jobs: JOBS_OF_RUN });
    const previews: number[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      const startedAt = performance.now();
      await runs.previewPurgeRun({ runId }, { timeoutMs: DEADLINE_MS });
      previews.push(performance.now() - startedAt);
    }
    const startedAt = performance.now();
    const { deletion } = await runs.purgeRun({ runId, reason: 'bench' });
    const orderedAt = performance.now();
    const deletionId = deletion?.id ?? '';
    const isOver = async () => (await runs.getDeletion({ deletionId })).deletion?.state === DeletionState.COMPLETE;
    await until('it is purged', isOver, DEADLINE_MS);
    return {
      many_jobs_preview_ms: median(previews),
      many_jobs_order_ms: orderedAt - startedAt,
      many_jobs_purge_s: (performance.now() - startedAt) / 1_000,
    };
  } finally {
    await stack.dispose();
    front.close();
    await gateway.stop();
  }
}

/**
 * How long five small deletions of one tenant take, from the order to COMPLETE, while forty jobs of 500 objects of another
 * tenant are being deleted, and while nothing else is.
 */
async function measureFairness(): Promise<Figures> {
  const stack = await startTestStack({
    fromSources: true,
    services: ['job'],
    env: { LETHE_CALLS_PER_SECOND: '1000000' },
  });
  try {
    const large = await seed(stack, 'large', LARGE_JOBS, OBJECTS);
    const small = await seed(stack, 'small', SMALL_JOBS * ROUNDS, 1);
    const quiet = await seed(stack, 'quiet', SMALL_JOBS * ROUNDS, 1);
    await deleteAll(stack, 'warm', await seed(stack, 'warm', 20, 1));
    const quietTimes = await inRounds(stack, 'quiet', quiet);
    const startedAt = performance.now();
    const whole = deleteAll(stack, 'large', large).then(() => performance.now() - startedAt);
    await until('they are being deleted', async () => (await underWay(stack, 'large')) >= LARGE_JOBS / 2);
    const times = await inRounds(stack, 'small', small);
    const waiting = await underWay(stack, 'large');
    return {
      fairness_small_ms: quantile(times, 0.99),
      fairness_small_p50_ms: quantile(times, 0.5),
      fairness_quiet_ms: quantile(quietTimes, 0.99),
      fairness_large_left: waiting,
      many_jobs_objects_per_s: (LARGE_JOBS * OBJECTS * 1_000) / (await whole),
    };
  } finally {
    await stack.dispose();
  }
}

/** Makes finished jobs with objects of one byte; answers their ids. */
async function seed(stack: TestStack, tenantId: string, count: number, objects: number): Promise<readonly string[]> {
  const client = new pg.Client({ connectionString: stack.superuserUrl('job') });
  await client.connect();
  try {
    const { rows } = await client.query<{ id: string }>(
      `insert into jobs (tenant_id, id, display_name, state, finished_at)
       select $1, gen_random_uuid(), '', 'COMPLETED', now() from generate_series(1, $2::int) returning id`,
      [tenantId, count],
    );
    const ids = rows.map(({ id }) => id);
    await client.query(
      `insert into artifacts (tenant_id, job_id, kind, name, content_type, bytes, stored_at)
       select $1, id, 'OUTPUT', n || '.txt', 'text/plain', 1, now() from unnest($2::uuid[]) j(id), generate_series(1, $3::int) n`,
      [tenantId, ids, objects],
    );
    const store = openFileStore(stack.environment('job')['LETHE_FILE_STORE_ROOT'] ?? '');
    const keys = ids
      .flatMap((id) => Array.from({ length: objects }, (_, n) => `tenants/${tenantId}/jobs/${id}/output/${n + 1}.txt`))
      .values();
    await Promise.all(
      Array.from({ length: LANES }, async () => {
        for (const key of keys)
          await store.put(
            key,
            (async function* () {
              yield new Uint8Array(1);
            })(),
            { contentType: 'text/plain', maxBytes: 1 },
          );
      }),
    );
    store.close();
    return ids;
  } finally {
    await client.end();
  }
}

/** Orders all of these deletions at once; the milliseconds of each until it is COMPLETE. */
async function deleteAll(stack: TestStack, tenantId: string, ids: readonly string[]): Promise<readonly number[]> {
  const { jobs } = stack.clients({ tenantId, role: 'admin' });
  return Promise.all(
    ids.map(async (jobId) => {
      const startedAt = performance.now();
      const { deletion } = await jobs.deleteJob({ jobId, reason: 'bench' });
      const deletionId = deletion?.id ?? '';
      const isOver = async () => (await jobs.getDeletion({ deletionId })).deletion?.state === DeletionState.COMPLETE;
      await until('it is deleted', isOver, 600_000);
      return performance.now() - startedAt;
    }),
  );
}

async function inRounds(stack: TestStack, tenantId: string, ids: readonly string[]): Promise<readonly number[]> {
  const times: number[] = [];
  for (let at = 0; at < ids.length; at += SMALL_JOBS)
    times.push(...(await deleteAll(stack, tenantId, ids.slice(at, at + SMALL_JOBS))));
  return times;
}

/** How many of a tenant's deletions have not ended. */
async function underWay(stack: TestStack, tenantId: string): Promise<number> {
  const client = new pg.Client({ connectionString: stack.superuserUrl('job') });
  await client.connect();
  try {
    const { rows } = await client.query(
      `select count(*)::int as count from job_deletions where tenant_id = $1 and state <> 'COMPLETE'`,
      [tenantId],
    );
    return rows[0].count;
  } finally {
    await client.end();
  }
}
