import { SingleBar } from 'cli-progress';

/** A bar that comes with the first update and goes with `stop`, so that what is printed in between stays readable. */
export interface Progress {
  update(done: number, total: number, what: string): void;
  stop(): void;
}

/** A bar on standard error; nothing at all unless it is `shown`. */
export function makeProgress(shown: boolean): Progress {
  if (!shown) return { update: () => undefined, stop: () => undefined };
  const bar = new SingleBar({
    format: '{bar} {value}/{total} {what}',
    stream: process.stderr,
    clearOnComplete: true,
    hideCursor: true,
  });
  return {
    update(done, total, what) {
      if (!bar.isActive) bar.start(total, done, { what });
      bar.setTotal(total);
      bar.update(done, { what });
    },
    stop() {
      if (bar.isActive) bar.stop();
    },
  };
}
