import type { Knex } from 'knex';
import { dueItemsQuery } from '#libs/durable/due-items.ts';
import { createDiscoveryFunction, secureTable } from '#libs/postgres/tenant-security.ts';

/**
 * Creates the bulk deletions of a service and their items, and names the bulk deletion in the rows of `deletions`, the
 * service's table of single ones. Needs `lethe_tenant()` and `audit_entries`. Called once by one of the service's
 * migrations.
 */
export async function createBulkDeletionTables(knex: Knex, appRole: string, deletions: string): Promise<void> {
  await knex.raw(`
    create table bulk_deletions (
      tenant_id text not null,
      id uuid not null,
      mode text not null check (mode in ('SOFT_DELETE', 'PURGE')),
      state text not null
        check (state in ('SELECTING', 'RUNNING', 'CANCELLING', 'COMPLETE', 'STUCK', 'CANCELLED')),
      actor text not null,
      subject text not null,
      reason text not null,
      request_id uuid,
      fingerprint text not null,
      force boolean not null,
      filter jsonb not null,
      expected_count bigint,
      -- While SELECTING: how many items are written down, and the target of the last one.
      selected bigint not null default 0,
      selected_at timestamptz,
      selected_id uuid,
      -- Once it has ended; until then the items are counted.
      counts jsonb,
      attempts int not null default 0,
      last_error text,
      cancelled_by text,
      next_attempt_at timestamptz default clock_timestamp(),
      lease_owner text,
      lease_token bigint not null default 0,
      lease_expires_at timestamptz,
      created_at timestamptz not null default clock_timestamp(),
      started_at timestamptz,
      updated_at timestamptz not null default clock_timestamp(),
      finished_at timestamptz,
      primary key (tenant_id, id),
      constraint bulk_deletions_counted
        check ((counts is not null) = (state in ('COMPLETE', 'STUCK', 'CANCELLED')))
    );
    create unique index bulk_deletions_request on bulk_deletions (tenant_id, request_id) where request_id is not null;
    create index bulk_deletions_list on bulk_deletions (tenant_id, created_at desc, id desc);
    create index bulk_deletions_due on bulk_deletions (next_attempt_at)
      where state in ('SELECTING', 'RUNNING', 'CANCELLING');
    create index bulk_deletions_running on bulk_deletions (tenant_id, created_at, id) where state = 'RUNNING';
    create index bulk_deletions_ended on bulk_deletions (finished_at) where state in ('COMPLETE', 'CANCELLED');

    create table bulk_deletion_items (
      tenant_id text not null,
      bulk_deletion_id uuid not null,
      position bigint not null,
      target_id uuid not null,
      etag text not null,
      state text not null check (state in ('PENDING', 'RUNNING', 'COMPLETE', 'SKIPPED', 'STUCK', 'CANCELLED')),
      deletion_id uuid,
      skip_reason text,
      last_error text,
      attempts int not null default 0,
      next_attempt_at timestamptz,
      updated_at timestamptz not null default clock_timestamp(),
      primary key (tenant_id, bulk_deletion_id, position),
      foreign key (tenant_id, bulk_deletion_id) references bulk_deletions,
      constraint bulk_deletion_items_reason check ((skip_reason is not null) = (state = 'SKIPPED'))
    );
    create index bulk_deletion_items_state on bulk_deletion_items (tenant_id, bulk_deletion_id, state, position)
      include (skip_reason);
    create index bulk_deletion_items_deletion on bulk_deletion_items (tenant_id, deletion_id)
      where deletion_id is not null;
  `);
  await knex.raw('alter table ?? add column bulk_deletion_id uuid', [deletions]);
  for (const table of ['bulk_deletions', 'bulk_deletion_items']) await secureTable(knex, table, appRole);
  await createLongestDue(knex, appRole);
  await createDiscoveryFunction(knex, {
    signature: 'expired_bulk_deletions(days int, max_rows int)',
    returns: 'table (tenant_id text, id uuid)',
    query: `select b.tenant_id, b.id from bulk_deletions b
            where b.state in ('COMPLETE', 'CANCELLED') and b.finished_at < now() - days * interval '1 day'
            order by b.finished_at limit max_rows`,
    appRole,
  });
}

