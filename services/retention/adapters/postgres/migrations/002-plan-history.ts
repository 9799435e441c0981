import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction, secureTable } from '#libs/postgres/tenant-security.ts';

const TABLES = ['retention_requests', 'execution_retention_policies', 'audit_entries'];

/** Plans are listed and set once a request id, executions have policies, and what changed is in the audit. */
export const planHistory: Migration = {
  name: '002-plan-history',
  locks: { tenant_plans: 'writes' },
  async up(knex, appRole) {
    await knex.raw(`
      create index tenant_plans_effective on tenant_plans (tenant_id, effective_at desc, version desc);

      create table retention_requests (
        tenant_id text not null,
        method text not null,
        request_id uuid not null,
        fingerprint text not null,
        plan_version bigint not null,
        created_at timestamptz not null default clock_timestamp(),
        primary key (tenant_id, method, request_id)
      );

      create table execution_retention_policies (
        tenant_id text primary key,
        retention_days int not null check (retention_days between 1 and 36500),
        is_enabled boolean not null,
        min_executions_to_keep bigint not null check (min_executions_to_keep between 0 and 1000000000),
        version bigint not null default 1,
        last_cleanup_at timestamptz,
        last_cleanup_deleted_count bigint not null default 0,
        created_at timestamptz not null default clock_timestamp(),
        updated_at timestamptz not null default clock_timestamp()
      );

      create table audit_entries (
        tenant_id text not null,
        id uuid not null default gen_random_uuid(),
        at timestamptz not null default clock_timestamp(),
        actor text not null,
        subject text not null,
        action text not null,
        target_type text not null,
        target_id text not null,
        reason text,
        request_id uuid,
        outcome text not null,
        counts jsonb not null default '{}',
        primary key (tenant_id, at, id)
      );
    `);
    for (const table of TABLES) await secureTable(knex, table, appRole);
    await createDiscoveryFunction(knex, {
      signature: 'plans_in_force(after_tenant text, wanted_plan text, max_rows int)',
      returns: 'table (tenant_id text, version bigint)',
      query: `select f.tenant_id, f.version from
                (select distinct on (p.tenant_id) p.tenant_id, p.version, p.plan from tenant_plans p
                 where p.effective_at <= clock_timestamp() and (after_tenant is null or p.tenant_id > after_tenant)
                 order by p.tenant_id, p.effective_at desc, p.version desc) f
              where wanted_plan is null or f.plan = wanted_plan order by f.tenant_id limit max_rows`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'tenants_to_purge()',
      returns: 'setof text',
      query: `select tenant_id from tenant_plans union select tenant_id from execution_retention_policies order by 1`,
      appRole,
    });
    await knex.raw('drop function tenants_with_plans()');
  },
  async down(knex, appRole) {
    await createDiscoveryFunction(knex, {
      signature: 'tenants_with_plans()',
      returns: 'setof text',
      query: 'select distinct tenant_id from tenant_plans order by tenant_id',
      appRole,
    });
    await knex.raw('drop function tenants_to_purge()');
    await knex.raw('drop function plans_in_force(text, text, int)');
    // The seed's rollback, pasted, has dropped the table of policies already.
    for (const table of TABLES) await knex.raw('drop table if exists ??', [table]);
    await knex.raw('drop index tenant_plans_effective');
  },
};
