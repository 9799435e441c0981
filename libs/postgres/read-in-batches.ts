import { AsyncLocalStorage } from 'node:async_hooks';
import type { Duplex } from 'node:stream';
import type pg from 'pg';

/** A statement with positional parameters ($1, $2, …). */
export interface Statement {
  readonly text: string;
  readonly values: readonly unknown[];
  /** Prepared once a connection under this name. For small statements: see readInBatches. */
  readonly name?: string;
}

/** Lends a connection for as long as the work takes. */
export type OnConnection = <T>(work: (client: pg.Client) => Promise<T>) => Promise<T>;

interface Read extends PromiseWithResolvers<unknown[]> {
  readonly setting: string;
  readonly statement: Statement;
  /** Runs something as part of the call that asked, so that a trace tells whose statement it was. */
  readonly asAsked: <T>(work: () => T) => T;
}

// As many as make the cost of waking each other up small, and no more than one slow connection may hold up.
const MAX_BATCH = 16;

/**
 * Makes the function that runs a reading statement after a setting, in a read-only transaction of its own. What is
 * asked for in one turn of the event loop shares a connection and one write to its socket: to wake the database up and
 * be woken up by it costs more than a small statement does. That is for named statements; one without a name may take
 * its time and has a connection to itself, since whatever is sent behind it would wait.
 */
export function readInBatches(
  onConnection: OnConnection,
): (setting: string, statement: Statement) => Promise<unknown[]> {
  let waiting: Read[] = [];
  const send = (batch: readonly Read[]): void => {
    onConnection(async (client) => {
      const answers = sendTogether(client, batch);
      for (const [index, { resolve }] of batch.entries()) resolve(answers[index] ?? []);
      await Promise.allSettled(answers);
    }).catch((error: unknown) => {
      for (const { reject } of batch) reject(error);
    });
  };
  const sendWaiting = (): void => {
    const reads = waiting;
    waiting = [];
    for (let at = 0; at < reads.length; at += MAX_BATCH) send(reads.slice(at, at + MAX_BATCH));
  };
  return (setting, statement) => {
    const asAsked = AsyncLocalStorage.snapshot();
    const read = { setting, statement, asAsked, ...Promise.withResolvers<unknown[]>() };
    if (statement.name === undefined) send([read]);
    else {
      if (waiting.length === 0) setImmediate(sendWaiting);
      waiting.push(read);
    }
    return read.promise;
  };
}

function sendTogether(client: pg.Client, batch: readonly Read[]): Promise<unknown[]>[] {
  const { stream } = (client as unknown as { connection: { stream: Duplex } }).connection;
  stream.cork();
  try {
    return batch.map((read) => read.asAsked(() => sendOne(client, read)));
  } finally {
    // Whatever throws, a connection that stays corked would never answer again.
    stream.uncork();
  }
}

async function sendOne(client: pg.Client, { setting, statement }: Read): Promise<unknown[]> {
  const { text, values, name } = statement;
  const sent: [Promise<unknown>, Promise<pg.QueryResult>, Promise<unknown>] = [
    client.query(`begin read only; ${setting}`),
    client.query({ text, values: [...values], ...(name === undefined ? {} : { name }) }),
    // After a failed statement this commit is a rollback: the connection is clean either way.
    client.query('commit'),
  ];
  const outcomes = await Promise.allSettled(sent);
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
  return (await sent[1]).rows;
}
