import { readFile } from 'node:fs/promises';
import anyTest, { type TestFn } from 'ava';
import knexOf from 'knex';
import pg from 'pg';
import { placementsOf } from '#libs/postgres/distribute.ts';
import { type Migration, migrateUp } from '#libs/postgres/migrate.ts';
import { incidentMigrations } from '#services/incident/adapters/postgres/migrations/index.ts';
import { jobMigrations } from '#services/job/adapters/postgres/migrations/index.ts';
import { retentionMigrations } from '#services/retention/adapters/postgres/migrations/index.ts';
import { runMigrations } from '#services/run/adapters/postgres/migrations/index.ts';
import { startTestPostgres, type TestPostgres } from '#test/support/postgres.ts';

const test = anyTest as TestFn<{ postgres: TestPostgres }>;

const SERVICES: Readonly<Record<string, readonly Migration[]>> = {
  run: runMigrations,
  job: jobMigrations,
  incident: incidentMigrations,
  retention: retentionMigrations,
};

interface Source {
  readonly name: string;
  readonly source: string;
  readonly isTrigger: boolean;
}

test.before(async (t) => {
  t.context.postgres = await startTestPostgres();
});
test.after.always((t) => t.context.postgres.stop());

/**
 * The primary keys of the tables with a tenant, each with its columns in order, and the indexes that begin with the first
 * two of them: what else has these is one run's or one job's, not a tenant's.
 */
const PRIMARY_KEYS = `
  with keys as (
    select con.conrelid as id, con.conrelid::regclass::text as table, con.conkey[:2] as numbers,
           (select array_agg(a.attname::text order by k.at) from unnest(con.conkey) with ordinality k (number, at)
              join pg_attribute a on a.attrelid = con.conrelid and a.attnum = k.number) as columns
    from pg_constraint con join pg_class c on c.oid = con.conrelid
    where con.contype = 'p' and c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and not c.relispartition
      and exists (select from pg_attribute t where t.attrelid = c.oid and t.attname = 'tenant_id'))
  select k.table, k.columns,
         (select array_agg(i.indexrelid::regclass::text) from pg_index i
          where i.indrelid = k.id and i.indpred is null
            and (i.indkey::int2[])[0:cardinality(k.numbers) - 1] @> k.numbers) as indexes
  from keys k order by 1`;

/** The tables that belong to the installation; all others are the tenants'. */
const INSTALLATION: Readonly<Record<string, readonly string[]>> = {
  run: ['execution_months', 'installation_audit', 'owner_data', 'participants', 'workflow_declarations'],
  job: ['installation', 'installation_audit', 'orphan_reports'],
  incident: ['installation_audit', 'owner_data'],
  retention: [
    ...['installation_audit', 'plan_requests', 'plan_windows', 'plans', 'purge_stops', 'retention_purges'],
    ...['schedules', 'subject_nights', 'subjects', 'tenant_sweeps'],
  ],
};

const WITHOUT_TENANT = `
  select c.relname::text as table from pg_class c
  where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
    and c.relname not like 'lethe%'
    and not exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id') order by 1`;

/** The keys of tenants' tables of which the tenant is not the first column, and such tables without a key. */
const KEYS_OVER_TENANTS = `
  with tenants as (
    select c.oid as id, a.attnum as number from pg_class c
      join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p'))
  select i.indexrelid::regclass::text as name from tenants t join pg_index i on i.indrelid = t.id
  where i.indisunique and i.indkey[0] <> t.number
  union all
  select con.conname from pg_constraint con left join tenants t on t.id = con.conrelid
    left join tenants f on f.id = con.confrelid
  where con.contype = 'f' and con.connamespace = 'public'::regnamespace
    and (con.conkey[1] is distinct from coalesce(t.number, con.conkey[1])
      or con.confkey[1] is distinct from coalesce(f.number, con.confkey[1]) or (t.id is null) <> (f.id is null))
  union all
  select t.id::regclass::text from tenants t
  where not exists (select from pg_index i where i.indrelid = t.id and i.indisprimary)
  order by 1`;

/** What functions and triggers do, and the table of each statement that writes or locks. */
const SOURCES = `
  select p.oid::regprocedure::text as name, p.prosrc as source, p.prorettype = 'trigger'::regtype as "isTrigger"
  from pg_proc p where p.pronamespace = 'public'::regnamespace`;
const LOCKS = /(?<!distinct )\bfrom (\w+)(?:(?!(?<!distinct )\bfrom\b)[^;])*\bfor (?:no key |key )?(?:update|share)\b/g;
const WRITES = /\b(?:update|delete from|insert into) (\w+)[^;]*/g;

