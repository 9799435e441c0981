import type { Migration } from '#libs/postgres/migrate.ts';
import { createParkedWork, dropParkedWork, reasonOf } from '#libs/service/work-views.ts';

/** What waits for a person: deletions that are STUCK, and runs whose compensation was given up. */
export const parkedWork: Migration = {
  name: '023-parked-work',
  locks: { deletions: 'writes' },
  async up(knex, appRole) {
    await knex.raw(`create index deletions_stuck on deletions (tenant_id, id, (run_id::text)) where state = 'STUCK'`);
    await createParkedWork(knex, appRole, {
      ofTenants: `
        select d.tenant_id, 'DELETION' as kind, d.id, 'run' as target_type, d.run_id::text as target_id, d.state,
               ${reasonOf('d.last_error')} as reason, d.updated_at as parked_at, d.attempts
        from deletions d where d.state = 'STUCK'
        union all
        select r.tenant_id, 'COMPENSATION', r.id, 'run', r.id::text, r.state, ${reasonOf('r.parked_reason')},
               coalesce(r.finished_at, r.updated_at), r.attempts
        from workflow_runs r where r.parked_reason is not null`,
    });
  },
  async down(knex) {
    await dropParkedWork(knex);
    await knex.raw('drop index deletions_stuck');
  },
};
