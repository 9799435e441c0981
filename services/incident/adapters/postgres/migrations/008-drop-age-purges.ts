import type { Migration } from '#libs/postgres/migrate.ts';
import { secureTable } from '#libs/postgres/tenant-security.ts';

/** Purges by age are operations of the retention owner now: their old receipts and indexes go. */
export const dropAgePurges: Migration = {
  name: '008-drop-age-purges',
  locks: { approvals: 'all', incidents: 'all' },
  async up(knex) {
    await knex.raw(`
      drop table age_purges;
      drop index approvals_age;
      drop index incidents_payload_age;
    `);
  },
  async down(knex, appRole) {
    await knex.raw(`
      create table age_purges (
        tenant_id text not null,
        operation_id uuid not null,
        subject text not null,
        retention_days int not null,
        cutoff timestamptz not null,
        deleted bigint not null default 0,
        deleted_dependents bigint not null default 0,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now(),
        finished_at timestamptz,
        primary key (tenant_id, operation_id, subject)
      );
      create index approvals_age on approvals (tenant_id, decided_at, id) where decided_at is not null;
      create index incidents_payload_age on incidents (tenant_id, closed_at, id)
        where state = 'CLOSED' and opened_with_payload and payload_purged_at is null;
    `);
    await secureTable(knex, 'age_purges', appRole);
  },
};
