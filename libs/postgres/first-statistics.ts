import type { Knex } from 'knex';

/**
 * Makes the planner expect many rows of a tenant in tables that were never analyzed. It assumes ten pages for a young
 * table, and wide rows leave so few on them that a tenant seems to have one: every index that begins with the tenant then
 * looks as good as the primary key, and what connections prepare reads all rows of a tenant, ever more of them, until the
 * first ANALYZE. Narrow columns make these rows many; ANALYZE replaces them with what is true.
 *
 * Only in the schema that the migrations make their tables in: those of others in the same database are left alone.
 *
 * Only an optimization: before PostgreSQL 18, and for a role that may not call its function, it does nothing.
 */
export async function giveFirstStatistics(knex: Knex): Promise<void> {
  const { rows } = await knex.raw(`
    select coalesce(has_function_privilege(to_regproc('pg_catalog.pg_restore_attribute_stats'), 'execute'), false)
             as may_tell`);
  if (rows[0].may_tell) await knex.raw(FIRST_STATISTICS);
}

// Looks again under the lock that ANALYZE takes, and skips a table that is locked: what is true is coming there.
const FIRST_STATISTICS = `
  do $$
  declare young record;
  begin
    for young in
      select c.oid, c.relname::text as name, c.oid::regclass as quoted
      from pg_class c
      where c.relnamespace = quote_ident(current_schema())::regnamespace and c.relkind = 'r' and c.reltuples < 0
        and pg_has_role(c.relowner, 'usage')
        and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id')
    loop
      begin
        execute format('lock table %s in share update exclusive mode nowait', young.quoted);
      exception when lock_not_available then
        continue;
      end;
      perform pg_restore_attribute_stats(
        'schemaname', current_schema()::text, 'relname', young.name, 'attname', a.attname::text, 'inherited', false,
        'null_frac', 0::real, 'avg_width', 1, 'n_distinct', 0::real)
      from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      where c.oid = young.oid and c.reltuples < 0;
    end loop;
  end $$`;
