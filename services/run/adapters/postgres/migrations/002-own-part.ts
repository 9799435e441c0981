import type { Migration } from '#libs/postgres/migrate.ts';
import { secureTable } from '#libs/postgres/tenant-security.ts';

/**
 * Steps that callers record, RunService's own part in a cascade as a participant like the others, and one table that
 * recognises a repeated request of any RPC.
 */
export const ownPart: Migration = {
  name: '002-own-part',
  locks: { deletion_steps: 'all', deletions: 'all', workflow_run_steps: 'all', workflow_runs: 'all' },
  async up(knex, appRole) {
    await knex.raw(`
      alter table workflow_runs add column current_step text, add column started_at timestamptz;

      alter table workflow_run_steps
        add column attempts int not null default 0,
        add column deletion_id uuid,
        add constraint workflow_run_steps_state
          check (state in ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'COMPENSATING', 'COMPENSATED'));
      create unique index workflow_run_steps_order on workflow_run_steps (tenant_id, run_id, position);

      alter table deletion_steps add column next_attempt_at timestamptz;
      create unique index deletion_steps_participant on deletion_steps (tenant_id, deletion_id, participant);
      insert into deletion_steps (tenant_id, deletion_id, position, participant, state)
        select d.tenant_id, d.id, (select count(*) from deletion_steps s where (s.tenant_id, s.deletion_id) = (d.tenant_id, d.id)),
               'run', 'PENDING'
        from deletions d where d.state not in ('COMPLETE', 'CANCELLED') on conflict do nothing;

      create table request_ids (
        tenant_id text not null,
        method text not null,
        request_id uuid not null,
        fingerprint text not null,
        -- What the first request made; null where there was nothing to do.
        result_id uuid,
        created_at timestamptz not null default now(),
        primary key (tenant_id, method, request_id)
      );
      insert into request_ids (tenant_id, method, request_id, fingerprint, result_id, created_at)
        select tenant_id, 'CreateRun', request_id, fingerprint, run_id, created_at from run_requests
        union all
        select tenant_id, mode, request_id, fingerprint, id, created_at from deletions where request_id is not null;
      drop table run_requests;
      drop index deletions_request;

      -- The calls that RunService has served as a participant, so that a repeated one answers with the same counts.
      create table participant_operations (
        tenant_id text not null,
        operation_id uuid not null,
        step text not null,
        kind text not null check (kind in ('SOFT_DELETE', 'RESTORE', 'RESTORED', 'PURGE', 'COMPENSATE')),
        run_id uuid not null,
        counts jsonb not null default '[]',
        created_at timestamptz not null default now(),
        primary key (tenant_id, operation_id, step, kind)
      );
      create index participant_operations_run on participant_operations (tenant_id, run_id, kind);
    `);
    for (const table of ['request_ids', 'participant_operations']) await secureTable(knex, table, appRole);
  },
  async down(knex, appRole) {
    await knex.raw(`
      drop table participant_operations;
      create table run_requests (
        tenant_id text not null,
        request_id uuid not null,
        fingerprint text not null,
        run_id uuid not null,
        created_at timestamptz not null default now(),
        primary key (tenant_id, request_id)
      );
      insert into run_requests (tenant_id, request_id, fingerprint, run_id, created_at)
        select tenant_id, request_id, fingerprint, result_id, created_at from request_ids where method = 'CreateRun';
      drop table request_ids;
      update deletions d set request_id = null where exists (
        select from deletions e where e.tenant_id = d.tenant_id and e.request_id = d.request_id and e.id < d.id);
      create unique index deletions_request on deletions (tenant_id, request_id) where request_id is not null;
      drop index deletion_steps_participant;
      delete from deletion_steps s using deletions d
        where (s.tenant_id, s.deletion_id) = (d.tenant_id, d.id) and s.participant = 'run'
          and d.state not in ('COMPLETE', 'CANCELLED');
      alter table deletion_steps drop column next_attempt_at;
      drop index workflow_run_steps_order;
      alter table workflow_run_steps
        drop constraint workflow_run_steps_state, drop column attempts, drop column deletion_id;
      alter table workflow_runs drop column current_step, drop column started_at;
    `);
    await secureTable(knex, 'run_requests', appRole);
  },
};
