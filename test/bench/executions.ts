import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import pg from 'pg';
import type { StackClients } from '#deploy/local/stack.ts';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { type Execution, ExecutionSchema, ExecutionState } from '#gen/lethe/run/v1/run_pb.ts';
import { openSigningKey } from '#libs/auth/keys.ts';
import { makeOwnerCredential, type OwnerCredential } from '#libs/auth/sign-token.ts';
import { connect } from '#libs/grpc/client.ts';
import { toTimestamp } from '#libs/grpc/timestamp.ts';
import { newId } from '#libs/kernel/id.ts';
import { selectFloor } from '#libs/owner/statements.ts';
import { executions as subject } from '#services/run/adapters/postgres/subjects.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';
import type { Bench } from './bench.ts';
import { median, quantile } from './median.ts';

// A run on a smaller machine, or one that is to be over soon, can do with a part of the rows.
const SCALE = Number(process.env['LETHE_BENCH_SCALE'] ?? 1);
const ROWS = 10_000_000 * SCALE;
const TENANTS = 50;
const MONTHS = 24;
const RETENTION_DAYS = 90;
const FLOORS = [100, 100_000] as const;
// As many as RetentionService asks for in one call.
const PURGE_LIMIT = 100_000;
const KEPT_IN_FRONT = Math.round(100_000 * SCALE);
const RECORDED = Math.round(200_000 * Math.min(1, SCALE * 4));
const RECORD_BATCH = 1_000;
const RECORD_CONCURRENCY = 4;
const LIST_CALLS = 400;
const FOREGROUND_PER_S = 100;
const FELT_MS = Math.max(10_000, 30_000 * Math.min(1, SCALE * 4));

const BIG = 'tenant-00';
const OTHERS = Array.from({ length: TENANTS - 1 }, (_, index) => `tenant-${String(index + 1).padStart(2, '0')}`);
const BEHIND = 'behind-kept';

/**
 * Executions of 50 tenants, one of which has half: recording against COPY, lists before and after a purge, batched
 * cleanup over the contract against one plain DELETE of the same rows, what calls feel of it, and the disk given back.
 */
export const benchExecutions: Bench = async () => {
  const stack = await startTestStack({
    fromSources: true,
    services: ['run'],
    foreignParticipants: { nobody: '127.0.0.1:1' },
    // Months are rewritten when the bench says so.
    env: { LETHE_CALLS_PER_SECOND: '1000000', LETHE_EXECUTION_UPKEEP_MS: '86400000' },
  });
  const client = new pg.Client({ connectionString: stack.superuserUrl('run') });
  await client.connect();
  try {
    const bench: Bed = { stack, client, credential: await ownerCredential(stack) };
    await addMonths(client);
    const recording = await benchRecording(bench);
    await addKeptInFront(client);
    await client.query('vacuum analyze executions');

    const floors = await timeFloors(stack);
    const before = await timeLists(bench);
    const plain = await plainDelete(client, BIG);
    await resetPeak(stack);
    const tenth = await purgeWhole(bench, BEHIND, { staleAfterDays: 3_650 });
    const rssOfFew = await peakMegabytes(stack);
    // What it keeps is none of the fifty tenants' and would keep months from being rewritten.
    await client.query('delete from executions where tenant_id = $1', [BEHIND]);
    // A plain DELETE that was rolled back has marked every row: batches are to meet what it met.
    await client.query('vacuum analyze executions');

    const bytesBefore = await bytesOf(client);
    const rowsBefore = await countRows(client);
    await resetPeak(stack);
    const big = await purgeWhole(bench, BIG);
    const rss = await peakMegabytes(stack);
    const felt = await timeForeground(bench);
    for (const tenantId of OTHERS) await purgeWhole(bench, tenantId);
    const rowsAfter = await countRows(client);
    await rewriteMonths(client);
    const bytesAfter = await bytesOf(client);
    await client.query('vacuum analyze executions');
    const after = await timeLists(bench);
    const bytesPurged = (bytesBefore * (rowsBefore - rowsAfter)) / rowsBefore;
    return {
      executions_rows: rowsBefore,
      executions_batch_ratio: round(big.rowsPerSecond / plain, 3),
      executions_purge_rows_per_s: Math.round(big.rowsPerSecond),
      executions_plain_delete_rows_per_s: Math.round(plain),
      executions_last_over_first: round(big.lastOverFirst, 2),
      executions_last_over_first_kept: round(tenth.lastOverFirst, 2),
      executions_floor_ms: round(floors[0] ?? Number.NaN, 2),
      executions_floor_100k_ms: round(floors[1] ?? Number.NaN, 2),
      executions_foreground_p99_ratio: round(felt.during / felt.without, 2),
      executions_foreground_p99_ms: round(felt.without, 2),
      executions_foreground_p99_ms_purging: round(felt.during, 2),
      executions_list_p99_ms: round(quantile(before, 0.99), 1),
      executions_list_median_ms_before: round(median(before), 2),
      executions_list_median_ms_after: round(median(after), 2),
      executions_list_p99_ms_after: round(quantile(after, 0.99), 1),
      executions_bytes_returned_share: round((bytesBefore - bytesAfter) / bytesPurged, 3),
      executions_mb_before: Math.round(bytesBefore / 1_048_576),
      executions_mb_after: Math.round(bytesAfter / 1_048_576),
      executions_wal_bytes_per_row: Math.round(big.walBytesPerRow),
      executions_record_ratio: round(recording.recorded / recording.copied, 3),
      executions_record_rows_per_s: Math.round(recording.recorded),
      executions_copy_rows_per_s: Math.round(recording.copied),
      executions_rss_mb: rss,
      executions_rss_mb_few: rssOfFew,
    };
  } finally {
    await client.end().catch(() => undefined);
    await stack.dispose();
  }
};

