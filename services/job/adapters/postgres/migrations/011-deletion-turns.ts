import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction } from '#libs/postgres/tenant-security.ts';

const DUE = `d.state in ('PENDING', 'CASCADING', 'VERIFYING')`;

/** Tenants take turns: whose deletions have fewer workers comes first, however many wait for another tenant. */
export const deletionTurns: Migration = {
  name: '011-deletion-turns',
  locks: { job_deletions: 'all' },
  async up(knex, appRole) {
    await knex.raw(`
      create index job_deletions_turns on job_deletions (tenant_id, next_attempt_at)
        where state in ('PENDING', 'CASCADING', 'VERIFYING');
      create index job_deletions_held on job_deletions (tenant_id, lease_expires_at) where lease_owner is not null;
      drop function due_job_deletions(int);
      -- Through it, one tenant's few would be looked for among everything that is due.
      drop index job_deletions_due;
    `);
    await createDiscoveryFunction(knex, {
      signature: 'due_job_deletions(max_rows int)',
      returns: 'table (tenant_id text, id uuid)',
      // A loose index scan over the tenants, and of each the few that are due first.
      query: `with recursive t as (
                (select d.tenant_id from job_deletions d where ${DUE} order by d.tenant_id limit 1)
                union all
                select (select d.tenant_id from job_deletions d where ${DUE} and d.tenant_id > t.tenant_id
                        order by d.tenant_id limit 1)
                from t where t.tenant_id is not null
              )
              select t.tenant_id, w.id
              from t
              cross join lateral (
                select count(*) as held from job_deletions d
                where d.tenant_id = t.tenant_id and d.lease_owner is not null and d.lease_expires_at > now()) h
              cross join lateral (
                select due.id, due.next_attempt_at, row_number() over (order by due.next_attempt_at) as place
                from (select d.id, d.next_attempt_at from job_deletions d
                      where d.tenant_id = t.tenant_id and ${DUE} and d.next_attempt_at <= now()
                        and (d.lease_expires_at is null or d.lease_expires_at <= now())
                      order by d.next_attempt_at limit max_rows) due) w
              where t.tenant_id is not null
              order by h.held + w.place, w.next_attempt_at limit max_rows`,
      appRole,
    });
  },
  async down(knex, appRole) {
    await knex.raw(`
      drop function due_job_deletions(int);
      drop index job_deletions_turns;
      drop index job_deletions_held;
      create index job_deletions_due on job_deletions (next_attempt_at)
        where state in ('PENDING', 'CASCADING', 'VERIFYING');
    `);
    await createDiscoveryFunction(knex, {
      signature: 'due_job_deletions(max_rows int)',
      returns: 'table (tenant_id text, id uuid)',
      query: `select d.tenant_id, d.id from job_deletions d
              where ${DUE} and d.next_attempt_at <= now() and (d.lease_expires_at is null or d.lease_expires_at <= now())
              order by d.next_attempt_at limit max_rows`,
      appRole,
    });
  },
};
