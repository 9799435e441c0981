import { flushAll } from '#libs/telemetry/flush-at-exit.ts';
import type { Logger } from '#libs/telemetry/logger.ts';

/**
 * Waits for SIGTERM or SIGINT, runs `stop` once and ends the process: with 0 when it went well, with 1 when it did
 * not. What telemetry has still to tell is sent before. A second signal ends it at once with 1.
 */
export function runUntilSignal(log: Logger, stop: () => Promise<void>): void {
  let stopping = false;
  const onSignal = (signal: NodeJS.Signals): void => {
    if (stopping) process.exit(1);
    stopping = true;
    log.info({ signal }, 'stopping');
    stop()
      .then(
        () => 0,
        (error: unknown) => {
          log.error({ err: error }, 'could not stop cleanly');
          return 1;
        },
      )
      .then(async (code) => {
        await flushAll();
        process.exit(code);
      });
  };
  process.on('SIGTERM', onSignal).on('SIGINT', onSignal);
}

const SIGNALS = { SIGINT: 2, SIGTERM: 15 } as const;

/**
 * Ends the process at SIGTERM or SIGINT until it is taken back by what this returns. By default that happens to every
 * process but the first one of a container, which ignores them.
 */
export function endOnSignal(): () => void {
  const end = (signal: NodeJS.Signals): void => process.exit(128 + SIGNALS[signal as keyof typeof SIGNALS]);
  process.on('SIGTERM', end).on('SIGINT', end);
  return () => process.off('SIGTERM', end).off('SIGINT', end);
}
