import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction } from '#libs/postgres/tenant-security.ts';

// The names are those of the seed "Execution Retention Policy". Its rollback may have been pasted in between, so
// nothing here relies on what it drops.

/** Execution policies have the seed's defaults, index and trigger, and never the same version twice. */
export const executionPolicies: Migration = {
  name: '006-execution-policies',
  locks: { execution_retention_policies: 'all' },
  async up(knex, appRole) {
    await knex.raw(`
      -- Versions come from a sequence, so that a policy that was deleted and made again has another etag.
      create sequence execution_policy_versions;
      select setval('execution_policy_versions',
                    greatest((select max(version) from execution_retention_policies), 1));

      alter table execution_retention_policies
        alter column retention_days set default 90,
        alter column is_enabled set default true,
        alter column min_executions_to_keep set default 100,
        alter column version set default nextval('execution_policy_versions'),
        add column stale_after_days int not null default 30 check (stale_after_days between 0 and 36500);
      alter sequence execution_policy_versions owned by execution_retention_policies.version;
      create index idx_retention_policies_tenant on execution_retention_policies (tenant_id) where is_enabled;

      create function update_execution_retention_policies_updated_at() returns trigger language plpgsql as $$
      begin
        new.updated_at := clock_timestamp();
        new.version := nextval('execution_policy_versions');
        return new;
      end $$;
      -- Not for the columns that a cleanup writes: what a person set has not changed then.
      create trigger trigger_update_execution_retention_policies_updated_at
        before update of retention_days, is_enabled, min_executions_to_keep, stale_after_days
        on execution_retention_policies
        for each row execute function update_execution_retention_policies_updated_at();
    `);
    await knex.raw('grant usage on sequence execution_policy_versions to ??', [appRole]);
    await createDiscoveryFunction(knex, {
      signature: 'tenants_with_execution_policies(after_tenant text, max_rows int)',
      returns: 'setof text',
      query: `select tenant_id from execution_retention_policies
              where after_tenant is null or tenant_id > after_tenant order by tenant_id limit max_rows`,
      appRole,
    });
  },
  async down(knex) {
    await knex.raw(`
      drop function if exists tenants_with_execution_policies(text, int);
      drop trigger if exists trigger_update_execution_retention_policies_updated_at on execution_retention_policies;
      drop function if exists update_execution_retention_policies_updated_at();
      drop index if exists idx_retention_policies_tenant;
      alter table if exists execution_retention_policies
        alter column retention_days drop default,
        alter column is_enabled drop default,
        alter column min_executions_to_keep drop default,
        alter column version set default 1,
        drop column if exists stale_after_days;
      drop sequence if exists execution_policy_versions;
    `);
  },
};
