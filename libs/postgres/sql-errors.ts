import { DomainError, dependencyUnavailable } from '#libs/kernel/domain-error.ts';

const RETRY_AFTER_MS = 500;

// PostgreSQL error codes, appendix A of its manual; a class is the code's first two characters.
const CONFLICTS = new Set(['40001', '40P01', '55P03']);
const UNAVAILABLE = new Set(['57014', '57P01', '57P02', '57P03', '53300', '53400']);
const UNAVAILABLE_CLASSES = new Set(['08']);
const NETWORK = new Set(['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'ENOTFOUND', 'EHOSTUNREACH']);

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

/** A FATAL error ended the session: the server refused or dropped it. */
const isFatal = (error: unknown): boolean => (nativeOf(error) as { severity?: unknown }).severity === 'FATAL';

/**
 * What a driver's error means for a caller: a lost race is ABORTED/CONCURRENT_UPDATE, a database that cannot answer
 * is UNAVAILABLE/DEPENDENCY_UNAVAILABLE; anything else stays what it was and becomes INTERNAL at the edge. No text
 * of SQL or of the driver gets into a message.
 */
export function toDomainError(error: unknown): unknown {
  if (error instanceof DomainError) return error;
  const code = codeOf(error);
  if (code !== undefined) {
    if (CONFLICTS.has(code)) {
      return new DomainError(
        'aborted',
        'CONCURRENT_UPDATE',
        'Something else changed this at the same time; try again.',
        {},
        { retryAfterMs: RETRY_AFTER_MS, cause: error },
      );
    }
    if (UNAVAILABLE.has(code) || UNAVAILABLE_CLASSES.has(code.slice(0, 2)) || NETWORK.has(code) || isFatal(error)) {
      return dependencyUnavailable('database', error);
    }
  }
  // Knex and pg throw these two without a code.
  if (error instanceof Error && /Timeout acquiring a connection|Connection terminated/.test(error.message)) {
    return dependencyUnavailable('database', error);
  }
  return error;
}
