/** Where the removal of a job stands. */
export const DELETION_STATES = ['PENDING', 'CASCADING', 'VERIFYING', 'COMPLETE', 'STUCK', 'CANCELLED'] as const;

/** One of DELETION_STATES. */
export type DeletionState = (typeof DELETION_STATES)[number];

/** What was removed of a job so far; `left` is what the last read-back still saw. */
export interface RemovalCounts {
  readonly objects: number;
  readonly markers: number;
  readonly uploads: number;
  readonly bytes: number;
  readonly tasks: number;
  readonly artifacts: number;
  readonly jobs: number;
}

/** Nothing yet. */
export const NOTHING_REMOVED: RemovalCounts = Object.freeze({
  objects: 0,
  markers: 0,
  uploads: 0,
  bytes: 0,
  tasks: 0,
  artifacts: 0,
  jobs: 0,
});

/** An object that could not be removed, with the store's own code. */
export interface FailedKey {
  readonly key: string;
  readonly code: string;
  readonly message: string;
}

/** The durable removal of one job. It outlives the job: it is the receipt. */
export interface JobDeletion {
  readonly id: string;
  readonly tenantId: string;
  readonly jobId: string;
  readonly state: DeletionState;
  readonly actor: string;
  readonly reason: string | undefined;
  readonly requestId: string | undefined;
  readonly counts: RemovalCounts;
  readonly left: number;
  readonly failedKeys: readonly FailedKey[];
  readonly attempts: number;
  readonly lastError: string | undefined;
  readonly nextAttemptAt: Temporal.Instant | undefined;
  readonly createdAt: Temporal.Instant;
  readonly startedAt: Temporal.Instant | undefined;
  readonly updatedAt: Temporal.Instant;
  readonly finishedAt: Temporal.Instant | undefined;
}

/** The sum of two counts. */
export const addCounts = (a: RemovalCounts, b: Partial<RemovalCounts>): RemovalCounts => ({
  objects: a.objects + (b.objects ?? 0),
  markers: a.markers + (b.markers ?? 0),
  uploads: a.uploads + (b.uploads ?? 0),
  bytes: a.bytes + (b.bytes ?? 0),
  tasks: a.tasks + (b.tasks ?? 0),
  artifacts: a.artifacts + (b.artifacts ?? 0),
  jobs: a.jobs + (b.jobs ?? 0),
});
