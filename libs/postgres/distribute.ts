import type { Knex } from 'knex';

interface Table {
  /** Quoted where it must be. */
  readonly name: string;
  readonly ofTenant: boolean;
  readonly hasTriggers: boolean;
  readonly parents: readonly string[];
}

const TABLES = `
  select c.oid::regclass::text as name,
         exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id') as "ofTenant",
         exists (select from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal) as "hasTriggers",
         array(select distinct k.confrelid::regclass::text from pg_constraint k
               where k.conrelid = c.oid and k.contype = 'f' and k.confrelid <> c.oid) as parents
  from pg_class c
  where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
    and c.relname not like 'lethe\\_%'
  order by 1`;

/** How one table comes to its place. */
export interface Placement {
  readonly table: string;
  readonly statement: string;
}

/**
 * The statements that lay a service's tables over a Citus cluster: those of the installation whole on every node, those
 * of the tenants by tenant, with all that one tenant has on one node. What others refer to comes before them, and what is
 * `placed` already is left out.
 */
export async function placementsOf(
  knex: Pick<Knex, 'raw'>,
  placed: ReadonlySet<string> = new Set(),
): Promise<readonly Placement[]> {
  const tables = inOrder((await knex.raw(TABLES)).rows as Table[]);
  const ofTenants = tables.filter(({ ofTenant }) => ofTenant);
  const first = ofTenants.find(({ name }) => placed.has(name)) ?? ofTenants[0];
  const toPlacement = (table: Table): Placement => {
    const { name, ofTenant, hasTriggers } = table;
    if (!ofTenant) return { table: name, statement: `select create_reference_table('${name}')` };
    const beside = table === first ? 'none' : first?.name;
    const distribute = `select create_distributed_table('${name}', 'tenant_id', colocate_with => '${beside}')`;
    // Triggers here write nothing but rows of the same tenant, which are on the same node.
    return {
      table: name,
      statement: hasTriggers ? `set local citus.enable_unsafe_triggers = on; ${distribute}` : distribute,
    };
  };
  return [...tables.filter(({ ofTenant }) => !ofTenant), ...ofTenants]
    .filter(({ name }) => !placed.has(name))
    .map(toPlacement);
}

/** Places what is not placed yet; safe to repeat. An Error where the database has no Citus. */
export async function distributeTables(knex: Knex): Promise<void> {
  const { rows } = await knex.raw("select exists (select from pg_extension where extname = 'citus') as has_citus");
  if (!rows[0].has_citus) throw new Error('LETHE_DATABASE_DISTRIBUTED is citus, which this database does not have');
  const { rows: known } = await knex.raw('select logicalrelid::text as name from pg_dist_partition');
  const placed = new Set((known as { name: string }[]).map(({ name }) => name));
  for (const { statement } of await placementsOf(knex, placed)) await knex.raw(statement);
}

/** Parents before children; foreign keys have no circles. */
function inOrder(tables: readonly Table[]): readonly Table[] {
  const placed = new Set<Table>();
  const place = (table: Table): void => {
    if (placed.has(table)) return;
    for (const parent of tables) if (table.parents.includes(parent.name)) place(parent);
    placed.add(table);
  };
  for (const table of tables) place(table);
  return [...placed];
}
