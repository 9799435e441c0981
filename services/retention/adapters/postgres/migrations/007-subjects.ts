import { createInstallationAudit } from '#libs/audit/migrations.ts';
import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction, createOperation, secureTable } from '#libs/postgres/tenant-security.ts';

/** The catalogue of subjects, the audit of what belongs to no tenant, and which tenants owners hold data of. */
export const subjects: Migration = {
  name: '007-subjects',
  async up(knex, appRole) {
    await knex.raw(`
      -- Belongs to no tenant: it says who holds what in this installation.
      create table subjects (
        name text primary key check (name ~ '^[a-z][a-z0-9_]{0,62}$'),
        owner text not null,
        -- Null until an owner has listed the subject.
        data_id text,
        resource_type text not null,
        dependent_types text[] not null default '{}',
        age_of text not null,
        has_floor boolean not null,
        problem text check (problem in ('SUBJECT_CONFLICT', 'OWNER_CHANGED', 'OWNER_UNKNOWN', 'SUBJECT_UNLISTED')),
        -- The other data set that OWNER_CHANGED is about.
        claimed_owner text,
        claimed_data_id text,
        listed_at timestamptz,
        observe_nights_left int not null default 0 check (observe_nights_left >= 0),
        retired_at timestamptz,
        retired_by text,
        retire_reason text,
        updated_at timestamptz not null default clock_timestamp()
      );
      -- So that plans validate before any owner has answered.
      insert into subjects (name, owner, resource_type, dependent_types, age_of, has_floor) values
        ('drift_checks', 'incident', 'drift_check', '{drift_check_workflow}', 'drift_checks.checked_at', false),
        ('incident_payloads', 'incident', 'incident_payload', '{}', 'incidents.closed_at', false),
        ('approvals', 'incident', 'approval', '{}', 'approvals.decided_at, else incidents.closed_at', false),
        ('approval_notes', 'incident', 'approval_note', '{}', 'approvals.decided_at, else incidents.closed_at', false),
        ('executions', 'run', 'execution', '{}', 'coalesce(executions.started_at, executions.created_at)', true);

      -- The nights in which a subject that is observed was counted.
      create table subject_nights (
        subject text not null references subjects on delete cascade,
        purge_id uuid not null,
        counted_at timestamptz not null default clock_timestamp(),
        primary key (subject, purge_id)
      );

      create table tenants_with_data (
        tenant_id text not null,
        subject text not null,
        first_seen_at timestamptz not null default clock_timestamp(),
        last_seen_at timestamptz not null default clock_timestamp(),
        primary key (tenant_id, subject)
      );
      create index tenants_with_data_stale on tenants_with_data (subject, last_seen_at);

      -- How far the walk over an owner's tenants has come.
      create table tenant_sweeps (
        subject text primary key references subjects on delete cascade,
        page_token text not null default '',
        started_at timestamptz not null default clock_timestamp(),
        finished_at timestamptz
      );
    `);
    await knex.raw('grant select, insert, update on subjects to ??', [appRole]);
    await knex.raw('grant select, insert on subject_nights to ??', [appRole]);
    await createInstallationAudit(knex, appRole);
    await knex.raw('grant delete on installation_audit to ??', [appRole]);
    await knex.raw('grant select, insert, update, delete on tenant_sweeps to ??', [appRole]);
    await secureTable(knex, 'tenants_with_data', appRole);
    await createOperation(
      knex,
      appRole,
      'record_tenants_with_data(of_subject text, tenants text[])',
      `begin
         insert into tenants_with_data (tenant_id, subject)
           select t.id, of_subject from unnest(tenants) t(id) order by t.id
           on conflict (tenant_id, subject) do update set last_seen_at = clock_timestamp();
       end`,
    );
    await createOperation(
      knex,
      appRole,
      'forget_tenants_with_data(of_subject text, seen_before timestamptz, max_rows int)',
      `begin
         delete from tenants_with_data d
           where (d.tenant_id, d.subject) in (
             select s.tenant_id, s.subject from tenants_with_data s
             where s.subject = of_subject and s.last_seen_at < seen_before limit max_rows);
       end`,
    );
    await createDiscoveryFunction(knex, {
      signature: 'unplanned_tenants(after_tenant text, max_rows int)',
      returns: 'table (tenant_id text, subjects text[], first_seen_at timestamptz)',
      query: `select d.tenant_id, array_agg(d.subject order by d.subject), min(d.first_seen_at)
              from tenants_with_data d
              where (after_tenant is null or d.tenant_id > after_tenant)
                and not exists (select from tenant_plans p where p.tenant_id = d.tenant_id)
                and not exists (select from execution_retention_policies e where e.tenant_id = d.tenant_id)
              group by d.tenant_id order by d.tenant_id limit max_rows`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'known_tenants(tenants text[])',
      returns: 'setof text',
      query: `select t.id from unnest(tenants) t(id)
              where exists (select from tenant_plans p where p.tenant_id = t.id)
                 or exists (select from execution_retention_policies e where e.tenant_id = t.id)
                 or exists (select from tenants_with_data d where d.tenant_id = t.id)`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'count_unplanned_tenants()',
      returns: 'bigint',
      query: `select count(distinct d.tenant_id) from tenants_with_data d
              where not exists (select from tenant_plans p where p.tenant_id = d.tenant_id)
                and not exists (select from execution_retention_policies e where e.tenant_id = d.tenant_id)`,
      appRole,
    });
  },
  async down(knex) {
    for (const signature of [
      'count_unplanned_tenants()',
      'known_tenants(text[])',
      'unplanned_tenants(text, int)',
      'forget_tenants_with_data(text, timestamptz, int)',
      'record_tenants_with_data(text, text[])',
    ]) {
      await knex.raw(`drop function if exists ${signature}`);
    }
    for (const table of ['tenant_sweeps', 'tenants_with_data', 'installation_audit', 'subject_nights', 'subjects']) {
      await knex.raw('drop table if exists ??', [table]);
    }
  },
};
