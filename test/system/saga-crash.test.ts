import { randomInt } from 'node:crypto';
import { access, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Client } from '@connectrpc/connect';
import anyTest, { type TestFn } from 'ava';
import pg from 'pg';
import type { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import {
  DELETION_CRASH_POINTS,
  EXECUTE_CRASH_POINTS,
  PARTICIPANT_CRASH_POINTS,
  RUN_CRASH_POINTS,
  STEP_CRASH_POINTS,
} from '#test/support/crash-points.ts';
import { findText } from '#test/support/find-text.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { makeRandom, shuffle } from '#test/support/random.ts';
import { type RunReplica, startRunReplica } from '#test/support/run-replica.ts';
import { COMPLETE, countTen, inputOf, TEN_TABLES } from '#test/support/saga-harness.ts';
import { storedFiles } from '#test/support/stored-files.ts';
import { startTestStack, type TestStack, until } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack; replica: RunReplica; crashFiles: Record<Target, string> }>;

const CRASHES = Number(process.env['LETHE_TEST_CRASHES'] ?? 300);
const SEED = Number(process.env['LETHE_TEST_SEED'] ?? randomInt(2 ** 31));
const TENANT = 'crash';
const RUNS_IN_FLIGHT = 12;
const STRIKE_MS = 300_000;
const TARGETS = ['run', 'run-2', 'job', 'incident'] as const;
type Target = (typeof TARGETS)[number];

const STEPS = ['brief', 'strategy', 'draft', 'qc', 'delivery'] as const;
const ASKING = ['draft', 'qc'] as const;

/** Every persisted point of every step, forward and compensating, of the service that stands there. */
const RUN_POINTS = [
  ...RUN_CRASH_POINTS,
  ...STEP_CRASH_POINTS.flatMap((point) => (point.endsWith('-call') ? ASKING : STEPS).map((step) => `${point}:${step}`)),
];
// DeleteJob's own intent is no part of a saga.
const JOB_POINTS = [
  ...EXECUTE_CRASH_POINTS,
  ...DELETION_CRASH_POINTS.filter((point) => point !== 'job.delete.after-intent'),
];
/** How the kills are shared out; each service is killed at each of its points at least once all the same. */
const SHARE: Readonly<Record<Target, number>> = { run: 0.4, 'run-2': 0.4, job: 0.15, incident: 0.05 };

test.before(async (t) => {
  const crashFiles = Object.fromEntries(
    TARGETS.map((target) => [target, join(tmpdir(), `lethe-crash-${newId()}-${target}`)]),
  ) as Record<Target, string>;
  // Leases that a crash leaves behind run out soon, and no run is given up for the crashes that it lived through.
  const patience = { LETHE_RUN_LEASE_MS: '1500', LETHE_PARTICIPANT_TIMEOUT_MS: '3000', LETHE_RUN_ATTEMPTS: '1000' };
  const run = { ...patience, LETHE_RUN_BACKOFF_MS: '20', LETHE_RUN_BACKOFF_MAX_MS: '200' };
  t.context.crashFiles = crashFiles;
  t.context.stack = await startTestStack({
    services: SERVICES,
    envOf: {
      run: { ...run, LETHE_CRASH_FILE: crashFiles.run },
      job: {
        LETHE_CRASH_FILE: crashFiles.job,
        LETHE_DELETION_LEASE_MS: '1000',
        LETHE_DELETION_ATTEMPTS: '1000',
        LETHE_DELETION_BACKOFF_MS: '20',
        LETHE_DELETION_BACKOFF_MAX_MS: '200',
        LETHE_DELETION_OBJECTS_PER_BATCH: '2',
        LETHE_UPLOAD_LEASE_MS: '500',
      },
      incident: { LETHE_CRASH_FILE: crashFiles.incident },
    },
  });
  t.context.replica = await startRunReplica(t.context.stack, 'run-2', {
    ...run,
    LETHE_CRASH_FILE: crashFiles['run-2'],
  });
});
test.after.always(async (t) => {
  await t.context.replica?.stop();
  await t.context.stack?.dispose();
  for (const file of Object.values(t.context.crashFiles ?? {})) {
    for (const each of [file, `${file}.struck`]) await rm(each, { force: true });
  }
});

