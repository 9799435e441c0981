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

/** One thing counted three times: before the sample, with all its data there, and after the endings. */
export interface EvidenceRow {
  readonly what: string;
  readonly before: number;
  readonly full: number;
  readonly after: number;
  /** How many the sample must have left behind. */
  readonly expected: number;
}

/** The counts as a table for people. */
export function showEvidence(evidence: readonly EvidenceRow[]): string {
  const table = new Table({
    head: ['what', 'before', 'with the sample', 'after', 'ended'],
    colAligns: ['left', 'right', 'right', 'right', 'right'],
    style: { head: [], border: [] },
  });
  for (const { what, before, full, after } of evidence) table.push([what, before, full, after, full - after]);
  return table.toString();
}
