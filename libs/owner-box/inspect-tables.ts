import type { DependentEntry, OwnerFile, SubjectEntry, TableName } from './parse-file.ts';

/** A table that was found fit, with everything that its statements need. Names are quoted and ready for SQL. */
export interface BoxTable {
  readonly subject: SubjectEntry;
  readonly table: string;
  readonly tenant: Column & { readonly isByteOrdered: boolean };
  readonly instant: Column;
  readonly id: readonly Column[];
  readonly dependents: readonly BoxDependent[];
}

/** A column, quoted, and its type as SQL writes it. */
export interface Column {
  readonly name: string;
  readonly type: string;
}

/** A dependent table; pairs of its own column and the row's, quoted. */
export interface BoxDependent {
  readonly resourceType: string;
  readonly table: string;
  readonly columns: readonly (readonly [own: string, referred: string])[];
}

/** Runs a statement with positional parameters as the role that will purge. */
export type Query = <Row>(text: string, values: readonly unknown[]) => Promise<Row[]>;

/** What an inspection found: nothing to serve unless there are no problems. */
export interface Inspection {
  readonly tables: readonly BoxTable[];
  /** Everything that keeps the file from being served; each names its subject and says what to do. */
  readonly problems: readonly string[];
  /** What an operator may want to know, though it is served. */
  readonly remarks: readonly string[];
}

// A tenant's id in a token is 1 to 63 of a-z, 0-9 and `-`: types that can hold one.
const TENANT_TYPES = ['text', 'character varying', 'uuid', 'smallint', 'integer', 'bigint'];
// Types whose order and text are the same in every session.
const ID_TYPES = ['text', 'character varying', 'uuid', 'smallint', 'integer', 'bigint'];
// Columns that libs/owner has beside the key's.
const RESERVED = ['age', 'goes'];
const ZONED = 'timestamp with time zone';
const UNZONED = 'timestamp without time zone';

/** Compares the file with the database, as its role sees it. */
export async function inspectTables(query: Query, file: OwnerFile): Promise<Inspection> {
  const catalogue = await readCatalogue(query, file);
  const problems: string[] = [];
  const remarks: string[] = [];
  const tables = file.subjects.map((subject) => inspectSubject(subject, catalogue, problems, remarks));
  return { tables: tables.filter((table) => table !== undefined), problems, remarks };
}

function inspectSubject(
  subject: SubjectEntry,
  catalogue: Catalogue,
  problems: string[],
  remarks: string[],
): BoxTable | undefined {
  const before = problems.length;
  const report = (problem: string): void => void problems.push(`${subject.name}: ${problem}`);
  const found = findTable(catalogue, subject.table, report);
  if (!found) return undefined;

  const { tenant, instant, id } = subject;
  const columnOf = (name: string, types: readonly string[], what: string): Column | undefined => {
    const column = found.columns.get(name);
    if (!column) report(`${found.title} has no column ${name}`);
    else if (!types.includes(column.type)) {
      report(`${found.title}.${name} is ${column.type}; ${what} can be ${types.join(', ')}`);
    } else return { name: quote(name), type: column.type };
    return undefined;
  };
  const tenantColumn = columnOf(tenant, TENANT_TYPES, 'a tenant');
  const instantColumn = columnOf(instant, [ZONED, UNZONED], 'an instant');
  const idColumns = id.map((name) => columnOf(name, ID_TYPES, 'an id'));
  if (instantColumn?.type === UNZONED && !subject.isUtc) {
    report(`${found.title}.${instant} has no time zone; say instant_zone: UTC if it is written in UTC`);
  }
  if (instantColumn?.type === ZONED && subject.isUtc) {
    report(`${found.title}.${instant} has a time zone; leave instant_zone out`);
  }
  for (const name of id.filter((column) => RESERVED.includes(column))) {
    report(`${found.title}.${name} cannot be part of an id under that name`);
  }
  for (const name of [tenant, ...id]) {
    if (found.columns.get(name)?.isNullable) report(`${found.title}.${name} can be null; make it not null`);
  }
  if (problems.length === before) inspectIndexes(found, subject, report);
  inspectRights(found, report);
  const dependents = subject.dependents.map((dependent) =>
    inspectDependent(dependent, { subject, found, catalogue, report }),
  );
  inspectReferences(subject, found, catalogue, report, (remark) => remarks.push(`${subject.name}: ${remark}`));

  const isWhole = problems.length === before && tenantColumn !== undefined && instantColumn !== undefined;
  if (!isWhole) return undefined;
  return {
    subject,
    table: found.sql,
    tenant: { ...tenantColumn, isByteOrdered: found.columns.get(tenant)?.isByteOrdered === true },
    instant: instantColumn,
    id: idColumns.filter((column) => column !== undefined),
    dependents: dependents.filter((dependent) => dependent !== undefined),
  };
}

