import { createServer, connect as dial, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { freePort } from '#deploy/local/free-port.ts';

/** A port in front of a service that can be shut, as if the service were gone, and opened again. */
export interface TcpGate {
  /** host:port to dial in the service's place. */
  readonly address: string;
  /** Lets new connections through to this host:port, or to several in turn; those that are open stay where they are. */
  open(...targets: readonly string[]): void;
  /** Lets requests through and answers no more, until it is shut or opened; resolves when an answer was lost. */
  loseAnswers(): Promise<void>;
  /**
   * Drops every byte and resets nothing, like a network that loses packets: for open connections for good, for new ones
   * until the gate is opened.
   */
  swallow(): void;
  /** From now on every packet, either way, takes so long, until the gate is opened again. */
  slow(latencyMs: number): void;
  /** Cuts what is connected and resets what comes. */
  shut(): void;
  /** Cuts what is connected and listens no more, until the gate is opened. */
  refuse(): void;
  close(): Promise<void>;
}

/** Makes a gate; it is shut. */
export async function makeTcpGate(): Promise<TcpGate> {
  let targets: readonly string[] = [];
  let accepted = 0;
  let onLost: (() => void) | undefined;
  let isSwallowing = false;
  let latencyMs = 0;
  const swallowed = new WeakSet<Socket>();
  const sockets = new Set<Socket>();
  const keep = (socket: Socket): Socket => {
    sockets.add(socket);
    return socket.on('error', () => socket.destroy()).on('close', () => sockets.delete(socket));
  };
  /** Writes at once, or after the latency; what comes later never overtakes. False: no more until it is drained. */
  const inOrder = (to: Socket) => {
    let delayed = Promise.resolve();
    let waiting = 0;
    return (bytes: string | Uint8Array): boolean => {
      if (latencyMs === 0 && waiting === 0) return to.write(bytes);
      waiting += 1;
      const sentAt = performance.now() + latencyMs;
      delayed = delayed.then(async () => {
        await delay(Math.max(0, sentAt - performance.now()));
        waiting -= 1;
        if (!to.destroyed) to.write(bytes);
      });
      return true;
    };
  };
  const server = createServer((inbound) => {
    keep(inbound);
    if (isSwallowing) {
      inbound.resume();
      return;
    }
    const target = targets[accepted % targets.length];
    if (target === undefined) {
      inbound.resetAndDestroy();
      return;
    }
    accepted += 1;
    const [host = '', port = ''] = target.split(':');
    const outbound = keep(dial(Number(port), host));
    const send = { outward: inOrder(outbound), inward: inOrder(inbound) };
    inbound.on('data', (request) => {
      if (!swallowed.has(inbound) && !send.outward(request)) inbound.pause();
    });
    outbound.on('drain', () => inbound.resume());
    inbound.on('end', () => swallowed.has(inbound) || outbound.end());
    outbound.on('data', (answer) => {
      if (swallowed.has(inbound)) return;
      if (onLost) onLost();
      else if (!send.inward(answer)) outbound.pause();
    });
    outbound.on('end', () => swallowed.has(inbound) || inbound.end());
    inbound.on('drain', () => outbound.resume());
    inbound.on('close', () => outbound.destroy());
    outbound.on('close', () => swallowed.has(inbound) || inbound.destroy());
  });
  const port = await freePort();
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  const shut = (): void => {
    targets = [];
    onLost = undefined;
    isSwallowing = false;
    latencyMs = 0;
    for (const socket of sockets) socket.destroy();
  };
  return {
    address: `127.0.0.1:${port}`,
    open(...to) {
      targets = to;
      onLost = undefined;
      isSwallowing = false;
      latencyMs = 0;
      if (!server.listening) server.listen(port, '127.0.0.1');
    },
    loseAnswers: () =>
      new Promise((resolve) => {
        onLost = resolve;
      }),
    swallow() {
      isSwallowing = true;
      for (const socket of sockets) swallowed.add(socket);
    },
    slow(ms) {
      latencyMs = ms;
    },
    shut,
    refuse() {
      server.close();
      shut();
    },
    async close() {
      shut();
      if (!server.listening) return;
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
