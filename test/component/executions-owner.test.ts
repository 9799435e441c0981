import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import fc from 'fast-check';
import pg from 'pg';
import { makeTurns } from '#libs/durable/turns.ts';
import { newId } from '#libs/kernel/id.ts';
import { makeOwner } from '#libs/owner/make-owner.ts';
import type { Owner } from '#libs/owner/owner.ts';
import {
  countExpired,
  type ExpiredRange,
  type Named,
  removeBatch,
  removeRange,
  selectFloor,
  selectLastExpired,
  selectRangeEnd,
  selectSpanEnd,
} from '#libs/owner/statements.ts';
import type { OwnerRule } from '#libs/owner/subject.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import {
  COUNT_EXECUTIONS,
  LIST_EXECUTIONS,
  makeExecutionRepository,
} from '#services/run/adapters/postgres/execution-repository.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { executions as subject } from '#services/run/adapters/postgres/subjects.ts';
import type { Execution, ExecutionState } from '#services/run/domain/execution.ts';
import { startTestPostgres, type TestDatabase, type TestPostgres } from '#test/support/postgres.ts';

interface Context {
  postgres: TestPostgres;
  created: TestDatabase;
  database: Database;
  owner: Owner;
}

const test = anyTest as TestFn<Context>;
type T = ExecutionContext<Context>;

test.before(async (t) => {
  const postgres = await startTestPostgres();
  const created = await postgres.createDatabase(runMigrations);
  const database = created.open();
  Object.assign(t.context, { postgres, created, database, owner: ownerOf(database) });
});
test.after.always(async (t) => {
  await t.context.database?.close();
  await t.context.postgres?.stop();
});

const ownerOf = (database: Database): Owner =>
  makeOwner({
    database,
    subjects: [subject],
    turns: makeTurns(),
    onPurged: () => undefined,
    maxPauseMs: 3_600_000,
    snapshotAgeMs: 3_600_000,
  });

const DAYS = 30;
// Rows are made around it; it is older than the window, as a cutoff that was answered a while ago.
const CUTOFF = Temporal.Now.instant()
  .subtract({ hours: 24 * (DAYS + 2) })
  .round('microsecond');
const RULE: OwnerRule = {
  retentionDays: DAYS,
  cutoff: CUTOFF,
  latestCutoff: Temporal.Now.instant(),
  minToKeep: 0,
  maxRows: undefined,
  staleAfterDays: 1,
};
const limits = () => ({ budgetMs: 10_000, signal: new AbortController().signal });
const orderOf = (tenantId: string) => ({ tenantId, subject, caller: { actor: 'test', subject: 'service:retention' } });

/** Purges to the end in calls of `limit` rows; what went, which is checked against End, after which nothing goes. */
async function purge(t: T, tenantId: string, rule: OwnerRule, limit = 1_000): Promise<number> {
  const { owner } = t.context;
  const operationId = newId();
  for (let calls = 0, before = 0; ; calls += 1) {
    if (calls > 10_000) throw new Error('the purge does not end');
    const { operation, isComplete } = await owner.purge(orderOf(tenantId), operationId, rule, limit, limits());
    if (operation.removed - before > limit) throw new Error(`${operation.removed - before} rows went, not ${limit}`);
    before = operation.removed;
    if (isComplete) break;
  }
  const { operation, left } = await owner.end(orderOf(tenantId), operationId, undefined, limits());
  if (rule.maxRows === undefined) t.is(left, 0);
  return operation.removed;
}

const rowsOf = async (created: TestDatabase, tenantId: string): Promise<string[]> => {
  const rows = await created.query<{ key: string }>(
    "select id || ' ' || created_at as key from executions where tenant_id = $1 order by age, id, created_at",
    [tenantId],
  );
  return rows.map(({ key }) => key);
};

/** What a purge of these rows must leave, in a few lines of SQL that share nothing with the product. */
const expectedOf = (table: string): string => `
  select id || ' ' || created_at as key from (
    select r.*, row_number() over (partition by goes order by age, id, created_at) as turn
    from (select r.*, row_number() over (order by age desc, id desc, created_at desc) > $3::bigint
                      and age < $2 and (state <> 'RUNNING' or coalesce(age < $4, false)) as goes
          from ${table} r where tenant_id = $1) r) r
  where not (goes and turn <= $5::bigint)
  order by age, id, created_at`;

