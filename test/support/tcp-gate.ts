import { type AddressInfo, createServer, connect as dial, type Socket } from 'node:net';

/** A port in front of a service that can be shut, as if the service were gone, and opened again. */
export interface TcpGate {
  /** host:port to dial in the service's place. */
  readonly address: string;
  /** Lets connections through to this host:port. */
  open(target: string): void;
  /** Lets requests through and answers no more, until it is shut or opened; resolves when an answer was lost. */
  loseAnswers(): Promise<void>;
  /** Cuts what is connected and refuses what comes. */
  shut(): void;
  close(): Promise<void>;
}

/** Makes a gate; it is shut. */
export async function makeTcpGate(): Promise<TcpGate> {
  let target: string | undefined;
  let onLost: (() => void) | undefined;
  const sockets = new Set<Socket>();
  const keep = (socket: Socket): Socket => {
    sockets.add(socket);
    return socket.on('error', () => socket.destroy()).on('close', () => sockets.delete(socket));
  };
  const server = createServer((inbound) => {
    keep(inbound);
    const [host = '', port = ''] = target?.split(':') ?? [];
    if (target === undefined) {
      inbound.resetAndDestroy();
      return;
    }
    const outbound = keep(dial(Number(port), host));
    inbound.pipe(outbound);
    outbound.on('data', (answer) => {
      if (onLost) onLost();
      else if (!inbound.write(answer)) outbound.pause();
    });
    outbound.on('end', () => inbound.end());
    inbound.on('drain', () => outbound.resume());
    inbound.on('close', () => outbound.destroy());
    outbound.on('close', () => inbound.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const shut = (): void => {
    target = undefined;
    onLost = undefined;
    for (const socket of sockets) socket.destroy();
  };
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    open(to) {
      target = to;
      onLost = undefined;
    },
    loseAnswers: () =>
      new Promise((resolve) => {
        onLost = resolve;
      }),
    shut,
    async close() {
      shut();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
