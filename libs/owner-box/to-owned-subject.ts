import type { KeyColumn, OwnedSubject } from '#libs/owner/subject.ts';
import type { Role } from './connect.ts';
import type { BoxTable } from './inspect-tables.ts';

const KEY_TYPE: Readonly<Record<string, KeyColumn['type']>> = {
  uuid: 'uuid',
  smallint: 'bigint',
  integer: 'bigint',
  bigint: 'bigint',
};

/** The tenant of a call as a value of its column's type; null where it cannot be one, and then it has no rows. */
function tenantValue(type: string): string {
  const text = 'cast(:tenantId as text)';
  if (type === 'uuid') {
    return `(case when ${text} ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then cast(:tenantId as uuid) end)`;
  }
  if (KEY_TYPE[type] !== 'bigint') return text;
  return `(case when ${text} ~ '^(0|[1-9][0-9]{0,18})$' then
             case when cast(${text} as numeric) <= 9223372036854775807 then cast(${text} as bigint) end end)`;
}

/** Describes a table that was found fit to libs/owner; its triggers search as the role does by itself. */
export function toOwnedSubject(
  { subject, table, tenant, instant, id, dependents }: BoxTable,
  { searchPath }: Pick<Role, 'searchPath'>,
): OwnedSubject {
  return {
    searchPath,
    name: subject.name,
    resourceType: subject.resourceType,
    ageOf: `${subject.table.name}.${subject.instant}`,
    dependents: dependents.map(({ resourceType }, n) => ({ type: resourceType, query: `dependents_${n}` })),
    hasFloor: subject.hasFloor,
    table,
    tenant: tenant.name,
    tenantValue: tenantValue(tenant.type),
    age: instant.name,
    key: id.map(({ name, type }) => ({ column: name, type: KEY_TYPE[type] ?? 'text' })),
    // Before all times is no instant, and what has none stays. (After all times nothing expires.)
    only: `r.${instant.name} is distinct from '-infinity'`,
    remove: removeStatement({ table, tenant, instant, id, dependents }),
  };
}

/**
 * The rows of `chosen` follow each other in the index, so they are found again as a range of it: a join by key would be
 * left to the planner, which can read a young table whole. A row whose instant was moved meanwhile is judged again, and
 * stays with what hangs on it.
 */
function removeStatement({ table, tenant, instant, id, dependents }: Omit<BoxTable, 'subject'>): string {
  const key = id.map(({ name }) => name);
  const bound = (end: string): string =>
    `(${['age', ...key].map((name) => `(select e.${name} from ${end} e)`).join(', ')})`;
  const order = (direction: string): string => ['age', ...key].map((name) => `c.${name} ${direction}`).join(', ');
  const rowKey = `(${[instant.name, ...key].map((name) => `r.${name}`).join(', ')})`;
  const referred = [...new Set(dependents.flatMap(({ columns }) => columns.map(([, of]) => of)))];
  const returned = referred.length > 0 ? referred.map((name) => `r.${name}`).join(', ') : '1';
  return [
    `first_chosen as (select * from chosen c order by ${order('asc')} limit 1)`,
    `last_chosen as (select * from chosen c order by ${order('desc')} limit 1)`,
    `gone as (
       delete from ${table} r
       where r.${tenant.name} = ${tenantValue(tenant.type)} and r.${instant.name} < :cutoff and r.${instant.name} > '-infinity'
         and ${rowKey} >= ${bound('first_chosen')} and ${rowKey} <= ${bound('last_chosen')}
       returning ${returned})`,
    ...dependents.map(
      ({ table: dependent, columns }, n) => `dependents_${n} as (
       delete from ${dependent} d using gone g
       where ${columns.map(([own, of]) => `d.${own} = g.${of}`).join(' and ')} returning 1)`,
    ),
  ].join(',\n');
}
