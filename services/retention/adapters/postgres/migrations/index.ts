import type { Migration } from '#libs/postgres/migrate.ts';
import { retention } from './001-retention.ts';

/** RetentionService's schema, in order. */
export const retentionMigrations: readonly Migration[] = [retention];
