import type { Migration } from '#libs/postgres/migrate.ts';

/** When an operation of RunService's own part came to its end, so that its end is told once. */
export const finishedOperations: Migration = {
  name: '026-finished-operations',
  locks: { participant_operations: 'all' },
  async up(knex) {
    await knex.raw('alter table participant_operations add column finished_at timestamptz');
  },
  async down(knex) {
    await knex.raw('alter table participant_operations drop column finished_at');
  },
};
