import { create } from '@bufbuild/protobuf';
import { type Timestamp, TimestampSchema } from '@bufbuild/protobuf/wkt';
import { Code } from '@connectrpc/connect';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import type { StackClients } from '#deploy/local/stack.ts';
import { type Execution, ExecutionSchema, ExecutionState } from '#gen/lethe/run/v1/run_pb.ts';
import { nameOf } from '#libs/cli/output.ts';
import { toTimestamp } from '#libs/grpc/timestamp.ts';
import { newId } from '#libs/kernel/id.ts';
import { queryOnce } from '#test/support/postgres.ts';
import { refusalOf, startTestStack, type TestStack } from '#test/support/test-stack.ts';

const test = anyTest as TestFn<{ stack: TestStack }>;

test.before(async (t) => {
  t.context.stack = await startTestStack({ services: ['run'], foreignParticipants: { nobody: '127.0.0.1:1' } });
});
test.after.always((t) => t.context.stack.dispose());

type T = ExecutionContext<{ stack: TestStack }>;
type NewExecution = Partial<Omit<Execution, '$typeName' | '$unknown'>>;

const runsOf = (t: T, tenantId: string): StackClients['runs'] =>
  t.context.stack.clients({ tenantId, role: 'member' }).runs;
const sql = <Row>(t: T, text: string, values: readonly unknown[] = []): Promise<Row[]> =>
  queryOnce(t.context.stack.superuserUrl('run'), text, values);
const rowsOf = (t: T, tenantId: string): Promise<Record<string, unknown>[]> =>
  sql(
    t,
    'select id, workflow, status, state, started_at, finished_at from executions where tenant_id = $1 order by id',
    [tenantId],
  );
const stamp = (instant: Temporal.Instant): Timestamp => create(TimestampSchema, toTimestamp(instant));
const ago = (hours: number): Timestamp => stamp(Temporal.Now.instant().subtract({ hours }));
const someExecution = (more: NewExecution = {}): Execution =>
  create(ExecutionSchema, { id: newId(), workflow: 'sync', status: 'success', startTime: ago(1), ...more });
// Days beside a border of months, in partitions that are there: the first of the last month, and others around it.
const FIRST = Temporal.Now.plainDateISO('UTC').with({ day: 1 }).subtract({ months: 1 });
const SECOND = FIRST.add({ days: 1 });
const LAST = FIRST.subtract({ days: 1 });
const FIFTH = FIRST.add({ days: 4 });
const EARLIER = FIRST.subtract({ months: 2 });
/** Every execution of a list, page by page; fails when it does not end. */
async function listed(
  t: T,
  runs: StackClients['runs'],
  filter: Parameters<StackClients['runs']['listExecutions']>[0],
): Promise<{ readonly ids: readonly string[]; readonly pages: number }> {
  const ids: string[] = [];
  let pages = 0;
  for (let pageToken = ''; ; ) {
    const page = await runs.listExecutions({ ...filter, pageToken });
    ids.push(...page.executions.map(({ id }) => id));
    pages += 1;
    t.true(pages < 10_000, 'the list ends');
    pageToken = page.nextPageToken;
    if (pageToken === '') return { ids, pages };
  }
}

test('a recorded execution is listed as it was given, and the id of version 7 tells when it was created', async (t) => {
  const runs = runsOf(t, 'as-given');
  const id = newId();
  const startTime = ago(2);
  const finishTime = ago(1);
  const given = { id, workflow: 'sync contacts', status: 'success', startTime, finishTime };
  t.like(await runs.recordExecutions({ executions: [given] }), { createdCount: 1, updatedCount: 0, expiredIds: [] });
  const { executions } = await runs.listExecutions({});
  const createTime = toTimestamp(
    Temporal.Instant.fromEpochMilliseconds(Number(`0x${id.replaceAll('-', '').slice(0, 12)}`)),
  );
  const toMicroseconds = (at: Timestamp) => ({ ...at, nanos: at.nanos - (at.nanos % 1_000) });
  t.deepEqual(executions, [
    create(ExecutionSchema, {
      ...given,
      startTime: toMicroseconds(startTime),
      finishTime: toMicroseconds(finishTime),
      createTime,
      state: ExecutionState.ENDED,
    }),
  ]);
});

