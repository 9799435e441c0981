import type { ResourceCount } from '#libs/kernel/resource-count.ts';

/** A count of things that went. */
export const goneCount = (resourceType: string, deleted: number, bytes = 0): ResourceCount => ({
  resourceType,
  found: deleted,
  deleted,
  left: 0,
  bytes,
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

/** What went, and what was passed on, over two batches. Nothing counts as left: that is looked for when it is told. */
export function addCounts(before: readonly ResourceCount[], added: readonly ResourceCount[]): readonly ResourceCount[] {
  const sums = new Map<string, ResourceCount>();
  for (const { resourceType, deleted, passedOn = 0, bytes } of [...before, ...added]) {
    const sum = sums.get(resourceType);
    const passed = (sum?.passedOn ?? 0) + passedOn;
    const count = goneCount(resourceType, (sum?.deleted ?? 0) + deleted, (sum?.bytes ?? 0) + bytes);
    sums.set(resourceType, { ...count, found: count.deleted + passed, ...(passed > 0 ? { passedOn: passed } : {}) });
  }
  return [...sums.values()];
}

/** The same with what is left, which was found too, and its bytes. */
export function withLeft(gone: readonly ResourceCount[], left: readonly ResourceCount[]): readonly ResourceCount[] {
  const leftOf = new Map(left.map((count) => [count.resourceType, count]));
  const others = left.filter(({ resourceType }) => !gone.some((count) => count.resourceType === resourceType));
  const both = gone.map((count) => {
    const rest = leftOf.get(count.resourceType);
    if (!rest) return count;
    return { ...count, found: count.found + rest.left, left: rest.left, bytes: count.bytes + rest.bytes };
  });
  return [...both, ...others].filter(({ found }) => found > 0);
}
