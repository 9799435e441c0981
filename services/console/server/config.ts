import { fileURLToPath } from 'node:url';
import { readClientTls } from '#libs/grpc/tls-settings.ts';
import { type Environment, readSettings } from '#libs/kernel/settings.ts';
import { parseAddress } from '#libs/service/common-settings.ts';
import { LOG_LEVELS } from '#libs/telemetry/logger.ts';
import { readSignInSettings } from './session/sign-in-settings.ts';

/** The console's settings. */
export type ConsoleSettings = ReturnType<typeof readConsoleSettings>;

const BUILT_PAGE = fileURLToPath(new URL('../page/dist', import.meta.url));

/** Reads the console's settings; throws one Error naming everything that is wrong. */
export const readConsoleSettings = (env: Environment) =>
  readSettings(env, (reader) => ({
    httpAddress: reader.parsed('LETHE_HTTP_ADDRESS', parseAddress, '0.0.0.0:7405'),
    metricsAddress: reader.parsed('LETHE_METRICS_ADDRESS', parseAddress, '0.0.0.0:9464'),
    /** Where the services are: host:port or a grpc target. */
    addresses: {
      run: reader.text('LETHE_RUN_ADDRESS'),
      job: reader.text('LETHE_JOB_ADDRESS'),
      incident: reader.text('LETHE_INCIDENT_ADDRESS'),
      retention: reader.text('LETHE_RETENTION_ADDRESS'),
    },
    /** How the console speaks TLS to the services. */
    clientTls: readClientTls(reader),
    /** The origin that browsers see, e.g. `https://lethe.example.com`. Undefined: that of each request's own host. */
    publicUrl: reader.optional('LETHE_CONSOLE_URL', parseOrigin),
    /** How people sign in. Undefined: they cannot, and requests need a bearer token. */
    signIn: readSignInSettings(reader),
    /** The folder of the built page. */
    pageFolder: reader.text('LETHE_PAGE_FOLDER', BUILT_PAGE),
    /** Proxies whose X-Forwarded-For is believed, as addresses or CIDR ranges. Undefined: none. */
    trustedProxies: reader.optional('LETHE_TRUSTED_PROXIES', parseList),
    /** Requests a minute of one credential, or of one address where there is none. */
    requestsPerMinute: reader.integer('LETHE_REQUESTS_PER_MINUTE', { min: 1, max: 10_000_000 }, 6_000),
    /** How long the purge of a run may wait for its end before it is answered by 202. */
    purgeWaitMs: reader.integer('LETHE_PURGE_WAIT_MS', { min: 0, max: 60_000 }, 10_000),
    logLevel: reader.oneOf('LETHE_LOG_LEVEL', LOG_LEVELS, 'info'),
    drainMs: reader.integer('LETHE_DRAIN_MS', { min: 100, max: 600_000 }, 5_000),
  }));

/** An http or https origin, without a path; an Error saying so otherwise. */
export function parseOrigin(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const isOrigin = url && /^https?:$/.test(url.protocol) && url.pathname === '/' && !url.search && !url.hash;
  if (!url || !isOrigin || url.username)
    throw new Error('must be an http or https origin, such as https://lethe.example.com');
  return url.origin;
}

const parseList = (text: string): string[] => text.split(',').map((part) => part.trim());