interface Bed {
  readonly stack: TestStack;
  /** As the superuser. */
  readonly client: pg.Client;
  readonly credential: OwnerCredential;
}

const round = (value: number, digits: number): number => Number(value.toFixed(digits));

async function ownerCredential(stack: TestStack): Promise<OwnerCredential> {
  const key = await openSigningKey(join(stack.folder, 'keys', 'retention.private.json'));
  return makeOwnerCredential({ key, issuer: 'lethe' }, 'retention');
}

/**
 * Fills two years of months evenly. Each is filled without its indexes, which are then built: to insert ten million rows
 * into five indexes would take longer than the bench.
 */
async function addMonths(client: pg.Client): Promise<void> {
  const perMonth = Math.floor(ROWS / 2 / MONTHS);
  const perOther = Math.floor(ROWS / 2 / MONTHS / (TENANTS - 1));
  for (let ago = MONTHS - 1; ago >= 0; ago -= 1) {
    const day = Temporal.Now.plainDateISO('UTC').with({ day: 1 }).subtract({ months: ago });
    await client.query('select make_execution_month($1)', [day.toString()]);
    const leaf = `executions_${day.toString().slice(0, 7).replace('-', '_')}`;
    const [from, to] = [`${day} 00:00Z`, `${day.add({ months: 1 })} 00:00Z`];
    const { rows: indexes } = await client.query<{ name: string; is_key: boolean }>(
      'select indexrelid::regclass::text as name, indisprimary as is_key from pg_index where indrelid = $1::regclass',
      [leaf],
    );
    await client.query('begin');
    await client.query(`alter table executions detach partition ${leaf}`);
    for (const { name, is_key } of indexes)
      await client.query(is_key ? `alter table ${leaf} drop constraint ${name}` : `drop index ${name}`);
    // This month up to now: a month that is still to come has not been executed.
    await client.query(
      `insert into ${leaf} (tenant_id, id, workflow, status, state, started_at, finished_at, created_at)
       select t.id, gen_random_uuid(), 'workflow-' || n % 20, case when n % 50 = 0 then 'error' else 'success' end, 'ENDED',
              case when n % 40 > 0 then a.at + interval '1 second' end, a.at + interval '1 minute', a.at
       from (select $1 as id, $3::int as rows union all select other, $4 from unnest($2::text[]) other) t,
            generate_series(1, t.rows) n,
            lateral (select $5::timestamptz
              + n * (least($6::timestamptz, now()) - $5::timestamptz - interval '2 minutes') / t.rows as at) a`,
      [BIG, OTHERS, perMonth, perOther, from, to],
    );
    await client.query(`alter table ${leaf} add primary key (tenant_id, created_at, id)`);
    await client.query(`create index on ${leaf} (tenant_id, age, id, created_at)`);
    await client.query(`create index on ${leaf} (tenant_id, age, id, created_at) where state <> 'RUNNING'`);
    await client.query(`create index on ${leaf} (tenant_id, started_at)`);
    await client.query(`create index on ${leaf} (tenant_id, created_at) where started_at is null`);
    await client.query(`alter table executions attach partition ${leaf} for values from ('${from}') to ('${to}')`);
    await client.query('commit');
  }
}

