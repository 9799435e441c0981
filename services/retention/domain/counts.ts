/** Counts of one kind of resource. */
export interface ResourceCount {
  readonly resourceType: string;
  readonly found: number;
  readonly deleted: number;
  readonly left: number;
}

/** Sums by resource type. `left` is what the last one told, since it alone looked last. */
export function sumCounts(all: readonly (readonly ResourceCount[])[]): readonly ResourceCount[] {
  const sums = new Map<string, ResourceCount>();
  for (const { resourceType, found, deleted, left } of all.flat()) {
    const sum = sums.get(resourceType);
    sums.set(resourceType, {
      resourceType,
      found: (sum?.found ?? 0) + found,
      deleted: (sum?.deleted ?? 0) + deleted,
      left,
    });
  }
  return [...sums.values()];
}

/** Without what was left: of an operation that is over, another one finds and counts that again. */
export const withoutLeft = (counts: readonly ResourceCount[]): readonly ResourceCount[] =>
  counts.map(({ resourceType, deleted }) => ({ resourceType, found: deleted, deleted, left: 0 }));

// A foreign owner may name as many types as it likes; a receipt always fits an answer.
const MAX_TYPES = 100;

/** What counts beyond the bound are added up as. */
export const OTHER_TYPES = 'other';

/** At most 100 counts. The sums stay true: what is beyond the first 99 types is added up as `other`. */
export function boundCounts(counts: readonly ResourceCount[]): readonly ResourceCount[] {
  if (counts.length <= MAX_TYPES) return counts;
  const beyond = counts.slice(MAX_TYPES - 1);
  const sumOf = (part: 'found' | 'deleted' | 'left') => beyond.reduce((sum, count) => sum + count[part], 0);
  const others = { resourceType: OTHER_TYPES, found: sumOf('found'), deleted: sumOf('deleted'), left: sumOf('left') };
  return sumCounts([counts.slice(0, MAX_TYPES - 1), [others]]);
}
