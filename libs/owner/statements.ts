import type { OwnedSubject, Position } from './subject.ts';

/** A statement with named bindings. */
export interface Named {
  readonly text: string;
  readonly bindings: Readonly<Record<string, string | number | null>>;
}

/** What one slice of a walk saw. */
export interface SliceRow {
  readonly seen: number;
  /** Those of them that may go. */
  readonly going: number;
  /** The last row seen; null where there was none. */
  readonly last: Position | null;
}

/** What one batch did. */
export interface BatchRow extends SliceRow {
  readonly chosen: number;
  readonly last_chosen: Position | null;
  readonly removed: number;
  readonly dependents: readonly number[];
}

/** The rows that a rule could take, oldest first: expired, and older than the floor where there is one. */
export interface ExpiredRange {
  readonly tenantId: string;
  readonly cutoff: Temporal.Instant;
  /** The cutoff of rows that have not finished; undefined: those never go. */
  readonly stale: Temporal.Instant | undefined;
  /** Only rows before this one, which must be expired itself. */
  readonly floor: Position | undefined;
  /** Only rows after this one. */
  readonly after: Position | undefined;
  /** How many rows are looked at. */
  readonly scan: number;
}

/**
 * The position of the tenant's `minToKeep`-th newest row, and whether it is expired; no row where it has fewer. Where
 * rows from `from` on are enough, those before it are not looked at, which may all be dead.
 */
export function selectFloor(
  subject: OwnedSubject,
  tenantId: string,
  cutoff: Temporal.Instant,
  minToKeep: number,
  from?: Position,
): Named {
  const start = from ? `${rowOf(subject)} >= ${valuesOf(subject, 'from')}` : `r.${subject.age} is not null`;
  const where = `${ofTenant(subject)} and ${start}`;
  return {
    text: `select ${positionOf(subject, 's.age', 's.')} as floor, s.age < :cutoff as is_expired
           from ${nthRow(subject, where, 'desc')} s`,
    bindings: { ...bindingsOf('from', from), tenantId, cutoff: cutoff.toString(), skipped: minToKeep - 1 },
  };
}

/** The row after `:skipped` others. Its position is to be made of it outside: in here each of them would be printed. */
const nthRow = (subject: OwnedSubject, where: string, direction: 'asc' | 'desc'): string =>
  `(select r.${subject.age} as age, ${keysOf(subject, 'r.')} from ${subject.table} r
    where ${where} order by ${orderOf(subject, direction)} offset :skipped limit 1)`;

/** Counts a slice of the expired rows. */
export function countExpired(subject: OwnedSubject, range: ExpiredRange): Named {
  const { text, bindings } = expiredSlice(subject, range);
  return { text: `with ${text} ${seenIn(subject)}`, bindings };
}

/** Counts a slice of the rows that have an instant, expired or not. */
export function countDated(subject: OwnedSubject, tenantId: string, after: Position | undefined, scan: number): Named {
  const { where, bindings } = afterPosition(subject, after);
  return {
    text: `with slice as materialized (
             select r.${subject.age} as age, ${keysOf(subject, 'r.')}, false as goes
             from ${subject.table} r where ${ofTenant(subject)} and r.${subject.age} is not null ${where}
             order by ${orderOf(subject)} limit :scan) ${seenIn(subject)}`,
    bindings: { ...bindings, tenantId, scan },
  };
}

/** Counts a slice of the rows without an instant, by key; the age in their positions is empty. */
export function countUndated(
  subject: OwnedSubject,
  tenantId: string,
  after: Position | undefined,
  scan: number,
): Named {
  const values = subject.key.map(({ type }, index) => `cast(:after${index} as ${type})`).join(', ');
  return {
    // Ordered by the age as well, which is null in all of them: otherwise the index would not be seen to serve.
    text: `with slice as materialized (
             select '' as age, ${keysOf(subject, 'r.')}, false as goes
             from ${subject.table} r where ${ofTenant(subject)} and r.${subject.age} is null
             ${after ? `and (${keysOf(subject, 'r.')}) > (${values})` : ''}
             order by ${orderOf(subject)} limit :scan) ${seenIn(subject)}`,
    bindings: { tenantId, scan, ...bindingsOf('after', after) },
  };
}

