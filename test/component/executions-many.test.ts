import test from 'ava';
import pg from 'pg';
import { makeTurns } from '#libs/durable/turns.ts';
import { newId } from '#libs/kernel/id.ts';
import { makeOwner } from '#libs/owner/make-owner.ts';
import { makeExecutionMonths } from '#services/run/adapters/postgres/execution-months.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { executions as subject } from '#services/run/adapters/postgres/subjects.ts';
import { startTestPostgres } from '#test/support/postgres.ts';

// A million takes a minute or so; CI takes the time, and what the test shows does not depend on the number.
const ROWS = process.env['LETHE_REQUIRE_ALL'] === '1' ? 1_000_000 : 100_000;
const DAYS = 90;
const MOST_MS = 2_000;
/** What reads, writes and changes of months may hold on the table; the first of these to shut a reader out is stronger. */
const WEAK = ['AccessShareLock', 'RowShareLock', 'RowExclusiveLock', 'ShareUpdateExclusiveLock'];

test('a cleanup of a great many executions is short transactions, holds nobody up, and never locks the table', async (t) => {
  t.timeout(600_000);
  const postgres = await startTestPostgres();
  const created = await postgres.createDatabase(runMigrations);
  const database = created.open({ applicationName: 'purging' });
  const watcher = new pg.Client({ connectionString: created.superuserUrl });
  const neighbour = new pg.Client({ connectionString: created.superuserUrl });
  await Promise.all([watcher.connect(), neighbour.connect()]);
  try {
    await created.query(
      `insert into executions (tenant_id, workflow, status, started_at, created_at)
       select 'many', 'sync', 'success', a, case when n % 3 = 0 then now() else a end
       from generate_series(1, $1::int) n,
            lateral (select now() - interval '91 days' - n * interval '200 days' / $1 as a) a`,
      [ROWS],
    );
    await created.query(
      `insert into executions (tenant_id, workflow, started_at, created_at)
       select 'many', 'young', now() - n * interval '1 minute', now() from generate_series(1, 200) n`,
    );
    const owner = makeOwner({
      database,
      subjects: [subject],
      turns: makeTurns(),
      onPurged: () => undefined,
      maxPauseMs: 3_600_000,
      snapshotAgeMs: 3_600_000,
    });
    const order = { tenantId: 'many', subject, caller: { actor: 'test', subject: 'service:retention' } };
    const rule = {
      retentionDays: DAYS,
      cutoff: undefined,
      latestCutoff: Temporal.Now.instant(),
      minToKeep: 100,
      maxRows: undefined,
      staleAfterDays: 30,
    };
    const limits = { budgetMs: 5_000, signal: new AbortController().signal };

    let isOver = false;
    let longestMs = 0;
    let longestBlockedMs = 0;
    const neighbourPid = (await neighbour.query('select pg_backend_pid() as pid')).rows[0].pid;
    const modes = new Set<string>();
    const watching = (async () => {
      while (!isOver) {
        const { rows } = await watcher.query(
          `select (select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)::float8 * 1000
                   from pg_stat_activity where application_name = 'purging' and state <> 'idle') as ms,
                  (select array_agg(distinct mode) from pg_locks
                   where relation = 'executions'::regclass and pid <> pg_backend_pid()) as modes,
                  (select coalesce(max(extract(epoch from clock_timestamp() - waitstart)), 0)::float8 * 1000
                   from pg_locks where not granted and pid = $1) as blocked`,
          [neighbourPid],
        );
        longestMs = Math.max(longestMs, rows[0].ms);
        longestBlockedMs = Math.max(longestBlockedMs, rows[0].blocked);
        for (const mode of rows[0].modes ?? []) modes.add(mode);
      }
    })();
    let longestWaitMs = 0;
    let updates = 0;
    const updating = (async () => {
      for (; !isOver; updates += 1) {
        const startedAt = performance.now();
        await neighbour.query("update executions set status = $1 where tenant_id = 'many' and workflow = 'young'", [
          `seen ${updates}`,
        ]);
        longestWaitMs = Math.max(longestWaitMs, performance.now() - startedAt);
      }
    })();
    const months = makeExecutionMonths(database);
    let rewritten = 0;
    const keeping = (async () => {
      while (!isOver) {
        await created.query('select pg_stat_force_next_flush()');
        await months.makeAhead();
        // Months further ahead than the service makes them, so that there is something to make while it purges.
        await created.query("select make_execution_month((now() + interval '11 months')::date)");
        if (await months.rewriteOne()) rewritten += 1;
      }
    })();

    const operationId = newId();
    let removed = 0;
    for (let isComplete = false; !isComplete; ) {
      const call = await owner.purge(order, operationId, rule, 50_000, limits);
      isComplete = call.isComplete;
      removed = call.operation.removed;
    }
    const { left } = await owner.end(order, operationId, undefined, limits);
    isOver = true;
    await Promise.all([watching, updating, keeping]);
    while (await months.rewriteOne()) rewritten += 1;

    t.deepEqual([removed, left], [ROWS, 0]);
    const [stay] = await created.query<{ count: number }>('select count(*)::int as count from executions');
    t.is(stay?.count, 200);
    t.true(longestMs < MOST_MS, `a transaction took ${longestMs} ms`);
    // What it waits for others; how long it takes is a matter of the machine, too.
    t.log(`an update waited ${Math.round(longestBlockedMs)} ms for a lock, and took ${Math.round(longestWaitMs)} ms`);
    t.true(longestBlockedMs < MOST_MS, `an update waited ${longestBlockedMs} ms for a lock`);
    t.true(updates > 0);
    t.true(rewritten > 0, 'the disk was given back');
    t.deepEqual(
      [...modes].filter((mode) => !WEAK.includes(mode)),
      [],
    );
  } finally {
    await Promise.all([watcher.end(), neighbour.end()]);
    await database.close();
    await postgres.stop();
  }
});
