import type { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import type pg from 'pg';
import { type DatabaseFault, DatabaseSilent, faultOf } from './sql-errors.ts';

/** How a connection is guarded. */
export interface GuardOptions {
  /**
   * How long the server may send nothing while an answer is due, in milliseconds. Must be longer than the server's
   * statement timeout.
   */
  readonly silenceMs: number;
  /** Called for every fault of the database that shows on the connection. */
  readonly onFault: (fault: DatabaseFault) => void;
}

/** A guarded connection. */
export interface GuardedConnection {
  /** Whether a fault was seen on it; it must not be used again. */
  isSpent(): boolean;
  /** Closes the socket at once; queries that wait for an answer fail with this error. */
  cut(error: Error): void;
  /** How many bytes have been received, if an answer is due; undefined otherwise. */
  bytesWhileWaiting(): number | undefined;
}

/** The undocumented parts of pg that are needed here. */
interface Insides {
  readonly connection: EventEmitter & { readonly stream: Socket };
  readonly _activeQuery: unknown;
  readonly _sentQueryQueue: readonly unknown[];
  readonly _queryQueue: readonly unknown[];
}

/**
 * Guards a connected client. An error that is a fault of the database makes the connection spent, even if the caller
 * swallows the error. A connection that receives nothing for `silenceMs` while an answer is due is cut: a network that
 * drops packets reports no error.
 */
export function guardConnection(client: pg.Client, { silenceMs, onFault }: GuardOptions): GuardedConnection {
  const insides = client as unknown as Insides;
  const { connection } = insides;
  const { stream } = connection;
  let isSpent = false;
  const isWaiting = (): boolean =>
    Boolean(insides._activeQuery) || insides._sentQueryQueue.length > 0 || insides._queryQueue.length > 0;
  const cut = (error: Error): void => {
    isSpent = true;
    stream.destroy(error);
  };

  connection.on('errorMessage', (message) => {
    const fault = faultOf(message);
    if (fault === undefined) return;
    isSpent = true;
    onFault(fault);
  });
  // The socket's own timer is cheaper than one for each query.
  stream.setTimeout(silenceMs).on('timeout', () => {
    if (!isWaiting()) return;
    const { bytesRead } = stream;
    // If this process was suspended, the answer may have arrived and not have been read yet.
    setImmediate(() =>
      setImmediate(() => {
        if (stream.destroyed || !isWaiting() || stream.bytesRead !== bytesRead) return;
        onFault('SILENT');
        cut(new DatabaseSilent(`nothing came from the database for ${silenceMs} ms`));
      }),
    );
  });
  return {
    isSpent: () => isSpent,
    cut,
    bytesWhileWaiting: () => (isWaiting() ? stream.bytesRead : undefined),
  };
}

const GOODBYE_MS = 2_000;

/** Closes a connection in the regular way, or cuts it if that takes more than two seconds. Resolves when it is closed. */
export async function endConnection(client: pg.Client): Promise<void> {
  const { stream } = (client as unknown as Insides).connection;
  const timer = setTimeout(() => stream.destroy(), GOODBYE_MS);
  try {
    await client.end();
  } finally {
    clearTimeout(timer);
  }
}
