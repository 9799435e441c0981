import type { JsonObject } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type { RunScope, Participant as ServedParticipant } from '#libs/participant/participant.ts';
import { OWN_PARTICIPANT } from '../../domain/deletion.ts';
import { actionUnknown } from '../../domain/errors.ts';
import type { ParticipantCall } from '../../use-cases/deletion-ports.ts';
import type { StepParticipant } from '../../use-cases/saga-ports.ts';
import { ask, askForPart, clientFor, countsOf, keyOf, type Peer, toAnswer } from './call-participant.ts';
import { toOperation } from './participant.ts';

/** A peer's part in the steps of runs. */
export const makeStepParticipant = (peer: Peer): StepParticipant => ({
  name: peer.name,
  isReachable: peer.connection.isReachable,

  async check(to, action, input) {
    // As Preview it changes nothing, and there is no operation yet.
    const client = clientFor(peer, 'participant:preview', to);
    const checked = client
      .checkAction({ runId: to.runId, action, input: input as JsonObject })
      .catch((error: unknown) => {
        if (ConnectError.from(error).code !== Code.Unimplemented) throw error;
      });
    await ask(peer, checked);
  },

  async execute(to, action, input) {
    const request = { key: keyOf(to), runId: to.runId, action, input: input as JsonObject };
    const { progress, output = {} } = await ask(peer, clientFor(peer, 'participant:execute', to).execute(request));
    return { progress: progress === Progress.COMPLETE ? 'COMPLETE' : 'PARTIAL', output };
  },

  async compensate(to) {
    const request = { key: keyOf(to), runId: to.runId };
    return toAnswer(await ask(peer, clientFor(peer, 'participant:compensate', to).compensate(request)));
  },

  async verifyStep(to, from = new Uint8Array()) {
    const client = clientFor(peer, 'participant:verify', to);
    const { runId, step } = to;
    const { resourceCounts, cursor } = await askForPart(peer, (look) => client.verify({ runId, step, ...look }), from);
    return { counts: countsOf(resourceCounts), ...(cursor.length > 0 && { cursor }) };
  },

  async holds(to, resourceType, timeoutMs) {
    const request = { runId: to.runId, step: to.step, rowsOnly: true };
    const client = clientFor(peer, 'participant:verify', to);
    const { resourceCounts } = await ask(peer, client.verify(request, { timeoutMs }));
    return resourceCounts.some((count) => count.resourceType === resourceType && count.found > 0n);
  },
});

/** RunService as a participant of steps that callers record with it: it can take back, and does nothing new. */
export const makeOwnStepParticipant = (served: ServedParticipant): StepParticipant => {
  const scopeOf = ({ tenantId, runId, step }: ParticipantCall): RunScope => ({ tenantId, runId, step });
  const verifyStep = async (call: ParticipantCall) => ({
    counts: (await served.verify(scopeOf(call), false)).counts,
  });
  return {
    name: OWN_PARTICIPANT,
    isReachable: async () => true,
    check: (_, action) => Promise.reject(actionUnknown(action)),
    execute: (_, action) => Promise.reject(actionUnknown(action)),
    compensate: (call) => served.compensate(scopeOf(call), toOperation(call)),
    verifyStep,
    holds: async (call, type) => (await verifyStep(call)).counts.some(({ resourceType }) => resourceType === type),
  };
};