interface Row {
  /** Microseconds after the cutoff. */
  readonly age: number;
  readonly id: number;
  readonly state: ExecutionState;
  readonly created: 'age' | 'now' | 'month before';
  readonly isStarted: boolean;
}

const insertRows = (created: TestDatabase, tenantId: string, rows: readonly Row[]): Promise<unknown> =>
  created.query(
    `insert into executions (tenant_id, id, state, started_at, created_at)
     select $1, cast(lpad(to_hex(r.id), 32, '0') as uuid), r.state, case when r."isStarted" then a.age end,
            case when not r."isStarted" or r.created = 'age' then a.age
                 when r.created = 'now' then now() else a.age - interval '31 days' end
     from jsonb_to_recordset($2::jsonb) as r (age bigint, id int, state text, created text, "isStarted" boolean),
          lateral (select $3::timestamptz + r.age * interval '1 microsecond' as age) a
     on conflict do nothing`,
    [tenantId, JSON.stringify(rows), CUTOFF.toString()],
  );

const DAY_US = 86_400_000_000;
const someRow: fc.Arbitrary<Row> = fc.record({
  age: fc.oneof(
    fc.integer({ min: -3, max: 3 }),
    fc.integer({ min: -3, max: 3 }).map((us) => us - DAY_US),
    fc.integer({ min: -60, max: 30 }).map((days) => days * DAY_US),
  ),
  id: fc.integer({ min: 0, max: 6 }),
  state: fc.constantFrom<ExecutionState>('ENDED', 'ENDED', 'QUEUED', 'RUNNING'),
  created: fc.constantFrom<Row['created']>('age', 'now', 'month before'),
  isStarted: fc.boolean(),
});

test('what remains of random rows is what a few lines of SQL say, and counts say it before', async (t) => {
  let tenants = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(someRow, { maxLength: 60 }),
      fc.record({
        minToKeep: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 70 })),
        maxRows: fc.option(fc.integer({ min: 0, max: 20 }), { nil: undefined }),
        staleAfterDays: fc.option(fc.constant(1), { nil: undefined }),
      }),
      fc.constantFrom(1, 3, 7, 1_000),
      async (rows, more, limit) => {
        tenants += 1;
        const tenantId = `random-${tenants}`;
        await insertRows(t.context.created, tenantId, rows);
        await insertRows(t.context.created, `${tenantId}-2`, rows);
        const before = await rowsOf(t.context.created, tenantId);
        const rule = { ...RULE, ...more };
        const stale = more.staleAfterDays ? CUTOFF.subtract({ hours: 24 * more.staleAfterDays }).toString() : null;
        const most = more.maxRows ?? 1_000_000;
        const expected = await t.context.created.query<{ key: string }>(expectedOf('executions'), [
          tenantId,
          CUTOFF.toString(),
          more.minToKeep,
          stale,
          most,
        ]);
        const counted = await t.context.owner.count(orderOf(tenantId), rule, undefined, 1_000_000, limits());
        t.deepEqual([counted.expired + counted.remaining, counted.undated], [before.length, 0]);
        const removed = await purge(t, tenantId, rule, limit);
        t.deepEqual(
          await rowsOf(t.context.created, tenantId),
          expected.map(({ key }) => key),
        );
        t.is(removed, before.length - expected.length);
        t.is(removed, Math.min(most, counted.expired));
        t.is((await rowsOf(t.context.created, `${tenantId}-2`)).length, before.length, 'another tenant keeps its rows');
      },
    ),
    { numRuns: 25 },
  );
});

