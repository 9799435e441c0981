import { type Connection, connect } from '#libs/grpc/client.ts';
import { makeTcpGate } from './tcp-gate.ts';
import { until } from './test-stack.ts';

/** A call whose first answer never comes. */
export interface LostAnswer<T> {
  /** host:port of the service. */
  readonly address: string | undefined;
  readonly token: () => Promise<string>;
  /** Any call, which opens the connection. */
  open(connection: Connection): Promise<unknown>;
  call(connection: Connection): Promise<T>;
  /** Whether the call was carried out. */
  isDone(): Promise<boolean>;
}

/** Makes one call whose first answer is lost after `isDone`, so that the transport repeats it. */
export async function loseAnswer<T>({ address = '', token, open, call, isDone }: LostAnswer<T>): Promise<T> {
  const gate = await makeTcpGate();
  gate.open(address);
  const connection = connect({ address: gate.address, token });
  try {
    await open(connection);
    void gate.loseAnswers();
    const answer = call(connection);
    await until('the call was carried out', isDone);
    gate.shut();
    gate.open(address);
    return await answer;
  } finally {
    connection.close();
    await gate.close();
  }
}
