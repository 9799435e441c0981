import { SingleBar } from 'cli-progress';

/** A bar that comes with the first update and goes with `stop`, so that what is printed in between stays readable. */
export interface Progress {
  update(done: number, total: number, what: string): void;
  stop(): void;
}

/**
 * A bar on the screen; nothing at all without one. It neither hides the cursor nor changes how the terminal wraps
 * lines, so that nothing has to be put back whatever ends the program.
 */
export function makeProgress(screen: NodeJS.WritableStream | undefined): Progress {
  if (!screen) return { update: () => undefined, stop: () => undefined };
  const bar = new SingleBar({
    format: '{bar} {value}/{total} {what}',
    stream: screen,
    barsize: 30,
    clearOnComplete: true,
    hideCursor: false,
    // True leaves the terminal alone; the bar is cut at its width.
    linewrap: true,
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
