import type { ColumnType, Effects, ResourceType } from '../../domain/workflow.ts';

/** A piece of one statement: common table expressions, each with a name of its own, and the values that they bind. */
export interface EffectClauses {
  readonly ctes: readonly string[];
  readonly values: readonly unknown[];
}

/** The rows of effects as SQL. Every clause stands in a statement whose `held` has a row only for the run's holder. */
export interface ContentStatements {
  /** Inserts a step's rows; `$1` is the tenant, `$2` the run, `$3` the step, and `firstValue` the first free number. */
  insert(effects: Effects, firstValue: number): EffectClauses;
  /** Selects one row by tenant and id, and as `hidden_run` the run that it belongs to where that is hidden. */
  select(type: string): string;
  /**
   * Locks the run of the row with tenant `$1` and id `$2` against being hidden, and waits for who is hiding it. A
   * statement of its own, before the one that uses the row: only so does that one see what was hidden in the meantime.
   */
  lockOwner(type: string): string;
  /** A common table expression `hidden`: the run of the row, where it is hidden; `$1` is the tenant. */
  hiddenOwner(type: string, id: string): string;
}

const IDENTIFIER = /^[a-z][a-z0-9_]{0,62}$/;

/** Makes the statements for these types; names come from declarations, and get into SQL only when they are names. */
export function makeContentStatements(types: readonly ResourceType[]): ContentStatements {
  const shapes = new Map(
    types.map((type) => [type.name, { isShared: type.isShared === true, columns: columnsOf(type) }]),
  );
  const shapeOf = (name: string) => {
    const shape = shapes.get(name);
    if (!shape) throw new Error(`no workflow declares the type ${name}`);
    return shape;
  };
  return {
    insert(effects, firstValue) {
      const made = Object.entries(effects).filter(([, rows]) => rows.length > 0);
      const ctes = made.map(([type, rows], index) => {
        const { columns, isShared } = shapeOf(type);
        const names = columns.map(([name]) => name).join(', ');
        const shape = columns.map(([name, sqlType]) => `${name} ${sqlType}`).join(', ');
        const value = `$${firstValue + index}::jsonb`;
        const source = rows.length === 1 ? `jsonb_to_record(${value})` : `jsonb_to_recordset(${value})`;
        // Whoever comes first makes what is shared.
        const conflict = isShared ? ' on conflict do nothing' : '';
        return `made_${index} as (
          insert into ${type} (tenant_id, run_id, step, ${names})
          select $1, $2, $3, ${columns.map(([name]) => `row.${name}`).join(', ')} from held, ${source} as row(${shape})${conflict}
          returning 1)`;
      });
      return { ctes, values: made.map(([, rows]) => JSON.stringify(rows.length === 1 ? rows[0] : rows)) };
    },
    select(type) {
      const { columns } = shapeOf(type);
      return `select ${columns.map(([name]) => `t.${name}`).join(', ')}, (select r.id from workflow_runs r
                where r.tenant_id = $1 and r.id = t.run_id and r.deleted_at is not null) as hidden_run
              from ${type} t where t.tenant_id = $1 and t.id = $2`;
    },
    lockOwner(type) {
      shapeOf(type);
      return `select 1 from workflow_runs r where r.tenant_id = $1
                and r.id = (select t.run_id from ${type} t where t.tenant_id = $1 and t.id = $2) for key share`;
    },
    hiddenOwner(type, id) {
      shapeOf(type);
      return `hidden as (
        select r.id from workflow_runs r where r.tenant_id = $1 and r.deleted_at is not null
          and r.id = (select t.run_id from ${type} t where t.tenant_id = $1 and t.id = ${id}::uuid))`;
    },
  };
}

/**
 * Removes rows of these tables that steps of `wanted` have made: `$1` is the tenant, `$2` the run, and `wanted` has a row
 * for each step with its `name` and, as keys of `own`, its tables. `counted` and `tally` tell how many rows of a step went, by table.
 * The steps stand in a sub-select: with an array of unknown length each statement would be planned anew.
 */
export function removeClauses(tables: readonly string[]): readonly string[] {
  const gone = tables.map(toIdentifier).map(
    (table, index) => `gone_${index} as (
      delete from ${table} t using held
      where t.tenant_id = $1 and t.run_id = $2 and t.step = any(array(select name from wanted where own ? '${table}'))
      returning t.step, '${table}' as type)`,
  );
  const all = tables.map((_, index) => `select step, type from gone_${index}`).join(' union all ');
  return [
    ...gone,
    `counted as (select step, type, count(*) as rows from (${all || NOTHING_GONE}) each group by step, type)`,
    'tally as (select step, jsonb_object_agg(type, rows) as counts from counted group by step)',
  ];
}

const NOTHING_GONE = 'select null::text as step, null::text as type where false';

/**
 * Locks the steps' rows that hang on what other runs share; `$3` is their names. It has to be a statement of its own, before the one that
 * removes: only so does that one see what was passed on to this run in the meantime.
 */
export const lockStatement = (table: string): string =>
  `select 1 from ${toIdentifier(table)} where tenant_id = $1 and run_id = $2 and step = any(array(select unnest($3::text[]))) for update`;

function columnsOf({ parents, columns }: ResourceType): readonly (readonly [string, ColumnType])[] {
  return [
    ['id', 'uuid'] as const,
    ...Object.keys(parents).map((name) => [name, 'uuid'] as const),
    ...Object.entries(columns),
  ];
}

/** The name as it stands; an Error for what is none. A stored declaration is not trusted with SQL. */
function toIdentifier(name: string): string {
  if (!IDENTIFIER.test(name)) throw new Error('not a name of a table');
  return name;
}