test('a batch that is sent again changes nothing, and one of other tenants is not seen', async (t) => {
  const runs = runsOf(t, 'again');
  const executions = Array.from({ length: 1_000 }, () => someExecution());
  t.like(await runs.recordExecutions({ executions }), { createdCount: 1_000, updatedCount: 0 });
  const before = await rowsOf(t, 'again');
  t.like(await runs.recordExecutions({ executions }), { createdCount: 0, updatedCount: 0, expiredIds: [] });
  t.deepEqual(await rowsOf(t, 'again'), before);
  const other = runsOf(t, 'again-2');
  t.like(await other.recordExecutions({ executions: executions.slice(0, 1) }), { createdCount: 1 });
  t.is((await other.listExecutions({})).executions.length, 1);
  t.is((await rowsOf(t, 'again')).length, 1_000);
});

test('an execution is brought up to date, what is left out stays, and no state goes back', async (t) => {
  const runs = runsOf(t, 'states');
  const id = newId();
  const record = async (more: NewExecution) => {
    const { createdCount, updatedCount } = await runs.recordExecutions({
      executions: [{ id, workflow: 'sync', ...more }],
    });
    const [execution] = (await runs.listExecutions({})).executions;
    return { createdCount, updatedCount, execution };
  };
  const { QUEUED, RUNNING, ENDED } = ExecutionState;
  const startTime = stamp(Temporal.Instant.from('2026-11-01T00:00:00.000001Z'));
  const finishTime = stamp(Temporal.Instant.from('2026-11-01T00:00:01Z'));
  t.like(await record({ state: QUEUED }), { createdCount: 1, execution: { state: QUEUED, startTime: undefined } });
  t.like(await record({ state: RUNNING, startTime, status: 'running' }), {
    updatedCount: 1,
    execution: { state: RUNNING, status: 'running' },
  });
  t.like(await record({ state: QUEUED, status: 'waiting' }), { updatedCount: 0, execution: { status: 'running' } });
  t.like(await record({ state: ENDED, status: 'success', finishTime }), {
    updatedCount: 1,
    execution: { state: ENDED, status: 'success', startTime },
  });
  t.like(await record({ state: RUNNING, status: 'running' }), {
    updatedCount: 0,
    execution: { state: ENDED, status: 'success' },
  });
  t.like(await record({}), { updatedCount: 0, execution: { status: 'success', state: ENDED } });
  t.like(await record({ status: 'error' }), { updatedCount: 1, execution: { status: 'error' } });
});

test('a late start fills the gap of an execution that has ended', async (t) => {
  const runs = runsOf(t, 'late-start');
  const id = newId();
  await runs.recordExecutions({ executions: [{ id, workflow: 'sync', status: 'success' }] });
  const startTime = ago(3);
  await runs.recordExecutions({ executions: [{ id, workflow: 'sync', state: ExecutionState.RUNNING, startTime }] });
  const [execution] = (await runs.listExecutions({})).executions;
  t.like(execution, { state: ExecutionState.ENDED, status: 'success' });
  t.is(execution?.startTime?.seconds, startTime.seconds);
});

test('every wrong field of every execution is named, and nothing of the batch is stored', async (t) => {
  const runs = runsOf(t, 'wrong');
  const same = someExecution();
  const refusal = await refusalOf(
    runs.recordExecutions({
      executions: [
        someExecution(),
        create(ExecutionSchema, { id: 'x', status: 'a'.repeat(51) }),
        create(ExecutionSchema, { id: '6ba7b810-9dad-41d1-80b4-00c04fd430c8', workflow: 'w'.repeat(101) }),
        someExecution({ state: ExecutionState.RUNNING, finishTime: ago(1) }),
        someExecution({ state: ExecutionState.QUEUED, startTime: ago(1) }),
        someExecution({ state: 9 as ExecutionState }),
        same,
        same,
        someExecution({ createTime: create(TimestampSchema, { seconds: 1n << 60n }) }),
      ],
    }),
  );
  t.like(refusal, { code: Code.InvalidArgument, reason: 'FIELD_INVALID' });
  t.is(
    refusal.metadata['fields'],
    [
      'executions[1].id',
      'executions[1].workflow',
      'executions[1].status',
      'executions[2].create_time',
      'executions[2].workflow',
      'executions[3].finish_time',
      'executions[4].start_time',
      'executions[5].state',
      'executions[7].id',
      'executions[8].create_time',
    ].join(','),
  );
  t.deepEqual(await rowsOf(t, 'wrong'), []);
});

