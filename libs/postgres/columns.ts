/** The names of a table's columns as SQL, each behind the alias where one is given. */
export type Columns = (alias?: string) => string;

/** A column, by the type in which it is read. */
export interface Column<Type> {
  readonly read?: () => Type;
}

/** A row with these columns. */
export type RowOf<Of extends Readonly<Record<string, Column<unknown>>>> = {
  readonly [Name in keyof Of]: Of[Name] extends Column<infer Type> ? Type : never;
};

/** A column that is read in this type. */
export const column = <Type>(): Column<Type> => ({});

/**
 * The columns of a row, to be read by name: what `*` answers with changes when a column is added, and with it every statement
 * that a connection has prepared.
 */
export const columnsOf = (columns: object): Columns => {
  const names = Object.keys(columns);
  return (alias) => names.map((name) => (alias === undefined ? name : `${alias}.${name}`)).join(', ');
};
