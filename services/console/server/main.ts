import { runUntilSignal } from '#libs/grpc/run-until-signal.ts';
import { makeLogger } from '#libs/telemetry/logger.ts';
import { readConsoleSettings } from './config.ts';
import { startConsole } from './start-console.ts';

const log = makeLogger('console', 'info');
try {
  const running = await startConsole(readConsoleSettings(process.env));
  runUntilSignal(log, running.stop);
} catch (error) {
  log.fatal({ err: error }, 'could not start');
  process.exit(1);
}
