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
