import type { Migration } from '#libs/postgres/migrate.ts';

/**
 * A compensation leaves a receipt, and nothing of what its run was given or had made. The text of runs that earlier
 * versions compensated goes here; so does what `workflow_run_steps.removed` cannot tell, since it has one count a type.
 */
export const compensationReceipts: Migration = {
  name: '011-compensation-receipts',
  locks: { deletion_steps: 'all', deletions: 'all', workflow_run_steps: 'all', workflow_runs: 'all' },
  async up(knex) {
    await knex.raw(`
      alter table workflow_runs
        -- When its compensation began. Null: it has not, or an earlier version of Lethe began it.
        add column compensating_at timestamptz;
      alter table workflow_run_steps
        -- What the compensation removed, by participant.
        add column removals jsonb not null default '[]';
      alter table deletions
        drop constraint deletions_mode_check,
        add constraint deletions_mode_check check (mode in ('SOFT_DELETE', 'UNDELETE', 'PURGE', 'COMPENSATION'));

      update workflow_run_steps set output = null where state = 'COMPENSATED' and output is not null;
      update workflow_runs set input = null
        where input is not null
          and (state in ('COMPENSATING', 'COMPENSATED') or parked_reason is not null
               or state = 'CANCELLED' and ending = 'CANCELLED');
    `);
  },
  async down(knex) {
    await knex.raw(`
      delete from deletion_steps s using deletions d
        where s.tenant_id = d.tenant_id and s.deletion_id = d.id and d.mode = 'COMPENSATION';
      delete from deletions where mode = 'COMPENSATION';
      alter table deletions
        drop constraint deletions_mode_check,
        add constraint deletions_mode_check check (mode in ('SOFT_DELETE', 'UNDELETE', 'PURGE'));
      alter table workflow_run_steps drop column removals;
      alter table workflow_runs drop column compensating_at;
    `);
  },
};
