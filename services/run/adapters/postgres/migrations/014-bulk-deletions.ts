import { createBulkDeletionTables, dropBulkDeletionTables } from '#libs/bulk-deletion/migrations.ts';
import type { Migration } from '#libs/postgres/migrate.ts';

/** Deletions of everything that a filter matches, with their items. */
export const bulkDeletions: Migration = {
  name: '014-bulk-deletions',
  locks: { deletions: 'all' },
  up: (knex, appRole) => createBulkDeletionTables(knex, appRole, 'deletions'),
  down: (knex) => dropBulkDeletionTables(knex, 'deletions'),
};
