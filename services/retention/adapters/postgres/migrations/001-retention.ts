import type { Migration } from '#libs/postgres/migrate.ts';
import {
  createDiscoveryFunction,
  createTenantFunction,
  dropTenantFunction,
  secureTable,
} from '#libs/postgres/tenant-security.ts';

const TENANT_TABLES = ['tenant_plans', 'retention_purge_items'];

/** Plans with their history, retention purges and each tenant's part of them. */
export const retention: Migration = {
  name: '001-retention',
  async up(knex, appRole) {
    await createTenantFunction(knex);
    await knex.raw(`
      create table tenant_plans (
        tenant_id text not null,
        version bigint not null,
        plan text not null check (plan in ('FREE', 'PRO', 'AGENCY', 'ENTERPRISE')),
        effective_at timestamptz not null,
        created_at timestamptz not null default clock_timestamp(),
        actor text not null,
        reason text,
        primary key (tenant_id, version)
      );

      -- A purge goes over many tenants and belongs to none of them; what it did to a tenant is in the items.
      create table retention_purges (
        id uuid primary key,
        trigger text not null check (trigger in ('PURGE', 'PURGE_NOW')),
        validate_only boolean not null,
        actor text not null,
        subject text not null,
        reason text,
        request_id uuid unique,
        fingerprint text not null,
        created_at timestamptz not null default clock_timestamp()
      );
      create index retention_purges_list on retention_purges (created_at desc, id desc);

      create table retention_purge_items (
        tenant_id text not null,
        purge_id uuid not null references retention_purges,
        state text not null
          check (state in ('PENDING', 'RUNNING', 'COMPLETE', 'PARTIAL', 'FAILED', 'HELD', 'SKIPPED')),
        validate_only boolean not null,
        actor text not null,
        plan text,
        plan_version bigint,
        cutoffs jsonb not null default '[]',
        counts jsonb not null default '[]',
        error text,
        running_purge_id uuid,
        attempts int not null default 0,
        next_attempt_at timestamptz default clock_timestamp(),
        lease_owner text,
        lease_token bigint not null default 0,
        lease_expires_at timestamptz,
        started_at timestamptz,
        updated_at timestamptz not null default clock_timestamp(),
        finished_at timestamptz,
        primary key (tenant_id, purge_id)
      );
      create index retention_purge_items_purge on retention_purge_items (purge_id, tenant_id);
      create index retention_purge_items_due on retention_purge_items (next_attempt_at)
        where state in ('PENDING', 'RUNNING');
      -- One purge at a time works on a tenant; the database refuses a second one.
      create unique index retention_purge_items_running on retention_purge_items (tenant_id)
        where state in ('PENDING', 'RUNNING') and not validate_only;
    `);
    for (const table of TENANT_TABLES) await secureTable(knex, table, appRole);
    await knex.raw('grant select, insert on retention_purges to ??', [appRole]);
    await createDiscoveryFunction(knex, {
      signature: 'tenants_with_plans()',
      returns: 'setof text',
      query: 'select distinct tenant_id from tenant_plans order by tenant_id',
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'due_purge_items(max_rows int)',
      returns: 'table (tenant_id text, purge_id uuid)',
      query: `select i.tenant_id, i.purge_id from retention_purge_items i
              where i.state in ('PENDING', 'RUNNING') and i.next_attempt_at <= now()
                and (i.lease_expires_at is null or i.lease_expires_at <= now())
              order by i.next_attempt_at limit max_rows`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'items_of_purge(purge uuid, after_tenant text, max_rows int)',
      returns: 'table (tenant_id text, state text, updated_at timestamptz)',
      query: `select i.tenant_id, i.state, i.updated_at from retention_purge_items i
              where i.purge_id = purge and (after_tenant is null or i.tenant_id > after_tenant)
              order by i.tenant_id limit max_rows`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'purge_sums(purge uuid)',
      returns: 'table (states jsonb, counts jsonb, started_at timestamptz, finished_at timestamptz)',
      query: `select
          (select coalesce(jsonb_object_agg(s.state, s.count), '{}') from
             (select i.state, count(*) as count from retention_purge_items i where i.purge_id = purge group by i.state) s),
          (select coalesce(jsonb_agg(jsonb_build_object('resourceType', c.type, 'found', c.found, 'deleted', c.deleted,
                                                        'left', c.remaining)), '[]') from
             (select e->>'resourceType' as type, sum((e->>'found')::bigint) as found,
                     sum((e->>'deleted')::bigint) as deleted, sum((e->>'left')::bigint) as remaining
              from retention_purge_items i, jsonb_array_elements(i.counts) e where i.purge_id = purge
              group by 1 order by 1) c),
          (select min(i.started_at) from retention_purge_items i where i.purge_id = purge),
          (select case when bool_and(i.finished_at is not null) then max(i.finished_at) end
             from retention_purge_items i where i.purge_id = purge)`,
      appRole,
    });
  },
  async down(knex) {
    for (const signature of [
      'tenants_with_plans()',
      'due_purge_items(int)',
      'items_of_purge(uuid, text, int)',
      'purge_sums(uuid)',
    ]) {
      await knex.raw(`drop function ${signature}`);
    }
    for (const table of ['retention_purge_items', 'retention_purges', 'tenant_plans']) {
      await knex.raw('drop table ??', [table]);
    }
    await dropTenantFunction(knex);
  },
};
