import type { DescService } from '@bufbuild/protobuf';
import { type CallOptions, type Client, ConnectError } from '@connectrpc/connect';
import { status } from '@grpc/grpc-js';
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import type { FieldViolation } from '#libs/kernel/domain-error.ts';

/** The name of a gRPC status code, e.g. `NOT_FOUND`. */
export type StatusName = keyof typeof status;

/** What a LetheError carries beside code, reason and message. */
export interface LetheErrorDetails {
  readonly metadata?: Readonly<Record<string, string>>;
  readonly violations?: readonly FieldViolation[];
  readonly retryAfterMs?: number | undefined;
  readonly cause?: unknown;
}

/**
 * What every failed call throws, as the class of its family. `reason` is stable and meant for programs, `message` for
 * people. Where a service gave no reason it is the name of the status code, e.g. `UNAVAILABLE`.
 */
export class LetheError extends Error {
  override readonly name: string = 'LetheError';
  readonly code: StatusName;
  readonly reason: string;
  /** Every variable of the message. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Each field of the request that was refused, in proto field names. */
  readonly violations: readonly FieldViolation[];
  /** How long to wait before a new attempt, in milliseconds, where the service said so. */
  readonly retryAfterMs: number | undefined;

  constructor(code: StatusName, reason: string, message: string, details: LetheErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.reason = reason;
    this.metadata = details.metadata ?? {};
    this.violations = details.violations ?? [];
    this.retryAfterMs = details.retryAfterMs;
  }
}

/** NOT_FOUND: it never existed, is purged, or belongs to another tenant. */
export class NotFoundError extends LetheError {
  override readonly name = 'NotFoundError';
}

/** INVALID_ARGUMENT: the request is wrong; `fields` and `violations` name every wrong field. */
export class InvalidArgumentError extends LetheError {
  override readonly name = 'InvalidArgumentError';

  /** The names of the wrong fields, e.g. `run_id`. */
  get fields(): readonly string[] {
    return this.violations.map(({ field }) => field);
  }
}

/** UNAUTHENTICATED: there is no token, or it is not valid. */
export class UnauthenticatedError extends LetheError {
  override readonly name = 'UnauthenticatedError';
}

/** PERMISSION_DENIED: the token is valid and may not do this. */
export class PermissionError extends LetheError {
  override readonly name = 'PermissionError';
}

/** FAILED_PRECONDITION: the state of the thing forbids it, e.g. JOB_NOT_TERMINAL. */
export class FailedPreconditionError extends LetheError {
  override readonly name = 'FailedPreconditionError';
}

/** ABORTED or ALREADY_EXISTS: somebody else was faster, e.g. ETAG_MISMATCH or OPERATION_IN_PROGRESS. Read again. */
export class ConflictError extends LetheError {
  override readonly name = 'ConflictError';
}

/** RESOURCE_EXHAUSTED: too many calls or too large a message; see `retryAfterMs`. */
export class ResourceExhaustedError extends LetheError {
  override readonly name = 'ResourceExhaustedError';
}

/** UNAVAILABLE: a service, or something it needs, does not answer. The call was retried already. */
export class UnavailableError extends LetheError {
  override readonly name = 'UnavailableError';
}

/** DEADLINE_EXCEEDED: `timeoutMs` was over before the answer. The call may have been carried out. */
export class DeadlineExceededError extends LetheError {
  override readonly name = 'DeadlineExceededError';
}

/** CANCELLED: the caller's signal, whose reason is the `cause`, ended the call. It may have been carried out. */
export class CancelledError extends LetheError {
  override readonly name = 'CancelledError';
}

/** INTERNAL, DATA_LOSS, UNKNOWN and the like: something is broken; `metadata.incident_id` is in the service's log. */
export class InternalError extends LetheError {
  override readonly name = 'InternalError';
}

const CLASS_OF_CODE = {
  OK: InternalError,
  CANCELLED: CancelledError,
  UNKNOWN: InternalError,
  INVALID_ARGUMENT: InvalidArgumentError,
  DEADLINE_EXCEEDED: DeadlineExceededError,
  NOT_FOUND: NotFoundError,
  ALREADY_EXISTS: ConflictError,
  PERMISSION_DENIED: PermissionError,
  RESOURCE_EXHAUSTED: ResourceExhaustedError,
  FAILED_PRECONDITION: FailedPreconditionError,
  ABORTED: ConflictError,
  OUT_OF_RANGE: InvalidArgumentError,
  UNIMPLEMENTED: InternalError,
  INTERNAL: InternalError,
  UNAVAILABLE: UnavailableError,
  DATA_LOSS: InternalError,
  UNAUTHENTICATED: UnauthenticatedError,
} as const satisfies Record<StatusName, typeof LetheError>;