/** A tenant whose oldest executions are running and stay, in front of as many that go. */
async function addKeptInFront(client: pg.Client): Promise<void> {
  await client.query(
    `insert into executions (tenant_id, id, workflow, status, state, started_at, created_at)
     select $1, gen_random_uuid(), 'workflow', '', case when n <= $2 then 'RUNNING' else 'ENDED' end, a.at, a.at
     from generate_series(1, 4 * $2::int) n,
          lateral (select now() - interval '300 days' + n * interval '150 days' / (4 * $2) as at) a`,
    [BEHIND, KEPT_IN_FRONT],
  );
}

/** Rows a second of RecordExecutions, and of COPY by the owner into the same table, of rows that are alike. */
async function benchRecording({ stack, client }: Bed): Promise<{ recorded: number; copied: number }> {
  const runs = stack.clients({ tenantId: 'recorded', role: 'member' }).runs;
  const now = Temporal.Now.instant();
  const makeBatch = (first: number): Execution[] =>
    Array.from({ length: RECORD_BATCH }, (_, index) => {
      const at = now.subtract({ milliseconds: 10 * (RECORDED - first - index) });
      return create(ExecutionSchema, {
        id: newId(),
        workflow: `workflow-${index % 20}`,
        status: 'success',
        startTime: toTimestamp(at),
        finishTime: toTimestamp(at.add({ seconds: 1 })),
        createTime: toTimestamp(at),
      });
    });
  const batches = (count: number): Execution[][] =>
    Array.from({ length: count / RECORD_BATCH }, (_, index) => makeBatch(index * RECORD_BATCH));
  const record = async (waiting: Execution[][]): Promise<void> => {
    await Promise.all(
      Array.from({ length: RECORD_CONCURRENCY }, async () => {
        for (let batch = waiting.shift(); batch; batch = waiting.shift())
          await runs.recordExecutions({ executions: batch });
      }),
    );
  };
  await record(batches(Math.min(20_000, RECORDED)));
  const all = batches(RECORDED);
  const startedAt = performance.now();
  await record(all);
  const recorded = (RECORDED * 1_000) / (performance.now() - startedAt);

  const file = join(stack.folder, 'executions.copy');
  const toMicroseconds = (at: Execution['startTime']): string =>
    at ? Temporal.Instant.fromEpochNanoseconds(at.seconds * 1_000_000_000n + BigInt(at.nanos)).toString() : '\\N';
  const lines = batches(RECORDED)
    .flat()
    .map(({ id, workflow, status, startTime, finishTime, createTime }) =>
      ['copied', id, workflow, status, 'ENDED', ...[startTime, finishTime, createTime].map(toMicroseconds)].join('\t'),
    );
  await writeFile(file, `${lines.join('\n')}\n`);
  await chmod(file, 0o644);
  // By the server from a file, which leaves out the network: the fastest COPY there is.
  await client.query('grant pg_read_server_files to lethe_run_owner');
  await client.query('set role lethe_run_owner');
  const copyStartedAt = performance.now();
  await client.query(
    `copy executions (tenant_id, id, workflow, status, state, started_at, finished_at, created_at) from '${file}'`,
  );
  const copied = (RECORDED * 1_000) / (performance.now() - copyStartedAt);
  await client.query('reset role');
  return { recorded, copied };
}

