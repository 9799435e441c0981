import type { Migration } from '#libs/postgres/migrate.ts';

/** By which key the subject came on whose behalf a run goes on, for the audit and the receipt of its compensation. */
export const compensationKeys: Migration = {
  name: '019-compensation-keys',
  locks: { workflow_runs: 'all' },
  async up(knex) {
    await knex.raw(`
      alter table workflow_runs
        add column subject text not null default 'service:run',
        add column trust_entry text`);
  },
  async down(knex) {
    await knex.raw('alter table workflow_runs drop column subject, drop column trust_entry');
  },
};
