import type { ServiceImpl } from '@connectrpc/connect';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import {
  type ParticipantKey,
  parsePurge,
  parseRestore,
  parseSoftDelete,
  parseStepKey,
  parseVerify,
} from '#libs/grpc/parse-participant.ts';
import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { parseId } from '#libs/kernel/id.ts';
import type { Answer } from '../../domain/deletion.ts';
import type { OwnParticipant } from '../../use-cases/participate.ts';
import type { ParticipantCall } from '../../use-cases/ports.ts';
import { toCountMessages } from './messages.ts';

/** RunService as a participant, over gRPC: the same part that its own cascades ask for. */
export const participantService = (own: OwnParticipant): Partial<ServiceImpl<typeof ParticipantService>> => ({
  async preview(request, context) {
    const runId = parseId('run_id', request.runId);
    const key = { operationId: runId, step: '' };
    const { counts, blockers, samples } = await own.preview(toCall(callerOf(context), key, runId, undefined));
    return {
      resourceCounts: toCountMessages(counts),
      blockers: blockers.map((blocker) => ({ ...blocker })),
      samples: samples.map((sample) => ({ ...sample })),
    };
  },

  // As of execute.
  async checkAction() {
    throw fieldInvalid('action', 'must be one of its actions; RunService has none');
  },

  // A run's own steps act inside RunService; nobody asks for them from outside.
  async execute() {
    throw fieldInvalid('action', 'must be one of its actions; RunService has none');
  },

  async compensate(request, context) {
    const key = parseStepKey(request);
    return toMessage(await own.compensate(toCall(callerOf(context), key, key.operationId, 'compensation')));
  },

  async softDelete(request, context) {
    const { key, runId, reason } = parseSoftDelete(request);
    return toMessage(await own.softDelete(toCall(callerOf(context), key, runId, reason)));
  },

  async restore(request, context) {
    const { key, runId, softDeleteId, reason } = parseRestore(request);
    return toMessage(await own.restore(toCall(callerOf(context), key, runId, reason), softDeleteId));
  },

  async purge(request, context) {
    const { key, runId, limit, reason } = parsePurge(request);
    return toMessage(await own.purge(toCall(callerOf(context), key, runId, reason), limit));
  },

  async verify(request, context) {
    const { runId, step } = parseVerify(request);
    const key = { operationId: runId, step: step ?? '' };
    const counts = await own.verify(toCall(callerOf(context), key, runId, undefined), step);
    return { resourceCounts: toCountMessages(counts) };
  },
});

const toCall = (
  caller: Caller,
  { operationId, step }: ParticipantKey,
  runId: string,
  reason: string | undefined,
): ParticipantCall => ({ tenantId: tenantOf(caller), actor: caller.actor, operationId, step, runId, reason });

const toMessage = ({ progress, counts, failedItems }: Answer) => ({
  progress: Progress[progress],
  resourceCounts: toCountMessages(counts),
  failedItems: failedItems.map((item) => ({ ...item })),
});
