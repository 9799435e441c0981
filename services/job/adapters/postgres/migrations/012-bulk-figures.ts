import { createBulkDeletionFigures, dropBulkDeletionFigures } from '#libs/bulk-deletion/migrations.ts';
import type { Migration } from '#libs/postgres/migrate.ts';

/** What the metrics tell of bulk deletions. */
export const bulkFigures: Migration = {
  name: '012-bulk-figures',
  up: createBulkDeletionFigures,
  down: dropBulkDeletionFigures,
};
