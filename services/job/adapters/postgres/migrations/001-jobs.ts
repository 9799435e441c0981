import type { Migration } from '#libs/postgres/migrate.ts';
import {
  createDiscoveryFunction,
  createTenantFunction,
  dropTenantFunction,
  secureTable,
} from '#libs/postgres/tenant-security.ts';

const TABLES = ['jobs', 'job_tasks', 'artifacts', 'job_deletions', 'job_requests', 'step_tombstones', 'audit_entries'];

/** Jobs with their tasks, the index of their objects, and the durable deletions that outlive them. */
export const jobs: Migration = {
  name: '001-jobs',
  async up(knex, appRole) {
    await createTenantFunction(knex);
    await knex.raw(`
      create table jobs (
        tenant_id text not null,
        id uuid not null,
        run_id uuid,
        step text,
        display_name text not null,
        state text not null check (state in ('PENDING', 'RUNNING', 'CANCELLING', 'CANCELLED', 'COMPLETED', 'FAILED')),
        error text,
        lease_owner text,
        lease_token bigint not null default 0,
        lease_expires_at timestamptz,
        created_at timestamptz not null default now(),
        started_at timestamptz,
        finished_at timestamptz,
        updated_at timestamptz not null default now(),
        deleted_at timestamptz,
        deleted_by text,
        deleted_reason text,
        hidden_by uuid,
        deletion_id uuid,
        version bigint not null default 1,
        primary key (tenant_id, id)
      );
      create index jobs_list on jobs (tenant_id, created_at desc, id desc);
      create index jobs_run on jobs (tenant_id, run_id, step) where run_id is not null;
      create index jobs_claimable on jobs (tenant_id, created_at, id) where state in ('PENDING', 'RUNNING');
      create index jobs_cancelling on jobs (lease_expires_at) where state = 'CANCELLING';

      create table job_tasks (
        tenant_id text not null,
        job_id uuid not null,
        name text not null,
        position int not null,
        state text not null check (state in ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED')),
        error text,
        started_at timestamptz,
        finished_at timestamptz,
        primary key (tenant_id, job_id, name),
        foreign key (tenant_id, job_id) references jobs on delete cascade
      );

      create table artifacts (
        tenant_id text not null,
        job_id uuid not null,
        kind text not null check (kind in ('INPUT', 'TASK', 'OUTPUT')),
        name text not null,
        content_type text not null,
        bytes bigint,
        sha256 text,
        stored_at timestamptz,
        upload_id uuid,
        upload_expires_at timestamptz,
        created_at timestamptz not null default now(),
        primary key (tenant_id, job_id, kind, name),
        foreign key (tenant_id, job_id) references jobs on delete cascade
      );

      create table job_deletions (
        tenant_id text not null,
        id uuid not null,
        job_id uuid not null,
        run_id uuid,
        step text,
        operation_id uuid,
        state text not null check (state in ('PENDING', 'CASCADING', 'VERIFYING', 'COMPLETE', 'STUCK', 'CANCELLED')),
        actor text not null,
        subject text not null,
        reason text,
        request_id uuid,
        fingerprint text,
        counts jsonb not null,
        remaining bigint not null default 0,
        failed_keys jsonb not null default '[]',
        attempts int not null default 0,
        last_error text,
        next_attempt_at timestamptz default now(),
        lease_owner text,
        lease_token bigint not null default 0,
        lease_expires_at timestamptz,
        created_at timestamptz not null default now(),
        started_at timestamptz,
        updated_at timestamptz not null default now(),
        finished_at timestamptz,
        primary key (tenant_id, id),
        unique (tenant_id, job_id)
      );
      create index job_deletions_list on job_deletions (tenant_id, created_at desc, id desc);
      create index job_deletions_due on job_deletions (next_attempt_at)
        where state in ('PENDING', 'CASCADING', 'VERIFYING');
      create index job_deletions_run on job_deletions (tenant_id, run_id, step) where run_id is not null;
      create index job_deletions_unfinished on job_deletions (created_at) where state not in ('COMPLETE', 'CANCELLED');
      create unique index job_deletions_request on job_deletions (tenant_id, request_id) where request_id is not null;

      create table job_requests (
        tenant_id text not null,
        request_id uuid not null,
        fingerprint text not null,
        job_id uuid not null,
        created_at timestamptz not null default now(),
        primary key (tenant_id, request_id)
      );

      create table step_tombstones (
        tenant_id text not null,
        run_id uuid not null,
        step text not null,
        operation text not null,
        created_at timestamptz not null default now(),
        primary key (tenant_id, run_id, step, operation)
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
      signature: 'due_job_deletions(max_rows int)',
      returns: 'table (tenant_id text, id uuid)',
      query: `select d.tenant_id, d.id from job_deletions d
              where d.state in ('PENDING', 'CASCADING', 'VERIFYING') and d.next_attempt_at <= now()
                and (d.lease_expires_at is null or d.lease_expires_at <= now())
              order by d.next_attempt_at limit max_rows`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'abandoned_cancellations(max_rows int)',
      returns: 'table (tenant_id text, id uuid)',
      query: `select j.tenant_id, j.id from jobs j
              where j.state = 'CANCELLING' and j.lease_expires_at <= now()
              order by j.lease_expires_at limit max_rows`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'tenants_with_jobs()',
      returns: 'setof text',
      // A loose index scan: one probe a tenant instead of one a job.
      query: `with recursive t as (
                (select tenant_id from jobs order by tenant_id limit 1)
                union all
                select (select j.tenant_id from jobs j where j.tenant_id > t.tenant_id order by j.tenant_id limit 1)
                from t where t.tenant_id is not null
              ) select tenant_id from t where tenant_id is not null`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'oldest_unfinished_deletion_seconds()',
      returns: 'double precision',
      query: `select coalesce(extract(epoch from now() - min(created_at)), 0)::double precision
              from job_deletions where state not in ('COMPLETE', 'CANCELLED')`,
      appRole,
    });
  },
  async down(knex) {
    for (const signature of [
      'due_job_deletions(int)',
      'abandoned_cancellations(int)',
      'tenants_with_jobs()',
      'oldest_unfinished_deletion_seconds()',
    ]) {
      await knex.raw(`drop function ${signature}`);
    }
    for (const table of TABLES.toReversed()) await knex.raw('drop table ??', [table]);
    await dropTenantFunction(knex);
  },
};
