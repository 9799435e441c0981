import type { DescService } from '@bufbuild/protobuf';
import { type Client, ConnectError } from '@connectrpc/connect';
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
 * The one error of the SDK: what a refused or failed call told. `reason` is stable and made for programs, `message`
 * for people; where a service gave no reason it is the name of the status code, e.g. `UNAVAILABLE`.
 */
export class LetheError extends Error {
  override readonly name = 'LetheError';
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

/** Whether an error is a LetheError with this reason. */
export const hasReason = (error: unknown, reason: string): error is LetheError =>
  error instanceof LetheError && error.reason === reason;

/** A call's error as LetheError, its details read; a LetheError as it is. */
export function toLetheError(error: unknown): LetheError {
  if (error instanceof LetheError) return error;
  const failed = ConnectError.from(error);
  const code = (status[failed.code] ?? 'UNKNOWN') as StatusName;
  const [info] = failed.findDetails(ErrorInfoSchema);
  const violations = failed.findDetails(BadRequestSchema).flatMap(({ fieldViolations }) => fieldViolations);
  const retryDelay = failed.findDetails(RetryInfoSchema)[0]?.retryDelay;
  return new LetheError(code, info?.reason ?? code, failed.rawMessage, {
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
    const isStream = methodKind === 'server_streaming' || methodKind === 'bidi_streaming';
    return [
      localName,
      isStream
        ? (...args: unknown[]) => streamWithLetheErrors(() => call(...args) as AsyncIterable<unknown>, place)
        : (...args: unknown[]) => answerWithLetheErrors(call(...args), place),
    ];
  });
  return Object.fromEntries(methods) as Client<Desc>;
}

/** An error of a call, which names the service where nothing answered: only then is there no reason. */
function toPlacedError(error: unknown, place: Place | undefined): LetheError {
  const failed = toLetheError(error);
  if (!place || failed.code !== 'UNAVAILABLE' || failed.reason !== failed.code) return failed;
  const { service, address } = place;
  return new LetheError(failed.code, failed.reason, `The ${service} service at ${address} does not answer.`, {
    metadata: { service, address },
    retryAfterMs: failed.retryAfterMs,
    cause: failed.cause,
  });
}

async function answerWithLetheErrors(answer: unknown, place: Place | undefined): Promise<unknown> {
  try {
    return await answer;
  } catch (error) {
    throw toPlacedError(error, place);
  }
}

async function* streamWithLetheErrors(
  open: () => AsyncIterable<unknown>,
  place: Place | undefined,
): AsyncIterable<unknown> {
  try {
    yield* open();
  } catch (error) {
    throw toPlacedError(error, place);
  }
}
