import { readFileSync, renameSync } from 'node:fs';

const armedBy = process.env['LETHE_CRASH_FILE'];

/**
 * A persisted point of a durable operation, by name. It does nothing, unless LETHE_CRASH_FILE is set and that file
 * holds the name: then the file is taken away, so that it strikes once, and the process kills itself with SIGKILL,
 * as a power cut would. The crash tests use it to prove that the operation goes on from there.
 */
export function crashPoint(name: string): void {
  if (armedBy === undefined) return;
  try {
    if (readFileSync(armedBy, 'utf8') !== name) return;
    renameSync(armedBy, `${armedBy}.struck`);
  } catch {
    return; // Not armed, or another process was faster.
  }
  process.kill(process.pid, 'SIGKILL');
  // The signal arrives at once, but not before this call returns; nothing may run after it.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}