function inspectIndexes(found: Table, { tenant, instant, id }: SubjectEntry, report: Report): void {
  const wanted = [tenant, instant, ...id];
  const serves = ({ columns, isOrdered }: Index): boolean =>
    isOrdered && wanted.every((name, position) => columns[position] === name);
  if (!found.indexes.some(serves)) {
    const list = wanted.map(quote).join(', ');
    report(
      `${found.title} has no index on (${wanted.join(', ')}), which batches need; ` +
        `create index ${found.isPartitioned ? '' : 'concurrently '}on ${found.sql} (${list})`,
    );
  }
  if (!identifies(found, [tenant, ...id])) {
    report(
      `${found.title} may have two rows with one (${[tenant, ...id].join(', ')}), which could not be told apart; name all columns of a unique key as id`,
    );
  }
}

/** Whether a unique index has none but these columns, so that together they name at most one row. */
const identifies = (table: Table, columns: readonly string[]): boolean =>
  table.indexes.some((index) => index.isUnique && index.columns.every((name) => columns.includes(name)));

function inspectRights(found: Table, report: Report): void {
  const missing = [...(found.maySelect ? [] : ['select']), ...(found.mayDelete ? [] : ['delete'])];
  if (!found.hasUsage) report(`${found.role} may not use the schema of ${found.title}`);
  if (missing.length > 0) {
    report(
      `${found.role} may not ${missing.join(' and ')} in ${found.title}; grant ${missing.join(', ')} on ${found.sql} to ${quote(found.role)}`,
    );
  }
  // Rows that are hidden would be reported as not there.
  if (found.isHidden) {
    report(
      `row-level security hides rows of ${found.title} from ${found.role}; use a role that sees all, as with bypassrls`,
    );
  }
}

function inspectDependent(
  dependent: DependentEntry,
  { subject, found, catalogue, report }: Inspecting,
): BoxDependent | undefined {
  const table = findTable(catalogue, dependent.table, report);
  if (!table) return undefined;
  if (table === found) {
    report(`${table.title} cannot be a dependent of itself; a row's end would take younger rows`);
    return undefined;
  }
  const [own, referred] = [dependent.columns.map(([name]) => name), dependent.columns.map(([, name]) => name)];
  let isSound = true;
  const refuse = (problem: string): void => {
    isSound = false;
    report(problem);
  };
  for (const name of own) if (!table.columns.has(name)) refuse(`${table.title} has no column ${name}`);
  for (const name of referred) if (!found.columns.has(name)) refuse(`${found.title} has no column ${name}`);
  if (!isSound) return undefined;
  for (const [name, of] of dependent.columns) {
    const [a, b] = [table.columns.get(name)?.type, found.columns.get(of)?.type];
    if (a !== b) refuse(`${table.title}.${name} is ${a} and ${found.title}.${of} is ${b}; both must have one type`);
  }
  // Else one row's end would take dependents of another.
  const known = new Set(referred);
  const isKey = found.indexes.some(({ isUnique, columns }) => isUnique && columns.every((name) => known.has(name)));
  if (!isKey) {
    refuse(
      `the columns of ${table.title} refer to (${referred.join(', ')}), which is no unique key of ${found.title}; a row's end would take what hangs on others`,
    );
  }
  // Led by the foreign key's columns in any order, where the tenant's may be missing.
  const needed = dependent.columns.filter(([, of]) => of !== subject.tenant).map(([name]) => name);
  if (!isLedBy(table, own, needed.length > 0 ? needed : own)) {
    refuse(
      `${table.title} has no index on (${own.join(', ')}), so that each batch would read it whole; ` +
        `create index ${table.isPartitioned ? '' : 'concurrently '}on ${table.sql} (${own.map(quote).join(', ')})`,
    );
  }
  inspectRights(table, refuse);
  if (!isSound) return undefined;
  const columns = dependent.columns.map(([name, of]) => [quote(name), quote(of)] as const);
  return { resourceType: dependent.resourceType, table: table.sql, columns };
}

/** Whether an index begins with columns of `own`, all of `needed` among them. */
const isLedBy = (table: Table, own: readonly string[], needed: readonly string[]): boolean =>
  table.indexes.some(({ columns }) => {
    const strange = columns.findIndex((name) => !own.includes(name));
    const leading = strange === -1 ? columns : columns.slice(0, strange);
    return needed.every((name) => leading.includes(name));
  });

