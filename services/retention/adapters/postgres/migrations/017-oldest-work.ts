import type { Migration } from '#libs/postgres/migrate.ts';
import { createOldestWork, dropOldestWork } from '#libs/service/work-views.ts';

/** What an alert on old work is about, by name. */
export const oldestWork: Migration = {
  name: '017-oldest-work',
  async up(knex, appRole) {
    await createOldestWork(knex, appRole, [
      // The unfinished items are few: a tenant has one, and its dry runs.
      `select i.tenant_id, 'PURGE' as kind, i.purge_id as id, p.created_at
       from retention_purge_items i join retention_purges p on p.id = i.purge_id
       where i.state in ('PENDING', 'RUNNING') and not i.validate_only order by p.created_at limit 1`,
    ]);
  },
  down: dropOldestWork,
};
