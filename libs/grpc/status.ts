import { randomUUID } from 'node:crypto';
import { create, toBinary } from '@bufbuild/protobuf';
import { type Any, anyPack } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError } from '@connectrpc/connect';
import { Metadata, type StatusObject } from '@grpc/grpc-js';
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { StatusSchema } from '#gen/google/rpc/status_pb.ts';
import { DomainError, type ErrorKind } from '#libs/kernel/domain-error.ts';
import { toDuration } from './timestamp.ts';

/** The domain of every ErrorInfo. */
export const ERROR_DOMAIN = 'lethe';

/** The status code of each kind of error; a new kind does not compile until it is here. */
export const CODE_OF_KIND = {
  'invalid-argument': Code.InvalidArgument,
  unauthenticated: Code.Unauthenticated,
  'permission-denied': Code.PermissionDenied,
  'not-found': Code.NotFound,
  'failed-precondition': Code.FailedPrecondition,
  aborted: Code.Aborted,
  'resource-exhausted': Code.ResourceExhausted,
  unavailable: Code.Unavailable,
  unimplemented: Code.Unimplemented,
  'data-loss': Code.DataLoss,
} as const satisfies Record<ErrorKind, Code>;

// How a call ends without an answer.
const ENDS_OF_CALLS: ReadonlySet<Code> = new Set([Code.Canceled, Code.DeadlineExceeded]);

/** Told of every error that a caller is not told the truth about. */
export type OnInternalError = (error: unknown, incidentId: string) => void;

/**
 * The status that answers an error: a DomainError with its code, sentence and details, a call that was cancelled or
 * ran out of time as such, and anything else as INTERNAL with nothing but an id under which it was logged.
 */
export function toStatus(error: unknown, onInternalError: OnInternalError): Partial<StatusObject> {
  if (error instanceof DomainError) return statusOf(CODE_OF_KIND[error.kind], error.message, detailsOf(error));
  if (error instanceof ConnectError && ENDS_OF_CALLS.has(error.code)) return statusOf(error.code, error.rawMessage, []);
  if (error instanceof ConnectError && error.code === Code.Unimplemented) {
    return statusOf(Code.Unimplemented, error.rawMessage, [errorInfo('UNIMPLEMENTED', {})]);
  }
  const incidentId = randomUUID();
  onInternalError(error, incidentId);
  const details = [errorInfo('INTERNAL', { incident_id: incidentId })];
  return statusOf(Code.Internal, `Something went wrong inside; it was logged as ${incidentId}.`, details);
}

/** The same error for a Connect caller: code, sentence and details as toStatus would send them. */
export function toConnectError(error: DomainError): ConnectError {
  const result = new ConnectError(error.message, CODE_OF_KIND[error.kind], undefined, undefined, error);
  result.details = detailsOf(error).map(({ typeUrl, value }) => ({
    type: typeUrl.slice(typeUrl.lastIndexOf('/') + 1),
    value,
  }));
  return result;
}

function detailsOf({ reason, metadata, violations, retryAfterMs }: DomainError): Any[] {
  const details = [errorInfo(reason, metadata)];
  if (violations.length > 0) {
    details.push(anyPack(BadRequestSchema, create(BadRequestSchema, { fieldViolations: [...violations] })));
  }
  if (retryAfterMs !== undefined) {
    details.push(anyPack(RetryInfoSchema, create(RetryInfoSchema, { retryDelay: toDuration(retryAfterMs) })));
  }
  return details;
}

const errorInfo = (reason: string, metadata: Readonly<Record<string, string>>): Any =>
  anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { reason, domain: ERROR_DOMAIN, metadata: { ...metadata } }));

function statusOf(code: Code, message: string, details: Any[]): Partial<StatusObject> {
  const metadata = new Metadata();
  const status = create(StatusSchema, { code, message, details });
  metadata.set('grpc-status-details-bin', Buffer.from(toBinary(StatusSchema, status)));
  return { code: code as number, details: message, metadata };
}
