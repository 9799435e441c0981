import type { Migration } from '#libs/postgres/migrate.ts';
import { drift } from './001-drift.ts';
import { purgeReceipts } from './002-purge-receipts.ts';

/** IncidentService's schema, in order. */
export const incidentMigrations: readonly Migration[] = [drift, purgeReceipts];
