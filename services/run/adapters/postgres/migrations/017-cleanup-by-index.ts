import type { Knex } from 'knex';
import type { Migration } from '#libs/postgres/migrate.ts';
import { CLEAN_UP_BY_WALK } from './007-cleanup-executions.ts';

/**
 * An index that leaves running executions out, so that what a call of `cleanup_old_executions` costs follows its batch:
 * the function keeps no position between calls, and would otherwise pass all running ones in front of it each time.
 *
 * A batch has two parts. Of those that are stale every one goes; of those that are merely expired, what is not running.
 */
export const cleanupByIndex: Migration = {
  name: '017-cleanup-by-index',
  locks: { executions: 'writes' },
  async up(knex, appRole) {
    await knex.raw(
      "create index executions_not_running on executions (tenant_id, age, id, created_at) where state <> 'RUNNING'",
    );
    await knex.raw(`
create or replace function cleanup_old_executions(
  p_tenant_id text, p_retention_days integer, p_min_executions_to_keep integer, p_batch_size integer default 1000
) returns table (deleted_count integer, execution_summary jsonb)
language plpgsql set search_path = public, pg_temp
-- The table changes under a plan that is kept for the session: nothing but the index serves it well.
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  wrong text := concat_ws('; ',
    case when coalesce(p_tenant_id, '') = '' then 'p_tenant_id is required' end,
    case when p_retention_days between 1 and 36500 then null
         else 'p_retention_days must be from 1 to 36500' end,
    case when p_min_executions_to_keep between 0 and 1000000000 then null
         else 'p_min_executions_to_keep must be from 0 to 1000000000' end,
    case when p_batch_size between 1 and 100000 then null
         else 'p_batch_size must be from 1 to 100000' end);
  cutoff timestamptz;
  stale timestamptz;
  -- Only what is before this position goes: the cutoff, or the oldest that the floor keeps.
  end_age timestamptz;
  end_id uuid := '00000000-0000-0000-0000-000000000000';
  end_created_at timestamptz := '-infinity';
  floor_age timestamptz;
  floor_id uuid;
  floor_created_at timestamptz;
  chosen integer := 0;
  oldest timestamptz;
  newest timestamptz;
begin
  if wrong <> '' then
    raise exception '%', wrong using errcode = 'invalid_parameter_value';
  end if;
  if row_security_active('executions') and p_tenant_id is distinct from lethe_tenant() then
    raise exception 'p_tenant_id must be the tenant of this session' using errcode = 'insufficient_privilege';
  end if;
  deleted_count := 0;
  cutoff := clock_timestamp() - p_retention_days * interval '24 hours';
  -- A running execution stays until it has been expired for 30 days.
  stale := cutoff - interval '30 days';
  end_age := cutoff;

  -- One purge of a tenant at a time.
  insert into execution_watermarks (tenant_id)
    select p_tenant_id where exists (select from executions e where e.tenant_id = p_tenant_id)
    on conflict do nothing;
  perform from execution_watermarks w where w.tenant_id = p_tenant_id for update;

  if found and p_min_executions_to_keep > 0 then
    select e.age, e.id, e.created_at into floor_age, floor_id, floor_created_at from executions e
    where e.tenant_id = p_tenant_id
    order by e.age desc, e.id desc, e.created_at desc
    offset p_min_executions_to_keep - 1 limit 1;
    if floor_age is null then
      end_age := '-infinity';
    elsif floor_age < cutoff then
      end_age := floor_age;
      end_id := floor_id;
      end_created_at := floor_created_at;
    end if;
  end if;
  -- One lower and one upper bound to each scan, as row comparisons: for a second one Postgres would walk on.
  with stale_ones as materialized (
    select e.age, e.id, e.created_at from executions e
    where e.tenant_id = p_tenant_id
      and (e.age, e.id, e.created_at) < (
        least(end_age, stale),
        case when end_age < stale then end_id else '00000000-0000-0000-0000-000000000000' end,
        case when end_age < stale then end_created_at else '-infinity' end)
    order by e.age, e.id, e.created_at limit p_batch_size
  ), others as materialized (
    select e.age, e.id, e.created_at from executions e
    where e.tenant_id = p_tenant_id and e.state <> 'RUNNING'
      and (e.age, e.id, e.created_at) >= (stale, '00000000-0000-0000-0000-000000000000', '-infinity')
      and (e.age, e.id, e.created_at) < (end_age, end_id, end_created_at)
    order by e.age, e.id, e.created_at limit p_batch_size - (select count(*) from stale_ones)
  ), last_stale as materialized (
    select x.age, x.id, x.created_at from stale_ones x order by x.age desc, x.id desc, x.created_at desc limit 1
  ), first_other as materialized (
    select x.age, x.id, x.created_at from others x order by x.age, x.id, x.created_at limit 1
  ), last_other as materialized (
    select x.age, x.id, x.created_at from others x order by x.age desc, x.id desc, x.created_at desc limit 1
  ), gone as (
    delete from executions e
    where e.tenant_id = p_tenant_id
      and (e.age, e.id, e.created_at) <= ((select l.age from last_stale l), (select l.id from last_stale l),
                                          (select l.created_at from last_stale l))
    returning e.age
  ), others_gone as (
    delete from executions e
    where e.tenant_id = p_tenant_id and e.state <> 'RUNNING'
      and (e.age, e.id, e.created_at) >= ((select f.age from first_other f), (select f.id from first_other f),
                                          (select f.created_at from first_other f))
      and (e.age, e.id, e.created_at) <= ((select l.age from last_other l), (select l.id from last_other l),
                                          (select l.created_at from last_other l))
    returning e.age
  ), last as materialized (
    select * from last_other union all select * from last_stale where not exists (select from last_other)
  ), mark as (
    update execution_watermarks w set age = l.age, id = l.id, created_at = l.created_at from last l
    where w.tenant_id = p_tenant_id
      and (w.age is null or (w.age, w.id, w.created_at) < (l.age, l.id, l.created_at))
  )
  select count(*), min(g.age), max(g.age), (select count(*) from stale_ones) + (select count(*) from others)
    into deleted_count, oldest, newest, chosen
    from (select age from gone union all select age from others_gone) g;
  execution_summary := jsonb_build_object(
    'tenant_id', p_tenant_id, 'retention_days', p_retention_days,
    'min_executions_to_keep', p_min_executions_to_keep, 'batch_size', p_batch_size, 'cutoff', cutoff,
    'deleted_count', deleted_count, 'oldest_deleted', oldest, 'newest_deleted', newest,
    'may_have_more', chosen = p_batch_size);
  return next;
end $$`);
    await grant(knex, appRole);
  },
  async down(knex, appRole) {
    await knex.raw(CLEAN_UP_BY_WALK);
    await grant(knex, appRole);
    await knex.raw('drop index if exists executions_not_running');
  },
};

/** Where somebody has dropped the function, the new one would be anybody's. */
async function grant(knex: Knex, appRole: string): Promise<void> {
  const signature = 'cleanup_old_executions(text, integer, integer, integer)';
  await knex.raw(`revoke all on function ${signature} from public`);
  await knex.raw(`grant execute on function ${signature} to ??`, [appRole]);
}
