import pg from 'pg';
import { isStalePlan } from './sql-errors.ts';
import type { Statement } from './statement.ts';

/** What pg has beside its documented parts. */
interface Wire {
  readonly parsedStatements: Record<string, string>;
  close(message: { type: 'S'; name: string }): void;
  sync(): void;
}

/**
 * Sends a transaction. Where a table got other columns since one of its statements was prepared, the database has
 * refused it and rolled back: it is sent once more without names, and the connection prepares the names anew when they
 * are next used. A pooler may keep what a name stood for, so that only a statement without a name is sure to be planned
 * by the table as it is.
 */
export async function prepareAnew<S extends Statement, T>(
  client: pg.Client,
  statements: readonly S[],
  send: (statements: readonly S[]) => Promise<T>,
): Promise<T> {
  try {
    return await send(statements);
  } catch (error) {
    if (!isStalePlan(error)) throw error;
    const names = statements.flatMap(({ name }) => (name === undefined ? [] : [name]));
    client.query(new Forgetting(names));
    return await send(statements.map((statement) => ({ ...statement, name: undefined })));
  }
}

/** Has the server forget what it prepared. pg has no call for it, and lets nothing but its own kind of query do it. */
class Forgetting extends pg.Query {
  readonly #names: readonly string[];

  constructor(names: readonly string[]) {
    super({ text: '' });
    this.#names = names;
  }

  override submit = (connection: pg.Connection): null => {
    const wire = connection as unknown as Wire;
    for (const name of this.#names) {
      wire.close({ type: 'S', name });
      delete wire.parsedStatements[name];
    }
    wire.sync();
    return null;
  };

  handleError(): void {
    // The connection is lost: the statement behind this one fails as well.
  }

  handleReadyForQuery(): void {
    // Nobody waits for it.
  }
}
