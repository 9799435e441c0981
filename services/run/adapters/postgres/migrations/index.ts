import type { Migration } from '#libs/postgres/migrate.ts';
import { runs } from './001-runs.ts';

/** RunService's schema, in order. */
export const runMigrations: readonly Migration[] = [runs];
