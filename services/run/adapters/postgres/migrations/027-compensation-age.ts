import type { Knex } from 'knex';
import type { Migration } from '#libs/postgres/migrate.ts';

/** Counts the age of a compensation from when it began, and not from when its run did. */
export const compensationAge: Migration = {
  name: '027-compensation-age',
  // With a view, the tables that it reads are locked too; replacing it takes no time.
  locks: { oldest_work: 'all' },
  up: (knex) => replaceView(knex, 'coalesce(r.compensating_at, r.created_at)'),
  down: (knex) => replaceView(knex, 'r.created_at'),
};

// The columns stay, so that the function which reads the view goes on while it is replaced.
async function replaceView(knex: Knex, begunAt: string): Promise<void> {
  await knex.raw(`
    create or replace view oldest_work with (security_invoker) as
    (select d.tenant_id, 'DELETION' as kind, d.id, d.created_at from deletions d
     where d.state not in ('COMPLETE', 'CANCELLED') order by d.created_at limit 1)
    union all
    (select b.tenant_id, 'BULK_DELETION' as kind, b.id, b.created_at from bulk_deletions b
     where b.state in ('SELECTING', 'RUNNING', 'CANCELLING') order by b.created_at limit 1)
    union all
    (select r.tenant_id, 'RUN' as kind, r.id, r.created_at from workflow_runs r
     where r.due_at is not null and r.state = 'RUNNING' order by r.created_at limit 1)
    union all
    (select r.tenant_id, 'COMPENSATION' as kind, r.id, ${begunAt} as created_at from workflow_runs r
     where r.due_at is not null and r.state = 'COMPENSATING' order by ${begunAt} limit 1)`);
}
