import type { JsonObject } from '@bufbuild/protobuf';
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
import { type Connection, toPeerError } from '#libs/grpc/client.ts';
import { DomainError, type ErrorKind, fieldsInvalid } from '#libs/kernel/domain-error.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import type { Answer } from '../../domain/deletion.ts';
import { participantUnavailable } from '../../domain/errors.ts';
import type { AssertData } from '../../use-cases/keep-participants.ts';
import type { Participant, ParticipantCall } from '../../use-cases/ports.ts';
import type { StepParticipant } from '../../use-cases/saga-ports.ts';

/**
 * A participant behind gRPC. What it previews, hides, restores and reads back counts only from the data set that
 * `assertData` accepts. Each call has a token for it alone: this participant, this kind of call, tenant, run, operation
 * and step, on behalf of the actor at the origin.
 */
export function makeParticipant(
  name: string,
  connection: Connection,
  credential: ParticipantCredential,
  assertData: AssertData,
): Participant & StepParticipant {
  const clientFor = (scope: ParticipantScope, { tenantId, actor, runId, operationId, step }: ParticipantCall) =>
    connection.client(ParticipantService, () => {
      const call = { participant: name, scope, actor, tenantId, runId };
      return credential(scope === 'participant:preview' ? call : { ...call, operationId, step });
    });
  const keyOf = ({ operationId, step }: ParticipantCall) => ({ operationId, step });
  const ask = async <T>(call: Promise<T>): Promise<T> => {
    try {
      return await call;
    } catch (error) {
      throw toParticipantError(name, error);
    }
  };

  return {
    name,
    isReachable: connection.isReachable,
    async softDelete(to) {
      const { runId, reason = '' } = to;
      const request = { key: keyOf(to), runId, reason };
      const answer = await ask(clientFor('participant:delete', to).softDelete(request));
      await assertData(answer.dataId);
      return toAnswer(answer);
    },
    async restore(to, softDeleteOperationId) {
      const { runId, reason = '' } = to;
      const request = { key: keyOf(to), runId, reason, softDeleteOperationId };
      const answer = await ask(clientFor('participant:delete', to).restore(request));
      await assertData(answer.dataId);
      return toAnswer(answer);
    },
    async purge(to, limit = 0) {
      const { runId, reason = '' } = to;
      return toAnswer(await ask(clientFor('participant:purge', to).purge({ key: keyOf(to), runId, reason, limit })));
    },
    async verify(to) {
      const { resourceCounts, dataId } = await ask(clientFor('participant:verify', to).verify({ runId: to.runId }));
      await assertData(dataId);
      return resourceCounts.map(toCount);
    },
    async check({ tenantId, actor, runId }, action, input) {
      // As Preview it changes nothing, and there is no operation yet.
      const call = { participant: name, scope: 'participant:preview', actor, tenantId, runId } as const;
      const client = connection.client(ParticipantService, () => credential(call));
      try {
        await client.checkAction({ runId, action, input: input as JsonObject });
      } catch (error) {
        if (ConnectError.from(error).code !== Code.Unimplemented) throw toParticipantError(name, error);
      }
    },
    async execute(to, action, input) {
      const request = { key: keyOf(to), runId: to.runId, action, input: input as JsonObject };
      const { progress, output = {} } = await ask(clientFor('participant:execute', to).execute(request));
      return { progress: progress === Progress.COMPLETE ? 'COMPLETE' : 'PARTIAL', output };
    },
    async compensate(to) {
      return toAnswer(
        await ask(clientFor('participant:compensate', to).compensate({ key: keyOf(to), runId: to.runId })),
      );
    },
    async verifyStep(to) {
      const { resourceCounts, dataId } = await ask(
        clientFor('participant:verify', to).verify({ runId: to.runId, step: to.step }),
      );
      await assertData(dataId);
      return resourceCounts.map(toCount);
    },
    async holds(to, resourceType, timeoutMs) {
      const asked = clientFor('participant:verify', to).verify(
        { runId: to.runId, step: to.step, rowsOnly: true },
        { timeoutMs },
      );
      const { resourceCounts } = await ask(asked);
      return resourceCounts.some((count) => count.resourceType === resourceType && count.found > 0n);
    },
    async preview(to) {
      const { resourceCounts, blockers, samples, dataId } = await ask(
        clientFor('participant:preview', to).preview({ runId: to.runId }),
      );
      await assertData(dataId);
      return { counts: resourceCounts.map(toCount), blockers, samples };
    },
  };
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
 * A refusal keeps its reason. Silence, everything that passes, and a participant that does not believe RunService's own
 * tokens are DEPENDENCY_UNAVAILABLE: none of it is for the caller to mend.
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
  const violations = refusal.findDetails(BadRequestSchema).flatMap(({ fieldViolations }) => fieldViolations);
  if (info.reason === 'FIELD_INVALID' && violations.length > 0)
    return fieldsInvalid(violations.map(({ field, description }) => ({ field, description })));
  return new DomainError(kind, info.reason, refusal.rawMessage, info.metadata, { cause: error });
}

function toAnswer(response: {
  progress: Progress;
  resourceCounts: ResourceCountMessage[];
  failedItems?: FailedItemMessage[];
  queued?: boolean;
}): Answer {
  return {
    // Anything but a clear COMPLETE is taken as unfinished.
    progress: response.progress === Progress.COMPLETE ? 'COMPLETE' : 'PARTIAL',
    counts: response.resourceCounts.map(toCount),
    failedItems: (response.failedItems ?? []).slice(0, MAX_FAILED_ITEMS).map(({ key, code, message, permanent }) => ({
      key: key.slice(0, MAX_KEY),
      code: code.slice(0, MAX_CODE),
      message: message.slice(0, MAX_MESSAGE),
      ...(permanent ? { permanent } : {}),
    })),
    isQueued: response.queued ?? false,
  };
}

const toCount = ({
  resourceType,
  found,
  deleted,
  left,
  bytes,
  passedOn,
  atLeast,
}: ResourceCountMessage): ResourceCount => ({
  resourceType,
  found: Number(found),
  deleted: Number(deleted),
  left: Number(left),
  bytes: Number(bytes),
  ...(passedOn > 0n ? { passedOn: Number(passedOn) } : {}),
  ...(atLeast ? { atLeast } : {}),
});
