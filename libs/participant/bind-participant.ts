import type { Message } from '@bufbuild/protobuf';
import type { HandlerContext } from '@connectrpc/connect';
import type { OperationKey } from '#gen/lethe/participant/v1/participant_pb.ts';
import { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { assertTokenMatches } from '#libs/auth/authorize.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { bindService, type ServiceBinding } from '#libs/grpc/connect-handlers.ts';
import type { Participant } from './participant.ts';
import { participantService } from './participant-service.ts';

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