/** Foreign keys that refer to what is purged: they must let a row go, and be found by an index. */
function inspectReferences(
  subject: SubjectEntry,
  found: Table,
  catalogue: Catalogue,
  report: Report,
  remark: Report,
): void {
  const listed = new Set(subject.dependents.map(({ table }) => titleOf(table)));
  const seen = new Set<string>();
  const listIt = (from: string): string =>
    listed.has(from) ? 'list it as a dependent by these columns too' : 'list it as a dependent';
  const follow = (referred: string, isListed: boolean): void => {
    for (const reference of catalogue.references.filter(({ to }) => to === referred)) {
      const { from, columns, onDelete } = reference;
      const named = `${from} (${columns.join(', ')})`;
      const key = `${named} ${referred}`;
      if (seen.has(key)) continue;
      seen.add(key);
      if (from === found.title && onDelete !== 'set null' && onDelete !== 'set default') {
        report(`${named} refers to ${referred}, so that a row's end would take younger rows; use on delete set null`);
        continue;
      }
      if (referred === found.title && subject.dependents.some((dependent) => follows(dependent, reference, subject)))
        continue;
      const table = catalogue.tables.get(from);
      if (onDelete === 'restrict' || onDelete === 'no action') {
        report(
          referred === found.title
            ? `${named} refers to ${referred} without on delete cascade; ${listIt(from)}`
            : `${named} refers to ${referred} without on delete cascade, and rows of ${referred} go with ${found.title}`,
        );
        continue;
      }
      if (table && !isLedBy(table, columns, columns)) {
        report(
          `${named} refers to ${referred} and has no index, so that each batch would read it whole; ` +
            `create index ${table.isPartitioned ? '' : 'concurrently '}on ${table.sql} (${columns.map(quote).join(', ')})`,
        );
      }
      if (onDelete === 'cascade') {
        remark(`rows of ${named} go by cascade and are not counted${isListed ? '' : `; ${listIt(from)}`}`);
        follow(from, true);
      } else remark(`rows of ${named} lose what refers to ${referred} (on delete ${onDelete})`);
    }
  };
  follow(found.title, false);
  for (const name of listed) follow(name, true);
}

/** Whether a listed dependent is found by the columns of a foreign key; the tenant's may be missing in it. */
function follows({ table, columns }: DependentEntry, key: Reference, { tenant }: SubjectEntry): boolean {
  const pairs = new Set(key.columns.map((own, index) => `${own} ${key.referred[index]}`));
  const needed = columns.filter(([, of]) => of !== tenant);
  return (
    titleOf(table) === key.from &&
    (needed.length > 0 ? needed : columns).every(([own, of]) => pairs.has(`${own} ${of}`))
  );
}

type Report = (problem: string) => void;

interface Inspecting {
  readonly subject: SubjectEntry;
  readonly found: Table;
  readonly catalogue: Catalogue;
  readonly report: Report;
}

/** A table of the catalogue. */
interface Table {
  /** `schema.name`, for people. */
  readonly title: string;
  /** The same, quoted. */
  readonly sql: string;
  readonly role: string;
  readonly kind: string;
  readonly isPartitioned: boolean;
  readonly hasUsage: boolean;
  readonly maySelect: boolean;
  readonly mayDelete: boolean;
  readonly isHidden: boolean;
  readonly columns: ReadonlyMap<string, ColumnFacts>;
  readonly indexes: readonly Index[];
}

interface ColumnFacts {
  readonly type: string;
  readonly isNullable: boolean;
  /** Whether its order is that of its text in bytes. */
  readonly isByteOrdered: boolean;
}

/** A valid B-tree over all rows. */
interface Index {
  readonly columns: readonly string[];
  readonly isUnique: boolean;
  /** Ascending, nulls last, in the order of the columns' own types. */
  readonly isOrdered: boolean;
}

interface Catalogue {
  readonly tables: ReadonlyMap<string, Table>;
  readonly references: readonly Reference[];
}

/** A foreign key between tables by title. */
interface Reference {
  readonly from: string;
  readonly to: string;
  readonly columns: readonly string[];
  /** What each of its columns refers to. */
  readonly referred: readonly string[];
  readonly onDelete: 'no action' | 'restrict' | 'cascade' | 'set null' | 'set default';
}

function findTable({ tables }: Catalogue, name: TableName, report: Report): Table | undefined {
  const title = titleOf(name);
  const table = tables.get(title);
  if (!table) report(`there is no table ${title}`);
  else if (table.kind !== 'r' && table.kind !== 'p') report(`${title} is not a table`);
  else return table;
  return undefined;
}

const titleOf = ({ schema, name }: TableName): string => `${schema}.${name}`;

/** A name as an SQL identifier. */
export const quote = (name: string): string => `"${name.replaceAll('"', '""')}"`;

