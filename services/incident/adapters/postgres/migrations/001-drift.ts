import type { Migration } from '#libs/postgres/migrate.ts';
import { createTenantFunction, dropTenantFunction, secureTable } from '#libs/postgres/tenant-security.ts';

const TABLES = [
  'environments',
  'drift_checks',
  'drift_check_workflows',
  'age_purges',
  'incident_requests',
  'audit_entries',
];

/** Environments with their badges, drift checks with the workflows they flagged, and the purges of them by age. */
export const drift: Migration = {
  name: '001-drift',
  async up(knex, appRole) {
    await createTenantFunction(knex);
    await knex.raw(`
      create table environments (
        tenant_id text not null,
        id uuid not null,
        display_name text not null,
        drift_status text not null default 'UNKNOWN' check (drift_status in ('IN_SYNC', 'DRIFT', 'UNKNOWN')),
        modified_count int not null default 0,
        not_in_git_count int not null default 0,
        unknown_count int not null default 0,
        last_checked_at timestamptz,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now(),
        primary key (tenant_id, id),
        constraint environments_name unique (tenant_id, display_name)
      );

      create table drift_checks (
        tenant_id text not null,
        id uuid not null,
        environment_id uuid not null,
        status text not null check (status in ('IN_SYNC', 'DRIFT', 'UNKNOWN')),
        checked_at timestamptz,
        summary jsonb,
        modified_count int not null default 0,
        not_in_git_count int not null default 0,
        unknown_count int not null default 0,
        created_at timestamptz not null default now(),
        primary key (tenant_id, id),
        foreign key (tenant_id, environment_id) references environments
      );
      create index drift_checks_environment on drift_checks (tenant_id, environment_id, checked_at desc);
      create index drift_checks_age on drift_checks (tenant_id, checked_at, id);

      create table drift_check_workflows (
        tenant_id text not null,
        check_id uuid not null,
        workflow text not null,
        flag text not null check (flag in ('MODIFIED', 'NOT_IN_GIT', 'UNKNOWN')),
        primary key (tenant_id, check_id, workflow),
        foreign key (tenant_id, check_id) references drift_checks
      );

      create table age_purges (
        tenant_id text not null,
        operation_id uuid not null,
        subject text not null,
        retention_days int not null,
        cutoff timestamptz not null,
        deleted_checks bigint not null default 0,
        deleted_workflows bigint not null default 0,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now(),
        primary key (tenant_id, operation_id, subject)
      );

      create table incident_requests (
        tenant_id text not null,
        request_id uuid not null,
        fingerprint text not null,
        target_id uuid not null,
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
  },
  async down(knex) {
    for (const table of TABLES) await knex.raw('drop table ?? cascade', [table]);
    await dropTenantFunction(knex);
  },
};
