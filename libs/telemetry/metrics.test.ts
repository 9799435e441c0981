import test, { type ExecutionContext } from 'ava';
import { freePort } from '#deploy/local/free-port.ts';
import { type Metrics, makeMetrics, startMetricsServer } from './metrics.ts';

/** A metrics server on a free port. */
async function served(t: ExecutionContext, metrics: Metrics, problem: () => string | undefined = () => undefined) {
  const port = await freePort();
  t.teardown(await startMetricsServer(`127.0.0.1:${port}`, metrics, problem));
  return (path: string) => fetch(`http://127.0.0.1:${port}${path}`);
}

test('calls are told by RPC and code, deletions by kind and outcome, all with the service', async (t) => {
  const metrics = makeMetrics('job');
  metrics.rpcFinished('lethe.job.v1.JobService/GetJob', 0, 3);
  metrics.rpcFinished('lethe.job.v1.JobService/GetJob', 5, 700);
  metrics.deletionFinished('job', 'COMPLETE');
  metrics.deletionFinished('job', 'COMPLETE');
  metrics.observeOldestDeletion(async () => 42);
  const get = await served(t, metrics);
  const response = await get('/metrics');
  t.is(response.status, 200);
  t.regex(response.headers.get('content-type') ?? '', /^text\/plain/);
  const text = await response.text();
  const value = (series: RegExp): number | undefined => {
    const line = text.split('\n').find((candidate) => series.test(candidate));
    return line === undefined ? undefined : Number(line.split(' ').at(-1));
  };
  t.is(value(/^lethe_rpc_duration_seconds_count\{.*code="0".*\}/), 1);
  t.is(value(/^lethe_rpc_duration_seconds_sum\{.*code="5".*\}/), 0.7);
  t.is(value(/^lethe_rpc_duration_seconds_bucket\{.*le="0.005".*code="0".*\}/), 1);
  t.is(value(/^lethe_rpc_duration_seconds_bucket\{.*le="0.5".*code="5".*\}/), 0);
  t.is(value(/^lethe_deletions_total\{.*outcome="COMPLETE".*\}/), 2);
  t.is(value(/^lethe_oldest_unfinished_deletion_seconds\{.*\}/), 42);
  for (const line of text.split('\n').filter((series) => series.startsWith('lethe_'))) {
    t.regex(line, /service="job"/);
  }
});

test('a figure that cannot be read fails the scrape: it is never told wrong, and comes back by itself', async (t) => {
  const metrics = makeMetrics('job');
  let isThere = false;
  metrics.observeStuckDeletions(async () => {
    if (!isThere) throw new Error('the database is away');
    return 2;
  });
  const get = await served(t, metrics);
  t.is((await get('/metrics')).status, 503);
  isThere = true;
  t.regex(await (await get('/metrics')).text(), /^lethe_stuck_deletions\{.*\} 2$/m);
});

test('a service is ready while it has no problem, says which it has, and lives either way', async (t) => {
  let problem: string | undefined = 'The database is read-only (READ_ONLY).';
  const get = await served(t, makeMetrics('job'), () => problem);
  const unready = await get('/ready');
  t.is(unready.status, 503);
  t.is(await unready.text(), 'The database is read-only (READ_ONLY).\n');
  t.is((await get('/live')).status, 200);
  problem = undefined;
  t.is((await get('/ready')).status, 200);
  t.is((await get('/live')).status, 200);
  t.is((await get('/')).status, 404);
});

test('two services in one process keep their figures apart', async (t) => {
  const [job, run] = [makeMetrics('job'), makeMetrics('run')];
  job.deletionFinished('job', 'COMPLETE');
  t.false((await run.registry.metrics()).includes('outcome="COMPLETE"'));
});
