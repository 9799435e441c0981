import type { ServiceImpl } from '@connectrpc/connect';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { toCountMessages } from '#libs/grpc/count-messages.ts';
import { parseFields } from '#libs/grpc/parse.ts';
import { tenantOf } from '#libs/kernel/caller.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { parseId } from '#libs/kernel/id.ts';
import type { Action } from './action.ts';
import type { Participant } from './participant.ts';
import { parseStepKey } from './participant-messages.ts';

/** The RPCs by which steps have something done. */
export function actionHandlers(
  actions: Participant['actions'],
): Pick<ServiceImpl<typeof ParticipantService>, 'checkAction' | 'execute'> {
  const actionOf = (name: string): Action => {
    const action = Object.hasOwn(actions, name) ? actions[name] : undefined;
    const known = Object.keys(actions);
    if (!action) throw fieldInvalid('action', `must be ${known.join(' or ') || 'one of its actions; it has none'}`);
    return action;
  };

  return {
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
  };
}
