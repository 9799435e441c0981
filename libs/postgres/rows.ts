/** The first row of a raw statement, undefined for none. */
export const firstOf = <Row>(result: { readonly rows: readonly Row[] }): Row | undefined => result.rows[0];

/** All rows of a raw statement. */
export const rowsOf = <Row>(result: { readonly rows: readonly Row[] }): readonly Row[] => result.rows;
