import knexOf, { type Knex } from 'knex';
import { distributeTables } from './distribute.ts';
import { giveFirstStatistics } from './first-statistics.ts';
import { lockTables, type TableLocks } from './lock-tables.ts';
import { SILENT } from './tenant-transaction.ts';

/** One reversible step of a schema. Its name never changes once it has landed. */
export interface Migration {
  readonly name: string;
  up(knex: Knex, appRole: string): Promise<void>;
  down(knex: Knex, appRole: string): Promise<void>;
  /**
   * The tables of earlier migrations that it keeps calls out of; a test compares. They are locked before it begins, and on
   * its way back against everything.
   */
  readonly locks?: TableLocks;
  /** Runs at the end of every migration upwards, also where nothing was missing; must be repeatable. */
  afterEveryUp?(knex: Knex): Promise<void>;
}

/** Which schema to bring where. */
export interface MigrateOptions {
  /** As the owner role: the app role has no right to. */
  readonly ownerUrl: string;
  /** The role that gets its rights on what is created. */
  readonly appRole: string;
  readonly migrations: readonly Migration[];
  /** Whether the tables lie on one server, the default, or over a Citus cluster whose coordinator `ownerUrl` reaches. */
  readonly distributed?: 'off' | 'citus';
  /** How long one migration waits for the tables that it locks: by default a minute. */
  readonly lockWaitMs?: number;
}

// Any number will do, as long as all who migrate one database use the same one.
const MIGRATION_LOCK = 5_383_000;

/**
 * Applies what is missing, in order. Safe to start many times at once: one does it, the others wait and find it done. Safe
 * beside services at work: each migration is a transaction of its own, and none waits for one table while it holds another.
 */
export const migrateUp = (options: MigrateOptions): Promise<void> =>
  underLock(options, async (knex) => {
    // All at once would be one transaction.
    for (let applied = ['']; applied.length > 0; ) [, applied] = await knex.migrate.up(settingsOf(options));
    for (const { afterEveryUp } of options.migrations) await afterEveryUp?.(knex);
    await giveFirstStatistics(knex);
    if (options.distributed === 'citus') await distributeTables(knex);
  });

/** Takes everything back, newest first, or nothing. Data goes with its tables. */
export const migrateDown = (options: MigrateOptions): Promise<void> =>
  underLock(options, (knex) => knex.transaction((trx) => trx.migrate.rollback(settingsOf(options), true)));

/** What a step back needs to be told. */
export interface StepDownOptions extends MigrateOptions {
  /** The id of the installation that the operator means, as `readInstallation` answers it. */
  readonly installationId: string;
  /** Whether tables and columns that hold data may go. */
  readonly deletesData: boolean;
}

/**
 * Takes back the newest migration alone, and answers its name; undefined when none is left. An Error when the database
 * is another installation than the one named, and, unless `deletesData`, when a table with rows or a column of one
 * would go: then nothing has changed.
 */
export async function migrateOneDown(options: StepDownOptions): Promise<string | undefined> {
  const installation = await readInstallation(options);
  if (installation.id !== options.installationId) {
    throw new Error(`the database ${installation.database} is installation ${installation.id}, not the one named`);
  }
  let undone: string | undefined;
  await underLock(options, async (knex) => {
    // Knex makes its lock, the step and the step's record three transactions, of which a process that dies leaves some.
    const settings = settingsOf(options, options.deletesData ? undefined : refuseToDelete);
    const [, names] = (await knex.transaction((trx) => trx.migrate.down(settings))) as [number, string[]];
    undone = names[0];
  });
  return undone;
}

/** A database that migrations were applied to. */
export interface Installation {
  /** Made with the first migration and never changed: a UUID. */
  readonly id: string;
  /** The database's name. */
  readonly database: string;
  /** The migrations applied, oldest first. */
  readonly migrations: readonly string[];
}

/** Which database the URL reaches, read as its owner; an Error where nothing was ever migrated there. */
export async function readInstallation({ ownerUrl }: Pick<MigrateOptions, 'ownerUrl'>): Promise<Installation> {
  const knex = knexOf({ client: 'pg', connection: ownerUrl, pool: { min: 0, max: 1 } });
  try {
    const { rows: known } = await knex.raw("select to_regclass('public.lethe_installation') is not null as is_there");
    if (!known[0].is_there) throw new Error('nothing was ever migrated in this database; see that the URL is right');
    const { rows } = await knex.raw(`
      select i.id, current_database() as database,
             array(select name::text from lethe_migrations order by lethe_migrations.id) as migrations
      from lethe_installation i`);
    return rows[0];
  } finally {
    await knex.destroy();
  }
}

/** How a database's schema compares with what a program knows. */
export interface SchemaComparison {
  /** Migrations that the program needs and the database lacks. */
  readonly missing: readonly string[];
  /** Migrations of the database that the program has never heard of: a later version has migrated it. */
  readonly unknown: readonly string[];
}

type AcrossTenants = (statement: { text: string; values: readonly unknown[] }) => Promise<unknown[]>;

