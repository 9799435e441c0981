import type { Database } from '#libs/postgres/open-database.ts';

/** What an operator is alerted by, over all tenants. */
export interface PurgeHealth {
  /** The second since 1970 at which the last purge of all tenants ended; of the schema's making where there was none. */
  lastPurgeSeconds(): Promise<number>;
  /** How many tenants have a purge that waits for approval. */
  heldPurges(): Promise<number>;
  /** How many tenants have data and neither a plan nor a policy. */
  unplannedTenants(): Promise<number>;
  /** For how many seconds expired rows may have been waiting, by subject; 0 where none do. */
  overdueSeconds(): Promise<ReadonlyMap<string, number>>;
}

/** Makes PurgeHealth over RetentionService's database. */
export const makePurgeHealth = (database: Database): PurgeHealth => {
  const figure = async (text: string): Promise<number> => {
    const [row] = await database.acrossTenants<{ figure: string | number }>({ text, values: [] });
    return Number(row?.figure ?? 0);
  };
  return {
    lastPurgeSeconds: () => figure('select last_purge_seconds() as figure'),
    heldPurges: () => figure('select held_purges() as figure'),
    unplannedTenants: () => figure('select count_unplanned_tenants() as figure'),
    async overdueSeconds() {
      const rows = await database.acrossTenants<{ subject: string; seconds: number }>({
        text: 'select subject, seconds from overdue_subjects()',
        values: [],
      });
      return new Map(rows.map(({ subject, seconds }) => [subject, seconds]));
    },
  };
};