const LEASE_WORDS = ['due_at', 'lease_owner', 'lease_token', 'attempts', 'last_error', 'parked_at'];
// What says who has a row and until when.
const OF_LEASE =
  /^(?:lease|claim|lock|fenc)[a-z_]*_(?:token|until|expires_at)$|^(?:lease|claim|lock)_owner$|^(?:leased|locked)_(?:by|at)$/;
// What says when there is something to do, or how often it was tried.
const OF_WORK = /^(?:due|parked)_|attempt/;
const LEASED = `
  select c.relname::text as table, array_agg(a.attname::text) as columns
  from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
  group by c.oid having bool_or(a.attname ~ '${OF_LEASE.source}') order by 1`;
/** The older tables of a service that CONTRIBUTING lists, each with the columns that it has for the words. */
async function olderLeased(service: string): Promise<ReadonlyMap<string, readonly string[]>> {
  const text = await readFile(new URL('../../.github/CONTRIBUTING.md', import.meta.url), 'utf8');
  const rows = [...text.matchAll(new RegExp(`^\\| \`${service}\\.(\\w+)\`(.*)$`, 'gm'))];
  return new Map(
    rows.map(([, table = '', cells = '']) => [table, [...cells.matchAll(/`(\w+)`/g)].map(([, name = '']) => name)]),
  );
}

test('a column that leases a row is known by its name, whatever else it is called', (t) => {
  for (const column of ['claim_token', 'claimed_until', 'lease_expires_at', 'locked_by']) t.regex(column, OF_LEASE);
  for (const column of ['next_attempt_at', 'due_since', 'parked_reason']) t.regex(column, OF_WORK);
  for (const column of ['claimed_owner', 'claim_request_id', 'last_seen_at']) t.notRegex(column, OF_LEASE);
});

for (const [service, migrations] of Object.entries(SERVICES)) {
  test(`${service}: a table of which workers lease rows has the words for it, or those that CONTRIBUTING lists`, async (t) => {
    const created = await t.context.postgres.createDatabase(migrations);
    const older = await olderLeased(service);
    const leased = await created.query<{ table: string; columns: string[] }>(LEASED);
    t.deepEqual(
      [...older.keys()].filter((name) => !leased.some(({ table }) => table === name)),
      [],
      'what is listed is there',
    );
    for (const { table, columns } of leased) {
      const words = older.get(table) ?? LEASE_WORDS;
      t.deepEqual(
        words.filter((word) => !columns.includes(word)),
        [],
        `${table} has them`,
      );
      t.deepEqual(
        columns.filter((column) => (OF_LEASE.test(column) || OF_WORK.test(column)) && !words.includes(column)),
        [],
        `${table} has no others`,
      );
    }
  });

  test(`${service}: keys begin with the tenant, and no foreign key leaves one tenant's tables`, async (t) => {
    const created = await t.context.postgres.createDatabase(migrations);
    const shared = await created.query<{ table: string }>(WITHOUT_TENANT);
    t.deepEqual(
      shared.map(({ table }) => table),
      INSTALLATION[service],
    );
    t.deepEqual(await created.query(KEYS_OVER_TENANTS), []);
  });

  test(`${service}: no trigger writes and no function locks over tenants`, async (t) => {
    const created = await t.context.postgres.createDatabase(migrations);
    const faults: string[] = [];
    for (const { name, source, isTrigger } of await created.query<Source>(SOURCES)) {
      for (const [statement, table = ''] of source.matchAll(LOCKS)) {
        if (!statement.includes('tenant_id') && !INSTALLATION[service]?.includes(table))
          faults.push(`${name}: ${table}`);
      }
      if (!isTrigger) continue;
      for (const [statement] of source.matchAll(WRITES)) {
        if (!/tenant_id = (?:old|new)\.tenant_id/.test(statement)) faults.push(`${name}: ${statement}`);
      }
    }
    t.deepEqual(faults, []);
  });

  test(`${service}: over a Citus cluster, what a tenant has lies together, after what it refers to`, async (t) => {
    const created = await t.context.postgres.createDatabase(migrations);
    const knex = knexOf({ client: 'pg', connection: created.ownerUrl, pool: { min: 0, max: 1 } });
    try {
      const placements = await placementsOf(knex);
      for (const { statement } of placements) t.log(statement);
      const order = placements.map(({ table }) => table);
      const shared = INSTALLATION[service] ?? [];
      t.deepEqual(order.slice(0, shared.length).toSorted(), shared);
      const tables = await created.query<{ name: string }>(
        `select relname::text as name from pg_class where relnamespace = 'public'::regnamespace
           and relkind in ('r', 'p') and not relispartition and relname not like 'lethe%' order by 1`,
      );
      t.deepEqual(
        order.toSorted(),
        tables.map(({ name }) => name),
      );
      for (const { child, parent } of await created.query<{ child: string; parent: string }>(
        `select conrelid::regclass::text as child, confrelid::regclass::text as parent from pg_constraint
         where contype = 'f' and connamespace = 'public'::regnamespace`,
      ))
        t.true(order.indexOf(parent) < order.indexOf(child), `${parent} before ${child}`);
      const ofTenants = placements.slice(shared.length).map(({ statement }) => statement);
      t.is(ofTenants.filter((statement) => statement.includes("colocate_with => 'none'")).length, 1);
      const [first, ...others] = order.slice(shared.length);
      t.true(ofTenants[0]?.endsWith(`create_distributed_table('${first}', 'tenant_id', colocate_with => 'none')`));
      t.true(
        ofTenants.slice(1).every((statement) => statement.endsWith(`, 'tenant_id', colocate_with => '${first}')`)),
      );
      // What a later migration adds comes to the others.
      const added = await placementsOf(knex, new Set([...shared, ...others]));
      t.deepEqual(
        added.map(({ table }) => table),
        [first],
      );
      t.regex(added[0]?.statement ?? '', /colocate_with => '(?!none)\w+'/);
      t.deepEqual(await placementsOf(knex, new Set(order)), []);
    } finally {
      await knex.destroy();
    }
  });

  test(`${service}: a table that is minutes old is looked up by its key, as one with statistics is`, async (t) => {
    const created = await t.context.postgres.createDatabase(migrations);
    const keys = await created.query<{ table: string; columns: string[]; indexes: string[] }>(PRIMARY_KEYS);
    t.true(keys.length > 1);
    const app = new pg.Client({ connectionString: created.appUrl });
    await app.connect();
    try {
      await app.query("set lethe.tenant = 'acme'");
      const others: string[] = [];
      for (const { table, columns, indexes } of keys) {
        const matches = columns.map((column, index) => `${column} = $${index + 1}`).join(' and ');
        const { rows } = await app.query(`explain (generic_plan) select 1 from ${table} where ${matches}`);
        const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
        if (!indexes.some((index) => new RegExp(` (?:using|on) ${index} `).test(plan)))
          others.push(`${table}: ${plan}`);
      }
      t.deepEqual(others, []);
    } finally {
      await app.end();
    }
  });
}

