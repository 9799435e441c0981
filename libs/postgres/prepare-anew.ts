import pg from 'pg';
import { isNotPrepared, isStalePlan } from './sql-errors.ts';
import type { Statement } from './statement.ts';

/** What pg has beside its documented parts. */
interface Wire {
  readonly parsedStatements: Record<string, string>;
  close(message: { type: 'S'; name: string }): void;
  sync(): void;
}

// Why a connection could not prepare a statement, by its name.
const failures = new WeakMap<pg.Client, Map<string, unknown>>();

/**
 * Sends a transaction. Those that were sent on the connection behind the one that first prepares their statement count
 * on it; where it cannot be prepared, they fail for the same reason. Where a table got other columns since one of its
 * statements was prepared, the database has refused it and rolled back: it is sent once more without names, and the
 * connection prepares the names anew when they are next used. A pooler may keep what a name stood for, so that only a
 * statement without a name is sure to be planned by the table as it is.
 */
export async function prepareAnew<S extends Statement, T>(
  client: pg.Client,
  statements: readonly S[],
  send: (statements: readonly S[]) => Promise<T>,
): Promise<T> {
  try {
    return await send(statements);
  } catch (error) {
    const names = statements.flatMap(({ name }) => (name === undefined ? [] : [name]));
    if (!isStalePlan(error)) throw reasonOf(client, names, error);
    client.query(new Forgetting(names));
    return await send(statements.map((statement) => ({ ...statement, name: undefined })));
  }
}

/** Why the statements failed: by their own error, or by that of the one that should have prepared them. */
function reasonOf(client: pg.Client, names: readonly string[], error: unknown): unknown {
  const { parsedStatements } = (client as unknown as { connection: Wire }).connection;
  const known = failures.get(client) ?? new Map<string, unknown>();
  // Of a statement that pg takes for prepared, a failure from before says nothing.
  const unprepared = names.filter((name) => parsedStatements[name] === undefined);
  if (isNotPrepared(error)) return unprepared.map((name) => known.get(name)).find(Boolean) ?? error;
  for (const name of unprepared) known.set(name, error);
  failures.set(client, known);
  return error;
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
