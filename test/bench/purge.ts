import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { Code, ConnectError } from '@connectrpc/connect';
import pg from 'pg';
import { DriftStatus } from '#gen/lethe/incident/v1/incident_pb.ts';
import { PurgeState } from '#gen/lethe/retention/v1/retention_pb.ts';
import { newId } from '#libs/kernel/id.ts';
import { purge, putPlan } from '#test/support/aged-data.ts';
import { startTestStack, type TestStack } from '#test/support/test-stack.ts';
import type { Bench } from './bench.ts';

const TENANTS = 200;
const CHECKS_PER_TENANT = 10_000;
const WORKFLOWS_PER_CHECK = 2;
const INCIDENTS_PER_TENANT = 500;
const PAYLOAD_BYTES = 4_096;
const ROWS_PER_TENANT = CHECKS_PER_TENANT * (1 + WORKFLOWS_PER_CHECK) + INCIDENTS_PER_TENANT;
const FOREGROUND_PER_S = 200;
const FOREGROUND_ENVIRONMENTS = 20;
const WARM_UP_MS = 3_000;
const BASELINE_MS = 40_000;
const SAMPLE_MS = 20;
// A run on a smaller machine, or one that is to be over soon, can do with a part of the tenants.
const SCALE = Number(process.env['LETHE_BENCH_SCALE'] ?? 1);

/**
 * A retention purge of expired rows through both services, against one plain DELETE of the same rows: its rate, what a
 * steady load of small reads and writes feels of it, its longest transaction, and the peak memory of the two services
 * for a tenth of the rows and for all of them.
 */
export const benchPurge: Bench = async () => {
  const stack = await startTestStack({
    fromSources: true,
    services: ['incident', 'retention'],
    // Everything is expired here, which is what the ceiling is there to hold; the number stays on.
    env: { LETHE_CALLS_PER_SECOND: '1000000', LETHE_PURGE_CEILING_SHARE: 'off' },
  });
  try {
    const tenth = await addTenants(stack, 'tenth', Math.ceil((TENANTS / 10) * SCALE));
    await resetPeaks(stack);
    await timePurge(stack, tenth);
    const rssOfTenth = await peakMegabytes(stack);

    const all = await addTenants(stack, 'all', Math.ceil(TENANTS * SCALE));
    const plainRate = (all.length * ROWS_PER_TENANT) / (await plainDelete(stack, all));
    await resetPeaks(stack);
    const longestTransaction = await watchTransactions(stack);
    const ownRate = (all.length * ROWS_PER_TENANT) / (await timePurge(stack, all));
    const longest = await longestTransaction();
    const rssOfAll = await peakMegabytes(stack);

    const felt = await addTenants(stack, 'felt', Math.ceil((TENANTS / 4) * SCALE));
    const foreground = await makeForeground(stack);
    await foreground(delay(WARM_UP_MS));
    const before = await foreground(delay(BASELINE_MS));
    const during = await foreground(timePurge(stack, felt));
    const after = await foreground(delay(BASELINE_MS));
    const without = p99Of([...before.latenciesMs, ...after.latenciesMs]);
    const purging = p99Of(during.latenciesMs);
    return {
      purge_ratio: round(ownRate / plainRate, 3),
      purge_rows_per_s: Math.round(ownRate),
      plain_delete_rows_per_s: Math.round(plainRate),
      purge_foreground_p99_ratio: round(purging / without, 2),
      foreground_p99_ms: round(without, 2),
      foreground_p99_ms_purging: round(purging, 2),
      foreground_calls_per_s_purging: Math.round(during.perSecond),
      purge_longest_tx_s: round(longest, 3),
      purge_rss_mb_200k: rssOfTenth,
      purge_rss_mb_2m: rssOfAll,
      purge_tenants: all.length,
    };
  } finally {
    await stack.dispose();
  }
};

const round = (value: number, digits: number): number => Number(value.toFixed(digits));

/** Tenants on the plan Pro, all of whose checks and payloads are older than it keeps. */
async function addTenants(stack: TestStack, name: string, count: number): Promise<string[]> {
  const tenants = Array.from({ length: count }, (_, index) => `${name}-${String(index).padStart(3, '0')}`);
  for (const tenantId of tenants) await putPlan(stack, tenantId, 'PRO');
  const client = new pg.Client({ connectionString: stack.superuserUrl('incident') });
  await client.connect();
  try {
    // Foreign keys and the ages of payloads are true by the way the rows are made; checking each would take longer than
    // the bench.
    await client.query('set session_replication_role = replica');
    await client.query(
      `insert into environments (tenant_id, id, display_name)
       select t, md5(t)::uuid, 'production' from unnest($1::text[]) t`,
      [tenants],
    );
    for (const tenantId of tenants) {
      await client.query(
        `with c as (
           insert into drift_checks (tenant_id, id, environment_id, status, checked_at)
           select $1, gen_random_uuid(), md5($1)::uuid, 'DRIFT', now() - interval '31 days' - n * interval '1 second'
           from generate_series(1, $2::int) n returning tenant_id, id)
         insert into drift_check_workflows
           select tenant_id, id, 'workflow-' || w, 'MODIFIED' from c, generate_series(1, $3::int) w`,
        [tenantId, CHECKS_PER_TENANT, WORKFLOWS_PER_CHECK],
      );
      // Bytes that do not compress, as a payload that is worth keeping.
      await client.query(
        `with i as (
           insert into incidents (tenant_id, id, environment_id, title, state, close_cause, closed_at, opened_with_payload)
           select $1, gen_random_uuid(), md5($1)::uuid, 'drift', 'CLOSED', 'RESOLVED',
                  now() - interval '181 days' - n * interval '1 second', true
           from generate_series(1, $2::int) n returning tenant_id, id, closed_at)
         insert into incident_payloads (tenant_id, incident_id, age, payload_json)
           select tenant_id, id, closed_at, jsonb_build_object('drift', (
             select string_agg(md5(id::text || k), '') from generate_series(1, $3::int / 32) k)) from i`,
        [tenantId, INCIDENTS_PER_TENANT, PAYLOAD_BYTES],
      );
    }
    await client.query('vacuum analyze drift_checks, drift_check_workflows, incidents, incident_payloads');
  } finally {
    await client.end();
  }
  return tenants;
}

