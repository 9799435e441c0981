import type { Migration } from '#libs/postgres/migrate.ts';

/** Finds a tenant's hidden runs, the last hidden first, among however many others. */
export const hiddenRuns: Migration = {
  name: '021-hidden-runs',
  locks: { workflow_runs: 'writes' },
  async up(knex) {
    await knex.raw(
      `create index workflow_runs_hidden on workflow_runs (tenant_id, deleted_at desc, id desc)
       where deleted_at is not null`,
    );
  },
  async down(knex) {
    await knex.raw('drop index workflow_runs_hidden');
  },
};
