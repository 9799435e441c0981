import type { Migration } from '#libs/postgres/migrate.ts';
import {
  createDiscoveryFunction,
  createTenantFunction,
  dropTenantFunction,
  secureTable,
} from '#libs/postgres/tenant-security.ts';

const TABLES = ['workflow_runs', 'workflow_run_steps', 'deletions', 'deletion_steps', 'run_requests', 'audit_entries'];

/** Runs with their steps, and the durable deletions that outlive them. */
export const runs: Migration = {
  name: '001-runs',
  async up(knex, appRole) {
    await createTenantFunction(knex);
    await knex.raw(`
      create table workflow_runs (
        tenant_id text not null,
        id uuid not null,
        workflow text not null,
        display_name text not null,
        state text not null
          check (state in ('RUNNING', 'COMPENSATING', 'COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELLED')),
        input jsonb,
        output jsonb,
        error text,
        claim_owner text,
        claim_token bigint not null default 0,
        claim_expires_at timestamptz,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now(),
        finished_at timestamptz,
        deleted_at timestamptz,
        deleted_by text,
        deleted_reason text,
        deletion_id uuid,
        version bigint not null default 1,
        primary key (tenant_id, id)
      );
      create index workflow_runs_list on workflow_runs (tenant_id, created_at desc, id desc);
      create index workflow_runs_claimable on workflow_runs (state, claim_expires_at)
        where state in ('RUNNING', 'COMPENSATING');

      create table workflow_run_steps (
        tenant_id text not null,
        run_id uuid not null,
        name text not null,
        position int not null,
        state text not null,
        participants text[] not null default '{}',
        error text,
        started_at timestamptz,
        finished_at timestamptz,
        deleted_at timestamptz,
        deleted_by text,
        deleted_reason text,
        primary key (tenant_id, run_id, name),
        foreign key (tenant_id, run_id) references workflow_runs
      );

      create table deletions (
        tenant_id text not null,
        id uuid not null,
        run_id uuid not null,
        mode text not null check (mode in ('SOFT_DELETE', 'UNDELETE', 'PURGE')),
        state text not null check (state in ('PENDING', 'CASCADING', 'VERIFYING', 'COMPLETE', 'STUCK', 'CANCELLED')),
        actor text not null,
        subject text not null,
        reason text,
        request_id uuid,
        fingerprint text not null,
        force boolean not null default false,
        undoes uuid,
        attempts int not null default 0,
        last_error text,
        next_attempt_at timestamptz default now(),
        lease_owner text,
        lease_token bigint not null default 0,
        lease_expires_at timestamptz,
        created_at timestamptz not null default clock_timestamp(),
        started_at timestamptz,
        updated_at timestamptz not null default clock_timestamp(),
        finished_at timestamptz,
        primary key (tenant_id, id)
      );
      -- One operation at a time on a run: the database refuses a second one, whatever the code believes.
      create unique index deletions_under_way on deletions (tenant_id, run_id)
        where state not in ('COMPLETE', 'CANCELLED');
      create index deletions_run on deletions (tenant_id, run_id, created_at desc);
      create index deletions_list on deletions (tenant_id, created_at desc, id desc);
      create index deletions_due on deletions (next_attempt_at) where state in ('PENDING', 'CASCADING', 'VERIFYING');
      create index deletions_unfinished on deletions (created_at) where state not in ('COMPLETE', 'CANCELLED');
      create unique index deletions_request on deletions (tenant_id, request_id) where request_id is not null;

      create table deletion_steps (
        tenant_id text not null,
        deletion_id uuid not null,
        position int not null,
        participant text not null,
        state text not null,
        counts jsonb not null default '[]',
        failed_items jsonb not null default '[]',
        attempts int not null default 0,
        last_error text,
        verified_at timestamptz,
        primary key (tenant_id, deletion_id, position),
        foreign key (tenant_id, deletion_id) references deletions
      );

      create table run_requests (
        tenant_id text not null,
        request_id uuid not null,
        fingerprint text not null,
        run_id uuid not null,
        created_at timestamptz not null default now(),
        primary key (tenant_id, request_id)
      );

      create table audit_entries (
        tenant_id text not null,
        id uuid not null default gen_random_uuid(),
        at timestamptz not null default now(),
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
      signature: 'due_deletions(max_rows int)',
      returns: 'table (tenant_id text, id uuid)',
      query: `select d.tenant_id, d.id from deletions d
              where d.state in ('PENDING', 'CASCADING', 'VERIFYING') and d.next_attempt_at <= now()
                and (d.lease_expires_at is null or d.lease_expires_at <= now())
              order by d.next_attempt_at limit max_rows`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'oldest_unfinished_deletion_seconds()',
      returns: 'double precision',
      query: `select coalesce(extract(epoch from now() - min(created_at)), 0)::double precision
              from deletions where state not in ('COMPLETE', 'CANCELLED')`,
      appRole,
    });
  },
  async down(knex) {
    await knex.raw('drop function due_deletions(int)');
    await knex.raw('drop function oldest_unfinished_deletion_seconds()');
    for (const table of TABLES.toReversed()) await knex.raw('drop table ?? cascade', [table]);
    await dropTenantFunction(knex);
  },
};
