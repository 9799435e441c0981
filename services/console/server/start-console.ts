import { hostAndPort } from '#libs/kernel/settings.ts';
import { makeLogger } from '#libs/telemetry/logger.ts';
import { makeMetrics, startMetricsServer } from '#libs/telemetry/metrics.ts';
import type { ConsoleSettings } from './config.ts';
import { connectUpstreams } from './connect-upstreams.ts';
import { makeServer } from './make-server.ts';

/** A console that serves. */
export interface RunningConsole {
  /** Where it is, e.g. `http://127.0.0.1:7405`. */
  readonly url: string;
  /** Takes no more requests, lets those under way end, and closes; what is left after `drainMs` is cut off. */
  stop(): Promise<void>;
}

const CUT_MS = 1_000;

/** Starts the console. Services that do not answer yet are no obstacle: their calls answer 503 until they do. */
export async function startConsole(settings: ConsoleSettings): Promise<RunningConsole> {
  const log = makeLogger('console', settings.logLevel);
  const metrics = makeMetrics('console');
  const upstreams = connectUpstreams(settings.addresses, settings.clientTls, log);
  let ready = false;
  const isReady = (): boolean => ready;
  const lines = async (): Promise<readonly string[]> => (ready ? [] : ['Starting or stopping.']);
  const stopMetrics = await startMetricsServer(settings.metricsAddress, metrics, { isReady, lines });
  const app = await makeServer({ settings, upstreams, metrics, log, isReady });
  const url = await app.listen(hostAndPort(settings.httpAddress));
  ready = true;
  log.info({ address: url, services: settings.addresses }, 'serving');

  const stop = async (): Promise<void> => {
    ready = false;
    const cut = setTimeout(() => app.server.closeAllConnections(), settings.drainMs + CUT_MS);
    await app.close();
    clearTimeout(cut);
    upstreams.close();
    await stopMetrics();
    log.info('stopped serving');
  };
  let stopping: Promise<void> | undefined;
  return {
    url,
    stop() {
      stopping ??= stop();
      return stopping;
    },
  };
}