// What the planner was told of a column by hand: a width that no ANALYZE finds for a UUID.
const TOLD = `select distinct tablename::text as table from pg_stats
  where schemaname = 'public' and attname = 'tenant_id' and avg_width = 1 order by 1`;

test('a migration leaves the statistics of an analyzed table as they are, and of one that is being analyzed', async (t) => {
  const created = await t.context.postgres.createDatabase(jobMigrations);
  const told = (await created.query<{ table: string }>(TOLD)).map(({ table }) => table);
  t.true(told.includes('jobs') && told.includes('job_tasks'));
  await created.query(
    `insert into jobs (tenant_id, id, display_name, state)
     select 'acme', gen_random_uuid(), 'call', 'PENDING' from generate_series(1, 9)`,
  );
  await created.query('analyze jobs');
  const analyzing = new pg.Client({ connectionString: created.superuserUrl });
  await analyzing.connect();
  try {
    await analyzing.query("begin; select pg_clear_attribute_stats('public', 'job_tasks', 'tenant_id', false)");
    await migrateUp({ ...created, migrations: jobMigrations });
    await analyzing.query('commit');
  } finally {
    await analyzing.end();
  }
  const kept = (await created.query<{ table: string }>(TOLD)).map(({ table }) => table);
  t.deepEqual(
    kept,
    told.filter((table) => table !== 'jobs' && table !== 'job_tasks'),
  );
});

test('a database without Citus is migrated, and then refused as a cluster', async (t) => {
  const created = await t.context.postgres.createDatabase(jobMigrations);
  await t.throwsAsync(migrateUp({ ...created, migrations: jobMigrations, distributed: 'citus' }), {
    message: 'LETHE_DATABASE_DISTRIBUTED is citus, which this database does not have',
  });
});

test('a role that may not tell the planner anything migrates all the same', async (t) => {
  const created = await t.context.postgres.createDatabase([]);
  await created.query('revoke execute on function pg_restore_attribute_stats from public');
  await t.notThrowsAsync(migrateUp({ ...created, migrations: jobMigrations }));
  t.deepEqual(await created.query(TOLD), []);
});

test('a table of another owner in the same database is left alone', async (t) => {
  const created = await t.context.postgres.createDatabase([]);
  await created.query('create table letters (tenant_id text primary key)');
  await t.notThrowsAsync(migrateUp({ ...created, migrations: jobMigrations }));
  t.false((await created.query<{ table: string }>(TOLD)).some(({ table }) => table === 'letters'));
});
