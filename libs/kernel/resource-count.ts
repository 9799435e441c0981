/** Counts of one kind of resource: `found` is the sum of `deleted`, `left` and `passedOn`. Bytes where it has any. */
export interface ResourceCount {
  readonly resourceType: string;
  readonly found: number;
  readonly deleted: number;
  readonly left: number;
  readonly bytes: number;
  /** What others share and is theirs now. Absent: none. */
  readonly passedOn?: number;
  /** Whether `found`, `deleted` and `bytes` are lower bounds. Absent: they are exact. */
  readonly atLeast?: boolean;
}

/** Something that could not be removed. */
export interface FailedItem {
  readonly key: string;
  readonly code: string;
  readonly message: string;
  /** Whether another attempt would be refused as well. */
  readonly permanent?: boolean;
}

/** The sum of two counts, by resource type. */
export function addCounts(some: readonly ResourceCount[], more: readonly ResourceCount[]): readonly ResourceCount[] {
  const sums = new Map(some.map((count) => [count.resourceType, count]));
  for (const count of more) {
    const sum = sums.get(count.resourceType);
    const passedOn = (sum?.passedOn ?? 0) + (count.passedOn ?? 0);
    sums.set(count.resourceType, {
      resourceType: count.resourceType,
      found: (sum?.found ?? 0) + count.found,
      deleted: (sum?.deleted ?? 0) + count.deleted,
      left: (sum?.left ?? 0) + count.left,
      bytes: (sum?.bytes ?? 0) + count.bytes,
      ...(passedOn > 0 && { passedOn }),
      ...((sum?.atLeast || count.atLeast) && { atLeast: true }),
    });
  }
  return [...sums.values()];
}
