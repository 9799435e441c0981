import { setTimeout as delay } from 'node:timers/promises';
import type { Knex } from 'knex';

/**
 * What is kept out of a table: `writes` lets others read, for what builds an index or refers to the table; `all` is for
 * what changes the table, drops an index of it, or writes rows of it.
 */
export type LockedOut = 'writes' | 'all';

/** Tables, and what is kept out of each. */
export type TableLocks = Readonly<Record<string, LockedOut>>;

const MODES: Readonly<Record<LockedOut, string>> = {
  // Under it no row is locked but by those who read it for an update; whoever writes rows needs `all`.
  writes: 'share row exclusive',
  all: 'access exclusive',
};
// PostgreSQL's own, and knex's classes for none of them.
const GAVE_UP = new Set(['57014', '55P03', '40P01']);
const SHORTEST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 1_000;

/**
 * Locks the tables for the rest of the transaction, all of them or none. Whoever holds one table and waits for another
 * can be half of a deadlock, and the server ends whoever looks for it first, a call of a service as likely as not; so it
 * gives up and lets go before anybody looks, and tries again. In the pauses between calls go on.
 *
 * An Error naming the tables and who uses them when `waitMs` has passed.
 */
export async function lockTables(trx: Knex, what: string, named: TableLocks, waitMs: number): Promise<void> {
  // Somebody may have taken a table back by hand.
  const { rows: there } = await trx.raw(
    'select name from unnest(cast(? as text[])) name where to_regclass(name) is not null',
    [Object.keys(named)],
  );
  const tables = (there as { name: string }[]).map(({ name }) => name);
  const locks = Object.fromEntries(Object.entries(named).filter(([table]) => tables.includes(table)));
  if (tables.length === 0) return;
  // One statement each for `writes` and `all`, both within what passes before a session looks for a deadlock.
  const { rows } = await trx.raw(
    `select (extract(epoch from current_setting('deadlock_timeout')::interval) * 1000 / 4)::int as "attemptMs"`,
  );
  const attemptMs = Math.max(1, (rows as { attemptMs: number }[])[0]?.attemptMs ?? 0);
  const deadline = performance.now() + waitMs;
  for (let pauseMs = SHORTEST_PAUSE_MS; !(await lockAtOnce(trx, locks, attemptMs)); pauseMs *= 2) {
    if (performance.now() > deadline) {
      const users = await usersOf(trx, tables);
      throw new Error(
        `${what} could not lock ${tables.join(', ')} within ${waitMs / 1_000} s; they are in use by ${users}`,
      );
    }
    await delay(Math.min(pauseMs, LONGEST_PAUSE_MS) * (0.5 + Math.random() / 2));
  }
}

async function lockAtOnce(trx: Knex, locks: TableLocks, attemptMs: number): Promise<boolean> {
  try {
    // A savepoint: to go back to it lets go of what was locked.
    await trx.transaction(async (savepoint) => {
      await savepoint.raw(`set local statement_timeout = ${attemptMs}`);
      for (const lockedOut of ['all', 'writes'] as const) {
        const tables = Object.keys(locks).filter((table) => locks[table] === lockedOut);
        const names = tables.map(() => '??').join(', ');
        if (tables.length > 0) await savepoint.raw(`lock table ${names} in ${MODES[lockedOut]} mode`, tables);
      }
      await savepoint.raw('set local statement_timeout to default');
    });
    return true;
  } catch (error) {
    if (GAVE_UP.has((error as { code?: string }).code ?? '')) return false;
    throw error;
  }
}

async function usersOf(trx: Knex, tables: readonly string[]): Promise<string> {
  const { rows } = await trx.raw(
    `select distinct coalesce(nullif(a.application_name, ''), a.usename) as name, a.pid
     from pg_locks l join pg_stat_activity a on a.pid = l.pid
     where l.granted and l.database = (select oid from pg_database where datname = current_database())
       and l.relation = any(cast(? as regclass[])) and l.pid <> pg_backend_pid() order by 1, 2 limit 5`,
    [[...tables]],
  );
  const users = (rows as { name: string | null; pid: number }[]).map(({ name, pid }) => `"${name}" (process ${pid})`);
  return users.join(', ') || 'transactions that have ended meanwhile';
}