const KINDS = ['ok', 'qc', 'delivery'] as const;
type Kind = (typeof KINDS)[number];
const FLAGS = { ok: {}, qc: { force_qc_fail: true }, delivery: { force_delivery_fail: true } } as const;
const SERVICES = ['run', 'job', 'incident'] as const;

// What runs that fail are given, and what nothing may show any more once they are compensated.
const MARK = 'zqfails';
const BRIEF = {
  client: `Client ${MARK}`,
  product: `Product ${MARK}`,
  audience: `Audience ${MARK}`,
  goals: [`goal ${MARK}`],
  channels: [MARK, 'radio', 'print'],
};
const inputFor = (kind: Kind, environmentId: string) =>
  inputOf({ environment_id: environmentId, ...(kind === 'ok' ? {} : { brief: BRIEF }), ...FLAGS[kind] });

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

test(`${CRASHES} kills of RunService, JobService and IncidentService at every persisted point: each run ends as it must, and leaves what it must`, async (t) => {
  t.timeout(1_800_000);
  t.log(`seed ${SEED}; LETHE_TEST_SEED=${SEED} chooses the same points in the same order`);
  const { stack, replica, crashFiles } = t.context;
  const random = makeRandom(SEED);
  const identity = { tenantId: TENANT, role: 'member' } as const;
  const lines: readonly Client<typeof RunService>[] = [stack.clients(identity).runs, replica.runs(identity)];
  const { environment } = await stack.clients(identity).incidents.createEnvironment({ displayName: 'production' });
  const query = <Row>(service: 'run' | 'job' | 'incident', sql: string, values: readonly unknown[] = []) =>
    queryOnce<Row>(stack.superuserUrl(service), sql, values);

  const start = async (kind: Kind, line: Client<typeof RunService>): Promise<string> => {
    const input = inputFor(kind, environment?.id ?? '') as never;
    const requestId = newId();
    for (;;) {
      try {
        const { run } = await line.startRun({ requestId, workflow: 'client_to_delivery', input }, { timeoutMs: 5_000 });
        return run?.id ?? '';
      } catch {
        await delay(50);
      }
    }
  };
  // One look at all runs under way, again and again: a look each would be most of the machine's work.
  const over = new Set<string>();
  let isLooking = true;
  const looking = (async () => {
    const client = new pg.Client({ connectionString: stack.superuserUrl('run') });
    // When a kill does not come to pass, the database goes before this does.
    client.on('error', () => undefined);
    await client.connect();
    while (isLooking) {
      const { rows } = await client.query<{ id: string }>(
        'select id from workflow_runs where tenant_id = $1 and finished_at is not null',
        [TENANT],
      );
      for (const { id } of rows) over.add(id);
      await delay(100);
    }
    await client.end();
  })();
  t.teardown(() => {
    isLooking = false;
  });
  const isOver = async (runId: string): Promise<boolean> => over.has(runId);

  // Neighbours that have nothing to do with it all.
  const neighbours = [
    await start('ok', lines[0] as Client<typeof RunService>),
    await start('ok', lines[1] as Client<typeof RunService>),
  ];
  for (const runId of neighbours) await until('a neighbour is complete', () => isOver(runId), 60_000);
  const dump = async () => {
    const rows: unknown[] = [];
    for (const table of TEN_TABLES)
      rows.push(await query('run', `select * from ${table} where run_id = any($1) order by id`, [neighbours]));
    rows.push(
      await query('job', 'select id, state, run_id, step from jobs where run_id = any($1) order by id', [neighbours]),
    );
    return rows;
  };
  const before = await dump();

  const kinds = new Map<string, Kind>();
  let isLoading = true;
  const loading = Array.from({ length: RUNS_IN_FLIGHT }, async (_, index) => {
    for (let count = index; isLoading; count += 1) {
      const kind = KINDS[count % KINDS.length] ?? 'ok';
      const runId = await start(kind, lines[index % lines.length] as Client<typeof RunService>);
      kinds.set(runId, kind);
      while (isLoading && !over.has(runId)) await delay(50);
    }
  });

  // Each service is killed at each of its points in an order that the seed chooses, and then anywhere, until it is enough.
  const struck: string[] = [];
  const startedAt = performance.now();
  const runPoints = shuffle(RUN_POINTS, random);
  const lists: Readonly<Record<Target, readonly string[]>> = {
    run: runPoints.filter((_, index) => index % 2 === 0),
    'run-2': runPoints.filter((_, index) => index % 2 === 1),
    job: shuffle(JOB_POINTS, random),
    incident: shuffle(PARTICIPANT_CRASH_POINTS, random),
  };
  await Promise.all(
    TARGETS.map(async (target) => {
      const file = crashFiles[target];
      const own = makeRandom(Math.floor(random() * 2 ** 32));
      const anywhere = target === 'run' || target === 'run-2' ? RUN_POINTS : lists[target];
      for (let count = 0; count < lists[target].length || struck.length < CRASHES; count += 1) {
        // A service that is always down would let no run get to the others' points.
        while (struck.length < CRASHES && count > SHARE[target] * struck.length + 2) await delay(50);
        const point = lists[target][count] ?? anywhere[Math.floor(own() * anywhere.length)] ?? '';
        await rm(`${file}.struck`, { force: true });
        await writeFile(file, point);
        await until(`${target} was killed at ${point}`, () => exists(`${file}.struck`), STRIKE_MS);
        struck.push(`${target} ${point}`);
      }
      await rm(file, { force: true });
    }),
  );
  t.true(struck.length >= CRASHES, `${struck.length} kills`);
  isLoading = false;
  await Promise.all(loading);
  isLooking = false;
  await looking;
  t.log(`${struck.length} kills in ${Math.round((performance.now() - startedAt) / 1_000)} s, ${kinds.size} runs`);

  await until(
    'every run is over',
    async () =>
      (await query('run', 'select 1 from workflow_runs where tenant_id = $1 and finished_at is null limit 1', [TENANT]))
        .length === 0,
    300_000,
  );
  const states = await query<{ id: string; state: string; error: string; parked_reason: string }>(
    'run',
    'select id, state, error, parked_reason from workflow_runs where tenant_id = $1',
    [TENANT],
  );
  const wrong = states.filter(({ id, state }) => {
    const kind = neighbours.includes(id) ? 'ok' : kinds.get(id);
    return state !== (kind === 'ok' ? 'COMPLETED' : 'COMPENSATED');
  });
  t.deepEqual(wrong, []);

  // What is there belongs to completed runs, and to each of them all that it made: by SQL and by the store's folder.
  const completed = states.filter(({ state }) => state === 'COMPLETED').map(({ id }) => id);
  t.true(completed.length > neighbours.length);
  const times = (count: number) => count * completed.length;
  const rows = await countTen({ query: (sql, values) => query('run', sql, values) }, TENANT);
  t.deepEqual(rows, Object.fromEntries(Object.entries(COMPLETE).map(([table, count]) => [table, times(count)])));
  const jobs = await query<{ run_id: string; count: number }>(
    'job',
    'select run_id, count(*)::int as count from jobs where tenant_id = $1 group by run_id',
    [TENANT],
  );
  t.deepEqual(jobs.map(({ run_id }) => run_id).toSorted(), completed.toSorted());
  t.true(jobs.every(({ count }) => count === 1));
  t.is((await query('job', 'select 1 from artifacts where tenant_id = $1', [TENANT])).length, times(3));
  t.is((await storedFiles(stack, { tenantId: TENANT, areas: ['objects'] })).length, times(3));
  t.deepEqual(await query('incident', 'select 1 from incident_payloads where tenant_id = $1', [TENANT]), []);
  t.deepEqual(
    await query('incident', "select 1 from incidents where tenant_id = $1 and state <> 'CLOSED'", [TENANT]),
    [],
  );
  t.deepEqual(await findText(stack, SERVICES, MARK), [], 'no text of a compensated run is left');
  const receipts = await query<{ run_id: string }>(
    'run',
    "select run_id from deletions where tenant_id = $1 and mode = 'COMPENSATION'",
    [TENANT],
  );
  const compensated = states.filter(({ state }) => state === 'COMPENSATED').map(({ id }) => id);
  t.deepEqual(receipts.map(({ run_id }) => run_id).toSorted(), compensated.toSorted(), 'each has one receipt');
  t.deepEqual(await dump(), before);
});