/** Removes up to `limit` rows of a slice of the expired ones, the oldest first. */
export function removeBatch(subject: OwnedSubject, range: ExpiredRange, limit: number): Named {
  const { text, bindings } = expiredSlice(subject, range);
  const keys = subject.key.map(({ column }) => `s.${column}`);
  const dependents = (subject.dependents ?? []).map(({ query }) => `(select count(*) from ${query})`).join(', ');
  return {
    text: `with ${text},
           chosen as materialized (
             select s.age, ${keys.join(', ')} from slice s where s.goes
             order by s.age, ${keys.join(', ')} limit :limit),
           ${subject.remove}
           ${seenIn(
             subject,
             `(select count(*) from chosen) as chosen, ${lastOf(subject, 'chosen')} as last_chosen,
              (select count(*) from gone) as removed, cast(array[${dependents}] as int[]) as dependents`,
           )}`,
    bindings: { ...bindings, cutoff: range.cutoff.toString(), limit },
  };
}

/** Where a range ends. */
export interface RangeEnd {
  readonly position: Position;
  /** Microseconds of age from the beginning of the range; null where it begins at the oldest row. */
  readonly span: number | null;
}

/** The RangeEnd of the next `scan` expired rows; no row where there are fewer. */
export function selectRangeEnd(subject: OwnedSubject, range: ExpiredRange): Named {
  const { where, bindings } = expiredRows(subject, range);
  return endOf(subject, range, nthRow(subject, where, 'asc'), { ...bindings, skipped: range.scan - 1 });
}

/** The RangeEnd of the expired rows of about so many microseconds of age; no row where there are none behind them. */
export function selectSpanEnd(subject: OwnedSubject, range: ExpiredRange, after: Position, span: number): Named {
  const { where, bindings } = expiredRows(subject, { ...range, after: undefined });
  const start = `r.${subject.age} >= cast(:start as timestamptz) + :span * interval '1 microsecond'`;
  const row = nthRow(subject, `${where} and ${start}`, 'asc');
  return endOf(subject, { ...range, after }, row, { ...bindings, start: after[0] ?? '', span, skipped: 0 });
}

const endOf = (subject: OwnedSubject, { after }: ExpiredRange, row: string, bindings: Named['bindings']): Named => ({
  text: `select ${positionOf(subject, 's.age', 's.')} as position,
                cast(extract(epoch from s.age - cast(:from as timestamptz)) * 1000000 as float8) as span from ${row} s`,
  bindings: { ...bindings, from: after?.[0] ?? null },
});

/** The position of the oldest expired row; no row where there is none. */
export function selectFirstExpired(subject: OwnedSubject, range: ExpiredRange): Named {
  const { where, bindings } = expiredRows(subject, range);
  return {
    text: `select ${positionOf(subject, 's.age', 's.')} as position from ${nthRow(subject, where, 'asc')} s`,
    bindings: { ...bindings, skipped: 0 },
  };
}

/** The position of the newest expired row; no row where there is none. */
export function selectLastExpired(subject: OwnedSubject, range: ExpiredRange): Named {
  const { where, bindings } = expiredRows(subject, range);
  return {
    text: `select ${positionOf(subject, 's.age', 's.')} as position from ${nthRow(subject, where, 'desc')} s`,
    bindings: { ...bindings, skipped: 0 },
  };
}

/** Removes what goes of the expired rows up to one of them. */
export function removeRange(subject: OwnedSubject, range: ExpiredRange, end: Position): Named {
  const { tenantId, after, stale } = range;
  const start = afterPosition(subject, after);
  const bindings = { ...start.bindings, ...bindingsOf('last', end), tenantId };
  return {
    text: `delete from ${subject.table} r
           where ${ofTenant(subject)} ${start.where} and ${rowOf(subject)} <= ${valuesOf(subject, 'last')}
             and ${goesOf(subject)}`,
    bindings: subject.unfinished === undefined ? bindings : { ...bindings, stale: stale?.toString() ?? null },
  };
}

/** What a subject does after a range of it was removed. */
export const noteRange = (text: string, tenantId: string, end: Position): Named => ({
  text,
  bindings: { tenantId, ...bindingsOf('last', end) },
});

/** Lists tenants that have rows, by the index: one probe a tenant, however many rows it has. For a migration. */
export function listTenantsQuery(subject: OwnedSubject, isByteOrder: boolean): string {
  const tenant = subject.tenant ?? 'tenant_id';
  const next = (after: string): string =>
    `select r.${tenant} from ${subject.table} r where (${subject.only ?? 'true'}) ${after} order by r.${tenant} limit 1`;
  const walk = (from: string): string =>
    `with recursive tenants as (
       (${next(from)})
       union all
       select (${next(`and r.${tenant} > t.${tenant}`)}) from tenants t where t.${tenant} is not null)`;
  const select = `select cast(${tenant} as text) from tenants where ${tenant} is not null`;
  // In another order than the bytes' the index cannot begin after a tenant, so all of them are walked for each page.
  return isByteOrder
    ? `${walk(`and r.${tenant} > $1`)} ${select} limit $2`
    : `${walk('')} ${select} and cast(${tenant} as text) collate "C" > $1
       order by cast(${tenant} as text) collate "C" limit $2`;
}