test('what cleanup_old_executions leaves of random rows, batch by batch, is what a few lines of SQL say', async (t) => {
  const { created } = t.context;
  // All rows of a run are older than the window by the time that has passed since CUTOFF was made, or younger by far.
  const windowDays = DAYS + 2;
  let tenants = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(someRow, { maxLength: 40 }),
      fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 45 })),
      fc.constantFrom(2, 7, 1_000),
      async (rows, minToKeep, batch) => {
        tenants += 1;
        const tenantId = `by-function-${tenants}`;
        await insertRows(created, tenantId, rows);
        await insertRows(created, `${tenantId}-2`, rows);
        const before = (await rowsOf(created, tenantId)).length;
        const [at] = await created.query<{ cutoff: string; stale: string }>(
          `select c.at::text as cutoff, (c.at - interval '30 days')::text as stale
           from (select now() - $1 * interval '24 hours' as at) c`,
          [windowDays],
        );
        for (let gone = 0, isOver = false; !isOver; ) {
          const expected = await created.query<{ key: string }>(expectedOf('executions'), [
            ...[tenantId, at?.cutoff, minToKeep, at?.stale, batch],
          ]);
          const [answer] = await created.query<{ deleted: number; more: boolean }>(
            `select deleted_count as deleted, (execution_summary->>'may_have_more')::boolean as more
             from cleanup_old_executions($1::text, $2, $3, $4)`,
            [tenantId, windowDays, minToKeep, batch],
          );
          const left = await rowsOf(created, tenantId);
          t.deepEqual(
            left,
            expected.map(({ key }) => key),
          );
          gone += answer?.deleted ?? Number.NaN;
          t.is(gone, before - left.length);
          isOver = answer?.more !== true;
          t.is(answer?.more, answer?.deleted === batch);
        }
        t.is((await rowsOf(created, `${tenantId}-2`)).length, before, 'another tenant keeps its rows');
      },
    ),
    { numRuns: 15 },
  );
});

/** A row that is there before the purges begin, or comes in beside them. */
interface LateRow extends Omit<Row, 'created'> {
  readonly created: Row['created'] | 'years before';
  readonly comes: 'before' | 'by SQL' | 'recorded' | 'recorded late';
  /** If it is RUNNING: it is recorded as ENDED beside the purges. */
  readonly finishes: boolean;
}

const lateRow: fc.Arbitrary<LateRow> = fc
  .tuple(
    someRow,
    fc.record({
      comes: fc.constantFrom<LateRow['comes']>('before', 'before', 'by SQL', 'recorded'),
      isYearsBefore: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
      finishes: fc.boolean(),
    }),
  )
  .map(([row, { isYearsBefore, ...late }]) => ({
    ...row,
    ...late,
    // Of a month that is missing: RecordExecutions makes it, and SQL does not.
    created: isYearsBefore && late.comes === 'recorded' ? 'years before' : row.created,
  }));

/** One of each thing that is to happen beside the purges: chance alone would leave one out in a run of some hundred. */
const oneOfEach: fc.Arbitrary<LateRow[]> = fc.integer({ min: 1, max: 30 }).map((days): LateRow[] => {
  const row = {
    age: days * DAY_US,
    id: 1,
    state: 'RUNNING',
    created: 'age',
    isStarted: true,
    finishes: false,
  } as const;
  return [
    { ...row, comes: 'recorded', created: 'years before' },
    { ...row, comes: 'by SQL' },
    { ...row, comes: 'before', finishes: true },
    { ...row, comes: 'before', age: -row.age, state: 'ENDED' },
    { ...row, comes: 'recorded', age: -row.age, state: 'ENDED' },
    { ...row, comes: 'recorded late', age: -row.age, state: 'ENDED' },
  ];
});

const lateRows: fc.Arbitrary<LateRow[]> = fc
  .tuple(oneOfEach, fc.array(lateRow, { minLength: 20, maxLength: 60 }))
  .map(([some, others]) => [...some, ...others]);

const NOW = Temporal.Now.instant().round('microsecond');

/** Rows of one age come before or after each other, whichever came in first. */
function toExecution({ age, id, state, created, isStarted }: LateRow, index: number): Execution {
  const at = CUTOFF.add({ microseconds: age });
  const createdAt = {
    age: at,
    now: NOW,
    'month before': at.subtract({ hours: 24 * 31 }),
    'years before': at.subtract({ hours: 24 * 365 * (2 + (index % 3)) }),
  }[isStarted ? created : 'age'];
  return {
    id: `0000000${id}-0000-4000-8000-${index.toString(16).padStart(12, '0')}`,
    ...{ workflow: '', status: '', state, finishedAt: undefined },
    startedAt: isStarted ? at : undefined,
    createdAt,
  };
}

const insertBySql = (created: TestDatabase, tenantId: string, { id, state, startedAt, createdAt }: Execution) =>
  created.query('insert into executions (tenant_id, id, state, started_at, created_at) values ($1, $2, $3, $4, $5)', [
    tenantId,
    id,
    state,
    startedAt?.toString() ?? null,
    createdAt.toString(),
  ]);

