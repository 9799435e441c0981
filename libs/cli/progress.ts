import { SingleBar } from 'cli-progress';

/** A bar that comes with the first update and goes with `stop`, so that what is printed in between stays readable. */
export interface Progress {
  update(done: number, total: number, what: string): void;
  stop(): void;
  /** Stops it for good: what goes on for a while after a command's end, or after Ctrl-C, draws nothing. */
  end(): void;
}

/**
 * A bar on the screen; nothing at all without one. It neither hides the cursor nor changes how the terminal wraps
 * lines, so that nothing has to be put back whatever ends the program.
 */
export function makeProgress(screen: NodeJS.WritableStream | undefined): Progress {
  if (!screen) return { update: () => undefined, stop: () => undefined, end: () => undefined };
  const bar = new SingleBar({
    format: '{bar} {value}/{total} {what}',
    stream: screen,
    barsize: 30,
    clearOnComplete: true,
    hideCursor: false,
    // True leaves the terminal alone; the bar is cut at its width.
    linewrap: true,
  });
  const stop = (): void => {
    if (bar.isActive) bar.stop();
  };
  let isEnded = false;
  return {
    update(done, total, what) {
      if (isEnded) return;
      if (!bar.isActive) bar.start(total, done, { what });
      bar.setTotal(total);
      bar.update(done, { what });
      // Where it ended while it was drawn, the bar has not seen it, and would draw itself until the program ends.
      if (isEnded) stop();
    },
    stop,
    end() {
      isEnded = true;
      stop();
    },
  };
}
