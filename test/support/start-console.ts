import type { Stack } from '#deploy/local/stack.ts';
import { readConsoleSettings } from '#services/console/server/config.ts';
import { type RunningConsole, startConsole } from '#services/console/server/start-console.ts';

/**
 * Starts a console in the process of the test, on a free port, before a stack that was started without one. `env` holds
 * more settings.
 */
export const startTestConsole = (
  { addresses }: Pick<Stack, 'addresses'>,
  env: Readonly<Record<string, string>> = {},
): Promise<RunningConsole> =>
  startConsole(
    readConsoleSettings({
      LETHE_HTTP_ADDRESS: '127.0.0.1:0',
      LETHE_METRICS_ADDRESS: '127.0.0.1:0',
      LETHE_RUN_ADDRESS: addresses.run,
      LETHE_JOB_ADDRESS: addresses.job,
      LETHE_INCIDENT_ADDRESS: addresses.incident,
      LETHE_RETENTION_ADDRESS: addresses.retention,
      LETHE_LOG_LEVEL: 'fatal',
      LETHE_DRAIN_MS: '1000',
      ...env,
    }),
  );
