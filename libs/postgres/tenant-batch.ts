import type { Duplex } from 'node:stream';
import pg from 'pg';
import type { Statement } from './statement.ts';

/** What pg has beside its documented parts: the messages of PostgreSQL's protocol, a method each. */
interface Wire {
  readonly stream: Duplex;
  /** By name: what the server has prepared. */
  readonly parsedStatements: Record<string, string>;
  parse(message: { text: string; name: string }): void;
  bind(message: { statement: string; values: readonly (string | null)[] }): void;
  describe(message: { type: 'P'; name: string }): void;
  execute(message: object): void;
  close(message: { type: 'S'; name: string }): void;
  sync(): void;
}

/** What pg makes of a statement's answer. */
interface Answer {
  readonly rows: unknown[];
  addFields(fields: readonly unknown[]): void;
  parseRow(values: readonly unknown[]): unknown;
}

type Rows = readonly (readonly unknown[])[];

const Answer = pg.Result as unknown as new (mode: undefined, types: pg.CustomTypesConfig) => Answer;

const SET_TENANT: Statement = { text: "select set_config('lethe.tenant', $1, true)", values: [], name: 'lethe-tenant' };

/**
 * The tenant's setting and some statements behind a single Sync, which makes them one transaction without a begin or
 * a commit: one write, one answer. pg lets nothing but its own kind of query on a connection that is used like this,
 * so it is one of those, and every message is handled here.
 */
class TenantBatch extends pg.Query {
  readonly #statements: readonly { text: string; name: string; values: readonly (string | null)[] }[];
  readonly #types: pg.CustomTypesConfig;
  readonly #done: (error: unknown, rows: Rows) => void;
  readonly #answers: Answer[] = [];
  #preparing: string[] = [];
  #failure: unknown;

  constructor(
    tenantId: string,
    statements: readonly Statement[],
    types: pg.CustomTypesConfig,
    done: (error: unknown, rows: Rows) => void,
  ) {
    super({ text: '' });
    // Whatever cannot be sent must show before anything is.
    this.#statements = [{ ...SET_TENANT, values: [tenantId] }, ...statements].map(({ text, values, name = '' }) => ({
      text,
      name,
      values: values.map(toParameter),
    }));
    this.#types = types;
    this.#done = done;
  }

  override submit = (connection: pg.Connection): null => {
    const wire = connection as unknown as Wire;
    wire.stream.cork();
    for (const { text, name, values } of this.#statements) {
      if (name === '' || wire.parsedStatements[name] !== text) {
        // An error in the middle may have left it prepared, without a word of that.
        if (name !== '') wire.close({ type: 'S', name });
        wire.parse({ text, name });
        if (name !== '') this.#preparing.push(name);
      }
      wire.bind({ statement: name, values });
      wire.describe({ type: 'P', name: '' });
      wire.execute({});
    }
    wire.sync();
    wire.stream.uncork();
    return null;
  };

  handleRowDescription({ fields }: { readonly fields: readonly unknown[] }): void {
    const answer = new Answer(undefined, this.#types);
    answer.addFields(fields);
    this.#answers.push(answer);
  }

  handleDataRow({ fields }: { readonly fields: readonly unknown[] }): void {
    const answer = this.#answers.at(-1);
    try {
      answer?.rows.push(answer.parseRow(fields));
    } catch (error) {
      this.#failure ??= error;
    }
  }

  handleCommandComplete(): void {
    // The answers are told apart by their descriptions.
  }

  handleError(error: unknown): void {
    this.#done(error, []);
  }

  handleReadyForQuery(connection: pg.Connection): void {
    const wire = connection as unknown as Wire;
    for (const name of this.#preparing) {
      const text = this.#statements.find((statement) => statement.name === name)?.text;
      if (text !== undefined) wire.parsedStatements[name] = text;
    }
    this.#preparing = [];
    this.#done(
      this.#failure,
      this.#answers.slice(1).map(({ rows }) => rows),
    );
  }
}

/**
 * Sends statements that each answer with rows, at least with none, under the tenant's row-level security, all in one
 * write. They are one transaction: an error in any of them rolls back all.
 */
export const sendBatch = (
  client: pg.Client,
  tenantId: string,
  statements: readonly Statement[],
  types: pg.CustomTypesConfig,
): Promise<Rows> =>
  new Promise((resolve, reject) => {
    client.query(
      new TenantBatch(tenantId, statements, types, (error, rows) =>
        error === undefined ? resolve(rows) : reject(error),
      ),
    );
  });

/** A parameter as PostgreSQL reads it in its text form. */
function toParameter(value: unknown): string | null {
  if (value === null || value === undefined) return null;
  if (Array.isArray(value)) return `{${value.map(toElement).join(',')}}`;
  if (typeof value === 'string') return value;
  if (typeof value === 'number' || typeof value === 'boolean' || typeof value === 'bigint') return String(value);
  throw new TypeError('a parameter must be a text, a number, a truth value, null or an array of these');
}

const toElement = (value: unknown): string => {
  const text = toParameter(value);
  return text === null ? 'null' : `"${text.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`;
};
