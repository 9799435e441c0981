import type { Page } from '#libs/kernel/page.ts';

/** A filter that matches nothing would walk all that a tenant has; this many rows take a few ten milliseconds. */
export const ROWS_PER_PAGE = 10_000;

/** A list, as parts of a statement. */
interface BoundedList {
  /** What is read of each row of the page; `d` is its alias. */
  readonly columns: string;
  readonly table: string;
  /** Which rows are looked at: those that an index finds in the order of the list. */
  readonly where: string;
  /** Which of those belong to the page. */
  readonly matching: string;
  readonly order: string;
  /** How many rows the page has at most, and one. */
  readonly limit: string;
}

/**
 * A page of a list that looks at ROWS_PER_PAGE rows at most. Where it is not full by then, the last row that was looked at
 * comes behind the others, as their border.
 */
export const toBoundedPage = ({ columns, table, where, matching, order, limit }: BoundedList): string =>
  `with page as materialized (
     select * from (select * from ${table} where ${where} order by ${order} limit ${ROWS_PER_PAGE}) looked_at
     where ${matching} limit ${limit})
   select ${columns}, false as is_border from page d
   union all
   select ${columns}, true from (
     select * from ${table} where (select count(*) from page) < ${limit} and ${where}
     order by ${order} offset ${ROWS_PER_PAGE - 1} limit 1) d`;

/** Whether a row is the border of its page, and no part of it. */
export interface Bordered {
  readonly is_border: boolean;
}

/** As pageOf, of a page that was read by toBoundedPage: it may be short, or empty, and still have a next one. */
export function boundedPageOf<Row extends Bordered, T>(
  rows: readonly Row[],
  limit: number,
  toItem: (row: Row) => T,
  keyOf: (row: Row) => readonly string[],
): Page<T> {
  const found = rows.filter(({ is_border }) => !is_border);
  const shown = found.slice(0, limit);
  const last = found.length > limit ? shown.at(-1) : rows.find(({ is_border }) => is_border);
  return { items: shown.map(toItem), next: last && keyOf(last) };
}
