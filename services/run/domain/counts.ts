import type { ResourceCount } from '#libs/kernel/resource-count.ts';

/** How many are left of anything. */
export const sumLeft = (counts: readonly ResourceCount[]): number =>
  counts.reduce((total, { left }) => total + left, 0);

/** Whether a participant's second answer tells of anything that its first did not, in whatever order. */
export const hasMoved = (before: readonly ResourceCount[], after: readonly ResourceCount[]): boolean =>
  toComparable(before) !== toComparable(after);

const toComparable = (counts: readonly ResourceCount[]): string =>
  counts
    .map(({ resourceType, found, deleted, left, bytes }) => [resourceType, found, deleted, left, bytes].join())
    .toSorted()
    .join(';');

/** What a participant told of its part, with what it said is left when it was read back. */
export function withLeft(told: readonly ResourceCount[], read: readonly ResourceCount[]): ResourceCount[] {
  const leftOf = new Map(read.map(({ resourceType, left }) => [resourceType, left]));
  const unknown = read.filter(({ resourceType }) => !told.some((count) => count.resourceType === resourceType));
  return [...told.map((count) => ({ ...count, left: leftOf.get(count.resourceType) ?? 0 })), ...unknown];
}
