/** What kind of problem it is; the gRPC edge maps every kind to one status code, exhaustively. */
export type ErrorKind =
  | 'invalid-argument'
  | 'unauthenticated'
  | 'permission-denied'
  | 'not-found'
  | 'failed-precondition'
  | 'aborted'
  | 'resource-exhausted'
  | 'unavailable'
  | 'unimplemented'
  | 'data-loss';

/** One bad field of a request: its path in proto field names, and what is wrong with it. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

/** What an error carries beside its message. */
export interface DomainErrorDetails {
  readonly violations?: readonly FieldViolation[];
  /** How long a caller should wait before it tries again, in milliseconds. */
  readonly retryAfterMs?: number;
  /** The error underneath; it is logged and never sent. */
  readonly cause?: unknown;
}

/**
 * The one error that the domain and the use cases throw. `reason` is UPPER_SNAKE and stable; `metadata` holds
 * every variable of the message, so that a program never has to read the sentence.
 */
export class DomainError extends Error {
  override readonly name = 'DomainError';
  readonly kind: ErrorKind;
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly violations: readonly FieldViolation[];
  readonly retryAfterMs: number | undefined;

  constructor(
    kind: ErrorKind,
    reason: string,
    message: string,
    metadata: Readonly<Record<string, string>> = {},
    details: DomainErrorDetails = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.kind = kind;
    this.reason = reason;
    this.metadata = metadata;
    this.violations = details.violations ?? [];
    this.retryAfterMs = details.retryAfterMs;
  }
}

/** Whether an error is a DomainError with this reason. */
export const hasReason = (error: unknown, reason: string): error is DomainError =>
  error instanceof DomainError && error.reason === reason;

/** Whether something that is needed does not answer at the moment. */
export const isUnavailable = (error: unknown): error is DomainError =>
  error instanceof DomainError && error.kind === 'unavailable';

/** What was found, or undefined where the answer is that there is no such thing. */
export const undefinedIfNotFound = <T>(found: Promise<T>): Promise<T | undefined> =>
  found.catch((error: unknown) => {
    if (error instanceof DomainError && error.kind === 'not-found') return undefined;
    throw error;
  });

/** FIELD_INVALID for one field, e.g. `fieldInvalid('job_id', 'must be a UUID')`. */
export const fieldInvalid = (field: string, description: string): DomainError =>
  fieldsInvalid([{ field, description }]);

/** FIELD_INVALID for several fields at once, so that a caller mends them in one go. */
export function fieldsInvalid(violations: readonly FieldViolation[]): DomainError {
  const sentence = violations.map(({ field, description }) => `${field} ${description}`).join('; ');
  return new DomainError(
    'invalid-argument',
    'FIELD_INVALID',
    `${sentence}.`,
    { fields: violations.map(({ field }) => field).join(',') },
    { violations },
  );
}

/** DEPENDENCY_UNAVAILABLE: something Lethe needs does not answer; the caller may try again. */
export const dependencyUnavailable = (dependency: string, cause?: unknown, retryAfterMs = 1_000): DomainError =>
  new DomainError(
    'unavailable',
    'DEPENDENCY_UNAVAILABLE',
    `The ${dependency} is unavailable; try again later.`,
    { dependency },
    { retryAfterMs, cause },
  );

/** OPERATION_IN_PROGRESS: another operation on the same thing has begun; `metadata.operation_id` names it. */
export const operationInProgress = (operationId: string): DomainError =>
  new DomainError('aborted', 'OPERATION_IN_PROGRESS', `Operation ${operationId} is already under way.`, {
    operation_id: operationId,
  });

/** RUN_DELETED: the run is hidden by a soft delete, and takes no new effects until it is undeleted. */
export const runDeleted = (runId: string): DomainError =>
  new DomainError('failed-precondition', 'RUN_DELETED', `Run ${runId} is deleted; undelete it first.`, {
    run_id: runId,
  });

/** REQUEST_ID_REUSED: the request_id was used before with another body. */
export const requestIdReused = (requestId: string): DomainError =>
  new DomainError(
    'invalid-argument',
    'REQUEST_ID_REUSED',
    `request_id ${requestId} was used before with another body.`,
    { request_id: requestId },
    { violations: [{ field: 'request_id', description: 'was used before with another body' }] },
  );
