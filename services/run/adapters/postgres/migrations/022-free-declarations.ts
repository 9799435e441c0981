import type { Migration } from '#libs/postgres/migrate.ts';

/**
 * Runs refer to their declaration without a foreign key: no table of the tenants' refers to one of the installation's,
 * and runs that begin at once do not all lock the one row of theirs. StartRun sees that it is there; nothing deletes it.
 */
export const freeDeclarations: Migration = {
  name: '022-free-declarations',
  locks: { workflow_declarations: 'all', workflow_runs: 'all' },
  async up(knex) {
    await knex.raw(`
      alter table workflow_runs drop constraint workflow_runs_declaration_fkey;
      drop index workflow_runs_declaration;
    `);
  },
  async down(knex) {
    await knex.raw(`
      create index workflow_runs_declaration on workflow_runs (declaration) where declaration is not null;
      alter table workflow_runs
        add constraint workflow_runs_declaration_fkey foreign key (declaration) references workflow_declarations;
    `);
  },
};
