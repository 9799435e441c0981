import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction } from '#libs/postgres/tenant-security.ts';

/** How many deletions of all tenants wait for a person: a figure for alerts, which names nobody. */
export const stuckDeletions: Migration = {
  name: '003-stuck-deletions',
  async up(knex, appRole) {
    await createDiscoveryFunction(knex, {
      signature: 'stuck_deletions()',
      returns: 'bigint',
      // The same words as the index's, so that it is the few unfinished ones that are looked at.
      query: `select count(*) from job_deletions where state not in ('COMPLETE', 'CANCELLED') and state = 'STUCK'`,
      appRole,
    });
  },
  async down(knex) {
    await knex.raw('drop function stuck_deletions()');
  },
};