test('instants that no execution can have are refused by the database’s clock, and nothing of the batch is stored', async (t) => {
  const runs = runsOf(t, 'misdated');
  const refusal = await refusalOf(
    runs.recordExecutions({
      executions: [
        someExecution(),
        someExecution({ createTime: ago(-25) }),
        someExecution({ startTime: ago(-25) }),
        someExecution({ createTime: ago(24 * 366 * 11) }),
        someExecution({ finishTime: ago(-25) }),
        someExecution({ finishTime: create(TimestampSchema, { seconds: 253_402_300_799n, nanos: 999_999_999 }) }),
      ],
    }),
  );
  t.like(refusal, { code: Code.InvalidArgument, reason: 'FIELD_INVALID' });
  t.is(
    refusal.metadata['fields'],
    [
      'executions[1].create_time',
      'executions[3].create_time',
      'executions[2].start_time',
      'executions[4].finish_time',
      'executions[5].finish_time',
    ].join(','),
  );
  t.deepEqual(await rowsOf(t, 'misdated'), []);
  const ahead = someExecution({ createTime: ago(-23), startTime: ago(-23), finishTime: ago(-23) });
  t.like(await runs.recordExecutions({ executions: [ahead] }), { createdCount: 1 });
});

test('an execution of a former version that finishes beyond the year 9999 is listed with the others of its page', async (t) => {
  await sql(
    t,
    `insert into executions (tenant_id, workflow, started_at, finished_at)
     values ('beyond', 'a', now(), '10000-01-01T00:00:00Z'), ('beyond', 'a', now(), now())`,
  );
  const { executions } = await runsOf(t, 'beyond').listExecutions({});
  t.is(executions.length, 2);
  t.true(executions.some(({ finishTime }) => finishTime?.seconds === 253_402_300_799n));
});

test('a batch of none or of more than a thousand is refused, and so many wrong fields that they could not be sent are counted', async (t) => {
  const runs = runsOf(t, 'bounds');
  for (const executions of [[], Array.from({ length: 1_001 }, () => someExecution())]) {
    t.is((await refusalOf(runs.recordExecutions({ executions }))).metadata['fields'], 'executions');
  }
  const worst = Array.from({ length: 1_000 }, () => ({
    id: 'x',
    workflow: '',
    status: 'a'.repeat(51),
    state: 9 as never,
  }));
  const refusal = await refusalOf(runs.recordExecutions({ executions: worst }));
  t.like(refusal, { code: Code.InvalidArgument, reason: 'FIELD_INVALID' });
  t.regex(refusal.message, /executions has 3900 more wrong fields\.$/);
});

test('a month that nobody made is made by the first execution that needs it, by eight callers at once', async (t) => {
  const monthOf = (months: number) => Temporal.Now.zonedDateTimeISO('UTC').subtract({ months });
  const at = (months: number) => stamp(monthOf(months).toInstant());
  const outcomes = await Promise.all(
    Array.from({ length: 8 }, (_, index) =>
      runsOf(t, `months-${index}`).recordExecutions({
        executions: [30, 31, 119].map((months) => someExecution({ createTime: at(months), startTime: at(months) })),
      }),
    ),
  );
  for (const outcome of outcomes) t.is(outcome.createdCount, 3);
  const rows = await sql<{ leaf: string }>(
    t,
    "select distinct tableoid::regclass::text as leaf from executions where tenant_id like 'months-%' order by 1",
  );
  t.deepEqual(
    rows.map(({ leaf }) => leaf),
    [119, 31, 30].map(
      (months) => `executions_${monthOf(months).toPlainDate().toString().slice(0, 7).replace('-', '_')}`,
    ),
  );
});

