import type { Participant, RunOperation, RunScope } from '#libs/participant/participant.ts';
import type { OwnParticipant } from '../../use-cases/participate.ts';
import type { ParticipantCall } from '../../use-cases/ports.ts';

/** RunService as a participant, over gRPC: the same part that its own cascades ask for. */
export const makeRunParticipant = (own: OwnParticipant): Participant => ({
  // A run's own steps act inside RunService; nobody asks for them from outside.
  actions: {},
  preview: (scope) => own.preview(toCall(scope)),
  softDelete: async (scope, operation) => (await own.softDelete(toCall(scope, operation))).counts,
  restore: async (scope, operation, softDeleteId) => (await own.restore(toCall(scope, operation), softDeleteId)).counts,
  purge: (scope, operation, limit) => own.purge(toCall(scope, operation), limit),
  compensate: (scope, operation) => own.compensate(toCall(scope, operation)),
  verify: async (scope) => ({ counts: await own.verify(toCall(scope), scope.step), samples: [] }),
});

/** What is only read has no operation, and nobody is named for it. */
const toCall = ({ tenantId, runId, step = '' }: RunScope, operation?: RunOperation): ParticipantCall => ({
  tenantId,
  runId,
  operationId: operation?.operationId ?? runId,
  step: operation?.part ?? step,
  actor: operation?.caller.actor ?? '',
  reason: operation?.reason,
});
