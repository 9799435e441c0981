import { type ChildProcess, spawn } from 'node:child_process';
import { open } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { endWithMe } from './end-with-me.ts';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const STOP_DEADLINE_MS = 15_000;
const MIN_UPTIME_MS = 1_000;
const RESTARTS_BEFORE_GIVING_UP = 5;

/** How one service is run. */
export interface ServiceProcessOptions {
  readonly name: string;
  /** Path of the program, from the repository. */
  readonly program: string;
  readonly args?: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Where its standard output and error go, appended. */
  readonly logFile: string;
  /** Told once when the service keeps dying right after its start. */
  readonly onGivingUp: (name: string) => void;
}

/** A supervised process: it is started again when it dies, until it is stopped. */
export interface ServiceProcess {
  /** The process id of now; another one after a restart. */
  pid(): number | undefined;
  /** SIGTERM, and SIGKILL for what has not drained in 15 s; waits until the process is gone. */
  stop(): Promise<void>;
}

// A service lives on little: the room for young objects, which V8 would let grow under load, is kept at a few megabytes.
const NODE_FLAGS = ['--max-semi-space-size=4'];

/**
 * Starts and supervises one service. It runs in a process group of its own, so a Ctrl-C does not reach it; it ends when
 * its supervisor does, even by SIGKILL.
 */
export async function startServiceProcess(options: ServiceProcessOptions): Promise<ServiceProcess> {
  const { name, program, args = [], env, logFile, onGivingUp } = options;
  let child: ChildProcess | undefined;
  let gone = Promise.resolve();
  let stopping = false;
  let deathsInARow = 0;

  const start = async (): Promise<void> => {
    const log = await open(logFile, 'a');
    const startedAt = performance.now();
    const started = spawn(process.execPath, [...NODE_FLAGS, program, ...args], {
      cwd: REPOSITORY,
      env: { ...environmentToInherit(), ...env },
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
    });
    endWithMe(started, 'TERM');
    child = started;
    await log.close();
    gone = new Promise((resolve) => {
      started.once('exit', (_, signal) => {
        resolve();
        if (stopping) return;
        // A kill from outside says nothing about the service itself, however soon it came.
        const diedAtStart = signal !== 'SIGKILL' && performance.now() - startedAt < MIN_UPTIME_MS;
        deathsInARow = diedAtStart ? deathsInARow + 1 : 0;
        if (deathsInARow > RESTARTS_BEFORE_GIVING_UP) return onGivingUp(name);
        setTimeout(() => stopping || void start(), 100 * 2 ** deathsInARow);
      });
    });
  };

  await start();
  return {
    pid: () => child?.pid,
    async stop() {
      stopping = true;
      child?.kill('SIGTERM');
      const timer = new AbortController();
      const drained = await Promise.race([
        gone.then(() => true),
        delay(STOP_DEADLINE_MS, false, { signal: timer.signal }).catch(() => false),
      ]);
      timer.abort();
      if (!drained) child?.kill('SIGKILL');
      await gone;
    },
  };
}

/** Runs a program of the repository to its end; throws with the end of what it printed when it fails. */
export async function runToEnd(args: readonly string[], env: Readonly<Record<string, string>>): Promise<void> {
  const child = spawn(process.execPath, args, {
    cwd: REPOSITORY,
    env: { ...environmentToInherit(), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  endWithMe(child, 'TERM');
  let output = '';
  const keep = (chunk: Buffer): void => {
    output = (output + chunk.toString('utf8')).slice(-4_000);
  };
  child.stdout.on('data', keep);
  child.stderr.on('data', keep);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('close', resolve).once('error', reject);
  });
  if (code !== 0) throw new Error(`${args.join(' ')} ended with ${code}:\n${output}`);
}

const SETTING = /^(LETHE_|WORKFLOW_|RETENTION_|AWS_|PG)/;

/** A service gets what it is given: a setting of the shell must not change the embedded stack. */
const environmentToInherit = (): NodeJS.ProcessEnv =>
  Object.fromEntries(Object.entries(process.env).filter(([key]) => !SETTING.test(key)));