test('pages of executions a microsecond apart, of one instant and across months miss and repeat nothing', async (t) => {
  const runs = runsOf(t, 'pages');
  await sql(
    t,
    `insert into executions (tenant_id, workflow, started_at, created_at)
     select 'pages', 'w' || n % 3, case when n % 4 > 0 then age end, case when n % 4 > 1 then now() else age end
     from generate_series(0, 999) n, lateral (
       select case when n < 500 then timestamptz '${LAST} 23:59:59.999750Z' + n * interval '1 microsecond'
                   when n < 800 then timestamptz '${EARLIER} 00:00Z' else now() - n * interval '1 hour' end as age) a`,
  );
  // One id and start with three creations: only the last key tells them apart.
  await sql(
    t,
    `insert into executions (tenant_id, id, started_at, created_at)
     select 'pages', '00000000-0000-7000-8000-000000000001', '${EARLIER} 00:00Z',
            timestamptz '${EARLIER} 00:00Z' - interval '2 days' + n * interval '1 day'
     from generate_series(1, 3) n`,
  );
  const order = await sql<{ id: string }>(
    t,
    "select id from executions where tenant_id = 'pages' order by age desc, id desc, created_at desc",
  );
  for (const pageSize of [7, 200]) {
    const { ids } = await listed(t, runs, { pageSize });
    t.deepEqual(
      ids,
      order.map(({ id }) => id),
      `${pageSize} a page`,
    );
  }
  const border = stamp(Temporal.Instant.from(`${FIRST}T00:00:00Z`));
  const before = await listed(t, runs, { beforeTime: border, workflow: 'w1', pageSize: 50 });
  const after = await listed(t, runs, { afterTime: border, workflow: 'w1', pageSize: 50 });
  const [expected] = await sql<{ before: string[]; after: string[] }>(
    t,
    `select array_agg(id::text order by age desc, id desc) filter (where age < '${FIRST} 00:00Z') as before,
            array_agg(id::text order by age desc, id desc) filter (where age >= '${FIRST} 00:00Z') as after
     from executions where tenant_id = 'pages' and workflow = 'w1'`,
  );
  t.deepEqual([before.ids, after.ids], [expected?.before, expected?.after]);
});

test('a filter that matches next to nothing answers in short pages, and finds what there is', async (t) => {
  const runs = runsOf(t, 'needles');
  await sql(
    t,
    `insert into executions (tenant_id, workflow, status, started_at)
     select 'needles', 'hay', case when n in (15000, 24999) then 'needle' else '' end, now() - n * interval '1 second'
     from generate_series(0, 24999) n`,
  );
  const found = await listed(t, runs, { status: 'needle' });
  t.deepEqual([found.ids.length, found.pages], [2, 3]);
  t.deepEqual(await listed(t, runs, { workflow: 'none' }), { ids: [], pages: 3 });
  t.is((await listed(t, runs, { state: ExecutionState.RUNNING, afterTime: ago(1) })).pages, 1);
});

test('a page token goes with the filter, the tenant and the list that it was given for', async (t) => {
  const runs = runsOf(t, 'tokens');
  await runs.recordExecutions({ executions: [someExecution(), someExecution()] });
  const { nextPageToken: pageToken } = await runs.listExecutions({ pageSize: 1 });
  t.is((await runs.listExecutions({ pageSize: 1, pageToken })).executions.length, 1);
  for (const call of [
    runs.listExecutions({ pageToken, workflow: 'sync' }),
    runs.listExecutions({ pageToken: 'x' }),
    runsOf(t, 'tokens-2').listExecutions({ pageToken }),
    runs.listRuns({ pageToken }),
  ]) {
    t.is((await refusalOf(call)).metadata['fields'], 'page_token');
  }
  const wrong = await refusalOf(
    runs.listExecutions({ pageSize: -1, workflow: 'w'.repeat(101), status: 's'.repeat(51), state: 9 as never }),
  );
  t.is(wrong.metadata['fields'], 'page_size,workflow,status,state');
});

