import { makeAuditedKeys } from '#libs/audit/migrations.ts';
import { createOwnerTables, dropOwnerTables } from '#libs/owner/migrations.ts';
import type { Migration } from '#libs/postgres/migrate.ts';
import { createTenantFunction, dropTenantFunction, secureTable } from '#libs/postgres/tenant-security.ts';

/** What the owner keeps beside the company's tables, in the schema `lethe_owner`. */
export const ownerBoxMigrations: readonly Migration[] = [
  {
    name: '001-owner',
    async up(knex, appRole) {
      await createTenantFunction(knex);
      await knex.raw(`
        create table audit_entries (
          tenant_id text not null,
          id uuid not null default gen_random_uuid(),
          at timestamptz not null default now(),
          actor text not null,
          subject text not null,
          action text not null,
          target_type text not null,
          target_id text not null,
          reason text,
          request_id uuid,
          outcome text not null,
          counts jsonb not null default '{}',
          primary key (tenant_id, at, id)
        )`);
      await secureTable(knex, 'audit_entries', appRole);
      await createOwnerTables(knex, appRole);
    },
    async down(knex) {
      await dropOwnerTables(knex);
      await knex.raw('drop table audit_entries');
      await dropTenantFunction(knex);
    },
  },
  makeAuditedKeys('002-audited-keys', ['audit_entries']),
];
