import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction } from '#libs/postgres/tenant-security.ts';

/** How old the oldest run is that Lethe is doing or undoing, of all tenants: a figure for alerts, which names nobody. */
export const unfinishedRuns: Migration = {
  name: '016-unfinished-runs',
  locks: { workflow_runs: 'writes' },
  async up(knex, appRole) {
    await knex.raw('create index workflow_runs_unfinished on workflow_runs (created_at) where due_at is not null');
    await createDiscoveryFunction(knex, {
      signature: 'oldest_unfinished_run_seconds()',
      returns: 'double precision',
      query: `select coalesce(extract(epoch from now() - min(created_at)), 0)::double precision
              from workflow_runs where due_at is not null`,
      appRole,
    });
  },
  async down(knex) {
    await knex.raw('drop function oldest_unfinished_run_seconds()');
    await knex.raw('drop index workflow_runs_unfinished');
  },
};
