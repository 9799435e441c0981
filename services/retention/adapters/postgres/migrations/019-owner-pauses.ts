import type { Migration } from '#libs/postgres/migrate.ts';

/** A subject whose owner asked for time says since when no row went, and until when the owner is not called. */
export const ownerPauses: Migration = {
  name: '019-owner-pauses',
  locks: { retention_purge_subjects: 'all' },
  async up(knex) {
    await knex.raw('alter table retention_purge_subjects add column pause jsonb');
  },
  async down(knex) {
    await knex.raw('alter table retention_purge_subjects drop column pause');
  },
};
