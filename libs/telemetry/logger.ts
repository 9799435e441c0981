import { type DestinationStream, type Logger, pino } from 'pino';

export type { Logger } from 'pino';

const SECRETS = ['authorization', 'token', 'password', 'secret', 'secretAccessKey', 'privateJwk', 'databaseUrl', 'url'];

/** The levels that can be set. */
export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;

/** How much is logged. */
export type LogLevel = (typeof LOG_LEVELS)[number];

// What is secret wherever it stands: a signed token, a private key as PEM or JWK, a password in a URL.
const SECRET_TEXTS: readonly (readonly [RegExp, string])[] = [
  [/eyJ[\w-]{5,}\.[\w-]*\.[\w-]*/g, '[redacted]'],
  [/-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|(?="))/g, '[redacted]'],
  [/(\\?"d\\?":\s*\\?")[\w-]{16,}/g, '$1[redacted]'],
  [/\/\/([^/\s:@"]*):[^@\s/"]*@/g, '//$1:[redacted]@'],
];

/**
 * A service's logger: one JSON object a line on standard output. What is known to be secret by its name is taken out
 * at the two upper levels, and what looks like a token, a private key or a password in a URL anywhere in the line.
 */
export function makeLogger(service: string, level: LogLevel, destination?: DestinationStream): Logger {
  const options = {
    level,
    base: { service },
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: { paths: SECRETS.flatMap((name) => [name, `*.${name}`]), censor: '[redacted]' },
    serializers: { err: toLoggedError },
    hooks: { streamWrite: withoutSecrets },
  };
  return destination ? pino(options, destination) : pino(options);
}

function toLoggedError(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { message: String(error) };
  const { name, message, stack, cause } = error;
  const code = 'code' in error ? error.code : undefined;
  return {
    type: name,
    code,
    message,
    stack,
    ...(cause === undefined ? {} : { cause: toLoggedError(cause) }),
  };
}

const withoutSecrets = (line: string): string =>
  SECRET_TEXTS.reduce((text, [secret, instead]) => text.replaceAll(secret, instead), line);
