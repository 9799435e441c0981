import { readClientTls, readServerTls } from '#libs/grpc/tls-settings.ts';
import type { SettingsReader } from '#libs/kernel/settings.ts';
import { parseDatabaseUrl } from '#libs/postgres/database-url.ts';
import { DEFAULT_TIMEOUTS } from '#libs/postgres/session-settings.ts';
import { LOG_LEVELS } from '#libs/telemetry/logger.ts';

/** What every service is told. */
export type CommonSettings = ReturnType<typeof readCommonSettings>;

/** Reads what every service is told; addresses are host:port. */
export const readCommonSettings = (reader: SettingsReader) => ({
  grpcAddress: reader.parsed('LETHE_GRPC_ADDRESS', parseAddress, '0.0.0.0:7400'),
  metricsAddress: reader.parsed('LETHE_METRICS_ADDRESS', parseAddress, '0.0.0.0:9464'),
  databaseUrl: reader.parsed('LETHE_DATABASE_URL', parseDatabaseUrl),
  databasePoolSize: reader.integer('LETHE_DATABASE_POOL_SIZE', { min: 1, max: 200 }, 10),
  statementTimeoutMs: reader.integer(
    'LETHE_STATEMENT_TIMEOUT_MS',
    { min: 100, max: 60_000 },
    DEFAULT_TIMEOUTS.statementTimeoutMs,
  ),
  lockTimeoutMs: reader.integer('LETHE_LOCK_TIMEOUT_MS', { min: 100, max: 60_000 }, DEFAULT_TIMEOUTS.lockTimeoutMs),
  trustFile: reader.text('LETHE_TRUST_FILE'),
  /** Which keys are believed is no longer told by a key set; refused, so that nobody thinks it still counts. */
  jwks: reader.optional('LETHE_JWKS', refuseKeySet),
  /** The `iss` of the tokens that the service signs. */
  jwtIssuer: reader.text('LETHE_JWT_ISSUER', 'lethe'),
  /** Its names in LETHE_RETENTION_OWNERS and in LETHE_PARTICIPANTS; the service's own by default. */
  ownerName: reader.optional('LETHE_OWNER_NAME', parsePeerName),
  participantName: reader.optional('LETHE_PARTICIPANT_NAME', parsePeerName),
  logLevel: reader.oneOf('LETHE_LOG_LEVEL', LOG_LEVELS, 'info'),
  callsPerSecond: reader.integer('LETHE_CALLS_PER_SECOND', { min: 1, max: 1_000_000 }, 5_000),
  streamsPerCaller: reader.integer('LETHE_STREAMS_PER_CALLER', { min: 1, max: 1_000_000 }, 1_000),
  streamsPerProcess: reader.integer('LETHE_STREAMS_PER_PROCESS', { min: 1, max: 1_000_000 }, 10_000),
  connectionAgeMs: reader.integer('LETHE_CONNECTION_AGE_MS', { min: 1_000, max: 86_400_000 }, 600_000),
  tls: readServerTls(reader),
  clientTls: readClientTls(reader),
  reflection: reader.oneOf('LETHE_REFLECTION', ['on', 'off'], 'on') === 'on',
  /** How long receipts are kept, and what requests were answered with. */
  receiptDays: reader.integer('LETHE_RECEIPT_DAYS', { min: 30, max: 36_500 }, 400),
  drainMs: reader.integer('LETHE_DRAIN_MS', { min: 100, max: 600_000 }, 10_000),
});

/** The name by which other services know one, as it stands: 1 to 63 of a-z, 0-9 and `-`, beginning with a letter. */
export function parsePeerName(text: string): string {
  if (!/^[a-z][a-z0-9-]{0,62}$/.test(text))
    throw new Error('must be 1 to 63 of a-z, 0-9 and -, beginning with a letter');
  return text;
}

function refuseKeySet(): never {
  throw new Error('is no longer read; name a trust file in LETHE_TRUST_FILE instead, see libs/auth/README.md');
}

/** host:port as it stands; an Error saying so otherwise. */
export function parseAddress(text: string): string {
  const [, port] = /^[^:\s]+:(\d{1,5})$/.exec(text) ?? [];
  if (port === undefined || Number(port) > 65_535) throw new Error('must be host:port');
  return text;
}
