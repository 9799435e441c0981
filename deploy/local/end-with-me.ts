import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const GUARD = fileURLToPath(new URL('./end-with-me.sh', import.meta.url));

let guard: ChildProcess | undefined;

/**
 * Has the process end when this one does, even by SIGKILL, which no handler of its own would see: with the signal, and
 * with SIGKILL if it is still there three seconds later. To be called as soon as the process is started.
 */
export function endWithMe(child: ChildProcess, signal: 'INT' | 'TERM' | 'KILL'): void {
  if (child.pid === undefined) return;
  tell(`end ${signal} ${child.pid}`);
  // Its number may soon be another process's.
  child.once('exit', () => tell(`ended ${child.pid}`));
}

/**
 * Has this process end when the one that forked it does, even by SIGKILL, and with it whatever ends with this one. It
 * is for the workers of a test run, which their runner ends by itself unless it is killed.
 */
export function endWithParent(): void {
  process.once('disconnect', () => process.kill(process.pid, 'SIGKILL'));
}

/** A folder for as long as this process lives. */
export interface TemporaryFolder {
  readonly path: string;
  remove(): Promise<void>;
}

/** Makes a temporary folder, which is removed when this process ends, after the processes that end with it. */
export async function makeTemporaryFolder(prefix: string): Promise<TemporaryFolder> {
  const path = await mkdtemp(join(tmpdir(), prefix));
  tell(`remove ${path}`);
  return {
    path,
    async remove() {
      await rm(path, { recursive: true, force: true });
      tell(`removed ${path}`);
    },
  };
}

/** The guard reads from a pipe that only this process writes to: its end is this process's end. */
function tell(line: string): void {
  if (!guard) {
    // In a group of its own, so that a Ctrl-C in the terminal leaves it to its work.
    guard = spawn('sh', [GUARD], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
    guard.unref();
    guard.stdin?.on('error', () => undefined);
    (guard.stdin as unknown as { unref(): void }).unref();
  }
  guard.stdin?.write(`${line}\n`);
}
