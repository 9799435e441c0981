import type { Migration } from '#libs/postgres/migrate.ts';

/** The function as it was before there was an index of those that are not running. */
export const CLEAN_UP_BY_WALK = `
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
  kept_age timestamptz := 'infinity';
  kept_id uuid := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
  kept_created_at timestamptz := 'infinity';
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

  -- One purge of a tenant at a time.
  insert into execution_watermarks (tenant_id)
    select p_tenant_id where exists (select from executions e where e.tenant_id = p_tenant_id)
    on conflict do nothing;
  perform from execution_watermarks w where w.tenant_id = p_tenant_id for update;

  if found and p_min_executions_to_keep > 0 then
    kept_age := null;
    select e.age, e.id, e.created_at into kept_age, kept_id, kept_created_at from executions e
    where e.tenant_id = p_tenant_id
    order by e.age desc, e.id desc, e.created_at desc
    offset p_min_executions_to_keep - 1 limit 1;
  end if;
  with expired as materialized (
    select e.age, e.id, e.created_at from executions e
    where e.tenant_id = p_tenant_id and e.age < cutoff
      and (e.age, e.id, e.created_at) < (kept_age, kept_id, kept_created_at)
      and (e.state <> 'RUNNING' or e.age < stale)
    order by e.age, e.id, e.created_at limit p_batch_size
  ), last as materialized (
    select x.age, x.id, x.created_at from expired x order by x.age desc, x.id desc, x.created_at desc limit 1
  ), gone as (
    delete from executions e
    where e.tenant_id = p_tenant_id and e.age < cutoff and (e.state <> 'RUNNING' or e.age < stale)
      and (e.age, e.id, e.created_at)
          <= ((select l.age from last l), (select l.id from last l), (select l.created_at from last l))
    returning e.age
  ), mark as (
    update execution_watermarks w set age = l.age, id = l.id, created_at = l.created_at from last l
    where w.tenant_id = p_tenant_id
      and (w.age is null or (w.age, w.id, w.created_at) < (l.age, l.id, l.created_at))
  )
  select count(*), min(g.age), max(g.age), (select count(*) from expired)
    into deleted_count, oldest, newest, chosen from gone g;
  execution_summary := jsonb_build_object(
    'tenant_id', p_tenant_id, 'retention_days', p_retention_days,
    'min_executions_to_keep', p_min_executions_to_keep, 'batch_size', p_batch_size, 'cutoff', cutoff,
    'deleted_count', deleted_count, 'oldest_deleted', oldest, 'newest_deleted', newest,
    'may_have_more', chosen = p_batch_size);
  return next;
end $$`;

/**
 * `cleanup_old_executions` of seed 003: removes the oldest expired executions of one tenant, at most one batch a call,
 * and never one of the newest `p_min_executions_to_keep`. A loop inside a function would be one long transaction, so
 * the caller loops.
 *
 * It runs with the rights of its caller. The owner of the tables, who is not under row-level security, may clean up any
 * tenant; the app role only the one that it named.
 */
export const cleanupExecutions: Migration = {
  name: '007-cleanup-executions',
  async up(knex, appRole) {
    await knex.raw(`
      ${CLEAN_UP_BY_WALK};

      create function cleanup_old_executions(
        p_tenant_id uuid, p_retention_days integer, p_min_executions_to_keep integer, p_batch_size integer default 1000
      ) returns table (deleted_count integer, execution_summary jsonb)
      language sql set search_path = public, pg_temp as $$
        select * from cleanup_old_executions(p_tenant_id::text, p_retention_days, p_min_executions_to_keep, p_batch_size)
      $$;
    `);
    for (const type of ['text', 'uuid']) {
      const signature = `cleanup_old_executions(${type}, integer, integer, integer)`;
      await knex.raw(`revoke all on function ${signature} from public`);
      await knex.raw(`grant execute on function ${signature} to ??`, [appRole]);
    }
  },
  async down(knex) {
    // The rollback that seed 003 tells people to paste drops one of them.
    await knex.raw('drop function if exists cleanup_old_executions(uuid, integer, integer, integer)');
    await knex.raw('drop function if exists cleanup_old_executions(text, integer, integer, integer)');
  },
};
