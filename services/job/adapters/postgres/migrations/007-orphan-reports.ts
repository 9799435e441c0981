import type { Migration } from '#libs/postgres/migrate.ts';

/** What the last report of orphans over all tenants found: sums, which name nobody. */
export const orphanReports: Migration = {
  name: '007-orphan-reports',
  async up(knex, appRole) {
    await knex.raw(`
      create table orphan_reports (
        singleton boolean primary key default true check (singleton),
        orphans bigint not null,
        jobs_without_objects bigint not null,
        failed_tenants bigint not null,
        reported_at timestamptz not null
      )`);
    await knex.raw('grant select, insert, update on orphan_reports to ??', [appRole]);
  },
  async down(knex) {
    await knex.raw('drop table orphan_reports');
  },
};
