import { Code, ConnectError } from '@connectrpc/connect';
import { BadRequestSchema, ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import {
  type FailedItem as FailedItemMessage,
  Progress,
  type ResourceCount as ResourceCountMessage,
} from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import type { ParticipantScope } from '#libs/auth/authorize.ts';
import type { ParticipantCredential } from '#libs/auth/sign-token.ts';
import { crashPoint } from '#libs/durable/crash-point.ts';
import { type Connection, toPeerError } from '#libs/grpc/client.ts';
import { fromCountMessages } from '#libs/grpc/count-messages.ts';
import { toDuration } from '#libs/grpc/timestamp.ts';
import { DomainError, type ErrorKind, fieldsInvalid } from '#libs/kernel/domain-error.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import { boundCounts } from '../../domain/counts.ts';
import type { Answer } from '../../domain/deletion.ts';
import { assertGoesOn, participantUnavailable } from '../../domain/errors.ts';
import type { ParticipantCall } from '../../use-cases/deletion-ports.ts';
import type { AssertData } from '../../use-cases/keep-participants.ts';

/** A participant behind gRPC. What it previews, hides, restores and reads back counts only from a data set that passes. */
export interface Peer {
  readonly name: string;
  readonly connection: Connection;
  readonly credential: ParticipantCredential;
  readonly assertData: AssertData;
  /** How long a participant may look for one answer, in milliseconds: well within the deadline of the call. */
  readonly lookBudgetMs: number;
}

/**
 * The client for one call. It has a token for it alone: this participant, this kind of call, tenant, run, operation and
 * step, on behalf of the actor at the origin. A preview is of no operation.
 */
export const clientFor = (
  { name, connection, credential }: Peer,
  scope: ParticipantScope,
  {
    tenantId,
    actor,
    runId,
    operationId,
    step,
  }: Pick<ParticipantCall, 'tenantId' | 'actor' | 'runId'> & Partial<Pick<ParticipantCall, 'operationId' | 'step'>>,
) =>
  connection.client(ParticipantService, () => {
    const call = { participant: name, scope, actor, tenantId, runId };
    return credential(scope === 'participant:preview' ? call : { ...call, operationId, step });
  });

/** The key under which a call is repeated. */
export const keyOf = ({ operationId, step }: ParticipantCall) => ({ operationId, step });

/** Waits for the answer; the participant's errors become RunService's. */
export async function ask<T>({ name }: Peer, answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (error) {
    throw toParticipantError(name, error);
  }
}

/** What one answer tells, and where the next one goes on; empty after the last. */
interface Part {
  readonly resourceCounts: ResourceCountMessage[];
  readonly cursor: Uint8Array;
  readonly dataId: string;
}

/**
 * Asks for one part after another until there is no more. DEPENDENCY_UNAVAILABLE when the participant names a place where it
 * was already: it would be asked for ever.
 */
export async function* askForParts<P extends Part>(peer: Peer, next: (look: Look) => Promise<P>): AsyncGenerator<P> {
  const places = new Set<string>();
  for (let cursor: Uint8Array = new Uint8Array(), isFirst = true; isFirst || cursor.length > 0; isFirst = false) {
    const part = await askForPart(peer, next, cursor);
    yield part;
    cursor = part.cursor;
    assertGoesOn(peer.name, places, cursor);
  }
}

/** What every request that looks has in common. */
interface Look {
  readonly timeBudget: ReturnType<typeof toDuration>;
  readonly cursor: Uint8Array;
}

/** Asks for the part that begins at the cursor. */
export async function askForPart<P extends Part>(
  peer: Peer,
  next: (look: Look) => Promise<P>,
  cursor: Uint8Array,
): Promise<P> {
  if (cursor.length > 0) crashPoint('run.look.between-parts');
  const part = await ask(peer, next({ timeBudget: toDuration(peer.lookBudgetMs), cursor }));
  await peer.assertData(part.dataId);
  return part;
}

// How much is kept of an item that a participant could not remove, so that a receipt always fits an answer.
const MAX_FAILED_ITEMS = 10;
const MAX_KEY = 1_024;
const MAX_CODE = 100;
const MAX_MESSAGE = 500;

const KIND_OF: ReadonlyMap<Code, ErrorKind> = new Map([
  [Code.Aborted, 'aborted'],
  [Code.FailedPrecondition, 'failed-precondition'],
  [Code.InvalidArgument, 'invalid-argument'],
]);

/**
 * A refusal keeps its reason. Silence, everything that passes, such as a lease that the participant lost, and a
 * participant that does not believe RunService's own tokens are DEPENDENCY_UNAVAILABLE: none of it is for the caller to
 * mend.
 */
function toParticipantError(name: string, error: unknown): unknown {
  const peerError = toPeerError(name, error);
  if (peerError instanceof DomainError)
    return peerError.reason === 'DEPENDENCY_UNAVAILABLE' ? participantUnavailable(name, error) : peerError;
  const refusal = ConnectError.from(error);
  const info = refusal.findDetails(ErrorInfoSchema)[0];
  if (refusal.code === Code.Unauthenticated || refusal.code === Code.PermissionDenied) {
    const reason = info?.reason ?? Code[refusal.code];
    const message = `Participant ${name} refuses RunService's token (${reason}); check LETHE_SERVICE_KEY and whom it trusts.`;
    return new DomainError('unavailable', 'DEPENDENCY_UNAVAILABLE', message, { dependency: name }, { cause: error });
  }
  const kind = KIND_OF.get(refusal.code);
  if (!info || !kind) return error;
  // Of RunService's own leases, LEASE_LOST says that another worker goes on: nobody would, with what the participant lost.
  if (info.reason === 'LEASE_LOST') return participantUnavailable(name, error);
  const violations = refusal.findDetails(BadRequestSchema).flatMap(({ fieldViolations }) => fieldViolations);
  if (info.reason === 'FIELD_INVALID' && violations.length > 0)
    return fieldsInvalid(violations.map(({ field, description }) => ({ field, description })));
  return new DomainError(kind, info.reason, refusal.rawMessage, info.metadata, { cause: error });
}

/** What a participant counts, as much of it as a receipt keeps. */
export const countsOf = (messages: readonly ResourceCountMessage[]): readonly ResourceCount[] =>
  boundCounts(fromCountMessages(messages));

/** What a participant has answered, as much of it as a receipt keeps. */
export function toAnswer(response: {
  progress: Progress;
  resourceCounts: ResourceCountMessage[];
  failedItems?: FailedItemMessage[];
  queued?: boolean;
}): Answer {
  return {
    // Anything but a clear COMPLETE is taken as unfinished.
    progress: response.progress === Progress.COMPLETE ? 'COMPLETE' : 'PARTIAL',
    counts: countsOf(response.resourceCounts),
    failedItems: (response.failedItems ?? []).slice(0, MAX_FAILED_ITEMS).map(({ key, code, message, permanent }) => ({
      key: key.slice(0, MAX_KEY),
      code: code.slice(0, MAX_CODE),
      message: message.slice(0, MAX_MESSAGE),
      ...(permanent ? { permanent } : {}),
    })),
    isQueued: response.queued ?? false,
  };
}