/** Milliseconds to find each floor of the big tenant, as the app role, planning included. */
async function timeFloors(stack: TestStack): Promise<number[]> {
  const client = new pg.Client({ connectionString: stack.environment('run')['LETHE_DATABASE_URL'] });
  await client.connect();
  try {
    await client.query("select set_config('lethe.tenant', $1, false)", [BIG]);
    await client.query(
      "select set_config('enable_seqscan', 'off', false), set_config('enable_bitmapscan', 'off', false)",
    );
    const floors = [];
    for (const floor of FLOORS) {
      const { text, bindings } = selectFloor(subject, BIG, Temporal.Now.instant(), floor);
      const names = Object.keys(bindings);
      const positional = text.replace(/(?<!:):(\w+)/g, (_, name: string) => `$${names.indexOf(name) + 1}`);
      const times = [];
      for (let again = 0; again < 11; again += 1) {
        const startedAt = performance.now();
        await client.query(positional, Object.values(bindings));
        times.push(performance.now() - startedAt);
      }
      floors.push(median(times));
    }
    return floors;
  } finally {
    await client.end();
  }
}

/** Milliseconds of pages of the big tenant, one after the other: anywhere in its history, with filters and without. */
async function timeLists({ stack }: Bed): Promise<number[]> {
  const { runs } = stack.clients({ tenantId: BIG, role: 'viewer' });
  const now = Temporal.Now.instant();
  const filters = [
    {},
    { workflow: 'workflow-7' },
    { status: 'error', workflow: 'workflow-10' },
    { state: ExecutionState.RUNNING },
  ];
  const times = [];
  for (let call = 0; call < LIST_CALLS; call += 1) {
    const beforeTime = create(ExecutionSchema, {
      startTime: toTimestamp(now.subtract({ hours: (call * 7_919) % (24 * 720) })),
    }).startTime;
    const startedAt = performance.now();
    await runs.listExecutions({ ...filters[call % filters.length], ...(beforeTime && call % 3 ? { beforeTime } : {}) });
    times.push(performance.now() - startedAt);
  }
  return times;
}

const EXPIRED = `tenant_id = $1 and age < now() - interval '${RETENTION_DAYS} days'`;

/** Rows a second of one plain DELETE of what a purge will remove, which is then rolled back. */
async function plainDelete(client: pg.Client, tenantId: string): Promise<number> {
  await client.query('begin');
  const startedAt = performance.now();
  const { rowCount } = await client.query(`delete from executions where ${EXPIRED}`, [tenantId]);
  const seconds = (performance.now() - startedAt) / 1_000;
  await client.query('rollback');
  return (rowCount ?? 0) / seconds;
}

interface Purged {
  readonly rowsPerSecond: number;
  /** The cost of a row in the last tenth of the calls over that in the first tenth. */
  readonly lastOverFirst: number;
  readonly walBytesPerRow: number;
}

/** Purges a tenant over the contract until the owner says that nothing is left; throws unless that is so. */
async function purgeWhole(
  { stack, client, credential }: Bed,
  tenantId: string,
  { staleAfterDays = 30 } = {},
): Promise<Purged> {
  const purger = purgerOf(stack, credential, tenantId, newId());
  try {
    const costs: number[] = [];
    const wal = await walPosition(client);
    const startedAt = performance.now();
    let removed = 0;
    for (let isOver = false; !isOver; ) {
      const callStartedAt = performance.now();
      const { progress, deleted } = await purger.purge(staleAfterDays);
      const went = deleted - removed;
      removed = deleted;
      if (went > PURGE_LIMIT / 2) costs.push((performance.now() - callStartedAt) / went);
      isOver = progress === Progress.COMPLETE;
    }
    const seconds = (performance.now() - startedAt) / 1_000;
    const walBytes = (await walPosition(client)) - wal;
    const { rows } = await client.query(
      `select count(*)::int as count from executions where ${EXPIRED} and state <> 'RUNNING'`,
      [tenantId],
    );
    // The floor stays, and what expired since the cutoff was made.
    if (rows[0].count > FLOORS[0] + removed / 100)
      throw new Error(`the purge of ${tenantId} left ${rows[0].count} rows`);
    const tenth = Math.max(1, Math.floor(costs.length / 10));
    return {
      rowsPerSecond: removed / seconds,
      lastOverFirst: median(costs.slice(-tenth)) / median(costs.slice(0, tenth)),
      walBytesPerRow: walBytes / removed,
    };
  } finally {
    purger.close();
  }
}

