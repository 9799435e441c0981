import { DomainError, hasReason } from '#libs/kernel/domain-error.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf, rowsOf } from '#libs/postgres/rows.ts';
import { codeOf } from '#libs/postgres/sql-errors.ts';
import type { Execution, ExecutionState } from '../../domain/execution.ts';
import type { ExecutionRepository, MisdatedExecutions, RecordedExecutions } from '../../use-cases/execution-ports.ts';

interface ExecutionRow {
  readonly id: string;
  readonly workflow: string;
  readonly status: string;
  readonly state: ExecutionState;
  readonly started_at: Temporal.Instant | null;
  readonly finished_at: Temporal.Instant | null;
  readonly created_at: Temporal.Instant;
  readonly age: Temporal.Instant;
}

interface Outcome {
  readonly created: number;
  readonly updated: number;
  /** As it was when the statement began. */
  readonly watermark: string;
  /** Positions from 1 of those up to the watermark, which were left alone. */
  readonly passed: readonly number[];
  readonly misdated_created: readonly number[];
  readonly misdated_started: readonly number[];
  readonly misdated_finished: readonly number[];
}

// The batch as arrays, since COPY is refused under row-level security; instants as microseconds since 1970.
const INPUT = `input as materialized (
    select i.n, i.id, i.workflow, i.status, i.state, d.started_at, d.finished_at, d.created_at,
           coalesce(d.started_at, d.created_at) as age
    from unnest(cast(:ids as uuid[]), cast(:workflows as text[]), cast(:statuses as text[]), cast(:states as text[]),
                cast(:startedAts as bigint[]), cast(:finishedAts as bigint[]), cast(:createdAts as bigint[]))
           with ordinality as i (id, workflow, status, state, started_at, finished_at, created_at, n),
         lateral (select timestamptz 'epoch' + i.started_at * interval '1 microsecond' as started_at,
                         timestamptz 'epoch' + i.finished_at * interval '1 microsecond' as finished_at,
                         timestamptz 'epoch' + i.created_at * interval '1 microsecond' as created_at) d
  )`;

/** The columns of the row `e` after it was told `x`: no state goes back, and what comes late only fills gaps. */
const merged = (x: string): readonly (readonly [column: string, value: string])[] => {
  const order = (row: string): string => `array_position(array['QUEUED', 'RUNNING', 'ENDED'], ${row}.state)`;
  const isLate = `${order(x)} < ${order('e')}`;
  const either = (column: string, empty: (value: string) => string) =>
    [
      column,
      `case when ${isLate} then coalesce(${empty(`e.${column}`)}, ${x}.${column})
            else coalesce(${empty(`${x}.${column}`)}, e.${column}) end`,
    ] as const;
  const instant = (value: string): string => value;
  const text = (value: string): string => `nullif(${value}, '')`;
  return [
    ['state', `case when ${isLate} then e.state else ${x}.state end`],
    either('workflow', text),
    either('status', text),
    either('started_at', instant),
    either('finished_at', instant),
  ];
};
const columns = merged('x').map(([column]) => column);
const listOf = (of: (column: string) => string): string => columns.map(of).join(', ');
const assignments = (x: string): string =>
  merged(x)
    .map(([column, value]) => `${column} = ${value}`)
    .join(',\n      ');
const values = (x: string): string =>
  merged(x)
    .map(([, value]) => value)
    .join(', ');

// In the order of the key, so that two batches with the same rows cannot deadlock.
const RECORD = `with ${INPUT},
  watermark as materialized (
    select w.age, w.id, w.created_at from (select 1) one left join execution_watermarks w on w.tenant_id = :tenantId
  ),
  misdated as materialized (
    select n, created_at > limits.latest or created_at < limits.earliest as created, started_at > limits.latest as started,
           finished_at > limits.latest as finished
    from input, (select clock_timestamp() + interval '1 day' as latest,
                        date_trunc('month', clock_timestamp() at time zone 'UTC') at time zone 'UTC'
                          - interval '120 months' as earliest) limits
    where created_at > limits.latest or created_at < limits.earliest or started_at > limits.latest
       or finished_at > limits.latest
  ),
  judged as materialized (
    select i.*, (i.age, i.id, i.created_at) <= (w.age, w.id, w.created_at) is true as is_passed from input i, watermark w
  ),
  recorded as (
    insert into executions as e (tenant_id, id, workflow, status, state, started_at, finished_at, created_at)
    select :tenantId, id, workflow, status, state, started_at, finished_at, created_at
    from judged where not is_passed and not exists (select from misdated)
    order by created_at, id
    on conflict (tenant_id, created_at, id) do update set
      ${assignments('excluded')}
    where (${listOf((column) => `e.${column}`)}) is distinct from (${values('excluded')})
    returning old.id is null as is_created
  )
  select count(*) filter (where is_created) as created, count(*) filter (where not is_created) as updated,
    (select concat_ws(' ', age, id, created_at) from watermark) as watermark,
    array(select n::int from judged where is_passed) as passed,
    array(select n::int from misdated where created order by n) as misdated_created,
    array(select n::int from misdated where started order by n) as misdated_started,
    array(select n::int from misdated where finished order by n) as misdated_finished
  from recorded`;

