import { setTimeout as delay } from 'node:timers/promises';

/** Lets background work give way to the calls that somebody waits for. */
export interface Turns {
  /** Somebody waits for an answer of this process. */
  onCall(): void;
  /**
   * Does a short piece of background work: at once while nobody has called for a second, and else one piece after the
   * other in the order of asking, each followed by a rest of the database four times as long as it took. `share` is how much
   * of a whole piece `work` is to do, from 0 to 1: less while somebody calls.
   */
  take<T>(work: (share: number) => Promise<T>): Promise<T>;
}

// A call that meets a piece on the same processor waits for a few milliseconds of it, and not for tens.
const SHARE_WHILE_CALLED = 0.05;
const REST_PER_WORK = 4;
const QUIET_AFTER_MS = 1_000;
// A piece that took longer than this waited for a lock or a disk, and resting as long would help nobody.
const MAX_REST_MS = 1_000;

/** Makes the turns of one process. */
export function makeTurns(): Turns {
  let calledAt = Number.NEGATIVE_INFINITY;
  let last: Promise<void> = Promise.resolve();
  const isCalled = (): boolean => performance.now() - calledAt < QUIET_AFTER_MS;

  return {
    onCall() {
      calledAt = performance.now();
    },
    async take(work) {
      if (!isCalled()) return work(1);
      const before = last;
      const { promise, resolve } = Promise.withResolvers<void>();
      last = promise;
      await before;
      const startedAt = performance.now();
      try {
        return await work(isCalled() ? SHARE_WHILE_CALLED : 1);
      } finally {
        const restMs = isCalled() ? Math.min(MAX_REST_MS, REST_PER_WORK * (performance.now() - startedAt)) : 0;
        delay(restMs).then(resolve);
      }
    },
  };
}
