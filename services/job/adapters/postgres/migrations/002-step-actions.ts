import type { Migration } from '#libs/postgres/migrate.ts';
import { secureTable } from '#libs/postgres/tenant-security.ts';

/** The actions of steps that this participant has taken on, and how many jobs a restore brought back. */
export const stepActions: Migration = {
  name: '002-step-actions',
  locks: { step_tombstones: 'all' },
  async up(knex, appRole) {
    await knex.raw(`
      create table step_actions (
        tenant_id text not null,
        run_id uuid not null,
        step text not null,
        fingerprint text not null,
        job_id uuid not null,
        outcome jsonb,
        created_at timestamptz not null default now(),
        finished_at timestamptz,
        primary key (tenant_id, run_id, step)
      );
      alter table step_tombstones add column restored bigint;
    `);
    await secureTable(knex, 'step_actions', appRole);
  },
  async down(knex) {
    await knex.raw('alter table step_tombstones drop column restored');
    await knex.raw('drop table step_actions');
  },
};
