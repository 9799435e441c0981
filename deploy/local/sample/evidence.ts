import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import Table from 'cli-table3';
import pg from 'pg';

/** Rows of a table or files of a store that belong to one tenant. */
export type Counts = Readonly<Record<string, number>>;

/** Counts rows by hand-written SQL as the superuser: it shares no code, role or policy with the services. */
export async function countRows(url: string, tables: readonly string[], tenantIds: readonly string[]): Promise<Counts> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const counts: Record<string, number> = {};
    for (const table of tables) {
      const sql = `select count(*)::int as count from ${client.escapeIdentifier(table)} where tenant_id = any($1)`;
      counts[table] = (await client.query<{ count: number }>(sql, [tenantIds])).rows[0]?.count ?? 0;
    }
    return counts;
  } finally {
    await client.end();
  }
}

/** Counts the files below a folder whose path has one of the tenants' names as a segment, by walking it. */
export async function countFiles(folder: string, tenantIds: readonly string[]): Promise<number> {
  const entries = await readdir(folder, { recursive: true }).catch(() => []);
  let count = 0;
  for (const entry of entries) {
    if (!tenantIds.some((tenantId) => entry.split('/').includes(tenantId))) continue;
    if ((await stat(join(folder, entry)).catch(() => undefined))?.isFile()) count += 1;
  }
  return count;
}

/** Counts before the sample, with all its data there, and after the endings. */
export const showEnds = (before: Counts, full: Counts, after: Counts): string =>
  show(
    ['what', 'before', 'with the sample', 'after', 'ended'],
    Object.keys(after).map((what) => {
      const [there = 0, left = 0] = [full[what], after[what]];
      return [what, before[what] ?? 0, there, left, there - left];
    }),
  );

/** Counts at each of several stages. */
export const showStages = (what: string, stages: readonly (readonly [string, Counts])[]): string =>
  show(
    [what, ...stages.map(([stage]) => stage)],
    Object.keys(stages[0]?.[1] ?? {}).map((name) => [name, ...stages.map(([, counts]) => counts[name] ?? 0)]),
  );

/** What a purge kept and took of one tenant's tables. */
export const showKept = (
  title: string,
  tenantId: string,
  tables: readonly string[],
  full: Counts,
  after: Counts,
): string =>
  show(
    [title, 'there', 'kept', 'purged'],
    tables.map((table) => {
      const [there = 0, kept = 0] = [full[`${tenantId}: ${table}`], after[`${tenantId}: ${table}`]];
      return [table, there, kept, there - kept];
    }),
  );

function show(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const table = new Table({
    head: [...head],
    colAligns: head.map((_, index) => (index === 0 ? 'left' : 'right')),
    style: { head: [], border: [], compact: true },
  });
  for (const row of rows) table.push([...row]);
  return table.toString();
}
