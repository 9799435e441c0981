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