/** One operation of the contract on one tenant. */
function purgerOf(stack: TestStack, credential: OwnerCredential, tenantId: string, operationId: string) {
  const connection = connect({
    address: stack.addresses.run,
    deadlineMs: 60_000,
    token: () =>
      credential({ owner: 'run', scope: 'owner:purge', actor: 'bench', tenantId, subject: subject.name, operationId }),
  });
  const owner = connection.client(RetentionOwnerService);
  const latest = Temporal.Now.instant().subtract({ hours: 24 * RETENTION_DAYS });
  return {
    async purge(staleAfterDays: number) {
      const { progress, resourceCounts, retryDelay } = await owner.purge({
        operationId,
        limit: PURGE_LIMIT,
        timeBudget: { seconds: 30n, nanos: 0 },
        rule: {
          subject: subject.name,
          retentionDays: RETENTION_DAYS,
          latestCutoffTime: toTimestamp(latest),
          minToKeep: 100n,
          staleAfterDays,
        },
      });
      if (retryDelay) await delay(Number(retryDelay.seconds) * 1_000 + retryDelay.nanos / 1_000_000);
      return { progress, deleted: Number(resourceCounts[0]?.deleted ?? 0) };
    },
    close: () => connection.close(),
  };
}

const walPosition = async (client: pg.Client): Promise<number> => {
  const { rows } = await client.query("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8 as at");
  return rows[0].at;
};

/** The 99th percentile, in milliseconds, of a steady load without a purge and during those of other tenants. */
async function timeForeground(bed: Bed): Promise<{ without: number; during: number }> {
  const { runs } = bed.stack.clients({ tenantId: 'foreground', role: 'member' });
  for (let call = 0; call < FOREGROUND_PER_S * 3; call += 1) await foregroundCall(runs, call);
  const before = await steadyLoad(runs, delay(FELT_MS));
  const ids = OTHERS.map((tenantId) => ({ tenantId, operationId: newId() }));
  const until = performance.now() + FELT_MS;
  const purging = (async () => {
    for (const { tenantId, operationId } of ids) {
      const purger = purgerOf(bed.stack, bed.credential, tenantId, operationId);
      try {
        while (performance.now() < until && (await purger.purge(30)).progress !== Progress.COMPLETE);
      } finally {
        purger.close();
      }
    }
  })();
  const during = await steadyLoad(runs, purging);
  const after = await steadyLoad(runs, delay(FELT_MS));
  return { without: quantile([...before, ...after], 0.99), during: quantile(during, 0.99) };
}

const foregroundCall = (runs: StackClients['runs'], call: number): Promise<unknown> =>
  call % 2
    ? runs.listExecutions({ pageSize: 20 })
    : runs.recordExecutions({
        executions: [create(ExecutionSchema, { id: newId(), workflow: 'foreground', status: 'success' })],
      });

/** Latencies of calls that are due by a clock, and not by the answers; one that fails has taken for ever. */
async function steadyLoad(runs: StackClients['runs'], work: Promise<unknown>): Promise<number[]> {
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
      foregroundCall(runs, sent).then(
        () => latencies.push(performance.now() - due),
        () => latencies.push(Number.POSITIVE_INFINITY),
      ),
    );
  }
  await Promise.all([work, ...underWay]);
  return latencies;
}

/** Rewrites months as RunService's upkeep does, until none wants it. */
async function rewriteMonths(client: pg.Client): Promise<void> {
  await client.query('select pg_stat_force_next_flush()');
  await delay(1_000);
  while ((await client.query('select from rewrite_execution_month()')).rowCount);
}

const bytesOf = async (client: pg.Client): Promise<number> => {
  const { rows } = await client.query(
    "select sum(pg_total_relation_size(inhrelid))::float8 as bytes from pg_inherits where inhparent = 'executions'::regclass",
  );
  return rows[0].bytes;
};

const countRows = async (client: pg.Client): Promise<number> =>
  (await client.query('select count(*)::float8 as count from executions')).rows[0].count;

/** Starts the kernel's peak of the service's memory anew. */
const resetPeak = (stack: TestStack): Promise<void> => writeFile(`/proc/${stack.pid('run')}/clear_refs`, '5');

async function peakMegabytes(stack: TestStack): Promise<number> {
  const status = await readFile(`/proc/${stack.pid('run')}/status`, 'utf8');
  return Math.round(Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / 1_024);
}
