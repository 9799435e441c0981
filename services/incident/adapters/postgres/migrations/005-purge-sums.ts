import type { Migration } from '#libs/postgres/migrate.ts';

/** The receipt of a purge by age names its sums for whatever it purges, not for drift checks alone. */
export const purgeSums: Migration = {
  name: '005-purge-sums',
  locks: { age_purges: 'all' },
  async up(knex) {
    await knex.raw(`
      alter table age_purges rename column deleted_checks to deleted;
      alter table age_purges rename column deleted_workflows to deleted_dependents;
    `);
  },
  async down(knex) {
    await knex.raw(`
      alter table age_purges rename column deleted to deleted_checks;
      alter table age_purges rename column deleted_dependents to deleted_workflows;
    `);
  },
};
