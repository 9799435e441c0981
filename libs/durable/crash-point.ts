import { readFileSync, renameSync } from 'node:fs';

const armedBy = process.env['LETHE_CRASH_FILE'];

/**
 * A persisted point of a durable operation, by name. It does nothing, unless LETHE_CRASH_FILE is set and that file holds
 * the name: then the file is renamed to `….struck`, so that it strikes once, and the process kills itself with SIGKILL, as
 * a power cut would. Where the file holds the name and ` stop`, the process stops itself with SIGSTOP instead and goes on
 * from here at SIGCONT. The crash tests use it to prove that the operation goes on from there.
 */
export function crashPoint(name: string): void {
  if (armedBy === undefined) return;
  let isStop = false;
  try {
    const armed = readFileSync(armedBy, 'utf8');
    isStop = armed === `${name} stop`;
    if (armed !== name && !isStop) return;
    renameSync(armedBy, `${armedBy}.struck`);
  } catch {
    return; // Not armed, or another process was faster.
  }
  if (isStop) {
    process.kill(process.pid, 'SIGSTOP');
    return;
  }
  process.kill(process.pid, 'SIGKILL');
  // The signal arrives at once, but not before this call returns; nothing may run after it.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}
