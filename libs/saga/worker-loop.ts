import { setTimeout as delay } from 'node:timers/promises';

/** What a loop does, and how it tells of what goes wrong. */
export interface WorkerLoopOptions {
  readonly name: string;
  /** How long to sleep when there was nothing to do, in milliseconds; a third of it more or less at random. */
  readonly pollMs: number;
  /** Does what is due and answers how many items it did. It is called again at once after any. */
  readonly work: (signal: AbortSignal) => Promise<number>;
  readonly onError: (name: string, error: unknown) => void;
}

/** A running loop. */
export interface WorkerLoop {
  /** Cuts the sleep: there is something to do. */
  wake(): void;
  /** Aborts the signal of a running pass and waits until it has ended. */
  stop(): Promise<void>;
}

const MAX_ERROR_PAUSE_MS = 30_000;

/** Starts a loop that polls for due work. An error in a pass is told, and the pauses grow while it goes on. */
export function startWorkerLoop({ name, pollMs, work, onError }: WorkerLoopOptions): WorkerLoop {
  const stopping = new AbortController();
  let sleep = new AbortController();
  let woken = false;
  let errorsInARow = 0;

  const loop = async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      woken = false;
      let done = 0;
      try {
        done = await work(stopping.signal);
        errorsInARow = 0;
      } catch (error) {
        if (stopping.signal.aborted) return;
        errorsInARow += 1;
        onError(name, error);
      }
      if (done > 0 || woken) continue;
      sleep = new AbortController();
      const pause = Math.min(MAX_ERROR_PAUSE_MS, pollMs * 2 ** errorsInARow) * (2 / 3 + (2 / 3) * Math.random());
      await delay(pause, undefined, { signal: AbortSignal.any([sleep.signal, stopping.signal]) }).catch(
        () => undefined,
      );
    }
  };
  const running = loop();
  return {
    wake() {
      woken = true;
      sleep.abort();
    },
    async stop() {
      stopping.abort();
      await running;
    },
  };
}
