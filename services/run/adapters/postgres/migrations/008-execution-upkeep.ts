import type { Migration } from '#libs/postgres/migrate.ts';

const EMPTY_DAYS = 30;

/**
 * Hands the disk of purged months back while the service runs. Detaching or dropping a partition would lock the parent
 * against every read, so a month that is nearly empty is rewritten in place, and only `migrate up` drops the empty ones.
 */
export const executionUpkeep: Migration = {
  name: '008-execution-upkeep',
  async up(knex, appRole) {
    await knex.raw(`
      -- Rewrites one month in which at most 10,000 rows are left, and which holds ten times what they need. Answers with
      -- what it did, or with no row where no month wants it. The partition is locked for as long as so few rows take;
      -- where it is in use for more than 200 ms, another month is tried. Two callers never work on one month.
      create function rewrite_execution_month()
      returns table (rewritten_month date, kept_rows integer, bytes_before bigint, bytes_after bigint)
      language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '200ms' as $$
      declare
        candidate record;
        kept executions[];
        row_bytes bigint;
        column_list text := (
          select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute
          where attrelid = 'executions'::regclass and attnum > 0 and not attisdropped and attgenerated = '');
      begin
        for candidate in
          select m.month, c.oid::regclass as leaf from execution_months m
          join pg_class c on c.relname = 'executions_' || to_char(m.month::timestamp, 'YYYY_MM')
          join pg_inherits i on i.inhrelid = c.oid and i.inhparent = 'executions'::regclass
          where pg_total_relation_size(c.oid) > 1048576 and pg_stat_get_live_tuples(c.oid) <= 20000
          order by m.month for update of m skip locked
        loop
          begin
            -- Most are refused here, without a lock that anybody would notice.
            execute format('select count(*), sum(pg_column_size(x.*)) from (select * from %s limit 10001) x', candidate.leaf)
              into kept_rows, row_bytes;
            continue when kept_rows > 10000 or not wants_rewrite(candidate.leaf, kept_rows, row_bytes);
            execute format('lock table only %s in access exclusive mode', candidate.leaf);
            execute format('select count(*), sum(pg_column_size(x.*)) from (select * from %s limit 10001) x', candidate.leaf)
              into kept_rows, row_bytes;
            bytes_before := pg_total_relation_size(candidate.leaf);
            continue when kept_rows > 10000 or not wants_rewrite(candidate.leaf, kept_rows, row_bytes);
            execute format('select array_agg(x::executions) from only %s x', candidate.leaf) into kept;
            execute format('truncate only %s', candidate.leaf);
            execute format('insert into %s (%s) select %s from unnest($1)', candidate.leaf, column_list, column_list)
              using kept;
            execute format('analyze %s', candidate.leaf);
            update execution_months set rewritten_at = clock_timestamp() where month = candidate.month;
            rewritten_month := candidate.month;
            bytes_after := pg_total_relation_size(candidate.leaf);
            return next;
            return;
          exception when lock_not_available then
            null;
          end;
        end loop;
      end $$;

      -- A row needs its own bytes, about as many in the indexes again, and room for pages that are not full.
      create function wants_rewrite(p_leaf regclass, p_rows bigint, p_row_bytes bigint) returns boolean
      language sql stable as $$
        select pg_total_relation_size(p_leaf) > 1048576
           and pg_total_relation_size(p_leaf) > 10 * 3 * (coalesce(p_row_bytes, 0) + 40 * p_rows)
           and coalesce(p_row_bytes, 0) < 67108864
      $$;

      -- Notes since when a month that is over has been empty.
      create function note_empty_execution_months() returns void
      language plpgsql security definer set search_path = public, pg_temp as $$
      declare
        noted record;
        is_empty boolean;
      begin
        for noted in
          select m.month, m.empty_since, c.oid::regclass as leaf from execution_months m
          join pg_class c on c.relname = 'executions_' || to_char(m.month::timestamp, 'YYYY_MM')
          join pg_inherits i on i.inhrelid = c.oid and i.inhparent = 'executions'::regclass
          where m.month < date_trunc('month', now() at time zone 'UTC') and pg_relation_size(c.oid) <= 1048576
          order by m.month for update of m skip locked
        loop
          execute format('select not exists (select from %s)', noted.leaf) into is_empty;
          if is_empty <> (noted.empty_since is not null) then
            update execution_months set empty_since = case when is_empty then clock_timestamp() end
            where month = noted.month;
          end if;
        end loop;
      end $$;
    `);
    for (const signature of ['rewrite_execution_month()', 'note_empty_execution_months()']) {
      await knex.raw(`revoke all on function ${signature} from public`);
      await knex.raw(`grant execute on function ${signature} to ??`, [appRole]);
    }
    await knex.raw('revoke all on function wants_rewrite(regclass, bigint, bigint) from public');
  },
  async afterEveryUp(knex) {
    // Dropping a partition locks the parent against reads, hence here and with a short timeout. What is in use now goes
    // with a later migration.
    await knex.raw(`
      do $$
      declare
        empty record;
        is_empty boolean;
      begin
        set local lock_timeout = '2s';
        for empty in
          select m.month, c.oid::regclass as leaf from execution_months m
          join pg_class c on c.relname = 'executions_' || to_char(m.month::timestamp, 'YYYY_MM')
          join pg_inherits i on i.inhrelid = c.oid and i.inhparent = 'executions'::regclass
          where m.month < now() - interval '60 days' and m.empty_since < now() - interval '${EMPTY_DAYS} days'
          order by m.month for update of m skip locked
        loop
          begin
            lock table only executions in access exclusive mode;
            execute format('lock table only %s in access exclusive mode', empty.leaf);
            execute format('select not exists (select from only %s)', empty.leaf) into is_empty;
            continue when not is_empty;
            execute format('drop table %s', empty.leaf);
            delete from execution_months where month = empty.month;
          exception when lock_not_available then
            null;
          end;
        end loop;
      end $$`);
  },
  async down(knex) {
    await knex.raw('drop function if exists note_empty_execution_months()');
    await knex.raw('drop function if exists rewrite_execution_month()');
    await knex.raw('drop function if exists wants_rewrite(regclass, bigint, bigint)');
  },
};