/** Seconds of one plain DELETE of the tenants' rows, children first, which is then rolled back. */
async function plainDelete(stack: TestStack, tenants: readonly string[]): Promise<number> {
  const client = new pg.Client({ connectionString: stack.superuserUrl('incident') });
  await client.connect();
  try {
    await client.query('begin');
    const startedAt = performance.now();
    await client.query('delete from drift_check_workflows where tenant_id = any($1)', [tenants]);
    await client.query('delete from drift_checks where tenant_id = any($1)', [tenants]);
    await client.query('delete from incident_payloads where tenant_id = any($1)', [tenants]);
    const seconds = (performance.now() - startedAt) / 1_000;
    await client.query('rollback');
    return seconds;
  } finally {
    await client.end();
  }
}

/** Seconds of a purge of the tenants, from the call to the summary; throws unless all of their rows went. */
async function timePurge(stack: TestStack, tenants: readonly string[]): Promise<number> {
  const startedAt = performance.now();
  const request = { tenantIds: [...tenants], requestId: newId() };
  // A stream that breaks is joined again; the purge goes on meanwhile.
  const watch = (): ReturnType<typeof purge> =>
    purge(stack, request).catch((error: unknown) => {
      if (ConnectError.from(error).code === Code.Unavailable) return watch();
      throw error;
    });
  const { summary, items } = await watch();
  const seconds = (performance.now() - startedAt) / 1_000;
  const removed = summary.resourceCounts.reduce((sum, { deleted }) => sum + Number(deleted), 0);
  if (summary.state !== PurgeState.COMPLETE || removed !== tenants.length * ROWS_PER_TENANT) {
    const [why] = items.flatMap(({ error }) => error || []);
    throw new Error(`the purge is ${summary.state} and removed ${removed} rows: ${why}`);
  }
  return seconds;
}

interface Felt {
  readonly latenciesMs: readonly number[];
  readonly perSecond: number;
}

/**
 * A load of small reads and writes at a steady rate, by a clock and not by the answers, since a load that waits for a
 * slow answer would hide it; told while `work` is going on. A call that fails has taken for ever.
 */
async function makeForeground(stack: TestStack): Promise<(work: Promise<unknown>) => Promise<Felt>> {
  const { incidents } = stack.clients({ tenantId: 'foreground', role: 'member' });
  const environments: string[] = [];
  for (let index = 0; index < FOREGROUND_ENVIRONMENTS; index += 1) {
    const { environment } = await incidents.createEnvironment({ displayName: `environment ${index}` });
    environments.push(environment?.id ?? '');
  }
  const call = (index: number): Promise<unknown> => {
    const environmentId = environments[(index >> 1) % environments.length] ?? '';
    return index % 2 === 0
      ? incidents.getEnvironment({ environmentId })
      : incidents.recordDriftCheck({ environmentId, status: DriftStatus.IN_SYNC });
  };
  return async (work) => {
    const latenciesMs: number[] = [];
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
        call(sent).then(
          () => latenciesMs.push(performance.now() - due),
          () => latenciesMs.push(Number.POSITIVE_INFINITY),
        ),
      );
    }
    const seconds = (performance.now() - startedAt) / 1_000;
    await Promise.all([work, ...underWay]);
    return { latenciesMs, perSecond: latenciesMs.length / seconds };
  };
}

const p99Of = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length * 0.99)] ?? Number.NaN;

/**
 * Looks at the services' transactions until it is asked for the longest, in seconds. An idle session has none; one that
 * listens seems to for the instant of a notification, and as old as its last statement.
 */
async function watchTransactions(stack: TestStack): Promise<() => Promise<number>> {
  const client = new pg.Client({ connectionString: stack.superuserUrl('incident') });
  client.on('error', () => undefined);
  await client.connect();
  let longest = 0;
  let isOver = false;
  const watching = (async () => {
    while (!isOver) {
      const { rows } = await client.query(
        `select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)::float8 as seconds
         from pg_stat_activity where application_name like 'lethe-%' and state <> 'idle'`,
      );
      longest = Math.max(longest, rows[0].seconds);
      await delay(SAMPLE_MS);
    }
  })();
  watching.catch(() => undefined); // Told when it is asked; a stack that is gone has told more by then.
  return async () => {
    isOver = true;
    await watching;
    await client.end();
    return longest;
  };
}

const SERVICES = ['incident', 'retention'] as const;

/** Starts the kernel's peaks of both processes anew. */
async function resetPeaks(stack: TestStack): Promise<void> {
  for (const name of SERVICES) await writeFile(`/proc/${stack.pid(name)}/clear_refs`, '5');
}

/** The peak memory of both services together. */
async function peakMegabytes(stack: TestStack): Promise<number> {
  const peaks = await Promise.all(
    SERVICES.map(async (name) => {
      const status = await readFile(`/proc/${stack.pid(name)}/status`, 'utf8');
      return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / 1_024;
    }),
  );
  return Math.round(peaks.reduce((sum, peak) => sum + peak, 0));
}
