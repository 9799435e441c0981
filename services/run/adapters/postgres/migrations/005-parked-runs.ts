import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction } from '#libs/postgres/tenant-security.ts';

/** How many runs of all tenants are parked until a person retries them: a figure for alerts, which names nobody. */
export const parkedRuns: Migration = {
  name: '005-parked-runs',
  locks: { workflow_runs: 'writes' },
  async up(knex, appRole) {
    await knex.raw(
      'create index workflow_runs_parked on workflow_runs (tenant_id, id) where parked_reason is not null',
    );
    await createDiscoveryFunction(knex, {
      signature: 'parked_runs()',
      returns: 'bigint',
      query: 'select count(*) from workflow_runs where parked_reason is not null',
      appRole,
    });
  },
  async down(knex) {
    await knex.raw('drop function parked_runs()');
    await knex.raw('drop index workflow_runs_parked');
  },
};
