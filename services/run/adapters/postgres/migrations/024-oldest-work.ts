import type { Migration } from '#libs/postgres/migrate.ts';
import { createOldestWork, dropOldestWork, OLDEST_BULK_DELETION } from '#libs/service/work-views.ts';

const oldestRun = (kind: string, state: string): string => `
  select r.tenant_id, '${kind}' as kind, r.id, r.created_at from workflow_runs r
  where r.due_at is not null and r.state = '${state}' order by r.created_at limit 1`;

/** What an alert on old work is about, by name. */
export const oldestWork: Migration = {
  name: '024-oldest-work',
  async up(knex, appRole) {
    await createOldestWork(knex, appRole, [
      `select d.tenant_id, 'DELETION' as kind, d.id, d.created_at from deletions d
       where d.state not in ('COMPLETE', 'CANCELLED') order by d.created_at limit 1`,
      OLDEST_BULK_DELETION,
      oldestRun('RUN', 'RUNNING'),
      oldestRun('COMPENSATION', 'COMPENSATING'),
    ]);
  },
  down: dropOldestWork,
};
