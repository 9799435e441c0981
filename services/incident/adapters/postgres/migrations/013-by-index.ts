import { createRequestExpiry, dropRequestExpiry } from '#libs/postgres/forget-requests.ts';
import type { Migration } from '#libs/postgres/migrate.ts';
import { REMEMBERED_REQUESTS } from '../requests.ts';

/** Lists are read in their order whatever they are filtered by, and what requests were answered with is forgotten. */
export const byIndex: Migration = {
  name: '013-by-index',
  locks: { approvals: 'writes', drift_checks: 'all', incident_requests: 'writes' },
  async up(knex, appRole) {
    await knex.raw(`
      drop index drift_checks_environment;
      create index drift_checks_environment
        on drift_checks (tenant_id, environment_id, checked_at desc nulls last, id desc);
      create index drift_checks_status on drift_checks (tenant_id, status, checked_at desc nulls last, id desc);
      create index approvals_state on approvals (tenant_id, state, created_at desc, id desc);
    `);
    await createRequestExpiry(knex, appRole, REMEMBERED_REQUESTS);
  },
  async down(knex) {
    await dropRequestExpiry(knex, REMEMBERED_REQUESTS);
    await knex.raw(`
      drop index approvals_state;
      drop index drift_checks_status;
      drop index drift_checks_environment;
      create index drift_checks_environment on drift_checks (tenant_id, environment_id, checked_at desc);
    `);
  },
};
