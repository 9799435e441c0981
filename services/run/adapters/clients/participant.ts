import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import type { RunOperation, RunScope, Participant as ServedParticipant } from '#libs/participant/participant.ts';
import { addBounded } from '../../domain/counts.ts';
import { type Answer, OWN_PARTICIPANT } from '../../domain/deletion.ts';
import type { Participant, ParticipantCall, ParticipantPreview } from '../../use-cases/deletion-ports.ts';
import { ask, askForPart, askForParts, clientFor, countsOf, keyOf, type Peer, toAnswer } from './call-participant.ts';

/** A peer's part in the deletions of runs. */
export const makeParticipant = (peer: Peer): Participant => ({
  name: peer.name,
  isReachable: peer.connection.isReachable,

  async softDelete(to) {
    const { runId, reason = '' } = to;
    const request = { key: keyOf(to), runId, reason };
    const answer = await ask(peer, clientFor(peer, 'participant:delete', to).softDelete(request));
    await peer.assertData(answer.dataId);
    return toAnswer(answer);
  },

  async restore(to, softDeleteOperationId) {
    const { runId, reason = '' } = to;
    const request = { key: keyOf(to), runId, reason, softDeleteOperationId };
    const answer = await ask(peer, clientFor(peer, 'participant:delete', to).restore(request));
    await peer.assertData(answer.dataId);
    return toAnswer(answer);
  },

  async purge(to, limit = 0) {
    const { runId, reason = '' } = to;
    const request = { key: keyOf(to), runId, reason, limit };
    return toAnswer(await ask(peer, clientFor(peer, 'participant:purge', to).purge(request)));
  },

  async verify(to, from = new Uint8Array()) {
    const client = clientFor(peer, 'participant:verify', to);
    const { runId } = to;
    const { resourceCounts, cursor } = await askForPart(peer, (look) => client.verify({ runId, ...look }), from);
    return { counts: countsOf(resourceCounts), ...(cursor.length > 0 && { cursor }) };
  },

  async preview(to, { blockersOnly = false, signal } = {}) {
    const client = clientFor(peer, 'participant:preview', to);
    const request = { runId: to.runId, blockersOnly };
    const options = signal ? { signal } : {};
    let whole: ParticipantPreview = { counts: [], blockers: [], samples: [] };
    for await (const part of askForParts(peer, (look) => client.preview({ ...request, ...look }, options))) {
      whole = {
        counts: addBounded(whole.counts, countsOf(part.resourceCounts)),
        blockers: [...whole.blockers, ...part.blockers].slice(0, MAX_TOLD),
        samples: [...whole.samples, ...part.samples].slice(0, MAX_TOLD),
      };
    }
    return whole;
  },
});

// As many blockers and samples as one answer has.
const MAX_TOLD = 100;
const DEFAULT_PURGE_LIMIT = 10_000;

/** RunService's part in its own cascades: what it serves as a participant like all others, without a network between. */
export const makeOwnParticipant = (served: ServedParticipant): Participant => ({
  name: OWN_PARTICIPANT,
  isReachable: async () => true,

  async preview(call) {
    const { counts, blockers = [], samples } = await served.preview(scopeOf(call));
    return { counts, blockers, samples };
  },

  softDelete: async (call) => complete(await served.softDelete(scopeOf(call), toOperation(call))),

  restore: async (call, softDeleteId) => complete(await served.restore(scopeOf(call), toOperation(call), softDeleteId)),

  purge: (call, limit = DEFAULT_PURGE_LIMIT) => served.purge(scopeOf(call), toOperation(call), limit),

  verify: async (call) => ({ counts: (await served.verify(scopeOf(call), false)).counts }),
});

const scopeOf = ({ tenantId, runId }: ParticipantCall): RunScope => ({ tenantId, runId, step: undefined });

/** The operation of a call, as RunService serves it to itself. */
export const toOperation = ({ operationId, step: part, actor, reason }: ParticipantCall): RunOperation => ({
  operationId,
  part,
  caller: { actor, subject: 'service:run' },
  reason,
});

const complete = (counts: readonly ResourceCount[]): Answer => ({ progress: 'COMPLETE', counts, failedItems: [] });
