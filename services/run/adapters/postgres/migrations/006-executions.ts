import type { Migration } from '#libs/postgres/migrate.ts';
import { secureTable } from '#libs/postgres/tenant-security.ts';

// A year back covers what people insert by hand; RecordExecutions has older months made when it needs them.
const MONTHS_BACK = 12;
const MONTHS_AHEAD = 2;

/**
 * Executions, partitioned by the month (UTC) of created_at, and how far each tenant's have been purged.
 *
 * There is no default partition and no foreign key: both would make later partition changes lock more than they should.
 * A unique key must hold the partition key, so an execution is identified by (id, created_at). `age` is a stored column
 * because coalesce() never becomes an index condition under row-level security.
 */
export const executions: Migration = {
  name: '006-executions',
  async up(knex, appRole) {
    await knex.raw(`
      create table executions (
        tenant_id text not null,
        id uuid not null default gen_random_uuid(),
        workflow text not null default '',
        status text not null default '',
        state text not null default 'ENDED' check (state in ('QUEUED', 'RUNNING', 'ENDED')),
        started_at timestamptz,
        finished_at timestamptz,
        created_at timestamptz not null default now(),
        age timestamptz not null generated always as (coalesce(started_at, created_at)) stored,
        primary key (tenant_id, created_at, id)
      ) partition by range (created_at);

      -- created_at at its end makes the order total: two executions may share start and id.
      create index executions_age on executions (tenant_id, age, id, created_at);
      create index idx_executions_retention_cleanup on executions (tenant_id, started_at);
      create index idx_executions_null_started_at on executions (tenant_id, created_at) where started_at is null;

      -- How far purges have come, by (age, id, created_at): at the newest execution that was purged, or beyond it at a
      -- running one that was spared there. Nothing up to it is recorded anew, or a late retry would bring back what was
      -- purged; what was spared is still brought up to date. Every purge locks it, and writes it in the transaction that deletes.
      create table execution_watermarks (
        tenant_id text primary key,
        age timestamptz,
        id uuid,
        created_at timestamptz,
        check (num_nulls(age, id, created_at) in (0, 3))
      );

      -- One row a partition. empty_since: when upkeep first saw it empty, null for one that has rows.
      create table execution_months (
        month date primary key,
        empty_since timestamptz,
        rewritten_at timestamptz
      );
    `);
    await secureTable(knex, 'executions', appRole);
    await secureTable(knex, 'execution_watermarks', appRole);
    await knex.raw(`
      -- Makes the partition for the month that holds this day; false where it is there already. CREATE and ATTACH, and
      -- not PARTITION OF, which would lock the parent against every read. The range is bounded since the app role may
      -- call it for any create_time that a caller sends.
      create function make_execution_month(p_day date) returns boolean
      language plpgsql security definer set search_path = public, pg_temp as $$
      declare
        first_day date := date_trunc('month', p_day::timestamp)::date;
        next_day date := first_day + interval '1 month';
        this_month date := date_trunc('month', now() at time zone 'UTC')::date;
        leaf text := 'executions_' || to_char(first_day::timestamp, 'YYYY_MM');
      begin
        if first_day is null or first_day < this_month - interval '120 months'
           or first_day > this_month + interval '12 months' then
          raise exception 'p_day must lie between ten years ago and one year ahead' using errcode = '22023';
        end if;
        lock table execution_months in share row exclusive mode;
        if exists (select from execution_months where month = first_day) then
          return false;
        end if;
        -- A purge leaves many dead rows at once, and a month that is full changes no more: vacuum on small shares.
        execute format(
          'create table %I (like executions including all) with (fillfactor = 90,
             autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
             autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05,
             autovacuum_vacuum_cost_delay = 1)', leaf);
        -- Nobody but the owner reaches a partition except through its parent.
        execute format('alter table %I enable row level security', leaf);
        execute format('alter table executions attach partition %I for values from (%L) to (%L)',
          leaf, to_char(first_day::timestamp, 'YYYY-MM-DD 00:00:00+00'), to_char(next_day::timestamp, 'YYYY-MM-DD 00:00:00+00'));
        insert into execution_months (month) values (first_day);
        return true;
      end $$;
      revoke all on function make_execution_month(date) from public;
    `);
    await knex.raw('grant execute on function make_execution_month(date) to ??', [appRole]);
    await knex.raw(
      `select make_execution_month((now() at time zone 'UTC' + n * interval '1 month')::date)
       from generate_series(${-MONTHS_BACK}, ${MONTHS_AHEAD}) n`,
    );
  },
  async down(knex) {
    await knex.raw('drop function if exists make_execution_month(date)');
    for (const table of ['execution_months', 'execution_watermarks', 'executions'])
      await knex.raw('drop table if exists ??', [table]);
  },
};
