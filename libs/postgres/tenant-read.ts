import type pg from 'pg';
import type { Statement } from './statement.ts';

/** Sends one reading statement after a setting, in a read-only transaction of its own, all in one write; its rows. */
export async function sendRead(client: pg.Client, setting: string, statement: Statement): Promise<unknown[]> {
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
