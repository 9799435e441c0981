import type { Knex } from 'knex';

/** Creates `lethe_tenant()`: the tenant of the transaction. It raises where none was named, so a blind query fails. */
export const createTenantFunction = (knex: Knex): Promise<void> =>
  knex
    .raw(
      `create function lethe_tenant() returns text language plpgsql stable parallel safe as $$
       declare tenant text := current_setting('lethe.tenant', true);
       begin
         if tenant is null or tenant = '' then
           raise exception 'no tenant was named for this transaction' using errcode = 'insufficient_privilege';
         end if;
         return tenant;
       end $$`,
    )
    .then(() => undefined);

/** Drops what createTenantFunction made. */
export const dropTenantFunction = (knex: Knex): Promise<void> =>
  knex.raw('drop function lethe_tenant()').then(() => undefined);

/**
 * Puts a table with a tenant_id column under row-level security and lets the app role read and write its rows: those
 * of the named tenant. The owner migrates and is not under it.
 */
export async function secureTable(knex: Knex, table: string, appRole: string): Promise<void> {
  await knex.raw('alter table ?? enable row level security', [table]);
  // As a sub-select the function is called once a statement, not once a row.
  await knex.raw(
    'create policy tenant_rows on ?? using (tenant_id = (select lethe_tenant())) with check (tenant_id = (select lethe_tenant()))',
    [table],
  );
  await knex.raw('grant select, insert, update, delete on ?? to ??', [table, appRole]);
}

/**
 * Creates a discovery function, or replaces it under whoever calls it: the only window across tenants. `query` must select nothing that a tenant wrote: ids,
 * figures, times, and words of Lethe's own such as states. It runs with the rights of its owner, and the app role may call it. Its search path is fixed: the schema that it is
 * created in, which is `public` but for an owner that keeps its tables in a schema of its own.
 */
export async function createDiscoveryFunction(
  knex: Knex,
  { signature, returns, query, appRole }: { signature: string; returns: string; query: string; appRole: string },
): Promise<void> {
  const { rows } = await knex.raw('select quote_ident(current_schema()) as schema');
  await knex.raw(
    `create or replace function ${signature} returns ${returns} language sql stable security definer set search_path = ${rows[0].schema}, pg_temp as $$ ${query} $$`,
  );
  await knex.raw(`revoke all on function ${signature} from public`);
  await knex.raw(`grant execute on function ${signature} to ??`, [appRole]);
}

/**
 * Creates an operation: a function that writes across tenants with its owner's rights and does one narrow thing. `body`
 * is a PL/pgSQL block without its final semicolon.
 */
export async function createOperation(knex: Knex, appRole: string, signature: string, body: string): Promise<void> {
  await knex.raw(
    `create function ${signature} returns void language plpgsql security definer
     set search_path = public, pg_temp as $$ ${body}; $$`,
  );
  await knex.raw(`revoke all on function ${signature} from public`);
  await knex.raw(`grant execute on function ${signature} to ??`, [appRole]);
}
