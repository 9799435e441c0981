import { DomainError } from '#libs/kernel/domain-error.ts';
import type { Participant } from './deletion-ports.ts';

/**
 * Whether an attempt failed because its participant is away: it did not answer, and it takes no other call either. A
 * participant that takes calls and fails this one is not away.
 */
export async function isAway(
  error: unknown,
  participants: readonly Pick<Participant, 'name' | 'isReachable'>[],
): Promise<boolean> {
  if (!(error instanceof DomainError) || error.reason !== 'DEPENDENCY_UNAVAILABLE') return false;
  const participant = participants.find(({ name }) => name === error.metadata['dependency']);
  return participant !== undefined && !(await participant.isReachable());
}
