import type { Knex } from 'knex';
import { createDiscoveryFunction, secureTable } from '#libs/postgres/tenant-security.ts';
import { listTenantsQuery } from './statements.ts';
import type { OwnedSubject } from './subject.ts';

/**
 * Creates what a retention owner keeps beside its data: its operations, and the id of its data set. Needs
 * `lethe_tenant()` and `audit_entries`. Called once by one of the service's migrations.
 *
 * The age of snapshots can be seen where the role that migrates is a member of pg_read_all_stats, which provisioning
 * grants; otherwise a purge does not pause for them.
 */
export async function createOwnerTables(knex: Knex, appRole: string): Promise<void> {
  await knex.raw(`
    -- One removal of one subject of one tenant: its rule, how far it has come, and that it has ended. Without a rule it
    -- was ended before it began. The position is a subject's age and key as texts; null: at the oldest row.
    create table owner_operations (
      tenant_id text not null,
      operation_id uuid not null,
      subject text not null,
      actor text not null,
      retention_days int,
      cutoff timestamptz,
      cutoff_given boolean not null default false,
      min_to_keep bigint not null default 0,
      max_rows bigint,
      stale_after_days int,
      removed bigint not null default 0,
      dependents jsonb not null default '{}',
      waits jsonb not null default '{}',
      position jsonb,
      is_pass_dirty boolean not null default false,
      paused_at timestamptz,
      created_at timestamptz not null default clock_timestamp(),
      updated_at timestamptz not null default clock_timestamp(),
      finished_at timestamptz,
      ended_at timestamptz,
      primary key (tenant_id, operation_id, subject)
    );
    create index owner_operations_age on owner_operations (tenant_id, updated_at);
    create index owner_operations_oldest on owner_operations (updated_at);

    -- One row for ever. Another id tells of another data set.
    create table owner_data (
      only_row boolean primary key default true check (only_row),
      data_id text not null default gen_random_uuid()::text
    );
    insert into owner_data default values;
  `);
  await secureTable(knex, 'owner_operations', appRole);
  await knex.raw('grant select on owner_data to ??', [appRole]);
  await createDiscoveryFunction(knex, {
    signature: 'owner_tenants_with_old_operations(most int)',
    returns: 'setof text',
    query: `select distinct o.tenant_id from (
              select tenant_id from owner_operations
              where updated_at < clock_timestamp() - interval '90 days' order by updated_at limit most) o`,
    appRole,
  });
  // In seconds. Of this database alone: what is open in another one holds back nothing here. A vacuum holds back
  // nothing either.
  await createDiscoveryFunction(knex, {
    signature: 'owner_oldest_snapshot()',
    returns: 'double precision',
    query: `select greatest(0, coalesce(extract(epoch from clock_timestamp() - min(since)), 0))::double precision from (
              select a.xact_start as since from pg_stat_activity a
              where a.datname = current_database() and a.pid <> pg_backend_pid()
                and a.backend_type <> 'autovacuum worker'
                and (a.backend_xmin is not null or a.backend_xid is not null)
              union all
              select p.prepared from pg_prepared_xacts p where p.database = current_database()
              union all
              select s.inactive_since from pg_replication_slots s where s.xmin is not null) held`,
    appRole,
  });
}

/** Drops what createOwnerTables made. */
export async function dropOwnerTables(knex: Knex): Promise<void> {
  await knex.raw(`
    drop function if exists owner_oldest_snapshot();
    drop function if exists owner_tenants_with_old_operations(int);
    drop table if exists owner_data;
    drop table if exists owner_operations;
  `);
}

/** Lets the app role list the tenants that have rows of this subject, whose table must be there. For a migration. */
export async function createTenantList(knex: Knex, subject: OwnedSubject, appRole: string): Promise<void> {
  const { rows } = await knex.raw(
    `select datlocprovider in ('b', 'c') and coalesce(datlocale, datcollate) in ('C', 'POSIX', 'C.UTF-8', 'C.UTF8')
            as is_byte_order
     from pg_database where datname = current_database()`,
  );
  await createDiscoveryFunction(knex, {
    signature: `${tenantListOf(subject)}(text, int)`,
    returns: 'setof text',
    query: listTenantsQuery(subject, rows[0]?.is_byte_order === true),
    appRole,
  });
}

/** Drops what createTenantList made. */
export const dropTenantList = (knex: Knex, subject: OwnedSubject): Promise<void> =>
  knex.raw(`drop function if exists ${tenantListOf(subject)}(text, int)`).then(() => undefined);

/** The function that lists a subject's tenants. */
export const tenantListOf = ({ name }: OwnedSubject): string => `owner_tenants_of_${name}`;
