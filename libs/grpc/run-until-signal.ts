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
