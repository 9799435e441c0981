import { fromCountMessages } from '#libs/grpc/count-messages.ts';
import type { Participant } from '../../use-cases/deletion-ports.ts';
import { ask, clientFor, keyOf, type Peer, toAnswer } from './call-participant.ts';

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

  async verify(to) {
    const client = clientFor(peer, 'participant:verify', to);
    const { resourceCounts, dataId } = await ask(peer, client.verify({ runId: to.runId }));
    await peer.assertData(dataId);
    return fromCountMessages(resourceCounts);
  },

  async preview(to) {
    const client = clientFor(peer, 'participant:preview', to);
    const { resourceCounts, blockers, samples, dataId } = await ask(peer, client.preview({ runId: to.runId }));
    await peer.assertData(dataId);
    return { counts: fromCountMessages(resourceCounts), blockers, samples };
  },
});
