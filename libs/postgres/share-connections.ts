import { AsyncLocalStorage } from 'node:async_hooks';
import type { Duplex } from 'node:stream';
import type pg from 'pg';

/** Lends a connection for as long as the work takes. */
export type OnConnection = <T>(work: (client: pg.Client) => Promise<T>) => Promise<T>;

/** Has something sent on a connection: one of its own, or one that it shares with others where it is small. */
export type Share = <T>(isSmall: boolean, send: (client: pg.Client) => Promise<T>) => Promise<T>;

interface Sending {
  readonly send: (client: pg.Client) => Promise<unknown>;
  resolve(answer: Promise<unknown> | undefined): void;
  reject(error: unknown): void;
}

/**
 * Makes the function that sends transactions, each of them complete with one write. Small ones that are asked for in one
 * turn of the event loop share connections and writes to their sockets, `most` at a time: to wake the database up and
 * be woken up by it costs more than a small statement does. They share nothing else, but each waits for those sent
 * before it: what may take its time has a connection to itself, and nobody may wait for a small one while holding a lock.
 */
export function shareConnections(onConnection: OnConnection, most: number): Share {
  let waiting: Sending[] = [];
  const sendAll = (sendings: readonly Sending[]): void => {
    onConnection(async (client) => {
      const answers = sendTogether(client, sendings);
      for (const [index, { resolve }] of sendings.entries()) resolve(answers[index]);
      await Promise.allSettled(answers);
    }).catch((error: unknown) => {
      for (const { reject } of sendings) reject(error);
    });
  };
  const sendWaiting = (): void => {
    const sendings = waiting;
    waiting = [];
    for (let at = 0; at < sendings.length; at += most) sendAll(sendings.slice(at, at + most));
  };
  return <T>(isSmall: boolean, send: (client: pg.Client) => Promise<T>) =>
    new Promise<T>((resolve, reject) => {
      // As part of the call that asked, so that a trace tells whose statement it was.
      const sending: Sending = {
        send: AsyncLocalStorage.bind(send),
        resolve: (answer) => resolve(answer as Promise<T>),
        reject,
      };
      if (!isSmall) return sendAll([sending]);
      if (waiting.length === 0) setImmediate(sendWaiting);
      waiting.push(sending);
    });
}

function sendTogether(client: pg.Client, sendings: readonly Sending[]): Promise<unknown>[] {
  const { stream } = (client as unknown as { connection: { stream: Duplex } }).connection;
  stream.cork();
  try {
    return sendings.map(({ send }) => send(client));
  } finally {
    // Whatever throws, a connection that stays corked would never answer again.
    stream.uncork();
  }
}
