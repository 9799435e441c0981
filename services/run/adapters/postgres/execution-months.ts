import type { Database } from '#libs/postgres/open-database.ts';
import type { ExecutionMonths } from '../../use-cases/execution-ports.ts';

const MONTHS_AHEAD = 2;

/** The partitions of executions in Postgres. */
export const makeExecutionMonths = (database: Database): ExecutionMonths => ({
  async makeAhead() {
    // Each in a transaction of its own, so that the parent is locked for one at a time.
    for (let ahead = 0; ahead <= MONTHS_AHEAD; ahead += 1) {
      const text = `select make_execution_month((date_trunc('month', now() at time zone 'UTC') + $1 * interval '1 month')::date)`;
      await database.acrossTenants({ text, values: [ahead] });
    }
  },
  async rewriteOne() {
    const [row] = await database.acrossTenants<{
      rewritten_month: string;
      kept_rows: number;
      bytes_before: number;
      bytes_after: number;
    }>({
      text: `select to_char(rewritten_month::timestamp, 'YYYY-MM-DD') as rewritten_month, kept_rows, bytes_before, bytes_after
             from rewrite_execution_month()`,
      values: [],
    });
    if (!row) return undefined;
    const { rewritten_month: month, kept_rows: keptRows, bytes_before: bytesBefore, bytes_after: bytesAfter } = row;
    return { month, keptRows, bytesBefore, bytesAfter };
  },
  async noteEmpty() {
    await database.acrossTenants({ text: 'select note_empty_execution_months()', values: [] });
  },
});