/** Compares the schema with the migrations that a program has. A database that was never migrated lacks all of them. */
export async function compareSchema(
  acrossTenants: AcrossTenants,
  migrations: readonly Migration[],
): Promise<SchemaComparison> {
  // While the first migration is under way the table is there and nobody may read it yet.
  const [table] = (await acrossTenants({
    text: `select coalesce(has_table_privilege(to_regclass('public.lethe_migrations'), 'select'), false) as is_readable`,
    values: [],
  })) as { is_readable: boolean }[];
  const applied = table?.is_readable
    ? ((await acrossTenants({ text: 'select name from lethe_migrations', values: [] })) as { name: string }[])
    : [];
  const names = new Set(applied.map(({ name }) => name));
  const known = new Set(migrations.map(({ name }) => name));
  return {
    missing: [...known].filter((name) => !names.has(name)),
    unknown: [...names].filter((name) => !known.has(name)),
  };
}

/**
 * Refuses a role that row-level security does not bind: an Error naming why. It would show one tenant's rows to
 * another the moment a predicate is forgotten.
 */
export async function assertBoundByRowSecurity(acrossTenants: AcrossTenants): Promise<void> {
  const [role] = (await acrossTenants({
    text: `select current_user as name, r.rolsuper or r.rolbypassrls as bypasses,
                  exists (select from pg_class c where c.relnamespace = 'public'::regnamespace
                            and c.relkind in ('r', 'p') and pg_has_role(c.relowner, 'usage')) as owns
           from pg_roles r where r.rolname = current_user`,
    values: [],
  })) as { name: string; bypasses: boolean; owns: boolean }[];
  const why = role?.bypasses ? 'bypasses row-level security' : role?.owns ? 'owns the tables' : undefined;
  if (why) throw new Error(`LETHE_DATABASE_URL connects as ${role?.name}, which ${why}; use the app role`);
}

async function underLock({ ownerUrl, appRole }: MigrateOptions, work: (knex: Knex) => Promise<unknown>): Promise<void> {
  const lock = knexOf({ client: 'pg', connection: ownerUrl, pool: { min: 0, max: 1 } });
  const knex = knexOf({ client: 'pg', connection: ownerUrl, pool: { min: 0, max: 2 }, log: SILENT });
  try {
    // Knex creates its own tables without a lock, so two first starts collide there. A transaction-level lock is
    // released with its transaction, also through a pooler.
    await lock.transaction(async (trx) => {
      await trx.raw('select pg_advisory_xact_lock(?)', [MIGRATION_LOCK]);
      await work(knex);
      await knex.raw(`
        create table if not exists lethe_installation (
          id uuid not null default gen_random_uuid(), is_only boolean primary key default true check (is_only));
        insert into lethe_installation default values on conflict do nothing;
      `);
      await knex.raw('grant select on lethe_migrations, lethe_installation to ??', [appRole]);
    });
  } finally {
    await Promise.all([lock.destroy(), knex.destroy()]);
  }
}

/** What holds data: tables with rows, and their columns. */
async function holdersOfData(knex: Knex): Promise<ReadonlySet<string>> {
  const { rows } = await knex.raw(`
    select c.oid::regclass::text as "table", array(
             select a.attname::text from pg_attribute a
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '') as columns
    from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
      and c.relname not like 'lethe\\_migrations%' and c.relname <> 'lethe_installation'`);
  const holders = new Set<string>();
  for (const { table, columns } of rows as { table: string; columns: string[] }[]) {
    // The name comes quoted from the catalog.
    const { rows: found } = await knex.raw(`select exists (select from ${table.replaceAll('?', '\\?')}) as has_rows`);
    if (!found[0].has_rows) continue;
    holders.add(table);
    for (const column of columns) holders.add(`${table}.${column}`);
  }
  return holders;
}

/** Runs a step back, and undoes it by an Error when it took something that holds data. */
async function refuseToDelete(knex: Knex, name: string, down: () => Promise<void>): Promise<void> {
  const before = await holdersOfData(knex);
  await down();
  const { rows } = await knex.raw(`
    select c.oid::regclass::text as name from pg_class c where c.relnamespace = 'public'::regnamespace
    union all
    select c.oid::regclass::text || '.' || a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.relnamespace = 'public'::regnamespace and a.attnum > 0 and not a.attisdropped`);
  const after = new Set((rows as { name: string }[]).map((row) => row.name));
  const lost = [...before].filter((holder) => !after.has(holder));
  const tables = lost.filter((holder) => !holder.includes('.'));
  const columns = lost.filter((holder) => holder.includes('.') && !tables.includes(holder.split('.')[0] ?? ''));
  if (lost.length > 0) {
    throw new Error(
      `taking ${name} back would delete data in ${[...tables, ...columns].join(', ')}; nothing was changed`,
    );
  }
}

type AroundDown = (knex: Knex, name: string, down: () => Promise<void>) => Promise<void>;

const LOCK_WAIT_MS = 60_000;

const settingsOf = (
  { migrations, appRole, lockWaitMs = LOCK_WAIT_MS }: MigrateOptions,
  aroundDown: AroundDown = (_knex, _name, down) => down(),
): Knex.MigratorConfig => ({
  tableName: 'lethe_migrations',
  disableMigrationsListValidation: false,
  migrationSource: {
    getMigrations: async () => [...migrations],
    getMigrationName: (migration: Migration) => migration.name,
    getMigration: async ({ name, locks = {}, up, down }: Migration) => ({
      async up(knex: Knex) {
        await lockTables(knex, name, locks, lockWaitMs);
        await up(knex, appRole);
      },
      async down(knex: Knex) {
        const tables = Object.keys(locks).map((table) => [table, 'all'] as const);
        await lockTables(knex, name, Object.fromEntries(tables), lockWaitMs);
        await aroundDown(knex, name, () => down(knex, appRole));
      },
    }),
  },
});
