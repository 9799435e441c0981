import { type DestinationStream, type Logger, pino } from 'pino';

export type { Logger } from 'pino';

const SECRETS = ['authorization', 'token', 'password', 'secret', 'secretAccessKey', 'privateJwk', 'databaseUrl', 'url'];

/** The levels that can be set. */
export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;

/** How much is logged. */
export type LogLevel = (typeof LOG_LEVELS)[number];

/**
 * A service's logger: one JSON object a line on standard output. What is known to be secret is taken out at any of
 * the two upper levels, and so is a password inside a URL of an error's message.
 */
export function makeLogger(service: string, level: LogLevel, destination?: DestinationStream): Logger {
  const options = {
    level,
    base: { service },
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: { paths: SECRETS.flatMap((name) => [name, `*.${name}`]), censor: '[redacted]' },
    serializers: { err: toLoggedError },
  };
  return destination ? pino(options, destination) : pino(options);
}

function toLoggedError(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { message: withoutPasswords(String(error)) };
  const { name, message, stack, cause } = error;
  const code = 'code' in error ? error.code : undefined;
  return {
    type: name,
    code,
    message: withoutPasswords(message),
    stack: withoutPasswords(stack ?? ''),
    ...(cause === undefined ? {} : { cause: toLoggedError(cause) }),
  };
}

const withoutPasswords = (text: string): string => text.replaceAll(/\/\/([^/\s:@]*):[^@\s/]*@/g, '//$1:[redacted]@');
