import type { Knex } from 'knex';
import type { Migration } from '#libs/postgres/migrate.ts';

// What ListAuditEntries filters by; the primary keys serve a list without a filter.
const FILTERS = ['actor', 'action', 'target_id'] as const;

/**
 * The migration of a service whose audit begins with `audit_entries` alone: adds what ListAuditEntries needs, the indexes
 * and the audit of calls whose credential names no tenant.
 */
export const makeListedAudit = (name: string): Migration => ({
  name,
  locks: { audit_entries: 'writes' },
  async up(knex, appRole) {
    await createAuditIndexes(knex);
    await createInstallationAudit(knex, appRole);
    await createInstallationAuditIndexes(knex);
  },
  async down(knex) {
    await knex.raw('drop table installation_audit');
    await dropAuditIndexes(knex);
  },
});

/** Adds the indexes by which `audit_entries` is listed. */
export async function createAuditIndexes(knex: Knex): Promise<void> {
  for (const column of FILTERS) {
    await knex.raw('create index ?? on audit_entries (tenant_id, ??, at, id)', [`audit_entries_${column}`, column]);
  }
}

/** Drops what createAuditIndexes made. */
export async function dropAuditIndexes(knex: Knex): Promise<void> {
  for (const column of FILTERS) await knex.raw('drop index ??', [`audit_entries_${column}`]);
}

/** Creates `installation_audit`, the audit of what belongs to no tenant. */
export async function createInstallationAudit(knex: Knex, appRole: string): Promise<void> {
  await knex.raw(`
    create table installation_audit (
      at timestamptz not null default clock_timestamp(),
      id uuid not null default gen_random_uuid(),
      actor text not null,
      subject text not null,
      action text not null,
      target_type text not null,
      target_id text not null,
      reason text,
      outcome text not null,
      counts jsonb not null default '{}',
      primary key (at, id)
    )`);
  await knex.raw('grant select, insert on installation_audit to ??', [appRole]);
}

/** Adds the indexes by which `installation_audit` is listed. */
export async function createInstallationAuditIndexes(knex: Knex): Promise<void> {
  for (const column of FILTERS) {
    await knex.raw('create index ?? on installation_audit (??, at, id)', [`installation_audit_${column}`, column]);
  }
}

/**
 * The migration that adds to these tables, the audit and orders that are carried out after the call, by which key their
 * subject came.
 */
export const makeAuditedKeys = (name: string, tables: readonly string[]): Migration => ({
  name,
  locks: Object.fromEntries(tables.map((table) => [table, 'all'])),
  async up(knex) {
    for (const table of tables) await knex.raw('alter table ?? add column trust_entry text', [table]);
  },
  async down(knex) {
    for (const table of tables) await knex.raw('alter table ?? drop column trust_entry', [table]);
  },
});

/** Drops what createInstallationAuditIndexes made. */
export async function dropInstallationAuditIndexes(knex: Knex): Promise<void> {
  for (const column of FILTERS) await knex.raw('drop index ??', [`installation_audit_${column}`]);
}
