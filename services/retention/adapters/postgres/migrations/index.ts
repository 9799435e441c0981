import type { Migration } from '#libs/postgres/migrate.ts';
import { retention } from './001-retention.ts';
import { planHistory } from './002-plan-history.ts';
import { purgeQueue } from './003-purge-queue.ts';

/** RetentionService's schema, in order. */
export const retentionMigrations: readonly Migration[] = [retention, planHistory, purgeQueue];
