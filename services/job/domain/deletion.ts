import type { ResourceCount } from '#libs/kernel/resource-count.ts';

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
  /** More may have gone than is counted: a worker died before it could tell, or answers of the store were lost. */
  readonly atLeast?: boolean;
  /** What the store was asked to remove in the last attempt and has neither answered nor listed since. */
  readonly unsure?: StoredCounts;
}

/** What a store holds, or has removed. */
export interface StoredCounts {
  readonly objects: number;
  readonly markers: number;
  readonly uploads: number;
  readonly bytes: number;
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
  /** Whether another attempt would be refused as well. */
  readonly isPermanent?: boolean;
}

// Reasons of the object store that stay as they are until a person has changed something.
const NEEDS_PERSON: ReadonlySet<string> = new Set(['STORE_REFUSED', 'STORE_MISBEHAVES']);

/** Whether an attempt that failed for this reason need not be repeated by itself. */
export const needsPerson = (reason: string): boolean => NEEDS_PERSON.has(reason);

/** The reason of a last error, which is `REASON: sentence`. */
export const reasonOf = (lastError: string): string => lastError.split(':', 1)[0] ?? '';

/** The durable removal of one job. It outlives the job: it is the receipt. */
export interface JobDeletion {
  readonly id: string;
  readonly tenantId: string;
  readonly jobId: string;
  /** The run that the job belonged to, which keeps what it holds itself. */
  readonly runId: string | undefined;
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
  /** Whether a person has accepted that the objects which the index knows are not in the store. */
  readonly acceptsMissing: boolean;
  /** The bulk deletion that ordered it. */
  readonly bulkDeletionId: string | undefined;
  readonly createdAt: Temporal.Instant;
  readonly startedAt: Temporal.Instant | undefined;
  readonly updatedAt: Temporal.Instant;
  readonly finishedAt: Temporal.Instant | undefined;
}

/**
 * The counts once the store was listed again: what was unsure and is not there now has been removed. What is there may be
 * the rest of it or something else, so that from then on the counts are lower bounds.
 */
export function settleUnsure({ unsure, ...counts }: RemovalCounts, there: StoredCounts): RemovalCounts {
  if (!unsure) return counts;
  const gone = (kind: keyof StoredCounts) => Math.max(0, unsure[kind] - there[kind]);
  const settled = addCounts(counts, {
    objects: gone('objects'),
    markers: gone('markers'),
    uploads: gone('uploads'),
    bytes: gone('bytes'),
  });
  return there.objects + there.markers + there.uploads > 0 ? { ...settled, atLeast: true } : settled;
}

/** The sum of two counts; what the first says about their certainty stays. */
export const addCounts = (a: RemovalCounts, b: Partial<RemovalCounts>): RemovalCounts => ({
  ...a,
  objects: a.objects + (b.objects ?? 0),
  markers: a.markers + (b.markers ?? 0),
  uploads: a.uploads + (b.uploads ?? 0),
  bytes: a.bytes + (b.bytes ?? 0),
  tasks: a.tasks + (b.tasks ?? 0),
  artifacts: a.artifacts + (b.artifacts ?? 0),
  jobs: a.jobs + (b.jobs ?? 0),
});

/**
 * Counts per resource type; a type of which there was nothing is left out. `found` counts what is there, `removed` what
 * has gone, of which the store's last listing still saw `left` more.
 */
export function toResourceCounts(
  counts: Partial<RemovalCounts>,
  shape: 'removed' | 'found',
  left = 0,
): readonly ResourceCount[] {
  const {
    jobs,
    tasks,
    artifacts,
    objects,
    markers,
    uploads,
    bytes,
    atLeast = false,
  } = { ...NOTHING_REMOVED, ...counts };
  const rows = [
    ['job', jobs, 0, 0, false],
    ['job_task', tasks, 0, 0, false],
    ['artifact', artifacts, 0, 0, false],
    ['object_version', objects, bytes, left, atLeast],
    ['delete_marker', markers, 0, 0, atLeast],
    ['open_upload', uploads, 0, 0, atLeast],
  ] as const;
  return rows
    .filter(([, count, , remaining]) => count + remaining > 0)
    .map(([resourceType, count, bytes, remaining, atLeast]) => ({
      resourceType,
      found: count + remaining,
      deleted: shape === 'removed' ? count : 0,
      left: shape === 'found' ? count : remaining,
      bytes,
      ...(atLeast ? { atLeast } : {}),
    }));
}
