import type { Migration } from '#libs/postgres/migrate.ts';

/**
 * A purge by age knows when it was first finished, and drift checks without an instant come last in lists; one index
 * serves the lists forwards and the purge backwards.
 */
export const purgeReceipts: Migration = {
  name: '002-purge-receipts',
  locks: { age_purges: 'all', drift_checks: 'all' },
  async up(knex) {
    await knex.raw(`
      alter table age_purges add column finished_at timestamptz;
      drop index drift_checks_age;
      create index drift_checks_age on drift_checks (tenant_id, checked_at desc nulls last, id desc);
    `);
  },
  async down(knex) {
    await knex.raw(`
      drop index drift_checks_age;
      create index drift_checks_age on drift_checks (tenant_id, checked_at, id);
      alter table age_purges drop column finished_at;
    `);
  },
};
