import type { Migration } from '#libs/postgres/migrate.ts';
import { secureTable } from '#libs/postgres/tenant-security.ts';

const TABLES = ['incidents', 'incident_transitions', 'approvals'];

/** Incidents with the instants of their lives and the approvals of their steps; the payload stands on the row. */
export const incidents: Migration = {
  name: '003-incidents',
  locks: { environments: 'writes' },
  async up(knex, appRole) {
    await knex.raw(`
      create table incidents (
        tenant_id text not null,
        id uuid not null,
        environment_id uuid not null,
        drift_check_id uuid,
        run_id uuid,
        step text,
        title text not null,
        state text not null default 'DETECTED'
          check (state in ('DETECTED', 'ACKNOWLEDGED', 'STABILIZED', 'RECONCILED', 'CLOSED')),
        close_cause text check (close_cause in ('RESOLVED', 'COMPENSATED')),
        payload jsonb check (jsonb_typeof(payload) = 'object'),
        payload_purged_at timestamptz,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now(),
        closed_at timestamptz,
        is_deleted boolean not null generated always as (deleted_at is not null) stored,
        deleted_at timestamptz,
        deleted_by text,
        deleted_reason text,
        hidden_by uuid,
        version bigint not null default 1,
        primary key (tenant_id, id),
        foreign key (tenant_id, environment_id) references environments,
        constraint incidents_payload check (payload is null or payload_purged_at is null)
      );
      create index incidents_list on incidents (tenant_id, created_at desc, id desc);
      create index incidents_state on incidents (tenant_id, state, created_at desc, id desc);
      create index incidents_environment on incidents (tenant_id, environment_id, created_at desc, id desc);
      create index incidents_run on incidents (tenant_id, run_id, step) where run_id is not null;

      create table incident_transitions (
        tenant_id text not null,
        incident_id uuid not null,
        state text not null,
        actor text not null,
        note text,
        at timestamptz not null default now(),
        primary key (tenant_id, incident_id, state),
        foreign key (tenant_id, incident_id) references incidents
      );

      create table approvals (
        tenant_id text not null,
        id uuid not null,
        incident_id uuid not null,
        requested_state text not null check (requested_state in ('ACKNOWLEDGED', 'STABILIZED', 'RECONCILED', 'CLOSED')),
        state text not null default 'PENDING' check (state in ('PENDING', 'APPROVED', 'REJECTED')),
        requested_by text not null,
        request_notes text,
        decided_by text,
        decision_notes text,
        created_at timestamptz not null default now(),
        decided_at timestamptz,
        version bigint not null default 1,
        primary key (tenant_id, id),
        foreign key (tenant_id, incident_id) references incidents
      );
      create index approvals_list on approvals (tenant_id, created_at desc, id desc);
      create index approvals_incident on approvals (tenant_id, incident_id, created_at desc, id desc);
      create index approvals_age on approvals (tenant_id, decided_at, id) where decided_at is not null;
    `);
    for (const table of TABLES) await secureTable(knex, table, appRole);
  },
  async down(knex) {
    for (const table of TABLES.toReversed()) await knex.raw('drop table ??', [table]);
  },
};
