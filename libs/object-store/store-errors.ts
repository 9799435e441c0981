import { DomainError, dependencyUnavailable } from '#libs/kernel/domain-error.ts';

/** STORE_REFUSED: the store has answered that it does not do this, and it would answer the same again. */
export const storeRefused = (code: string, cause?: unknown): DomainError =>
  new DomainError(
    'failed-precondition',
    'STORE_REFUSED',
    `The object store refuses this (${code}).`,
    { dependency: 'object store', code },
    { cause },
  );

/** STORE_MISBEHAVES: the store does not keep to S3's protocol. `what` says what it does. */
export const storeMisbehaves = (what: string): DomainError =>
  new DomainError('failed-precondition', 'STORE_MISBEHAVES', `The object store ${what}.`, {
    dependency: 'object store',
  });

/** DEPENDENCY_UNAVAILABLE of the object store, with its own code where it gave one. */
export const storeUnavailable = (code?: string, cause?: unknown): DomainError => {
  const { kind, reason, message, metadata, retryAfterMs } = dependencyUnavailable('object store');
  const details = { cause, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) };
  if (code === undefined) return new DomainError(kind, reason, message, metadata, details);
  const sentence = `The object store is unavailable (${code}); try again later.`;
  return new DomainError(kind, reason, sentence, { ...metadata, code }, details);
};

// What S3 and a file system answer for what will not change by itself. Other codes are taken for passing.
const PERMANENT: ReadonlySet<string> = new Set([
  'AccessDenied',
  'AllAccessDisabled',
  'InvalidBucketState',
  'InvalidObjectState',
  'InvalidRequest',
  'MethodNotAllowed',
  'NoSuchBucket',
  'NotImplemented',
  'ObjectLocked',
  'PermanentRedirect',
  'EACCES',
  'EPERM',
]);

/** Whether a repetition would be refused as well, by the store's own code. */
export const isPermanentRefusal = (code: string): boolean => PERMANENT.has(code);
