import type { Database } from './open-database.ts';

/** What a function of the schema counts or measures over all tenants; 0 where it has nothing to tell. */
export async function readFigure(database: Database, name: string): Promise<number> {
  const [row] = await database.acrossTenants<{ figure: string | number }>({
    text: `select ${name}() as figure`,
    values: [],
  });
  return Number(row?.figure ?? 0);
}
