import { AsyncLocalStorage } from 'node:async_hooks';
import knexOf, { type Knex } from 'knex';
import type pg from 'pg';

/** Knex on the connection of one open transaction. A statement is refused that is not sent by the transaction's work. */
export type TenantTransaction = Knex;

/** Runs work in a transaction of a connection that nobody else uses meanwhile. */
export type InTransaction = <T>(
  client: pg.Client,
  setting: string,
  work: (trx: TenantTransaction) => Promise<T>,
) => Promise<T>;

/** A connection as Knex sees it. */
interface Held {
  readonly trx: TenantTransaction;
  /** The transaction that is open, undefined between two of them. */
  open: symbol | undefined;
}

/**
 * Makes the function that runs work in a transaction after a setting, and commits. Knex's own transactions make a
 * whole Knex each, of some 20 KB, and wait for the begin; here each connection has its Knex, and the begin, the setting
 * and the work's first statement are on their way together.
 */
export function runInTransactions(): InTransaction {
  const held = new WeakMap<pg.Client, Held>();
  // What the work started and nobody waited for must not get into the transaction after it, which is another tenant's.
  const current = new AsyncLocalStorage<symbol>();

  const hold = (client: pg.Client): Held => {
    const connection = {
      query(...args: Parameters<pg.Client['query']>) {
        if (it.open === undefined || current.getStore() !== it.open) throw new Error('the transaction is over');
        return client.query(...args);
      },
    };
    const it: Held = { open: undefined, trx: knexOn(connection) };
    return it;
  };

  return async (client, setting, work) => {
    const it = held.get(client) ?? hold(client);
    held.set(client, it);
    const transaction = Symbol('transaction');
    it.open = transaction;
    try {
      const begun = client.query(`begin; ${setting}`);
      // Awaited in there, since a builder that the work returns is sent by whoever waits for it.
      const worked = current.run(transaction, async () => await work(it.trx));
      const [, result] = await Promise.all([begun, worked]);
      it.open = undefined;
      const { command } = await client.query('commit');
      // An error of a statement was swallowed: the database has undone the rest as well, and nobody must think otherwise.
      if (command !== 'COMMIT') throw new Error(`the transaction ended with ${command}`);
      return result;
    } catch (error) {
      if (it.open !== undefined) {
        it.open = undefined;
        // Where the connection is gone the database has rolled back, and the pool throws the connection away.
        await client.query('rollback').catch(() => undefined);
      }
      throw error;
    }
  };
}

/** Knex over a single connection, which it neither opens nor closes. */
const knexOn = (connection: unknown): Knex =>
  knexOf({
    client: 'pg',
    connectionPool: {
      acquire: () => ({ promise: Promise.resolve(connection) }),
      release: () => true,
      destroy: async () => undefined,
      numFree: () => 0,
      numUsed: () => 1,
      numPendingAcquires: () => 0,
    } as Knex.Config['connectionPool'] & object,
    asyncStackTraces: false,
    log: SILENT,
  });

const ignore = (): void => undefined;

/** Knex would print, past the service's log, what it also throws. */
export const SILENT: Knex.Logger = { warn: ignore, error: ignore, deprecate: ignore, debug: ignore };