/** The same rows and changes in a table that no purge touches, by a trigger, so in one transaction with them. */
const REMEMBER = `
  create table remembered (like executions including defaults including generated, primary key (tenant_id, created_at, id));
  create function remember() returns trigger language plpgsql security definer as $$
  begin
    insert into remembered (tenant_id, id, state, started_at, created_at)
    values (new.tenant_id, new.id, new.state, new.started_at, new.created_at)
    on conflict (tenant_id, created_at, id) do update set state = excluded.state;
    return null;
  end $$;
  create trigger remember after insert or update on executions for each row execute function remember()`;

/**
 * How many of the tenant's $2 newest rows, of all that ever came in, are gone. Both tables are read by one snapshot, which
 * must be older than the statement's plan, or the plan may lack a month whose rows the snapshot has.
 */
const BROKEN_FLOOR = `
  select count(*)::int as count
  from (select * from remembered where tenant_id = $1 order by age desc, id desc, created_at desc limit $2) newest
  where not exists (select from executions e
                    where e.tenant_id = $1 and e.id = newest.id and e.created_at = newest.created_at)`;

test('whatever comes in or finishes beside two purges is judged by the same rule, and no floor ever breaks', async (t) => {
  const created = await t.context.postgres.createDatabase(runMigrations);
  await created.query(REMEMBER);
  const database = created.open();
  const watcher = new pg.Client({ connectionString: created.superuserUrl });
  await watcher.connect();
  t.teardown(async () => {
    await watcher.end();
    await database.close();
  });
  const owner = ownerOf(database);
  const repository = makeExecutionRepository(database);
  const seen = { removed: 0, cameBeside: 0, refused: 0, finished: 0, monthsMade: 0, looks: 0, kept: 0 };
  const countMonths = async () => (await created.query('select from execution_months')).length;
  const monthsBefore = await countMonths();
  let tenants = 0;
  await fc.assert(
    fc.asyncProperty(
      lateRows,
      fc.record({
        minToKeep: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 40 })),
        maxRows: fc.option(fc.integer({ min: 0, max: 20 }), { nil: undefined }),
        staleAfterDays: fc.option(fc.constant(1), { nil: undefined }),
      }),
      fc.constantFrom(2, 5, 9, 1_000),
      async (rows, more, limit) => {
        tenants += 1;
        const tenantId = `beside-${tenants}`;
        const all = rows.map((row, index) => ({ ...row, execution: toExecution(row, index) }));
        for (const { execution } of all.filter(({ comes }) => comes === 'before'))
          await insertBySql(created, tenantId, execution);

        const purgeOnce = async (rule: OwnerRule): Promise<number> => {
          const operationId = newId();
          for (let calls = 0; ; calls += 1) {
            if (calls > 1_000) throw new Error('the purge does not end');
            const { operation, isComplete } = await owner.purge(orderOf(tenantId), operationId, rule, limit, limits());
            t.true(operation.removed <= (rule.maxRows ?? Number.POSITIVE_INFINITY));
            if (isComplete) break;
          }
          return (await owner.end(orderOf(tenantId), operationId, undefined, limits())).operation.removed;
        };
        let isOver = false;
        const firstEnd = Promise.withResolvers<void>();
        const purging = async (rule: OwnerRule): Promise<number> => {
          let removed = 0;
          do {
            removed += await purgeOnce(rule);
            firstEnd.resolve();
          } while (!isOver);
          return removed;
        };
        const watching = async (): Promise<void> => {
          while (!isOver) {
            await watcher.query('begin isolation level repeatable read');
            await watcher.query('select from remembered limit 1');
            const { rows: counts } = await watcher.query<{ count: number }>(BROKEN_FLOOR, [tenantId, more.minToKeep]);
            await watcher.query('commit');
            t.is(counts[0]?.count, 0, 'the floor broke');
            seen.looks += 1;
          }
        };
        const comingIn = async (how: LateRow['comes']): Promise<void> => {
          // Purges that a slow machine begins late would have passed nobody, and nobody would be refused.
          if (how === 'recorded late') await firstEnd.promise;
          for (const { execution } of all.filter(({ comes }) => comes === how)) {
            if (how === 'by SQL') await insertBySql(created, tenantId, execution);
            else {
              const outcome = await repository.record(tenantId, [execution]);
              seen.refused += 'expired' in outcome ? outcome.expired.length : 0;
            }
            seen.cameBeside += 1;
          }
        };
        const finishing = async (): Promise<void> => {
          for (const { execution, comes, finishes } of all) {
            if (comes !== 'before' || !finishes || execution.state !== 'RUNNING') continue;
            const outcome = await repository.record(tenantId, [{ ...execution, state: 'ENDED' }]);
            seen.finished += 'updated' in outcome ? outcome.updated : 0;
          }
        };
        const rule = { ...RULE, ...more };
        const whole = { ...rule, maxRows: undefined };
        const purges = [purging(rule), purging(whole)];
        const looking = watching();
        const changes = [comingIn('by SQL'), comingIn('recorded'), comingIn('recorded late'), finishing()];
        await Promise.all(changes).finally(() => {
          isOver = true;
        });
        const [a = 0, b = 0] = await Promise.all(purges);
        await looking;
        const removed = a + b + (await purgeOnce(whole));

        const stale = more.staleAfterDays ? CUTOFF.subtract({ hours: 24 * more.staleAfterDays }).toString() : null;
        const bindings = [tenantId, CUTOFF.toString(), more.minToKeep, stale, 1_000_000];
        const expected = await created.query<{ key: string }>(expectedOf('remembered'), bindings);
        const left = await rowsOf(created, tenantId);
        t.deepEqual(
          left,
          expected.map(({ key }) => key),
        );
        const ever = (await created.query('select from remembered where tenant_id = $1', [tenantId])).length;
        t.is(removed, ever - left.length, 'the sums are true');
        seen.removed += removed;
        seen.kept += left.length;
      },
    ),
    { numRuns: 10, includeErrorInReport: true, endOnFailure: true },
  );
  seen.monthsMade = (await countMonths()) - monthsBefore;
  // Each of them happened, so the property was about something.
  for (const [what, count] of Object.entries(seen)) t.true(count > 0, what);
});

