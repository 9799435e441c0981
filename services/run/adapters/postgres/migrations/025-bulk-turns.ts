import { createBulkDeletionTurns, dropBulkDeletionTurns } from '#libs/bulk-deletion/migrations.ts';
import type { Migration } from '#libs/postgres/migrate.ts';

/** Tenants take turns with their bulk deletions. */
export const bulkTurns: Migration = {
  name: '025-bulk-turns',
  locks: { bulk_deletions: 'all' },
  up: createBulkDeletionTurns,
  down: dropBulkDeletionTurns,
};