/** The error of a status code, as the class of its family. */
export const makeLetheError = (
  code: StatusName,
  reason: string,
  message: string,
  details: LetheErrorDetails = {},
): LetheError => new CLASS_OF_CODE[code](code, reason, message, details);

/** Whether an error is a LetheError with this reason. */
export const hasReason = (error: unknown, reason: string): error is LetheError =>
  error instanceof LetheError && error.reason === reason;

/** The error of what this signal, which is aborted, has ended. */
export const cancelledBy = ({ reason }: AbortSignal): LetheError =>
  makeLetheError('CANCELLED', 'CANCELLED', 'The signal ended it.', { cause: reason });

/** A call's error as LetheError, its details read; a LetheError as it is. */
export function toLetheError(error: unknown): LetheError {
  if (error instanceof LetheError) return error;
  const failed = ConnectError.from(error);
  const code = (status[failed.code] ?? 'UNKNOWN') as StatusName;
  const [info] = failed.findDetails(ErrorInfoSchema);
  const violations = failed.findDetails(BadRequestSchema).flatMap(({ fieldViolations }) => fieldViolations);
  const retryDelay = failed.findDetails(RetryInfoSchema)[0]?.retryDelay;
  return makeLetheError(code, info?.reason ?? code, failed.rawMessage, {
    metadata: info?.metadata ?? {},
    violations: violations.map(({ field, description }) => ({ field, description })),
    retryAfterMs: retryDelay && Number(retryDelay.seconds) * 1_000 + retryDelay.nanos / 1_000_000,
    cause: failed,
  });
}

/** A service and where it is. */
export interface Place {
  readonly service: string;
  readonly address: string;
}

/** The same client, whose calls and streams fail with LetheError. One that cannot be reached is named with `place`. */
export function withLetheErrors<Desc extends DescService>(
  service: Desc,
  client: Client<Desc>,
  place?: Place,
): Client<Desc> {
  const calls = client as Readonly<Record<string, (...args: unknown[]) => unknown>>;
  const methods = service.methods.map(({ localName, methodKind }) => {
    const call = (...args: unknown[]): unknown => calls[localName]?.(...args);
    const toError = (error: unknown, [, options]: unknown[]): LetheError =>
      toPlacedError(error, place, (options as CallOptions | undefined)?.signal);
    const isStream = methodKind === 'server_streaming' || methodKind === 'bidi_streaming';
    return [
      localName,
      isStream
        ? (...args: unknown[]) =>
            streamWithLetheErrors(
              () => call(...args) as AsyncIterable<unknown>,
              (error) => toError(error, args),
            )
        : (...args: unknown[]) => answerWithLetheErrors(call(...args), (error) => toError(error, args)),
    ];
  });
  return Object.fromEntries(methods) as Client<Desc>;
}

/** An error of a call, which names the service where nothing answered: only then is there no reason. */
function toPlacedError(error: unknown, place: Place | undefined, signal: AbortSignal | undefined): LetheError {
  const failed = toLetheError(error);
  if (failed.code === 'CANCELLED' && signal?.aborted) return cancelledBy(signal);
  if (!place || failed.code !== 'UNAVAILABLE' || failed.reason !== failed.code) return failed;
  const { service, address } = place;
  return makeLetheError(failed.code, failed.reason, `The ${service} service at ${address} does not answer.`, {
    metadata: { service, address },
    retryAfterMs: failed.retryAfterMs,
    cause: failed.cause,
  });
}

async function answerWithLetheErrors(answer: unknown, toError: (error: unknown) => LetheError): Promise<unknown> {
  try {
    return await answer;
  } catch (error) {
    throw toError(error);
  }
}

async function* streamWithLetheErrors(
  open: () => AsyncIterable<unknown>,
  toError: (error: unknown) => LetheError,
): AsyncIterable<unknown> {
  try {
    yield* open();
  } catch (error) {
    throw toError(error);
  }
}