test('executions of one start a microsecond and a month apart go up to the cutoff, whatever the batch', async (t) => {
  const { created } = t.context;
  await created.query(
    `insert into executions (tenant_id, started_at, created_at)
     select 'edges', $1::timestamptz + n * interval '1 microsecond', now() - (n & 3) * interval '31 days'
     from generate_series(-2500, 2499) n`,
    [CUTOFF.toString()],
  );
  t.is(await purge(t, 'edges', RULE, 97), 2_500);
  const [left] = await created.query<{ first: number; count: number }>(
    "select min(age) = $1 as first, count(*)::int as count from executions where tenant_id = 'edges'",
    [CUTOFF.toString()],
  );
  t.like(left, { first: true, count: 2_500 });
});

test('the floor holds while executions are recorded and two purges run at once', async (t) => {
  const tenantId = 'floor';
  const { created, database, owner } = t.context;
  await insertRows(
    created,
    tenantId,
    Array.from({ length: 3_000 }, (_, id) => ({
      age: -id * 1_000_003,
      id,
      state: 'ENDED',
      created: 'age',
      isStarted: true,
    })),
  );
  const repository = makeExecutionRepository(database);
  const floor = 500;
  let isOver = false;
  let least = Number.POSITIVE_INFINITY;
  let recorded = 0;
  const recording = (async () => {
    for (let round = 0; !isOver; round += 1) {
      const age = CUTOFF.subtract({ milliseconds: (round * 7_919) % 3_000_000 });
      const outcome = await repository.record(
        tenantId,
        Array.from({ length: 20 }, () => ({
          id: newId(),
          workflow: 'late',
          status: '',
          state: 'ENDED' as const,
          startedAt: age,
          finishedAt: undefined,
          createdAt: age,
        })),
      );
      if ('created' in outcome) recorded += outcome.created;
    }
  })();
  const watching = (async () => {
    while (!isOver) {
      const [row] = await created.query<{ count: number }>(
        'select count(*)::int as count from executions where tenant_id = $1',
        [tenantId],
      );
      least = Math.min(least, row?.count ?? 0);
    }
  })();
  const rule = { ...RULE, minToKeep: floor };
  const purgeOnce = async (): Promise<number> => {
    const operationId = newId();
    for (let calls = 0; calls < 200; calls += 1) {
      const { operation, isComplete } = await owner.purge(orderOf(tenantId), operationId, rule, 100, limits());
      if (isComplete) return operation.removed;
    }
    return (await owner.end(orderOf(tenantId), operationId, undefined, limits())).operation.removed;
  };
  const removed = (await Promise.all([purgeOnce(), purgeOnce(), purgeOnce()])).reduce((sum, count) => sum + count, 0);
  isOver = true;
  await Promise.all([recording, watching]);
  t.true(least >= floor, `${least} were left`);
  t.is((await rowsOf(t.context.created, tenantId)).length, 3_000 + recorded - removed, 'the sums are true');
  t.true(removed > 0 && recorded > 0);
});

