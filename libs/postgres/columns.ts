/** The names of a table's columns as SQL, each behind the alias where one is given. */
export type Columns = (alias?: string) => string;

/**
 * The columns that a row type has, to be read by name: what `*` answers with changes when a column is added, and with it
 * every statement that a connection has prepared.
 */
export const columnsOf = <Row>(columns: Readonly<Record<keyof Row & string, true>>): Columns => {
  const names = Object.keys(columns);
  return (alias) => names.map((name) => (alias === undefined ? name : `${alias}.${name}`)).join(', ');
};
