import type { Deletion } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { DeletionState } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { adviceOf } from '../parts/advice.ts';

/** What keeps a deletion from its end. */
export interface Obstacle {
  /** The participant; empty: the deletion as a whole. */
  readonly participant: string;
  readonly reason: string;
  readonly message: string;
  readonly attempts: number;
  readonly advice: string;
}

// Where a deletion stands still, trying again is up to a person.
const OF_STUCK: Readonly<Record<string, string>> = {
  DEPENDENCY_UNAVAILABLE: 'See to it that this service answers again, then redrive the deletion.',
};
const GENERAL = 'Mend what the message names, then redrive the deletion. Nothing is lost while it waits.';

/** Splits `REASON: sentence`, as services write a last error. */
export function splitError(text: string): { readonly reason: string; readonly message: string } {
  const [, reason = '', message = text] = /^([A-Z][A-Z0-9_]+): (.*)$/s.exec(text) ?? [];
  return { reason, message };
}

/** What blocks a deletion: the participants that fail, or the deletion's own last error where none does. */
export function obstaclesOf({ participants, lastError, attempts }: Deletion): Obstacle[] {
  const failing = participants.filter((each) => each.lastError !== '' && each.state !== DeletionState.COMPLETE);
  const told = failing.map((each) => ({
    participant: each.participant,
    attempts: each.attempts,
    ...splitError(each.lastError),
  }));
  const all = told.length > 0 || lastError === '' ? told : [{ participant: '', attempts, ...splitError(lastError) }];
  return all.map((each) => ({ ...each, advice: OF_STUCK[each.reason] ?? adviceOf(each.reason) ?? GENERAL }));
}
