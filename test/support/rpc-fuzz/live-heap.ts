import { once } from 'node:events';
import { readFile } from 'node:fs/promises';

/** What makes a process say in its log where it can be looked into, on a free port. */
export const INSPECTED = { NODE_OPTIONS: '--inspect=127.0.0.1:0' } as const;

/** Bytes on the heap of a process started with INSPECTED that are in use after a garbage collection. */
export async function liveHeapBytes(logFile: string): Promise<number> {
  const url = (await readFile(logFile, 'utf8')).match(/(?<=Debugger listening on )ws:\S+/g)?.at(-1);
  if (url === undefined) throw new Error(`${logFile} names no debugger`);
  const socket = new WebSocket(url);
  await once(socket, 'open');
  try {
    // The first finds what only the second can free: what finalizers and weak references still held.
    await ask(socket, 'HeapProfiler.collectGarbage');
    await ask(socket, 'HeapProfiler.collectGarbage');
    const { usedSize } = await ask(socket, 'Runtime.getHeapUsage');
    return Number(usedSize);
  } finally {
    socket.close();
  }
}

let questions = 0;

async function ask(socket: WebSocket, method: string): Promise<Readonly<Record<string, unknown>>> {
  const id = ++questions;
  const answered = new Promise<Readonly<Record<string, unknown>>>((resolve, reject) => {
    socket.addEventListener('close', () => reject(new Error('the process has ended')));
    socket.addEventListener('message', ({ data }) => {
      const answer = JSON.parse(String(data)) as { id?: number; result?: Readonly<Record<string, unknown>> };
      if (answer.id === id) resolve(answer.result ?? {});
    });
  });
  socket.send(JSON.stringify({ id, method }));
  return answered;
}
