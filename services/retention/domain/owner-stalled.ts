import { DomainError } from '#libs/kernel/domain-error.ts';

/** How many calls in a row an owner may answer for nothing. */
export const MOST_STALLS = 100;

/** The owner answers, and nothing comes of it: it would be called for ever. */
export const ownerStalled = (owner: string, what: string): DomainError =>
  new DomainError('failed-precondition', 'OWNER_STALLED', `The owner ${owner} ${what}.`, { owner });

/** Passes for a place that the owner has not named before in the same walk; else OWNER_STALLED. */
export function assertGoesOn(owner: string, places: Set<string>, place: string): void {
  if (places.has(place)) throw ownerStalled(owner, 'goes back to where it was');
  places.add(place);
}

/** Passes for up to MOST_STALLS calls in a row for nothing; else OWNER_STALLED. */
export function assertNotStalled(owner: string, stalls: number): void {
  if (stalls > MOST_STALLS) throw ownerStalled(owner, `answered ${MOST_STALLS} calls for nothing`);
}
