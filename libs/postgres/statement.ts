/** A statement with positional parameters ($1, $2, …). */
export interface Statement {
  readonly text: string;
  readonly values: readonly unknown[];
  /**
   * Prepared once a connection under this name. For small statements: see shareConnections. It names the columns that it
   * answers with: see assertColumnsNamed.
   */
  readonly name?: string | undefined;
}

const QUOTED_OR_COMMENT = /'(?:[^']|'')*'|--[^\n]*|\/\*.*?\*\//gs;
// Not that of count(*), nor a product.
const ALL_COLUMNS =
  /(?:\b(?:select|all|returning|distinct(?:\s+on\s*\([^()]*\))?)\s+|,\s*|[\w")]\s*\.\s*)\*|(?:^|[(;])\s*table\s/i;

/** Whether a statement, or a part of one, asks for all columns of a table, whatever they are. */
export const asksForAllColumns = (text: string): boolean => ALL_COLUMNS.test(text.replaceAll(QUOTED_OR_COMMENT, "''"));

// By name the text that was looked at last: a service has some fifty names, each for one text.
const accepted = new Map<string, string>();

/**
 * A TypeError for a statement that has a name and asks for all columns: once a migration adds one, the database refuses what
 * a connection has prepared until then.
 */
export function assertColumnsNamed({ name, text }: Statement): void {
  if (name === undefined || accepted.get(name) === text) return;
  if (asksForAllColumns(text)) throw new TypeError(`the statement ${name} asks for all columns; name them`);
  accepted.set(name, text);
}
