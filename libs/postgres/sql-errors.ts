import { DomainError, dependencyUnavailable } from '#libs/kernel/domain-error.ts';

const RETRY_AFTER_MS = 500;

// PostgreSQL error codes, appendix A of its manual; a class is the code's first two characters.
const CONFLICTS = new Set(['40001', '40P01', '55P03']);
const UNAVAILABLE = new Set(['57014']);
const READ_ONLY = '25006';
// No such schema, table, column or function: a statement that this program sends is never wrong in that.
const NOT_THERE = new Set(['3F000', '42P01', '42703', '42883']);
const NO_PRIVILEGE = '42501';
const FEATURE_NOT_SUPPORTED = '0A000';
const NO_SUCH_STATEMENT = '26000';

const FAULT_OF_CODE: Readonly<Record<string, DatabaseFault>> = {
  [READ_ONLY]: 'READ_ONLY',
  '53100': 'DISK_FULL',
  '53300': 'TOO_MANY_CONNECTIONS',
  '57P01': 'CONNECTION_LOST',
  '57P02': 'CONNECTION_LOST',
  '57P03': 'STARTING',
  '3D000': 'REFUSED',
};
const FAULT_OF_CLASS: Readonly<Record<string, DatabaseFault>> = {
  '08': 'CONNECTION_LOST',
  '28': 'REFUSED',
  '53': 'OUT_OF_RESOURCES',
};

// pgbouncer gives what it says itself the code of a violated protocol.
const POOLER = '08P01';
const FAULT_OF_POOLER: readonly (readonly [RegExp, DatabaseFault])[] = [
  [/authentication failed|no such (?:user|database)|unsupported startup parameter/, 'REFUSED'],
  [/\(max_\w+\)|^query_wait_timeout/, 'TOO_MANY_CONNECTIONS'],
];

const NETWORK = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'EHOSTDOWN',
  'ENETUNREACH',
  'ENETDOWN',
  'ERR_STREAM_DESTROYED',
  'ERR_STREAM_WRITE_AFTER_END',
]);
// pg throws these without a code, and the last one is Knex's.
const LOST = /Connection terminated|is not queryable/;
const TIMED_OUT = 'timeout expired';
const NONE_LEFT = /Timeout acquiring a connection|Unable to acquire a connection/;

/** What keeps a database from serving, as opposed to an error of one statement. */
export type DatabaseFault = keyof typeof FAULTS;

const FAULTS = {
  READ_ONLY: 'is read-only',
  DISK_FULL: 'has no disk space left',
  OUT_OF_RESOURCES: 'is out of memory or of another resource',
  TOO_MANY_CONNECTIONS: 'has too many connections',
  STARTING: 'is starting or stopping',
  CONNECTION_LOST: 'is unavailable',
  SILENT: 'does not answer',
  REFUSED: 'refuses the connection',
} as const;

/** The fault as a sentence without a full stop, such as "The database is read-only". */
export const describeFault = (fault: DatabaseFault): string => `The database ${FAULTS[fault]}`;

/** The error of a connection that was cut because the database did not answer. */
export class DatabaseSilent extends Error {
  override readonly name = 'DatabaseSilent';
}

/** The driver's own error: Objection wraps it. */
const nativeOf = (error: unknown): unknown =>
  typeof error === 'object' && error !== null && 'nativeError' in error ? error.nativeError : error;

/** The SQLSTATE or the system's error code of what a driver threw; undefined for anything else. */
export const codeOf = (error: unknown): string | undefined => {
  const native = nativeOf(error);
  if (typeof native !== 'object' || native === null || !('code' in native)) return undefined;
  return typeof native.code === 'string' ? native.code : undefined;
};

/** Whether a statement broke a unique constraint, by the constraint's name where one is given. */
export const isUniqueViolation = (error: unknown, constraint?: string): boolean =>
  codeOf(error) === '23505' &&
  (constraint === undefined || (nativeOf(error) as { constraint?: unknown }).constraint === constraint);

/** Whether a statement tried to write in a read-only transaction. */
export const isReadOnlyViolation = (error: unknown): boolean => codeOf(error) === READ_ONLY;

/** Whether a prepared statement answers with other columns than when it was prepared: its table has changed. */
export const isStalePlan = (error: unknown): boolean =>
  codeOf(error) === FEATURE_NOT_SUPPORTED &&
  (nativeOf(error) as { routine?: unknown }).routine === 'RevalidateCachedQuery';