// A purge may remove an execution and move the watermark while RECORD waits for that very row, and then stores it anew.
// The purge has committed by then, so that a statement afterwards sees its watermark. No lock is needed for that; with
// one, a tenant that records all the time would never be purged.
const WATERMARK = `select age, concat_ws(' ', age, id, created_at) as watermark from execution_watermarks
  where tenant_id = :tenantId`;

interface Watermark {
  readonly age: Temporal.Instant | null;
  readonly watermark: string;
}

const reaches = ({ age }: Watermark, executions: readonly Execution[]): boolean =>
  age !== null &&
  executions.some(({ startedAt, createdAt }) => Temporal.Instant.compare(startedAt ?? createdAt, age) <= 0);

/** A purge has overtaken the batch, which is to be judged again. */
const overtaken = (): DomainError =>
  new DomainError('aborted', 'CONCURRENT_UPDATE', 'A purge has reached these executions meanwhile; try again.', {});

// Each time the purge has come further; beyond that the caller may try again.
const MAX_TRIES = 20;

// Rows up to the watermark are brought up to date where they were spared, and never inserted. Each is looked up by its
// key: on its own the planner may read whole partitions to join a thousand keys.
const BY_KEY = 'set local enable_seqscan = off; set local enable_hashjoin = off; set local enable_mergejoin = off';
const UPDATE_PASSED = `with ${INPUT}
  update executions e set
    ${assignments('i')}
  from input i
  where i.n = any(cast(:passed as bigint[])) and e.tenant_id = :tenantId and e.created_at = i.created_at and e.id = i.id
  returning i.n, (${listOf((column) => `old.${column}`)}) is distinct from (${listOf((column) => `new.${column}`)}) as changed`;

// A filter that matches nothing would walk all that a tenant has; this many rows take a few ten milliseconds.
const ROWS_PER_PAGE = 10_000;

/**
 * Lists by age, newest first. $7 rows are looked at; the border is the last of them, where the page is not full. A row of a
 * former version may have finished later than an answer can say.
 */
export const LIST_EXECUTIONS = `with page as materialized (
    select * from (
      select id, workflow, status, state, started_at,
             least(finished_at, timestamptz '9999-12-31T23:59:59.999999Z') as finished_at, created_at, age
      from executions
      where tenant_id = $1 and ($2::timestamptz is null or age >= $2) and ($3::timestamptz is null or age < $3)
        and ($4::timestamptz is null or (age, id, created_at) < ($4, $5::uuid, $6::timestamptz))
      order by age desc, id desc, created_at desc limit $7) looked_at
    where ($8::text is null or workflow = $8) and ($9::text is null or status = $9) and ($10::text is null or state = $10)
    limit $11
  )
  select *, false as is_border from page
  union all
  (select id, '', '', '', null, null, created_at, age, true from executions
   where (select count(*) from page) < $11
     and tenant_id = $1 and ($2::timestamptz is null or age >= $2) and ($3::timestamptz is null or age < $3)
     and ($4::timestamptz is null or (age, id, created_at) < ($4, $5::uuid, $6::timestamptz))
   order by age desc, id desc, created_at desc offset $7::bigint - 1 limit 1)`;

/** Counts the executions of one day, whose bounds are $2 and $3, by state. */
export const COUNT_EXECUTIONS = `select state, count(*) from executions
  where tenant_id = $1 and age >= $2 and age < $3 and ($4::text is null or workflow = $4)
  group by state`;

