import type { Knex } from 'knex';
import { secureTable } from '#libs/postgres/tenant-security.ts';

const TABLES = ['run_locks', 'step_tombstones', 'step_actions'];

/**
 * Creates what a participant keeps beside its data: the locks of runs, what was done to them, and what their steps had done.
 * Needs `lethe_tenant()`. Called once by one of the service's migrations.
 */
export async function createRunTables(knex: Knex, appRole: string): Promise<void> {
  await knex.raw(`
    create table run_locks (tenant_id text not null, run_id uuid not null, primary key (tenant_id, run_id));

    create table step_tombstones (
      tenant_id text not null,
      run_id uuid not null,
      -- Empty: of the whole run.
      step text not null,
      kind text not null check (kind in ('SOFT_DELETE', 'RESTORE', 'RESTORED', 'PURGE', 'COMPENSATE')),
      operation_id uuid not null,
      counts jsonb not null,
      created_at timestamptz not null default now(),
      finished_at timestamptz,
      primary key (tenant_id, run_id, step, kind, operation_id)
    );

    create table step_actions (
      tenant_id text not null,
      run_id uuid not null,
      step text not null,
      fingerprint text not null,
      effect_id uuid not null,
      created_at timestamptz not null default now(),
      primary key (tenant_id, run_id, step)
    );
  `);
  for (const table of TABLES) await secureTable(knex, table, appRole);
}

/** Drops what createRunTables made. */
export async function dropRunTables(knex: Knex): Promise<void> {
  for (const table of TABLES.toReversed()) await knex.raw('drop table ??', [table]);
}
