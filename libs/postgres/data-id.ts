import type { Database } from './open-database.ts';

/**
 * The id that a database was given when it was first migrated; no other database has it, unless it is a copy of this. Read
 * anew each time: another server may have taken the place of this one, behind the same address.
 */
export function makeDataId(database: Pick<Database, 'acrossTenants'>): () => Promise<string> {
  return async () => {
    const [row] = await database.acrossTenants<{ id: string }>({
      text: 'select id::text as id from lethe_installation',
      values: [],
    });
    if (!row) throw new Error('lethe_installation has no row');
    return row.id;
  };
}
