import type { Message } from '@bufbuild/protobuf';
import type { HandlerContext, ServiceImpl } from '@connectrpc/connect';
import type { OperationKey } from '#gen/lethe/participant/v1/participant_pb.ts';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { assertTokenMatches } from '#libs/auth/authorize.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { bindService, type ServiceBinding } from '#libs/grpc/connect-handlers.ts';
import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import { actionHandlers } from './action-handlers.ts';
import type { Participant, RunOperation, RunScope } from './participant.ts';
import {
  parsePreview,
  parsePurge,
  parseRestore,
  parseSoftDelete,
  parseStepKey,
  parseVerify,
  toDoneMessage,
  toInventoryMessage,
  toParticipationMessage,
} from './participant-messages.ts';

/** What the requests of a participant have in common; Preview and Verify have no key. */
type ParticipantRequest = Message & { readonly runId: string; readonly key?: OperationKey };

/** What says from which data set it comes; Verify answers for the calls that remove. */
const TELLS_DATA_ID: ReadonlySet<string> = new Set(['preview', 'softDelete', 'restore', 'verify']);

type Handler = (request: ParticipantRequest, context: HandlerContext) => unknown;

/**
 * Serves the participant contract. Every call is first compared with what its token was made for: the run, and the
 * operation and step where the request has a key. PERMISSION_DENIED/TOKEN_MISMATCH. What is missing in the request is
 * left to the handler, which refuses it by its field. Previews, read-backs and what hides or brings back say from which
 * data set they come.
 */
export function bindParticipant(participant: Participant, dataId: () => Promise<string>): ServiceBinding {
  const implementation = participantService(participant);
  const guarded = Object.entries(implementation).map(([name, handle]) => {
    const guardedHandle: Handler = async (request, context) => {
      const { runId, key } = request;
      assertTokenMatches(callerOf(context), {
        runId: runId.toLowerCase() || undefined,
        operationId: key?.operationId.toLowerCase() || undefined,
        step: key?.step || undefined,
      });
      const answer = await (handle as Handler).call(implementation, request, context);
      return TELLS_DATA_ID.has(name) ? { ...(answer as object), dataId: await dataId() } : answer;
    };
    return [name, guardedHandle];
  });
  return bindService(ParticipantService, Object.fromEntries(guarded));
}

/** The participant contract over gRPC: reads the messages, calls the participant, writes the answers. */
function participantService(participant: Participant): ServiceImpl<typeof ParticipantService> {
  return {
    ...actionHandlers(participant.actions),

    async preview(request, context) {
      const { runId, budgetMs, cursor } = parsePreview(request);
      const look = { budgetMs, cursor, signal: context.signal, blockersOnly: request.blockersOnly };
      const { blockers = [], ...inventory } = await participant.preview(toScope(callerOf(context), runId), look);
      return { ...toInventoryMessage(inventory), blockers: blockers.map((blocker) => ({ ...blocker })) };
    },

    async compensate(request, context) {
      const caller = callerOf(context);
      const { operationId: runId, step } = parseStepKey(request);
      const operation: RunOperation = { operationId: runId, part: step, caller, reason: 'compensation' };
      return toParticipationMessage(await participant.compensate(toScope(caller, runId, step), operation));
    },

    async softDelete(request, context) {
      const caller = callerOf(context);
      const { key, runId, reason } = parseSoftDelete(request);
      return toDoneMessage(await participant.softDelete(toScope(caller, runId), toOperation(caller, key, reason)));
    },

    async restore(request, context) {
      const caller = callerOf(context);
      const { key, runId, softDeleteId, reason } = parseRestore(request);
      const operation = toOperation(caller, key, reason);
      return toDoneMessage(await participant.restore(toScope(caller, runId), operation, softDeleteId));
    },

    async purge(request, context) {
      const caller = callerOf(context);
      const { key, runId, limit, reason } = parsePurge(request);
      const operation = toOperation(caller, key, reason);
      return toParticipationMessage(await participant.purge(toScope(caller, runId), operation, limit));
    },

    async verify(request, context) {
      const { runId, step, budgetMs, cursor } = parseVerify(request);
      const look = { budgetMs, cursor, signal: context.signal };
      const scope = toScope(callerOf(context), runId, step);
      return toInventoryMessage(await participant.verify(scope, request.rowsOnly, look));
    },
  };
}

const toScope = (caller: Caller, runId: string, step?: string): RunScope => ({
  tenantId: tenantOf(caller),
  runId,
  step,
});

const toOperation = (
  caller: Caller,
  { operationId, step: part }: { readonly operationId: string; readonly step: string },
  reason: string | undefined,
): RunOperation => ({ operationId, part, caller, reason });
