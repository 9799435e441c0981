const [target, count = '1'] = (process.env['LETHE_CRASH_AT'] ?? '').split('#');
let passesLeft = Number(count);

/**
 * A persisted point of a durable operation, by name. It does nothing, unless LETHE_CRASH_AT names it (`name`, or
 * `name#n` for the n-th pass): then the process kills itself with SIGKILL, as a power cut would. The crash tests
 * use it to prove that the operation goes on from there.
 */
export function crashPoint(name: string): void {
  if (name !== target) return;
  passesLeft -= 1;
  if (passesLeft > 0) return;
  process.kill(process.pid, 'SIGKILL');
  // The signal arrives at once, but not before this call returns; nothing may run after it.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}
