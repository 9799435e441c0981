/** The first row of a raw statement, undefined for none. */
export const firstOf = <Row>(result: { readonly rows: readonly Row[] }): Row | undefined => result.rows[0];

/** All rows of a raw statement. */
export const rowsOf = <Row>(result: { readonly rows: readonly Row[] }): readonly Row[] => result.rows;

/** A page of a list that was read with one row more than asked for: the keyset is there when that row was. */
export function pageOf<Row, T>(
  rows: readonly Row[],
  limit: number,
  toItem: (row: Row) => T,
  keyOf: (row: Row) => readonly string[],
): { readonly items: readonly T[]; readonly next: readonly string[] | undefined } {
  const shown = rows.slice(0, limit);
  const last = shown.at(-1);
  return { items: shown.map(toItem), next: rows.length > limit && last !== undefined ? keyOf(last) : undefined };
}
