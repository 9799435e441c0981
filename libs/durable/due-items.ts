/** A table of leased work as a query for what is due sees it; conditions are SQL about the row `l`. */
export interface DueItems {
  readonly table: string;
  /** Whether anything will ever be done about the item. Of an index on (tenant_id, `dueAt`). */
  readonly isOpen: string;
  /** Whether a worker may take the item up now. */
  readonly isDue: string;
  /** Whether a worker has it. Of an index that begins with tenant_id. */
  readonly isHeld: string;
  /** The column that says since when it has been due. */
  readonly dueAt: string;
}

/**
 * The query of a discovery function with the parameter `max_rows`: what is due, so that tenants take turns. Whose items
 * have fewer workers comes first, and of each tenant what has been due longest, however many wait for another tenant. It
 * finds the tenants by one probe each, and reads no more of a tenant than it may answer. Migrations that have landed use
 * it as it stands.
 */
export const dueItemsQuery = ({ table, isOpen, isDue, isHeld, dueAt }: DueItems): string => `
  with recursive t as (
    (select l.tenant_id from ${table} l where ${isOpen} order by l.tenant_id limit 1)
    union all
    select (select l.tenant_id from ${table} l where ${isOpen} and l.tenant_id > t.tenant_id
            order by l.tenant_id limit 1)
    from t where t.tenant_id is not null)
  select t.tenant_id, w.id
  from t
  cross join lateral (select count(*) as held from ${table} l where l.tenant_id = t.tenant_id and ${isHeld}) h
  cross join lateral (
    select d.id, d.due_at, row_number() over (order by d.due_at) as place
    from (select l.id, l.${dueAt} as due_at from ${table} l
          where l.tenant_id = t.tenant_id and ${isOpen} and ${isDue}
          order by l.${dueAt} limit max_rows) d) w
  where t.tenant_id is not null
  order by h.held + w.place, w.due_at limit max_rows`;
