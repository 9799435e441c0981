import type { Database } from '#libs/postgres/open-database.ts';
import type { TestDatabase } from './postgres.ts';
import { until } from './test-stack.ts';

/** What was read of one table. */
export interface TableReads {
  /** How many rows were read without an index. */
  readonly scanned: number;
  /** How many entries of indexes were read. */
  readonly looked: number;
}

/** What work as the app role reads of each table, by Postgres' own counts: within functions too, and as it was planned. */
export async function readsBy(
  created: TestDatabase,
  work: (database: Database) => Promise<unknown>,
): Promise<ReadonlyMap<string, TableReads>> {
  const before = await readsOf(created);
  const database = created.open();
  try {
    await work(database);
  } finally {
    await database.close();
  }
  const after = await readsOf(created);
  return new Map(
    [...after].map(([table, { scanned, looked }]) => {
      const was = before.get(table) ?? { scanned: 0, looked: 0 };
      return [table, { scanned: scanned - was.scanned, looked: looked - was.looked }];
    }),
  );
}

async function readsOf(created: TestDatabase): Promise<ReadonlyMap<string, TableReads>> {
  // Each session reports when it ends, and a pooler keeps those that nobody uses.
  await until('the sessions have ended', async () => {
    const open = await created.query(
      `select case when state = 'idle' then pg_terminate_backend(pid) end from pg_stat_activity
       where datname = current_database() and pid <> pg_backend_pid()`,
    );
    return open.length === 0;
  });
  const rows = await created.query<{ name: string; scanned: string; looked: string }>(
    `select s.relname as name, s.seq_tup_read as scanned, coalesce(sum(i.idx_tup_read), 0) as looked
     from pg_stat_user_tables s left join pg_stat_user_indexes i on i.relid = s.relid
     group by s.relid, s.relname, s.seq_tup_read`,
  );
  return new Map(rows.map(({ name, ...row }) => [name, { scanned: Number(row.scanned), looked: Number(row.looked) }]));
}