/** Whether the connection has no prepared statement of the name that was used. */
export const isNotPrepared = (error: unknown): boolean => codeOf(error) === NO_SUCH_STATEMENT;

/** Whether the schema lacks what a statement names, or the right to it. A row that row-level security refuses is neither. */
const isOfSchema = (error: unknown): boolean => {
  const code = codeOf(error) ?? '';
  const { routine } = nativeOf(error) as { routine?: unknown };
  return NOT_THERE.has(code) || (code === NO_PRIVILEGE && routine === 'aclcheck_error');
};

/** What DEPENDENCY_UNAVAILABLE names as the fault where the schema is not as it should be. */
export const SCHEMA_FAULT = 'SCHEMA';

/** Whether the server ended or refused the session. */
const isFatal = (error: unknown): boolean => (nativeOf(error) as { severity?: unknown }).severity === 'FATAL';

/** The fault of the database, or of the network on the way to it, that a driver's error shows; undefined for any other error. */
export function faultOf(error: unknown): DatabaseFault | undefined {
  const native = nativeOf(error);
  if (native instanceof DatabaseSilent) return 'SILENT';
  const code = codeOf(error);
  if (code !== undefined) {
    if (code === 'ETIMEDOUT') return 'SILENT';
    if (NETWORK.has(code)) return 'CONNECTION_LOST';
    const said = code === POOLER ? String((native as { message?: unknown }).message) : '';
    const ofPooler = FAULT_OF_POOLER.find(([words]) => words.test(said));
    if (ofPooler) return ofPooler[1];
    return FAULT_OF_CODE[code] ?? (code.length === 5 ? FAULT_OF_CLASS[code.slice(0, 2)] : undefined);
  }
  if (!(native instanceof Error)) return undefined;
  if (native.message === TIMED_OUT) return 'SILENT';
  return LOST.test(native.message) ? 'CONNECTION_LOST' : undefined;
}

/**
 * What an error while a connection was made is for callers: a fault of the database, whatever it is, also where it comes
 * from TLS or from this machine. Undefined where the connections that there may be are all in use.
 */
export function unreachable(
  error: unknown,
): { readonly fault: DatabaseFault; readonly error: DomainError } | undefined {
  const isNoneLeft = error instanceof Error && NONE_LEFT.test(error.message);
  const fault = faultOf(error) ?? (isNoneLeft ? undefined : 'CONNECTION_LOST');
  return fault && { fault, error: databaseUnavailable(fault, describeFault(fault), error) };
}

/**
 * Translates a driver's error for callers. A lost race, against a change of the table too, becomes
 * ABORTED/CONCURRENT_UPDATE. A database that cannot serve
 * becomes UNAVAILABLE/DEPENDENCY_UNAVAILABLE, with the fault in the metadata if it is known. Any other error is returned
 * as it is, and is INTERNAL to callers. Messages never contain SQL or text of the driver.
 */
export function toDomainError(error: unknown): unknown {
  if (error instanceof DomainError) return error;
  const fault = faultOf(error);
  if (fault !== undefined) return databaseUnavailable(fault, describeFault(fault), error);
  const code = codeOf(error);
  if (code === undefined) {
    return error instanceof Error && NONE_LEFT.test(error.message) ? dependencyUnavailable('database', error) : error;
  }
  if (isOfSchema(error)) {
    return databaseUnavailable(SCHEMA_FAULT, 'The database lacks a part of the schema, or the right to it', error);
  }
  if (CONFLICTS.has(code) || isStalePlan(error)) {
    return new DomainError(
      'aborted',
      'CONCURRENT_UPDATE',
      'Something else changed this at the same time; try again.',
      {},
      { retryAfterMs: RETRY_AFTER_MS, cause: error },
    );
  }
  return UNAVAILABLE.has(code) || isFatal(error) ? dependencyUnavailable('database', error) : error;
}

const databaseUnavailable = (fault: string, sentence: string, cause: unknown): DomainError =>
  new DomainError(
    'unavailable',
    'DEPENDENCY_UNAVAILABLE',
    `${sentence}; try again later.`,
    { dependency: 'database', fault },
    { retryAfterMs: 1_000, cause },
  );
