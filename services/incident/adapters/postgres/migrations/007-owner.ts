import { createOwnerTables, createTenantList, dropOwnerTables, dropTenantList } from '#libs/owner/migrations.ts';
import type { Migration } from '#libs/postgres/migrate.ts';
import { EXPIRING_STATES, INCIDENT_SUBJECTS } from '../subjects.ts';

/**
 * IncidentService owns data that ages. Payloads and approvals get a column `age`, by which they are found: their
 * instants stand in other rows as well, and no index spans two tables. Triggers keep it, whoever writes:
 * a payload ages from the closing of its incident; an approval from its decision, or while it is undecided from the
 * closing of its incident; none of them while the incident is open.
 */
export const owner: Migration = {
  name: '007-owner',
  locks: { approvals: 'all', incident_payloads: 'all', incidents: 'all' },
  async up(knex, appRole) {
    await knex.raw(`
      lock table incidents, incident_payloads, approvals in access exclusive mode;

      alter table incidents add column approvals_purged_at timestamptz;
      alter table incident_payloads add column age timestamptz;
      alter table approvals add column age timestamptz, add column notes_purged_at timestamptz;

      update incident_payloads p set age = i.closed_at from incidents i
        where i.tenant_id = p.tenant_id and i.id = p.incident_id and i.state in (${EXPIRING_STATES});
      update approvals a set age = case when a.state = 'PENDING' then i.closed_at else a.decided_at end from incidents i
        where i.tenant_id = a.tenant_id and i.id = a.incident_id and i.state in (${EXPIRING_STATES});

      create index incident_payloads_age on incident_payloads (tenant_id, age, incident_id);
      create index approvals_expiry on approvals (tenant_id, age, id);
      create index approvals_notes_age on approvals (tenant_id, age, id)
        where request_notes is not null or decision_notes is not null;

      create function set_payload_age() returns trigger language plpgsql as $$
      begin
        new.age := (select i.closed_at from incidents i
                    where i.tenant_id = new.tenant_id and i.id = new.incident_id and i.state in (${EXPIRING_STATES}));
        return new;
      end $$;
      create trigger set_payload_age before insert on incident_payloads
        for each row execute function set_payload_age();

      create function set_approval_age() returns trigger language plpgsql as $$
      begin
        new.age := (select case when new.state = 'PENDING' then i.closed_at else new.decided_at end from incidents i
                    where i.tenant_id = new.tenant_id and i.id = new.incident_id and i.state in (${EXPIRING_STATES}));
        return new;
      end $$;
      create trigger set_approval_age before insert or update of state, decided_at on approvals
        for each row execute function set_approval_age();

      create function set_ages_of_incident() returns trigger language plpgsql as $$
      begin
        update incident_payloads p set age = case when new.state in (${EXPIRING_STATES}) then new.closed_at end
          where p.tenant_id = new.tenant_id and p.incident_id = new.id;
        update approvals a set age = case when new.state not in (${EXPIRING_STATES}) then null
                                          when a.state = 'PENDING' then new.closed_at else a.decided_at end
          where a.tenant_id = new.tenant_id and a.incident_id = new.id;
        return null;
      end $$;
      create trigger set_ages_of_incident after update of state, closed_at on incidents
        for each row when (old.state is distinct from new.state or old.closed_at is distinct from new.closed_at)
        execute function set_ages_of_incident();
    `);
    await createOwnerTables(knex, appRole);
    for (const subject of INCIDENT_SUBJECTS) await createTenantList(knex, subject, appRole);
  },
  async down(knex) {
    for (const subject of INCIDENT_SUBJECTS) await dropTenantList(knex, subject);
    await dropOwnerTables(knex);
    await knex.raw(`
      drop trigger if exists set_ages_of_incident on incidents;
      drop trigger if exists set_approval_age on approvals;
      drop trigger if exists set_payload_age on incident_payloads;
      drop function if exists set_ages_of_incident();
      drop function if exists set_approval_age();
      drop function if exists set_payload_age();
      drop index if exists approvals_notes_age;
      drop index if exists approvals_expiry;
      drop index if exists incident_payloads_age;
      alter table approvals drop column if exists notes_purged_at, drop column if exists age;
      alter table incident_payloads drop column if exists age;
      alter table incidents drop column if exists approvals_purged_at;
    `);
  },
};
