import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
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
