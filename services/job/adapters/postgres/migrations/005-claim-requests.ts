import type { Migration } from '#libs/postgres/migrate.ts';

/** Which request claimed a job last, so that a claim whose answer was lost and that is repeated takes no second job. */
export const claimRequests: Migration = {
  name: '005-claim-requests',
  locks: { jobs: 'all' },
  async up(knex) {
    await knex.raw(`
      alter table jobs add column claim_request_id uuid;
      create unique index jobs_claim_request on jobs (tenant_id, claim_request_id) where claim_request_id is not null;
    `);
  },
  async down(knex) {
    await knex.raw('alter table jobs drop column claim_request_id');
  },
};
