import { createServer } from 'node:net';

/**
 * Takes a name that one process of this machine can have at a time, and answers how to give it back; undefined when
 * another process has it. It is the name of an abstract socket: no file, and the kernel frees it however its process
 * ends. Linux alone has them.
 */
export function holdName(name: string): Promise<(() => void) | undefined> {
  const socket = createServer().unref();
  return new Promise((resolve, reject) => {
    socket.once('error', (error: NodeJS.ErrnoException) =>
      error.code === 'EADDRINUSE' ? resolve(undefined) : reject(error),
    );
    socket.listen(`\0lethe-${name}`, () => resolve(() => void socket.close()));
  });
}
