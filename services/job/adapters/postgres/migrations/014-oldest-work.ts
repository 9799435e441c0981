import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction } from '#libs/postgres/tenant-security.ts';
import { createOldestWork, dropOldestWork, OLDEST_BULK_DELETION } from '#libs/service/work-views.ts';

/** What an alert on old work is about, by name, and how old the oldest upload is that is neither stored nor removed. */
export const oldestWork: Migration = {
  name: '014-oldest-work',
  locks: { artifact_uploads: 'writes' },
  async up(knex, appRole) {
    await knex.raw(
      'create index artifact_uploads_unfinished on artifact_uploads (created_at) where removed_at is null',
    );
    await createOldestWork(knex, appRole, [
      `select d.tenant_id, 'DELETION' as kind, d.id, d.created_at from job_deletions d
       where d.state not in ('COMPLETE', 'CANCELLED') order by d.created_at limit 1`,
      OLDEST_BULK_DELETION,
      `select u.tenant_id, 'UPLOAD' as kind, u.job_id as id, u.created_at from artifact_uploads u
       where u.removed_at is null order by u.created_at limit 1`,
    ]);
    await createDiscoveryFunction(knex, {
      signature: 'oldest_unfinished_upload_seconds()',
      returns: 'double precision',
      query: `select coalesce(extract(epoch from clock_timestamp() - min(u.created_at)), 0)::double precision
              from artifact_uploads u where u.removed_at is null`,
      appRole,
    });
  },
  async down(knex) {
    await knex.raw('drop function oldest_unfinished_upload_seconds()');
    await dropOldestWork(knex);
    await knex.raw('drop index artifact_uploads_unfinished');
  },
};
