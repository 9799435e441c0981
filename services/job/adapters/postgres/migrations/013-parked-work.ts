import type { Migration } from '#libs/postgres/migrate.ts';
import { createParkedWork, dropParkedWork, reasonOf } from '#libs/service/work-views.ts';

/** What waits for a person: deletions that are STUCK. */
export const parkedWork: Migration = {
  name: '013-parked-work',
  locks: { job_deletions: 'writes' },
  async up(knex, appRole) {
    await knex.raw(
      `create index job_deletions_stuck on job_deletions (tenant_id, id, (job_id::text)) where state = 'STUCK'`,
    );
    await createParkedWork(knex, appRole, {
      ofTenants: `
        select d.tenant_id, 'DELETION' as kind, d.id, 'job' as target_type, d.job_id::text as target_id, d.state,
               ${reasonOf('d.last_error')} as reason, d.updated_at as parked_at, d.attempts
        from job_deletions d where d.state = 'STUCK'`,
    });
  },
  async down(knex) {
    await dropParkedWork(knex);
    await knex.raw('drop index job_deletions_stuck');
  },
};
