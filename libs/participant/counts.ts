import type { ResourceCount } from '#libs/kernel/resource-count.ts';

/** A count of things that went, or that others have now. */
export const goneCount = (resourceType: string, deleted: number, bytes = 0, passedOn = 0): ResourceCount => ({
  resourceType,
  found: deleted + passedOn,
  deleted,
  left: 0,
  bytes,
  ...(passedOn > 0 && { passedOn }),
});

/** A count of things that are there. */
export const leftCount = (resourceType: string, left: number, bytes = 0): ResourceCount => ({
  resourceType,
  found: left,
  deleted: 0,
  left,
  bytes,
});

/** How many went of anything. */
export const sumDeleted = (counts: readonly ResourceCount[]): number =>
  counts.reduce((sum, { deleted }) => sum + deleted, 0);

/** What went, with what is left, which was found too, and its bytes. */
export function withLeft(gone: readonly ResourceCount[], left: readonly ResourceCount[]): readonly ResourceCount[] {
  const leftOf = new Map(left.map((count) => [count.resourceType, count]));
  const others = left.filter(({ resourceType }) => !gone.some((count) => count.resourceType === resourceType));
  const both = gone.map((count) => {
    const rest = leftOf.get(count.resourceType);
    if (!rest) return count;
    const both = { ...count, found: count.found + rest.left, left: rest.left, bytes: count.bytes + rest.bytes };
    return rest.atLeast ? { ...both, atLeast: true } : both;
  });
  return [...both, ...others].filter(({ found }) => found > 0);
}