// Of a tenant's RUNNING ones the oldest alone, so that the number under way does not grow with their number.
const IS_DUE = `l.next_attempt_at <= now() and (l.lease_expires_at is null or l.lease_expires_at <= now())
  and (l.state <> 'RUNNING' or not exists (
        select from bulk_deletions o where o.tenant_id = l.tenant_id and o.state = 'RUNNING'
          and (o.created_at, o.id) < (l.created_at, l.id)))`;
const IS_OPEN = "l.state in ('SELECTING', 'RUNNING', 'CANCELLING')";
const DUE = { signature: 'due_bulk_deletions(max_rows int)', returns: 'table (tenant_id text, id uuid)' };

const createLongestDue = (knex: Knex, appRole: string): Promise<void> =>
  createDiscoveryFunction(knex, {
    ...DUE,
    query: `select l.tenant_id, l.id from bulk_deletions l
            where ${IS_OPEN} and ${IS_DUE} order by l.next_attempt_at limit max_rows`,
    appRole,
  });

/** Has tenants take turns: whose bulk deletions have fewer workers comes first, however many another one ordered. */
export async function createBulkDeletionTurns(knex: Knex, appRole: string): Promise<void> {
  await knex.raw(`
    create index bulk_deletions_turns on bulk_deletions (tenant_id, next_attempt_at)
      where state in ('SELECTING', 'RUNNING', 'CANCELLING');
    -- Through it, one tenant's few would be looked for among everything that is due.
    drop index bulk_deletions_due;
  `);
  await createDiscoveryFunction(knex, {
    ...DUE,
    query: dueItemsQuery({
      table: 'bulk_deletions',
      isOpen: IS_OPEN,
      isDue: IS_DUE,
      isHeld: `${IS_OPEN} and l.lease_expires_at > now()`,
      dueAt: 'next_attempt_at',
    }),
    appRole,
  });
}

/** Takes back what createBulkDeletionTurns made. */
export async function dropBulkDeletionTurns(knex: Knex, appRole: string): Promise<void> {
  await createLongestDue(knex, appRole);
  await knex.raw(`
    create index bulk_deletions_due on bulk_deletions (next_attempt_at)
      where state in ('SELECTING', 'RUNNING', 'CANCELLING');
    drop index bulk_deletions_turns;
  `);
}

/** Creates the figures of bulk deletions: counts and ages over all tenants, which name nobody. */
export async function createBulkDeletionFigures(knex: Knex, appRole: string): Promise<void> {
  const unfinished = `b.state in ('SELECTING', 'RUNNING', 'CANCELLING')`;
  await createDiscoveryFunction(knex, {
    signature: 'oldest_unfinished_bulk_deletion_seconds()',
    returns: 'double precision',
    query: `select coalesce(extract(epoch from clock_timestamp() - min(b.created_at)), 0)::double precision
            from bulk_deletions b where ${unfinished}`,
    appRole,
  });
  await createDiscoveryFunction(knex, {
    signature: 'bulk_deletion_items_left()',
    returns: 'bigint',
    // No further than a million, so that a scrape stays quick.
    query: `select count(*) from (
              select from bulk_deletions b cross join lateral (
                select from bulk_deletion_items i
                where i.tenant_id = b.tenant_id and i.bulk_deletion_id = b.id and i.state in ('PENDING', 'RUNNING')) i
              where ${unfinished} limit 1000000) l`,
    appRole,
  });
}

/** Drops what createBulkDeletionFigures made. */
export async function dropBulkDeletionFigures(knex: Knex): Promise<void> {
  await knex.raw(`
    drop function oldest_unfinished_bulk_deletion_seconds();
    drop function bulk_deletion_items_left();
  `);
}

/** Drops what createBulkDeletionTables made. */
export async function dropBulkDeletionTables(knex: Knex, deletions: string): Promise<void> {
  await knex.raw(`
    drop function due_bulk_deletions(int);
    drop function expired_bulk_deletions(int, int);
    drop table bulk_deletion_items;
    drop table bulk_deletions;
  `);
  await knex.raw('alter table ?? drop column bulk_deletion_id', [deletions]);
}
