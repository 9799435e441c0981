import { hasReason } from '#libs/kernel/domain-error.ts';
import { blockedBy, participantUnknown } from '../domain/errors.ts';
import type { DeletionOrder, Participant, ParticipantPreviews, PreviewOptions } from './deletion-ports.ts';

/**
 * Asks the participants before a deletion is committed: what cannot end must not begin. Answers what a purge would take of
 * each, with counts for a dry run of it. Throws any blocker that a participant reports, such as JOB_NOT_TERMINAL, and what
 * a participant refuses; of a purge also PARTICIPANT_UNKNOWN where one of `asked` is not configured, and
 * DEPENDENCY_UNAVAILABLE where one does not answer.
 */
export async function askParticipants(
  participants: readonly Participant[],
  order: DeletionOrder,
  asked: readonly string[],
  { validateOnly, signal }: { readonly validateOnly: boolean; readonly signal?: AbortSignal },
): Promise<ParticipantPreviews> {
  // Hiding waits for one that is not configured, as it does for one that is down.
  if (order.mode === 'PURGE') assertConfigured(participants, asked);
  // Counting lists the object stores: only a dry run that tells the counts waits for that, and it ends with its caller.
  const options = validateOnly ? { blockersOnly: order.mode !== 'PURGE', signal } : { blockersOnly: true };
  const answers = await Promise.allSettled(participants.map((each) => askForPreview(each, order, options)));
  const previews = answers.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []));
  const errors = answers.flatMap((answer) => (answer.status === 'rejected' ? [answer.reason as unknown] : []));
  const [blocker] = previews.flatMap(({ blockers }) => blockers);
  if (blocker) throw blockedBy(blocker);
  // The silence of one participant hides no refusal of another.
  const refusal = errors.find((each) => !hasReason(each, 'DEPENDENCY_UNAVAILABLE'));
  // Hiding is reversible and waits for whoever is down; a purge that nobody could check does not begin.
  const error = refusal ?? (order.mode === 'PURGE' ? errors[0] : undefined);
  if (error) throw error;
  return previews;
}

/** Asks one participant; DEPENDENCY_UNAVAILABLE when it does not answer. */
export async function askForPreview(
  participant: Participant,
  { caller, tenantId, runId }: Pick<DeletionOrder, 'caller' | 'tenantId' | 'runId'>,
  options: PreviewOptions,
): Promise<ParticipantPreviews[number]> {
  const { name } = participant;
  const call = { tenantId, actor: caller.actor, operationId: runId, step: name, runId, reason: undefined };
  return { participant: name, ...(await participant.preview(call, options)) };
}

/** Throws PARTICIPANT_UNKNOWN when one of these names is not among the configured participants. */
export function assertConfigured(participants: readonly Participant[], names: readonly string[]): void {
  const missing = names.find((name) => !participants.some((participant) => participant.name === name));
  if (missing !== undefined) throw participantUnknown(missing);
}
