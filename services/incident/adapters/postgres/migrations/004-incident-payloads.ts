import type { Migration } from '#libs/postgres/migrate.ts';
import { secureTable } from '#libs/postgres/tenant-security.ts';

/**
 * Moves every payload from its incident's row into a table of its own, so that it can go while the incident stays.
 * `opened_with_payload` keeps those that never had one out of the index by which the purge finds what is expired.
 */
export const incidentPayloads: Migration = {
  name: '004-incident-payloads',
  locks: { incidents: 'all' },
  async up(knex, appRole) {
    await knex.raw(`
      lock table incidents in access exclusive mode;

      create table incident_payloads (
        tenant_id text not null,
        incident_id uuid not null,
        payload_json jsonb not null check (jsonb_typeof(payload_json) = 'object'),
        created_at timestamptz not null default now(),
        primary key (tenant_id, incident_id),
        foreign key (tenant_id, incident_id) references incidents
      );
      insert into incident_payloads (tenant_id, incident_id, payload_json, created_at)
        select tenant_id, id, payload, created_at from incidents where payload is not null;

      alter table incidents add column opened_with_payload boolean not null default true;
      update incidents set opened_with_payload = false where payload is null and payload_purged_at is null;
      alter table incidents drop column payload;
      create index incidents_payload_age on incidents (tenant_id, closed_at, id)
        where state = 'CLOSED' and opened_with_payload and payload_purged_at is null;
    `);
    await secureTable(knex, 'incident_payloads', appRole);
  },
  async down(knex) {
    await knex.raw(`
      lock table incidents, incident_payloads in access exclusive mode;

      alter table incidents add column payload jsonb check (jsonb_typeof(payload) = 'object');
      update incidents i set payload = p.payload_json from incident_payloads p
        where p.tenant_id = i.tenant_id and p.incident_id = i.id;
      alter table incidents add constraint incidents_payload check (payload is null or payload_purged_at is null);

      drop index incidents_payload_age;
      alter table incidents drop column opened_with_payload;
      drop table incident_payloads;
    `);
  },
};
