import { type Deletion, OWN_PARTICIPANT, pendingStep } from '../domain/deletion.ts';
import type { CheckedOrder, DeletionOrder, ParticipantPreviews } from './deletion-ports.ts';

/** The deletion that an order would begin, without an id; a purge with what it would take of each participant. */
export const foretellDeletion = (
  order: DeletionOrder,
  { participants, undoes, now }: CheckedOrder,
  asked: ParticipantPreviews,
): Deletion => ({
  id: '',
  tenantId: order.tenantId,
  runId: order.runId,
  mode: order.mode,
  state: 'PENDING',
  actor: order.caller.actor,
  subject: order.caller.subject,
  trustEntry: order.caller.trustEntry,
  reason: order.reason,
  requestId: order.requestId,
  force: order.force,
  undoes: order.mode === 'UNDELETE' ? undoes : undefined,
  bulkDeletionId: order.bulkItem?.bulkDeletionId,
  steps: [...participants, OWN_PARTICIPANT].map((name) => {
    const counts = asked.find(({ participant }) => participant === name)?.counts ?? [];
    return { ...pendingStep(name), counts: order.mode === 'PURGE' ? counts : [] };
  }),
  attempts: 0,
  lastError: undefined,
  createdAt: now,
  startedAt: undefined,
  updatedAt: now,
  finishedAt: undefined,
});
