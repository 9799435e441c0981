import knexOf, { type Knex } from 'knex';

/** One reversible step of a schema. Its name never changes once it has landed. */
export interface Migration {
  readonly name: string;
  /** For what brings migrations of its own: runs before `up`, outside of its transaction, and must be repeatable. */
  prepare?(ownerUrl: string): Promise<void>;
  up(knex: Knex, appRole: string): Promise<void>;
  down(knex: Knex, appRole: string): Promise<void>;
}

/** Which schema to bring where. */
export interface MigrateOptions {
  /** As the owner role: the app role has no right to. */
  readonly ownerUrl: string;
  /** The role that gets its rights on what is created. */
  readonly appRole: string;
  readonly migrations: readonly Migration[];
}

// Any number will do, as long as all who migrate one database use the same one.
const MIGRATION_LOCK = 5_383_000;

/** Applies what is missing, in order. Safe to start many times at once: one does it, the others wait and find it done. */
export const migrateUp = (options: MigrateOptions): Promise<void> =>
  underLock(options, (knex) => knex.migrate.latest(settingsOf(options)));

/** Takes everything back, newest first. Data goes with its tables. */
export const migrateDown = (options: MigrateOptions): Promise<void> =>
  underLock(options, (knex) => knex.migrate.rollback(settingsOf(options), true));

/** A service that would run on a schema it does not know refuses to: an Error naming what is missing. */
export async function assertMigrated(
  acrossTenants: (statement: { text: string; values: readonly unknown[] }) => Promise<{ name: string }[]>,
  migrations: readonly Migration[],
): Promise<void> {
  const applied = await acrossTenants({ text: 'select name from lethe_migrations', values: [] });
  const names = new Set(applied.map(({ name }) => name));
  const missing = migrations.filter(({ name }) => !names.has(name)).map(({ name }) => name);
  if (missing.length > 0) throw new Error(`the database lacks the migrations ${missing.join(', ')}; run migrate first`);
}

async function underLock({ ownerUrl, appRole }: MigrateOptions, work: (knex: Knex) => Promise<unknown>): Promise<void> {
  const lock = knexOf({ client: 'pg', connection: ownerUrl, pool: { min: 0, max: 1 } });
  const knex = knexOf({ client: 'pg', connection: ownerUrl, pool: { min: 0, max: 2 } });
  try {
    // Knex creates its own tables without a lock, so two first starts collide there. A transaction-level lock is
    // released with its transaction, also through a pooler.
    await lock.transaction(async (trx) => {
      await trx.raw('select pg_advisory_xact_lock(?)', [MIGRATION_LOCK]);
      await work(knex);
      await knex.raw('grant select on lethe_migrations to ??', [appRole]);
    });
  } finally {
    await Promise.all([lock.destroy(), knex.destroy()]);
  }
}

const settingsOf = ({ migrations, appRole, ownerUrl }: MigrateOptions): Knex.MigratorConfig => ({
  tableName: 'lethe_migrations',
  disableMigrationsListValidation: false,
  migrationSource: {
    getMigrations: async () => [...migrations],
    getMigrationName: (migration: Migration) => migration.name,
    getMigration: async (migration: Migration) => ({
      up: async (knex: Knex) => {
        await migration.prepare?.(ownerUrl);
        await migration.up(knex, appRole);
      },
      down: (knex: Knex) => migration.down(knex, appRole),
    }),
  },
});
