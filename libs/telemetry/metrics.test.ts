import test, { type ExecutionContext } from 'ava';
import { freePort } from '#deploy/local/free-port.ts';
import { type Metrics, makeMetrics, type Readiness, startMetricsServer } from './metrics.ts';

const READY: Readiness = { isReady: () => true, lines: async () => [] };

/** A metrics server on a free port. */
async function served(t: ExecutionContext, metrics: Metrics, readiness: Readiness = READY) {
  const port = await freePort();
  t.teardown(await startMetricsServer(`127.0.0.1:${port}`, metrics, readiness));
  return (path: string) => fetch(`http://127.0.0.1:${port}${path}`);
}

test('calls are told by RPC and code, deletions by kind and outcome, all with the service', async (t) => {
  const metrics = makeMetrics('job');
  metrics.rpcFinished('lethe.job.v1.JobService/GetJob', 0, 3);
  metrics.rpcFinished('lethe.job.v1.JobService/GetJob', 5, 700);
  metrics.deletionFinished('job', 'COMPLETE');
  metrics.deletionFinished('job', 'COMPLETE');
  metrics.observe('lethe_oldest_unfinished_deletion_seconds', async () => 42);
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

test('a figure that cannot be read is left out, never told wrong, and the others are told', async (t) => {
  const metrics = makeMetrics('job');
  const isThere = { stuck: true, oldest: true };
  metrics.partChanged('database', false);
  metrics.observe('lethe_stuck_deletions', async () => {
    if (!isThere.stuck) throw new Error('the database is away');
    return 2;
  });
  metrics.observe('lethe_oldest_unfinished_deletion_seconds', () =>
    isThere.oldest ? Promise.resolve(7) : new Promise(() => undefined),
  );
  const get = await served(t, metrics);
  const figures = async () => (await (await get('/metrics')).text()).match(/^lethe_(stuck|oldest|part).* [0-9.]+$/gm);
  const all = await figures();
  t.is(all?.length, 3);
  Object.assign(isThere, { stuck: false, oldest: false });
  t.deepEqual(await figures(), ['lethe_part_up{part="database",service="job"} 0']);
  Object.assign(isThere, { stuck: true, oldest: true });
  t.deepEqual(await figures(), all);
});

test('a service is ready while it says so, tells line by line why, and lives either way', async (t) => {
  let isReady = false;
  const lines = ['database: The database is read-only (READ_ONLY).', 'schema: ok'];
  const get = await served(t, makeMetrics('job'), { isReady: () => isReady, lines: async () => lines });
  const unready = await get('/ready');
  t.is(unready.status, 503);
  t.is(await unready.text(), 'database: The database is read-only (READ_ONLY).\nschema: ok\n');
  t.is((await get('/live')).status, 200);
  isReady = true;
  t.is((await get('/ready')).status, 200);
  t.is((await get('/live')).status, 200);
  t.is((await get('/')).status, 404);
});

test('many who ask at once whether a service is ready cost no more than one', async (t) => {
  let reads = 0;
  const gate = Promise.withResolvers<readonly string[]>();
  const lines = (): Promise<readonly string[]> => {
    reads += 1;
    return gate.promise;
  };
  const get = await served(t, makeMetrics('job'), { isReady: () => true, lines });
  const asked = Promise.all(Array.from({ length: 20 }, async () => (await get('/ready')).text()));
  // All of them wait by the time that another request has been answered.
  await get('/live');
  gate.resolve(['schema: ok']);
  t.deepEqual(new Set(await asked), new Set(['schema: ok\n']));
  t.true(reads < 20, String(reads));
});

test('two services in one process keep their figures apart', async (t) => {
  const [job, run] = [makeMetrics('job'), makeMetrics('run')];
  job.deletionFinished('job', 'COMPLETE');
  t.false((await run.registry.metrics()).includes('outcome="COMPLETE"'));
});

test('the port that is told is the one that is listened at, also where it is that of HTTP', async (t) => {
  // Whoever may not listen there, or finds it taken, is told so with the port.
  const port = await startMetricsServer('127.0.0.1:80', makeMetrics('job'), READY).then(
    async (stop) => {
      t.teardown(stop);
      return (await fetch('http://127.0.0.1/live')).status === 200 ? 80 : undefined;
    },
    (error: NodeJS.ErrnoException & { port?: number }) => error.port,
  );
  t.is(port, 80);
});
