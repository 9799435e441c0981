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
  /** Cuts the sleep: there is something to do. Answers whether the loop was asleep. */
  wake(): boolean;
  /** Aborts the signal of a running pass and waits until it has ended. */
  stop(): Promise<void>;
}

/** Several loops that do the same work side by side. */
export interface WorkerLoops {
  /** There are so many new items to do: as many sleeping loops are woken, and no more, or all would look in vain. */
  wake(items?: number): void;
  /** As WorkerLoop's, for all of them. */
  stop(): Promise<void>;
}

const MAX_ERROR_PAUSE_MS = 30_000;

/** Starts a loop that polls for due work. An error in a pass is told, and the pauses grow while it goes on. */
export function startWorkerLoop({ name, pollMs, work, onError }: WorkerLoopOptions): WorkerLoop {
  const stopping = new AbortController();
  let sleep = new AbortController();
  let woken = false;
  let isAsleep = false;
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
      isAsleep = true;
      await delay(pause, undefined, { signal: AbortSignal.any([sleep.signal, stopping.signal]) }).catch(
        () => undefined,
      );
      isAsleep = false;
    }
  };
  const running = loop();
  return {
    wake() {
      const wasAsleep = isAsleep && !woken;
      woken = true;
      sleep.abort();
      return wasAsleep;
    },
    async stop() {
      stopping.abort();
      await running;
    },
  };
}

/** Starts `count` loops, named by the given name and their number. */
export function startWorkerLoops(count: number, { name, ...options }: WorkerLoopOptions): WorkerLoops {
  const loops = Array.from({ length: count }, (_, index) => startWorkerLoop({ name: `${name}-${index}`, ...options }));
  return {
    wake(items = 1) {
      let woken = 0;
      for (const loop of loops) {
        if (woken >= items) return;
        // One that is busy is told too: it looks once more before it sleeps.
        if (loop.wake()) woken += 1;
      }
    },
    async stop() {
      await Promise.all(loops.map((loop) => loop.stop()));
    },
  };
}
