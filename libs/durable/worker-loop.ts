/** What a loop does, and how it tells of what goes wrong. */
export interface WorkerLoopOptions {
  readonly name: string;
  /** How often to look while there is nothing to do, in milliseconds; a third of it more or less at random. */
  readonly pollMs: number;
  /**
   * Does what is due and answers how many items it did. It is called again at once after any. It calls `callNext` once
   * it has taken an item and knows of more, so that a sleeping loop looks for them meanwhile.
   */
  readonly work: (signal: AbortSignal, callNext: () => void) => Promise<number>;
  readonly onError: (name: string, error: unknown) => void;
}

/** A running loop. */
export interface WorkerLoop {
  /** Cuts the sleep: there is something to do. Answers whether the loop was asleep. */
  wake(): boolean;
  /** Looks at once, as if no pass had failed: what all of them stand on is back. */
  resume(): void;
  /** Aborts the signal of a running pass and waits until it has ended. */
  stop(): Promise<void>;
}

/** Several loops that do the same work side by side. */
export interface WorkerLoops {
  /** Wakes as many sleeping loops as there are new items. */
  wake(items?: number): void;
  /** As WorkerLoop's: one looks, and calls the others where there is more. */
  resume(): void;
  /** As WorkerLoop's, for all of them. */
  stop(): Promise<void>;
}

const MAX_ERROR_PAUSE_MS = 30_000;
const MAX_LEISURE_MS = 10_000;

/**
 * How often to look for what nobody waits for, such as what a process left that ended in the middle, where other work is
 * looked for every `pollMs`: a tenth as often, but at least every ten seconds unless other work is not either.
 */
export const leisurely = (pollMs: number): number => Math.max(pollMs, Math.min(10 * pollMs, MAX_LEISURE_MS));

/** Starts a loop that polls for due work. An error in a pass is told, and the pauses grow while it goes on. */
export function startWorkerLoop(options: WorkerLoopOptions): WorkerLoop {
  const { loops, resume, stop } = startLoops([options.name], options);
  return { wake: () => loops[0]?.wake() ?? false, resume, stop };
}

/**
 * Starts `count` loops, named by the given name and their number. One of those that sleep polls for all of them: how
 * many there are costs an idle database nothing.
 */
export function startWorkerLoops(count: number, { name, ...options }: WorkerLoopOptions): WorkerLoops {
  const names = Array.from({ length: count }, (_, index) => `${name}-${index}`);
  const { loops, resume, stop } = startLoops(names, options);
  return {
    wake(items = 1) {
      let woken = 0;
      for (const loop of loops) {
        if (woken >= items) return;
        // One that is busy is told too: it looks once more before it sleeps.
        if (loop.wake()) woken += 1;
      }
    },
    resume,
    stop,
  };
}

interface Loop {
  /** As WorkerLoop's. */
  wake(): boolean;
  isAsleep(): boolean;
}

/** Starts a loop for each name; the sleeping ones share one timer, which wakes one of them. */
function startLoops(names: readonly string[], { pollMs, work, onError }: Omit<WorkerLoopOptions, 'name'>) {
  const stopping = new AbortController();
  const loops: Loop[] = [];
  const running: Promise<void>[] = [];
  let errorsInARow = 0;
  let timer: NodeJS.Timeout | undefined;

  const callNext = (): void => void loops.find((loop) => loop.isAsleep())?.wake();
  const setTimer = (): void => {
    if (timer !== undefined || !loops.some((loop) => loop.isAsleep())) return;
    const pause = Math.min(MAX_ERROR_PAUSE_MS, pollMs * 2 ** errorsInARow) * (2 / 3 + (2 / 3) * Math.random());
    timer = setTimeout(() => {
      timer = undefined;
      callNext();
      setTimer();
    }, pause);
  };
  const start = (name: string): void => {
    let endSleep: (() => void) | undefined;
    let woken = false;
    loops.push({
      isAsleep: () => endSleep !== undefined,
      wake() {
        const wasAsleep = endSleep !== undefined;
        woken = true;
        endSleep?.();
        endSleep = undefined;
        return wasAsleep;
      },
    });
    const loop = async (): Promise<void> => {
      while (!stopping.signal.aborted) {
        woken = false;
        let done = 0;
        try {
          done = await work(stopping.signal, callNext);
          errorsInARow = 0;
        } catch (error) {
          if (stopping.signal.aborted) return;
          errorsInARow += 1;
          onError(name, error);
        }
        if (done > 0 || woken || stopping.signal.aborted) continue;
        const { promise, resolve } = Promise.withResolvers<void>();
        endSleep = resolve;
        setTimer();
        await promise;
      }
    };
    running.push(loop());
  };
  for (const name of names) start(name);

  return {
    loops,
    resume(): void {
      errorsInARow = 0;
      // The pause that it measures may be one of half a minute.
      clearTimeout(timer);
      timer = undefined;
      if (loops.some((loop) => loop.isAsleep())) callNext();
      // All are busy: whoever meets what is over is not to sleep before it has looked once more.
      else for (const loop of loops) loop.wake();
      setTimer();
    },
    async stop() {
      stopping.abort();
      clearTimeout(timer);
      for (const loop of loops) loop.wake();
      await Promise.all(running);
    },
  };
}
