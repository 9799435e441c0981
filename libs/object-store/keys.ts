import { DomainError } from '#libs/kernel/domain-error.ts';
import { isKey } from './object-store.ts';

/** Throws a TypeError unless the key is what the port says: such a key is a bug, not a caller's mistake. */
export function assertKey(key: string): void {
  if (!isKey(key)) throw new TypeError('not a key');
}

/** As assertKey, for a prefix: it must end with a slash, or `jobs/1` would be a prefix of `jobs/10`. */
export function assertPrefix(prefix: string): void {
  if (!prefix.endsWith('/')) throw new TypeError('a prefix ends with a slash');
  assertKey(prefix.slice(0, -1));
}

/** RESOURCE_EXHAUSTED/ARTIFACT_TOO_LARGE. */
export const tooLarge = (maxBytes: number): DomainError =>
  new DomainError('resource-exhausted', 'ARTIFACT_TOO_LARGE', `An artifact may have at most ${maxBytes} bytes.`, {
    max_bytes: String(maxBytes),
  });