test('what purges remove does not come back, however often it is recorded meanwhile', async (t) => {
  const tenantId = 'comes-back';
  const { database } = t.context;
  const repository = makeExecutionRepository(database);
  const executions = Array.from({ length: 2_000 }, (_, index) => ({
    id: newId(),
    workflow: 'again',
    status: '',
    state: 'ENDED' as const,
    startedAt: CUTOFF.subtract({ seconds: index + 1 }),
    finishedAt: undefined,
    createdAt: CUTOFF.subtract({ seconds: index + 1 }),
  }));
  const batches = Array.from({ length: 4 }, (_, index) => executions.slice(index * 500, (index + 1) * 500));
  for (const batch of batches) await repository.record(tenantId, batch);
  let isOver = false;
  let created = 0;
  const recording = batches.map(async (batch) => {
    while (!isOver) {
      const outcome = await repository.record(tenantId, batch);
      if ('created' in outcome) created += outcome.created;
    }
  });
  t.is(await purge(t, tenantId, RULE, 100), 2_000);
  isOver = true;
  await Promise.all(recording);
  t.deepEqual([created, (await rowsOf(t.context.created, tenantId)).length], [0, 0]);
});

test('a running execution at which a purge has ended is brought up to date, and none just below it is stored', async (t) => {
  const tenantId = 'at-the-end';
  const repository = makeExecutionRepository(t.context.database);
  const someExecution = (secondsBefore: number, state: ExecutionState, startedAt?: Temporal.Instant): Execution => {
    const at = startedAt ?? CUTOFF.subtract({ seconds: secondsBefore });
    return { id: newId(), workflow: 'w', status: '', state, startedAt: at, finishedAt: undefined, createdAt: at };
  };
  const old = Array.from({ length: 2_000 }, (_, index) => someExecution(index + 2, 'ENDED'));
  const running = someExecution(1, 'RUNNING');
  for (let at = 0; at < old.length; at += 500) await repository.record(tenantId, old.slice(at, at + 500));
  await repository.record(tenantId, [running, someExecution(-1, 'ENDED')]);
  t.is(await purge(t, tenantId, RULE, 10_000), 2_000);
  // How far the last range reached depends on how quick the machine was: here it ended at the running one.
  await t.context.created.query(
    `update execution_watermarks w set age = e.age, id = e.id, created_at = e.created_at
     from executions e where w.tenant_id = $1 and e.tenant_id = $1 and e.id = $2`,
    [tenantId, running.id],
  );

  const below = someExecution(0, 'ENDED', running.createdAt.subtract({ microseconds: 1 }));
  const above = someExecution(0, 'ENDED', running.createdAt.add({ microseconds: 1 }));
  const ended: Execution = { ...running, state: 'ENDED', status: 'success', finishedAt: CUTOFF };
  const outcome = await repository.record(tenantId, [below, above, ended]);
  t.deepEqual(outcome, { created: 1, updated: 1, expired: [0] });
  const [row] = await t.context.created.query<{ state: string; status: string }>(
    'select state, status from executions where tenant_id = $1 and id = $2',
    [tenantId, running.id],
  );
  t.deepEqual(row, { state: 'ENDED', status: 'success' });
  t.is(await purge(t, tenantId, RULE), 2, 'both go with the next purge, the one that was recorded late as well');
});

interface Query {
  readonly text: string;
  readonly values: readonly unknown[];
}

const toPositional = ({ text, bindings }: Named): Query => {
  const names = Object.keys(bindings);
  const position = (_: string, name: string): string => `$${names.indexOf(name) + 1}`;
  return { text: text.replace(/(?<!:):(\w+)/g, position), values: Object.values(bindings) };
};