const TABLES = `
  select n.nspname || '.' || c.relname as title, format('%I.%I', n.nspname, c.relname) as sql, current_user as role,
    c.relkind::text as kind, has_schema_privilege(n.oid, 'usage') as has_usage,
    has_table_privilege(c.oid, 'select') as may_select, has_table_privilege(c.oid, 'delete') as may_delete,
    row_security_active(c.oid) as is_hidden,
    (select json_agg(json_build_object('name', a.attname, 'isNullable', not a.attnotnull,
       'type', format_type(coalesce(nullif(t.typbasetype, 0), a.atttypid), null),
       'isByteOrdered', a.atttypid = 'uuid'::regtype or a.attcollation = '"C"'::regcollation))
       from pg_attribute a join pg_type t on t.oid = a.atttypid
       where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns,
    (select json_agg(json_build_object('is_unique', i.is_unique, 'is_ordered', i.is_ordered, 'columns', i.columns))
       from (
         select json_agg(a.attname order by k.position) as columns,
           bool_and(x.indisunique and x.indimmediate) as is_unique,
           bool_and(x.indoption[k.position - 1] = 0 and x.indcollation[k.position - 1] = a.attcollation and oc.opcdefault)
             as is_ordered
         from pg_index x
         join pg_class ic on ic.oid = x.indexrelid
         join pg_am on pg_am.oid = ic.relam and pg_am.amname = 'btree'
         cross join lateral unnest(x.indkey) with ordinality k (attnum, position)
         join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
         join pg_opclass oc on oc.oid = x.indclass[k.position - 1]
         where x.indrelid = c.oid and x.indisvalid and x.indpred is null and x.indexprs is null
           and k.position <= x.indnkeyatts
         group by x.indexrelid
       ) i) as indexes
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'v', 'm', 'f')`;

// Foreign keys of partitions repeat those of their parents.
const REFERENCES = `
  select fn.nspname || '.' || f.relname as "from", tn.nspname || '.' || t.relname as "to",
    (select json_agg(a.attname order by k.position)
       from unnest(x.conkey) with ordinality k (attnum, position)
       join pg_attribute a on a.attrelid = f.oid and a.attnum = k.attnum) as columns,
    (select json_agg(a.attname order by k.position)
       from unnest(x.confkey) with ordinality k (attnum, position)
       join pg_attribute a on a.attrelid = t.oid and a.attnum = k.attnum) as referred,
    case x.confdeltype when 'a' then 'no action' when 'r' then 'restrict' when 'c' then 'cascade'
      when 'n' then 'set null' else 'set default' end as "onDelete"
  from pg_constraint x
  join pg_class f on f.oid = x.conrelid join pg_namespace fn on fn.oid = f.relnamespace
  join pg_class t on t.oid = x.confrelid join pg_namespace tn on tn.oid = t.relnamespace
  where x.contype = 'f' and x.conparentid = 0`;

interface TableRow {
  readonly title: string;
  readonly sql: string;
  readonly role: string;
  readonly kind: string;
  readonly has_usage: boolean;
  readonly may_select: boolean;
  readonly may_delete: boolean;
  readonly is_hidden: boolean;
  readonly columns: readonly (ColumnFacts & { readonly name: string })[] | null;
  readonly indexes:
    | readonly { readonly columns: readonly string[]; readonly is_unique: boolean; readonly is_ordered: boolean }[]
    | null;
}

/** Reads the tables that the file names and those that refer to them, however far. */
async function readCatalogue(query: Query, file: OwnerFile): Promise<Catalogue> {
  const references = await query<Reference>(REFERENCES, []);
  const named = file.subjects.flatMap(({ table, dependents }) => [table, ...dependents.map((each) => each.table)]);
  const titles = new Set(named.map(titleOf));
  for (const title of titles) {
    for (const { from, to } of references) if (to === title) titles.add(from);
  }
  const rows = await query<TableRow>(`${TABLES} and n.nspname || '.' || c.relname = any($1::text[])`, [[...titles]]);
  const tables = rows.map(
    (row): Table => ({
      title: row.title,
      sql: row.sql,
      role: row.role,
      kind: row.kind,
      isPartitioned: row.kind === 'p',
      hasUsage: row.has_usage,
      maySelect: row.may_select,
      mayDelete: row.may_delete,
      isHidden: row.is_hidden,
      columns: new Map((row.columns ?? []).map((column) => [column.name, column])),
      indexes: (row.indexes ?? []).map((index) => ({
        columns: index.columns,
        isUnique: index.is_unique,
        isOrdered: index.is_ordered,
      })),
    }),
  );
  return { tables: new Map(tables.map((table) => [table.title, table])), references };
}
