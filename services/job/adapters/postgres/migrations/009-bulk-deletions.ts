import { createBulkDeletionTables, dropBulkDeletionTables } from '#libs/bulk-deletion/migrations.ts';
import type { Migration } from '#libs/postgres/migrate.ts';

/** Deletions of everything that a filter matches, with their items. */
export const bulkDeletions: Migration = {
  name: '009-bulk-deletions',
  locks: { job_deletions: 'all' },
  up: (knex, appRole) => createBulkDeletionTables(knex, appRole, 'job_deletions'),
  down: (knex) => dropBulkDeletionTables(knex, 'job_deletions'),
};
