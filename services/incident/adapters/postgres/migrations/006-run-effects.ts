import type { Migration } from '#libs/postgres/migrate.ts';
import { secureTable } from '#libs/postgres/tenant-security.ts';

const TABLES = ['step_actions', 'step_tombstones'];

/** What this participant did for the steps of runs, and what it refuses since; both with the sums they came to. */
export const runEffects: Migration = {
  name: '006-run-effects',
  async up(knex, appRole) {
    await knex.raw(`
      create table step_actions (
        tenant_id text not null,
        run_id uuid not null,
        step text not null,
        fingerprint text not null,
        incident_id uuid not null,
        created_at timestamptz not null default now(),
        primary key (tenant_id, run_id, step)
      );

      create table step_tombstones (
        tenant_id text not null,
        run_id uuid not null,
        step text not null,
        operation text not null,
        incidents bigint not null default 0,
        payloads bigint not null default 0,
        payload_bytes bigint not null default 0,
        created_at timestamptz not null default now(),
        finished_at timestamptz,
        primary key (tenant_id, run_id, step, operation)
      );
    `);
    for (const table of TABLES) await secureTable(knex, table, appRole);
  },
  async down(knex) {
    for (const table of TABLES.toReversed()) await knex.raw('drop table ??', [table]);
  },
};
