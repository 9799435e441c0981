import type { Knex } from 'knex';
import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction } from '#libs/postgres/tenant-security.ts';

/** Leaves out jobs that no pass can end: those being removed, and those hidden with their run. */
export const abandonedCancellations: Migration = {
  name: '017-abandoned-cancellations',
  up: (knex, appRole) =>
    createAbandonedCancellations(knex, appRole, 'and j.deletion_id is null and j.deleted_at is null'),
  down: (knex, appRole) => createAbandonedCancellations(knex, appRole, ''),
};

/** By the index jobs_cancelling, which holds the few jobs that are CANCELLING at any moment. */
const createAbandonedCancellations = (knex: Knex, appRole: string, condition: string): Promise<void> =>
  createDiscoveryFunction(knex, {
    signature: 'abandoned_cancellations(max_rows int)',
    returns: 'table (tenant_id text, id uuid)',
    query: `select j.tenant_id, j.id from jobs j
            where j.state = 'CANCELLING' and j.lease_expires_at <= now() ${condition}
            order by j.lease_expires_at limit max_rows`,
    appRole,
  });