test('every statement is planned by the index for dense, sparse and empty tenants, as the app role', async (t) => {
  const { created } = t.context;
  await created.query(
    `insert into executions (tenant_id, workflow, started_at, created_at)
     select 'dense', 'w' || n % 5, a, case when n % 2 = 0 then a else now() end
     from generate_series(1, 60000) n, lateral (select now() - n * interval '7 minutes' as a) a`,
  );
  await created.query("insert into executions (tenant_id, started_at) values ('sparse', now() - interval '200 days')");
  await created.query('analyze executions');
  const now = Temporal.Now.instant();
  const range = (tenantId: string): ExpiredRange => ({
    tenantId,
    cutoff: now.subtract({ hours: 24 * 90 }),
    stale: now.subtract({ hours: 24 * 120 }),
    floor: [now.subtract({ hours: 24 * 100 }).toString(), newId(), now.toString()],
    after: [now.subtract({ hours: 24 * 400 }).toString(), newId(), now.toString()],
    scan: 1_000,
  });
  const lastOf = (at: Temporal.Instant) => [at.toString(), newId(), at.toString()];
  const ages = [now.subtract({ hours: 24 }).toString(), now.toString()];
  for (const tenantId of ['dense', 'sparse', 'nobody']) {
    const client = new pg.Client({ connectionString: created.appUrl });
    await client.connect();
    try {
      await client.query('begin');
      await client.query("select set_config('lethe.tenant', $1, true)", [tenantId]);
      const byIndex = "select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)";
      const list = [tenantId, null, null, ages[1], newId(), ages[1], 10_000, 'w1', null, null, 51];
      const queries: readonly (readonly [name: string, isOwners: boolean, query: Query])[] = [
        ['list', false, { text: LIST_EXECUTIONS, values: list }],
        ['count', false, { text: COUNT_EXECUTIONS, values: [tenantId, ...ages, null] }],
        ['floor', true, toPositional(selectFloor(subject, tenantId, now, 100))],
        ['count expired', true, toPositional(countExpired(subject, range(tenantId)))],
        ['remove', true, toPositional(removeBatch(subject, range(tenantId), 1_000))],
        ['end of a range', true, toPositional(selectRangeEnd(subject, range(tenantId)))],
        [
          'end of a span',
          true,
          toPositional(selectSpanEnd(subject, range(tenantId), lastOf(now.subtract({ hours: 24 * 300 })), 1e9)),
        ],
        ['last expired', true, toPositional(selectLastExpired(subject, range(tenantId)))],
        ['remove a range', true, toPositional(removeRange(subject, range(tenantId), lastOf(now)))],
      ];
      for (const [name, isOwners, query] of queries) {
        await client.query('savepoint before');
        if (isOwners) await client.query(byIndex);
        const explain = `explain (analyze, buffers off, timing off) ${query.text}`;
        const { rows } = await client.query<{ 'QUERY PLAN': string }>(explain, [...query.values]);
        await client.query('rollback to savepoint before');
        const lines = rows.map((row) => row['QUERY PLAN']);
        const plan = lines.join('\n');
        // Of an empty month there is nothing to look up.
        t.notRegex(plan, /Seq Scan on executions_\d.*cost=0\.00\.\.(?!0\.00)/, `${name} of ${tenantId}`);
        // Conditions on the age are looked up and not filtered; coalesce() would be, under row-level security.
        if (/ on executions_\d/.test(plan)) t.regex(plan, /Index Cond: \(\(?tenant_id = /, `${name} of ${tenantId}`);
        // Of the few rows of a small month the planner may sort what it has filtered, where it is free to.
        for (const [at, line] of isOwners ? lines.entries() : []) {
          if (!/ Filter:.*\bage\b/.test(line) || /\bw\.age\b/.test(line) || /Seq Scan/.test(lines[at - 1] ?? ''))
            continue;
          t.regex(line, /state/, `${name}: ${line}`);
        }
      }
      await client.query('rollback');
    } finally {
      await client.end();
    }
  }
});

test('the removal of a range reads what is in the range, and not what lies behind it', async (t) => {
  const { created } = t.context;
  const tenantId = 'one-bound';
  await created.query(
    `insert into executions (tenant_id, workflow, started_at, created_at)
     select $1, 'w', now() - n * interval '7 minutes', now() - n * interval '7 minutes' from generate_series(1, 60000) n`,
    [tenantId],
  );
  await created.query('vacuum analyze executions');
  const now = Temporal.Now.instant();
  const positionAt = (days: number) => [
    now.subtract({ hours: Math.round(24 * days) }).toString(),
    newId(),
    now.toString(),
  ];
  const range: ExpiredRange = {
    tenantId,
    cutoff: now.subtract({ hours: 24 * 90 }),
    stale: undefined,
    floor: positionAt(91),
    after: positionAt(201),
    scan: 100,
  };
  const client = new pg.Client({ connectionString: created.appUrl });
  await client.connect();
  t.teardown(() => client.end());
  await client.query('begin');
  await client.query("select set_config('lethe.tenant', $1, true), set_config('enable_seqscan', 'off', true)", [
    tenantId,
  ]);
  await client.query("select set_config('enable_bitmapscan', 'off', true)");
  const statements = [selectRangeEnd(subject, range), removeRange(subject, range, positionAt(200.9))];
  for (const { text, values } of statements.map(toPositional)) {
    const { rows } = await client.query(`explain (analyze, timing off, format json) ${text}`, [...values]);
    const { Plan: plan } = rows[0]['QUERY PLAN'][0];
    const pages = plan['Shared Hit Blocks'] + plan['Shared Read Blocks'];
    t.true(pages < 300, `${pages} pages for about 21 rows`);
  }
  await client.query('rollback');
});

test('a purge takes no more than its limit where executions lie far apart, then in a burst, then at one instant', async (t) => {
  const { created } = t.context;
  const tenantId = 'bursts';
  await created.query(
    `insert into executions (tenant_id, workflow, state, started_at)
     select $1, 'w', case when n % 9 = 0 then 'RUNNING' else 'ENDED' end, $2::timestamptz - a
     from generate_series(1, 60000) n, lateral (select case
       when n <= 20000 then interval '2 days' + n * interval '1 minute'
       when n <= 40000 then interval '1 day' + n * interval '1 microsecond'
       else interval '2 hours' end as a) a`,
    [tenantId, CUTOFF.toString()],
  );
  const expected = await created.query<{ count: number }>(
    `select count(*)::int as count from executions
     where tenant_id = $1 and (state <> 'RUNNING' or started_at < $2::timestamptz - interval '1 day')`,
    [tenantId, CUTOFF.toString()],
  );
  // As often as it takes a replica's batches to grow to thousands of rows.
  const [operationId, limit] = [newId(), 6_000];
  let removed = 0;
  for (let calls = 0; ; calls += 1) {
    const { operation, isComplete } = await t.context.owner.purge(
      orderOf(tenantId),
      operationId,
      RULE,
      limit,
      limits(),
    );
    t.true(operation.removed - removed <= limit, `${operation.removed - removed} rows`);
    removed = operation.removed;
    if (isComplete) break;
    t.true(calls < 100);
  }
  t.is(removed, expected[0]?.count ?? 0);
  const left = await created.query<{ count: number }>(
    "select count(*)::int as count from executions where tenant_id = $1 and state <> 'RUNNING'",
    [tenantId],
  );
  t.is(left[0]?.count, 0);
});

test('the floor is found anew where its rows are removed by somebody else in the middle of a purge', async (t) => {
  const { created, owner } = t.context;
  const tenantId = 'floor-removed';
  await created.query(
    `insert into executions (tenant_id, workflow, started_at)
     select $1, 'w', $2::timestamptz - n * interval '1 hour' from generate_series(1, 40) n`,
    [tenantId, CUTOFF.toString()],
  );
  const [operationId, rule] = [newId(), { ...RULE, minToKeep: 10 }];
  const first = await owner.purge(orderOf(tenantId), operationId, rule, 5, limits());
  t.is(first.operation.removed, 5);
  await created.query(
    `delete from executions where tenant_id = $1 and started_at >= $2::timestamptz - interval '8 hours'`,
    [tenantId, CUTOFF.toString()],
  );
  for (let isComplete = false; !isComplete; )
    ({ isComplete } = await owner.purge(orderOf(tenantId), operationId, rule, 5, limits()));
  const rows = await created.query<{ hours: number }>(
    `select (extract(epoch from $2::timestamptz - started_at) / 3600)::int as hours
     from executions where tenant_id = $1 order by 1`,
    [tenantId, CUTOFF.toString()],
  );
  t.deepEqual(
    rows.map(({ hours }) => hours),
    Array.from({ length: 10 }, (_, index) => 9 + index),
  );
});