/** Executions in Postgres. */
export const makeExecutionRepository = (database: Database): ExecutionRepository => ({
  async record(tenantId, executions) {
    let hasMonths = false;
    for (let tries = 1; ; tries += 1) {
      try {
        return await record(database, tenantId, executions);
      } catch (error) {
        if (isMonthMissing(error) && !hasMonths) {
          for (const day of new Set(executions.map(({ createdAt }) => firstOfMonth(createdAt))))
            await database.acrossTenants({ text: 'select make_execution_month($1)', values: [day] });
          hasMonths = true;
        } else if (!hasReason(error, 'CONCURRENT_UPDATE') || tries === MAX_TRIES) throw error;
      }
    }
  },

  async list(tenantId, { workflow, status, state, minAge, maxAge, limit, after }) {
    const rows = await database.readForTenant<ExecutionRow & { readonly is_border: boolean }>(tenantId, {
      text: LIST_EXECUTIONS,
      values: [
        tenantId,
        minAge?.toString() ?? null,
        maxAge?.toString() ?? null,
        ...(after ?? [null, null, null]),
        ROWS_PER_PAGE,
        workflow ?? null,
        status ?? null,
        state ?? null,
        limit + 1,
      ],
    });
    const found = rows.filter(({ is_border }) => !is_border);
    const items = found.slice(0, limit);
    const last = found.length > limit ? items.at(-1) : rows.find(({ is_border }) => is_border);
    return { items: items.map(toExecution), next: last && [last.age, last.id, last.created_at].map(String) };
  },

  async count(tenantId, days, workflow) {
    const counts = [];
    for (const day of days) {
      const [from, to] = [day, day.add({ days: 1 })].map((date) => `${date}T00:00:00Z`);
      const rows = await database.readForTenant<{ state: ExecutionState; count: number }>(tenantId, {
        text: `${COUNT_EXECUTIONS} order by state`,
        values: [tenantId, from, to, workflow ?? null],
      });
      counts.push(...rows.map(({ state, count }) => ({ day, state, count })));
    }
    return counts;
  },

  async today() {
    const text = "select to_char(now() at time zone 'UTC', 'YYYY-MM-DD') as today";
    const [row] = await database.acrossTenants<{ today: string }>({ text, values: [] });
    return Temporal.PlainDate.from(row?.today ?? '');
  },
});

const record = (
  database: Database,
  tenantId: string,
  executions: readonly Execution[],
): Promise<RecordedExecutions | { readonly misdated: MisdatedExecutions }> =>
  database.forTenant(tenantId, async (trx) => {
    const bindings = { tenantId, ...toArrays(executions) };
    const [result, after] = await Promise.all([trx.raw(RECORD, bindings), trx.raw(WATERMARK, { tenantId })]);
    const outcome = firstOf<Outcome>(result);
    if (!outcome) throw new Error('the insert answered with no row');
    const moved = firstOf<Watermark>(after);
    if (moved && moved.watermark !== outcome.watermark && reaches(moved, executions)) throw overtaken();
    const { created, updated, passed } = outcome;
    const misdated = {
      created: outcome.misdated_created.map(fromZero),
      started: outcome.misdated_started.map(fromZero),
      finished: outcome.misdated_finished.map(fromZero),
    };
    if (Object.values(misdated).some(({ length }) => length > 0)) return { misdated };
    if (passed.length === 0) return { created, updated, expired: [] };
    const spared = await updatePassed(trx, bindings, passed);
    return {
      created,
      updated: updated + [...spared.values()].filter(Boolean).length,
      expired: passed.filter((n) => !spared.has(n)).map(fromZero),
    };
  });

/** Whether each of those that are still there was changed, by position from 1. */
async function updatePassed(
  trx: TenantTransaction,
  bindings: ReturnType<typeof toArrays> & { readonly tenantId: string },
  passed: readonly number[],
): Promise<ReadonlyMap<number, boolean>> {
  await trx.raw(BY_KEY);
  const rows = rowsOf<{ n: number; changed: boolean }>(await trx.raw(UPDATE_PASSED, { ...bindings, passed }));
  return new Map(rows.map(({ n, changed }) => [n, changed]));
}

const fromZero = (n: number): number => n - 1;

const toArrays = (executions: readonly Execution[]) => ({
  ids: executions.map(({ id }) => id),
  workflows: executions.map(({ workflow }) => workflow),
  statuses: executions.map(({ status }) => status),
  states: executions.map(({ state }) => state),
  startedAts: executions.map(({ startedAt }) => toMicroseconds(startedAt)),
  finishedAts: executions.map(({ finishedAt }) => toMicroseconds(finishedAt)),
  createdAts: executions.map(({ createdAt }) => toMicroseconds(createdAt)),
});

// Exact: 2^53 microseconds last until the year 2255, and beyond it until they are sent as text.
const toMicroseconds = (instant: Temporal.Instant | undefined): string | null =>
  instant ? String(instant.epochNanoseconds / 1_000n) : null;

/** A row without its partition. Such an error names no constraint, unlike one that a check raises. */
const isMonthMissing = (error: unknown): boolean =>
  codeOf(error) === '23514' && (error as { constraint?: string }).constraint === undefined;

const firstOfMonth = (instant: Temporal.Instant): string => `${instant.toString().slice(0, 8)}01`;

const toExecution = (row: ExecutionRow): Execution => ({
  id: row.id,
  workflow: row.workflow,
  status: row.status,
  state: row.state,
  startedAt: row.started_at ?? undefined,
  finishedAt: row.finished_at ?? undefined,
  createdAt: row.created_at,
});
