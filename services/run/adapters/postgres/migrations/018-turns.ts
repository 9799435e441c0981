import { dueItemsQuery } from '#libs/durable/due-items.ts';
import type { Migration } from '#libs/postgres/migrate.ts';
import { createDiscoveryFunction } from '#libs/postgres/tenant-security.ts';

const UNFINISHED = "l.state in ('PENDING', 'CASCADING', 'VERIFYING')";
const returns = 'table (tenant_id text, id uuid)';

/** Tenants take turns, with runs as with deletions: whose items have fewer workers comes first. */
export const turns: Migration = {
  name: '018-turns',
  locks: { deletions: 'all', workflow_runs: 'all' },
  async up(knex, appRole) {
    await knex.raw(`
      drop function due_runs(int);
      drop function due_deletions(int);
      -- Through these, one tenant's few would be looked for among everything that is due.
      drop index workflow_runs_due;
      drop index deletions_due;
      create index workflow_runs_turns on workflow_runs (tenant_id, due_at) where due_at is not null;
      create index workflow_runs_held on workflow_runs (tenant_id, due_at) where claim_owner is not null;
      create index deletions_turns on deletions (tenant_id, next_attempt_at)
        where state in ('PENDING', 'CASCADING', 'VERIFYING');
      create index deletions_held on deletions (tenant_id, lease_expires_at) where lease_owner is not null;
    `);
    await createDiscoveryFunction(knex, {
      signature: 'due_runs(max_rows int)',
      returns,
      query: dueItemsQuery({
        table: 'workflow_runs',
        isOpen: 'l.due_at is not null',
        isDue: 'l.due_at <= now()',
        isHeld: 'l.claim_owner is not null and l.due_at > now()',
        dueAt: 'due_at',
      }),
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'due_deletions(max_rows int)',
      returns,
      query: dueItemsQuery({
        table: 'deletions',
        isOpen: UNFINISHED,
        isDue: 'l.next_attempt_at <= now() and (l.lease_expires_at is null or l.lease_expires_at <= now())',
        isHeld: 'l.lease_owner is not null and l.lease_expires_at > now()',
        dueAt: 'next_attempt_at',
      }),
      appRole,
    });
  },
  async down(knex, appRole) {
    await knex.raw(`
      drop function due_runs(int);
      drop function due_deletions(int);
      drop index workflow_runs_turns;
      drop index workflow_runs_held;
      drop index deletions_turns;
      drop index deletions_held;
      create index workflow_runs_due on workflow_runs (due_at) where due_at is not null;
      create index deletions_due on deletions (next_attempt_at) where state in ('PENDING', 'CASCADING', 'VERIFYING');
    `);
    await createDiscoveryFunction(knex, {
      signature: 'due_runs(max_rows int)',
      returns,
      query: `select r.tenant_id, r.id from workflow_runs r
              where r.due_at <= now() order by r.due_at limit max_rows`,
      appRole,
    });
    await createDiscoveryFunction(knex, {
      signature: 'due_deletions(max_rows int)',
      returns,
      query: `select d.tenant_id, d.id from deletions d
              where ${UNFINISHED.replace('l.', 'd.')} and d.next_attempt_at <= now()
                and (d.lease_expires_at is null or d.lease_expires_at <= now())
              order by d.next_attempt_at limit max_rows`,
      appRole,
    });
  },
};
