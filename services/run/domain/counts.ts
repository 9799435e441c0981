import { addCounts, type ResourceCount } from '#libs/kernel/resource-count.ts';

// What a service of somebody else may name, so that a receipt always fits an answer.
const MAX_TYPES = 100;
const MAX_TYPE_LENGTH = 100;

/** What counts that are beyond the bound are added up as. */
export const OTHER_TYPES = 'other';

/**
 * A participant's counts as they are kept: at most 100 types, of at most 100 characters each. The sums stay true: what is
 * beyond the first 99 types is added up as `other`.
 */
export function boundCounts(counts: readonly ResourceCount[]): readonly ResourceCount[] {
  const named = addCounts(
    [],
    counts.map((count) => ({ ...count, resourceType: count.resourceType.slice(0, MAX_TYPE_LENGTH) })),
  );
  if (named.length <= MAX_TYPES) return named;
  const others = named.slice(MAX_TYPES - 1).map((count) => ({ ...count, resourceType: OTHER_TYPES }));
  return addCounts(named.slice(0, MAX_TYPES - 1), others);
}

/** The sum of a participant's counts, bounded like each of them. */
export const addBounded = (some: readonly ResourceCount[], more: readonly ResourceCount[]): readonly ResourceCount[] =>
  boundCounts(addCounts(some, more));

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