function expiredSlice(subject: OwnedSubject, range: ExpiredRange): Named {
  const { where, bindings } = expiredRows(subject, range);
  return {
    text: `slice as materialized (
             select r.${subject.age} as age, ${keysOf(subject, 'r.')}, ${goesOf(subject)} as goes
             from ${subject.table} r where ${where}
             order by ${orderOf(subject)} limit :scan)`,
    bindings: { ...bindings, scan: range.scan, stale: range.stale?.toString() ?? null },
  };
}

/**
 * The predicate of the rows that are expired and older than the floor. It has one upper bound: of several on a column of
 * an index Postgres lets only one end the scan, and would walk all rows behind it for the others.
 */
function expiredRows(
  subject: OwnedSubject,
  { tenantId, cutoff, floor, after }: ExpiredRange,
): { where: string; bindings: Named['bindings'] } {
  const start = afterPosition(subject, after);
  const isOlder = floor ? `${rowOf(subject)} < ${valuesOf(subject, 'floor')}` : `r.${subject.age} < :cutoff`;
  return {
    where: `${ofTenant(subject)} ${start.where} and ${isOlder}`,
    bindings: {
      ...start.bindings,
      ...(floor ? bindingsOf('floor', floor) : { cutoff: cutoff.toString() }),
      tenantId,
    },
  };
}

/** Whether an expired row goes. */
const goesOf = ({ age, unfinished }: OwnedSubject): string =>
  unfinished === undefined ? 'true' : `(not (${unfinished}) or r.${age} < cast(:stale as timestamptz)) is true`;

function afterPosition(
  subject: OwnedSubject,
  after: Position | undefined,
): { where: string; bindings: Named['bindings'] } {
  const where = after ? `and ${rowOf(subject)} > ${valuesOf(subject, 'after')}` : '';
  return { where, bindings: bindingsOf('after', after) };
}

const seenIn = (subject: OwnedSubject, more?: string): string =>
  `select (select count(*) from slice) as seen, (select count(*) from slice where goes) as going,
          ${lastOf(subject, 'slice')} as last${more === undefined ? '' : `, ${more}`}`;

const lastOf = (subject: OwnedSubject, query: string): string =>
  `(select ${positionOf(subject, 's.age', 's.')} from ${query} s
    order by s.age desc, ${subject.key.map(({ column }) => `s.${column} desc`).join(', ')} limit 1)`;

const positionOf = ({ key }: OwnedSubject, age: string, alias: string): string =>
  `array[cast(${age} as text), ${key.map(({ column }) => `cast(${alias}${column} as text)`).join(', ')}]`;

const keysOf = ({ key }: OwnedSubject, alias: string): string =>
  key.map(({ column }) => `${alias}${column}`).join(', ');

const rowOf = ({ age, key }: OwnedSubject): string =>
  `(r.${age}, ${key.map(({ column }) => `r.${column}`).join(', ')})`;

const valuesOf = ({ key }: OwnedSubject, name: string): string =>
  `(cast(:${name} as timestamptz), ${key.map(({ type }, index) => `cast(:${name}${index} as ${type})`).join(', ')})`;

/** `after` is the age, and `after0`, `after1`, … are the key. */
const bindingsOf = (name: string, position: Position | undefined): Record<string, string> =>
  Object.fromEntries((position ?? []).map((value, index) => [`${name}${index === 0 ? '' : index - 1}`, value]));

const orderOf = ({ age, key, nullsFirst = false }: OwnedSubject, direction: 'asc' | 'desc' = 'asc'): string => {
  const nulls = nullsFirst === (direction === 'asc') ? 'nulls first' : 'nulls last';
  return [`r.${age} ${direction} ${nulls}`, ...key.map(({ column }) => `r.${column} ${direction}`)].join(', ');
};

const ofTenant = ({ tenant = 'tenant_id', tenantValue = ':tenantId', only }: OwnedSubject): string =>
  `r.${tenant} = ${tenantValue}${only === undefined ? '' : ` and (${only})`}`;