test('counts are by day of age and state, over the days that were asked for', async (t) => {
  const runs = runsOf(t, 'counts');
  await sql(
    t,
    `insert into executions (tenant_id, workflow, state, started_at, created_at) values
       ('counts', 'a', 'ENDED', '${FIRST} 00:00:00+00', '${FIFTH}'),
       ('counts', 'a', 'ENDED', '${FIRST} 23:59:59.999999+00', '${FIFTH}'),
       ('counts', 'b', 'RUNNING', '${FIRST} 12:00:00+00', '${FIFTH}'),
       ('counts', 'a', 'QUEUED', null, '${SECOND} 00:00:00+00'),
       ('counts', 'a', 'ENDED', '${LAST} 23:59:59.999999+00', '${FIFTH}'),
       ('counts', 'a', 'ENDED', now(), now())`,
  );
  const count = async (request: Parameters<typeof runs.countExecutions>[0]) =>
    (await runs.countExecutions(request)).counts.map(
      ({ day, state, count: n }) => `${day} ${nameOf(ExecutionState, state)} ${n}`,
    );
  const days = { firstDay: `${FIRST}`, lastDay: `${SECOND}` };
  t.deepEqual(await count(days), [`${FIRST} ENDED 2`, `${FIRST} RUNNING 1`, `${SECOND} QUEUED 1`]);
  t.deepEqual(await count({ ...days, workflow: 'b' }), [`${FIRST} RUNNING 1`]);
  t.deepEqual(await count({ lastDay: `${LAST}` }), [`${LAST} ENDED 1`]);
  t.is((await count({})).at(-1)?.slice(10), ' ENDED 1');
  t.is((await count({ firstDay: `${FIRST.subtract({ days: 30 })}`, lastDay: `${FIRST}` })).length, 3);
  for (const [fields, request] of [
    ['first_day', { firstDay: `${SECOND}`, lastDay: `${FIRST}` }],
    ['last_day', { firstDay: `${FIRST.subtract({ days: 31 })}`, lastDay: `${FIRST}` }],
    ['first_day,last_day', { firstDay: '2026-02-30', lastDay: '1' }],
    ['first_day', { firstDay: '0000-01-01', lastDay: '0001-01-02' }],
    ['last_day', { lastDay: '9999-12-31' }],
    ['last_day', { lastDay: '0001-01-05' }],
  ] as const) {
    t.is((await refusalOf(runs.countExecutions(request))).metadata['fields'], fields);
  }
  t.deepEqual(await count({ firstDay: '9999-12-30', lastDay: '9999-12-30' }), []);
  t.deepEqual(await count({ firstDay: '0001-01-01', lastDay: '0001-01-05' }), []);
});

test('what a purge has removed does not come back, what it spared is brought up to date, what is newer is recorded', async (t) => {
  const tenantId = 'purged';
  const runs = runsOf(t, tenantId);
  const old = (days: number, more: NewExecution = {}): NewExecution =>
    someExecution({ createTime: ago(24 * days), startTime: ago(24 * days), ...more });
  const spared = old(100, { state: ExecutionState.RUNNING, status: '' });
  const gone = [old(95), old(99)];
  const kept = old(10);
  await runs.recordExecutions({ executions: [spared, ...gone, kept] });
  const [purged] = await sql<{ deleted_count: number }>(
    t,
    `select * from cleanup_old_executions('${tenantId}', 90, 0)`,
  );
  t.is(purged?.deleted_count, 2);
  const never = old(98);
  const between = old(94);
  const outcome = await runs.recordExecutions({
    executions: [...gone, kept, never, between, { ...spared, status: 'error', state: ExecutionState.ENDED }, old(1)],
  });
  t.deepEqual(new Set(outcome.expiredIds), new Set([...gone, never].map(({ id }) => id ?? '')));
  t.like(outcome, { createdCount: 2, updatedCount: 1 });
  t.is((await rowsOf(t, tenantId)).length, 4);
  const [ended] = (await runs.listExecutions({ status: 'error' })).executions;
  t.like(ended, { id: spared.id, state: ExecutionState.ENDED });
});

test('viewers read and do not record', async (t) => {
  const viewer = t.context.stack.clients({ tenantId: 'viewers', role: 'viewer' }).runs;
  t.is((await refusalOf(viewer.recordExecutions({ executions: [someExecution()] }))).reason, 'ROLE_TOO_LOW');
  t.deepEqual((await viewer.listExecutions({})).executions, []);
  t.deepEqual((await viewer.countExecutions({})).counts, []);
});
