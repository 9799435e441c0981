import type { Migration } from '#libs/postgres/migrate.ts';

/** Why a payload went other than by its age, so that its incident says so. Null: by its age, or before this was kept. */
export const payloadPurgeCause: Migration = {
  name: '010-payload-purge-cause',
  locks: { incidents: 'all' },
  async up(knex) {
    await knex.raw(`alter table incidents add column payload_purge_cause text
      constraint incidents_payload_purge_cause check (payload_purge_cause in ('RUN_PURGE', 'COMPENSATION'))`);
  },
  async down(knex) {
    await knex.raw('alter table incidents drop column payload_purge_cause');
  },
};
