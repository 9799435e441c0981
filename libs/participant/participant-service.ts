import type { ServiceImpl } from '@connectrpc/connect';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { toCountMessages } from '#libs/grpc/count-messages.ts';
import { parseFields } from '#libs/grpc/parse.ts';
import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { parseId } from '#libs/kernel/id.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import { parsePurge, parseRestore, parseSoftDelete, parseStepKey, parseVerify } from './parse-participant.ts';
import type { Action, Inventory, Participant, Participation, RunOperation, RunScope } from './participant.ts';

/** The participant contract over gRPC: reads the messages, calls the participant, writes the answers. */
export function participantService(participant: Participant): ServiceImpl<typeof ParticipantService> {
  const actionOf = (name: string): Action => {
    const action = Object.hasOwn(participant.actions, name) ? participant.actions[name] : undefined;
    const known = Object.keys(participant.actions);
    if (!action) throw fieldInvalid('action', `must be ${known.join(' or ') || 'one of its actions; it has none'}`);
    return action;
  };

  return {
    async preview(request, context) {
      const scope = toScope(callerOf(context), parseId('run_id', request.runId));
      const { blockers = [], ...inventory } = await participant.preview(scope);
      return { ...toInventoryMessage(inventory), blockers: blockers.map((blocker) => ({ ...blocker })) };
    },

    async checkAction(request, context) {
      const tenantId = tenantOf(callerOf(context));
      const { action } = parseFields({
        runId: () => parseId('run_id', request.runId),
        action: () => actionOf(request.action),
      });
      await action.check?.(tenantId, request.input);
      return {};
    },

    async execute(request, context) {
      const caller = callerOf(context);
      const tenantId = tenantOf(caller);
      const { key, act } = parseFields({
        key: () => parseStepKey(request),
        act: () => {
          const action = actionOf(request.action);
          return { action, input: action.parse(request.input) };
        },
      });
      const order = { tenantId, runId: key.operationId, step: key.step, caller, signal: context.signal };
      const outcome = await act.action.execute(order, act.input);
      if (!outcome) return { progress: Progress.PARTIAL };
      const { output, counts } = outcome;
      return { progress: Progress.COMPLETE, output, resourceCounts: toCountMessages(counts) };
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
      const { runId, step } = parseVerify(request);
      return toInventoryMessage(await participant.verify(toScope(callerOf(context), runId, step), request.rowsOnly));
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

const toInventoryMessage = ({ counts, samples }: Inventory) => ({
  resourceCounts: toCountMessages(counts),
  samples: samples.map((sample) => ({ ...sample })),
});

const toDoneMessage = (counts: readonly ResourceCount[]) => ({
  progress: Progress.COMPLETE,
  resourceCounts: toCountMessages(counts),
});

const toParticipationMessage = ({ progress, counts, failedItems, isQueued = false }: Participation) => ({
  progress: Progress[progress],
  resourceCounts: toCountMessages(counts),
  failedItems: failedItems.map((item) => ({ ...item })),
  queued: isQueued,
});
