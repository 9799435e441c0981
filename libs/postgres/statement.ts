/** A statement with positional parameters ($1, $2, …). */
export interface Statement {
  readonly text: string;
  readonly values: readonly unknown[];
  /** Prepared once a connection under this name. For small statements: see shareConnections. */
  readonly name?: string | undefined;
}
