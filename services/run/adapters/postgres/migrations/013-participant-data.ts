import type { Migration } from '#libs/postgres/migrate.ts';

/** Which data set each participant answers from, and which other one it has claimed since. */
export const participantData: Migration = {
  name: '013-participant-data',
  locks: { participants: 'all' },
  async up(knex) {
    await knex.raw('alter table participants add column data_id text, add column claimed_data_id text');
  },
  async down(knex) {
    await knex.raw('alter table participants drop column claimed_data_id, drop column data_id');
  },
};
