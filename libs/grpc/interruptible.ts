/** Waits for one thing after the other, until it is interrupted. */
export interface Interruptible {
  /** What `work` gives; rejects with the interruption's reason where that comes first. One wait at a time. */
  wait<T>(work: Promise<T> | T): Promise<T>;
  /** Ends the wait, and every later one, with this reason. Only the first interruption counts. */
  interrupt(reason: Error): void;
}

/**
 * Makes one. A Promise.race against a promise that lasts as long as a call would add something to that promise with
 * every wait, and a stream would grow with all that has passed through it.
 */
export function makeInterruptible(): Interruptible {
  let interruption: Error | undefined;
  let stopWaiting: ((reason: Error) => void) | undefined;
  return {
    wait: (work) =>
      new Promise((resolve, reject) => {
        stopWaiting = reject;
        if (interruption) reject(interruption);
        if (work instanceof Promise) work.then(resolve, reject);
        else resolve(work);
      }),
    interrupt(reason) {
      interruption ??= reason;
      stopWaiting?.(interruption);
    },
  };
}
