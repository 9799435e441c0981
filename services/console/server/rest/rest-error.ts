import { Code, ConnectError } from '@connectrpc/connect';
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { toConnectError } from '#libs/grpc/status.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { type ErrorBody, toErrorBody } from '../error-body.ts';

/** What an error is as an HTTP answer. */
export interface RestError {
  readonly status: number;
  readonly body: ErrorBody;
  /** How long the caller should wait, in whole seconds, where the service said so. */
  readonly retryAfterSeconds: number | undefined;
}

/** The status of each gRPC code. */
const STATUS_OF: Readonly<Record<Code, number>> = {
  [Code.Canceled]: 499,
  [Code.Unknown]: 500,
  [Code.InvalidArgument]: 400,
  [Code.DeadlineExceeded]: 504,
  [Code.NotFound]: 404,
  [Code.AlreadyExists]: 409,
  [Code.PermissionDenied]: 403,
  [Code.ResourceExhausted]: 429,
  [Code.FailedPrecondition]: 409,
  [Code.Aborted]: 409,
  [Code.OutOfRange]: 400,
  [Code.Unimplemented]: 501,
  [Code.Internal]: 500,
  [Code.Unavailable]: 503,
  [Code.DataLoss]: 500,
  [Code.Unauthenticated]: 401,
};

// An Idempotency-Key is no part of what is asked for: using one twice conflicts with the first request.
const STATUS_OF_REASON: Readonly<Record<string, number>> = { REQUEST_ID_REUSED: 409 };

/** The reason of a refused or failed call, e.g. `RUN_NOT_FOUND`; the name of its code where it has none. */
export function reasonOfError(error: unknown): string {
  const failed = toCallError(error);
  return failed.findDetails(ErrorInfoSchema)[0]?.reason ?? nameOf(failed.code);
}

/** An error of the console itself or of a call to a service as an HTTP answer. */
export function toRestError(error: unknown): RestError {
  const failed = toCallError(error);
  const [info] = failed.findDetails(ErrorInfoSchema);
  const fields = failed.findDetails(BadRequestSchema).flatMap(({ fieldViolations }) => fieldViolations);
  const delay = failed.findDetails(RetryInfoSchema)[0]?.retryDelay;
  const reason = info?.reason ?? nameOf(failed.code);
  return {
    status: STATUS_OF_REASON[reason] ?? STATUS_OF[failed.code],
    body: toErrorBody(reason, failed.rawMessage, {
      metadata: info?.metadata ?? {},
      fields: fields.map(({ field, description }) => ({ field, description })),
    }),
    retryAfterSeconds: delay && Math.max(1, Math.ceil(Number(delay.seconds) + delay.nanos / 1e9)),
  };
}

const toCallError = (error: unknown): ConnectError =>
  error instanceof DomainError ? toConnectError(error) : ConnectError.from(error);

// `NotFound` as `NOT_FOUND`.
const nameOf = (code: Code): string => (Code[code] ?? 'Unknown').replaceAll(/(?<=[a-z])[A-Z]/g, '_$&').toUpperCase();
