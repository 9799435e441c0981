import type { MessageInitShape } from '@bufbuild/protobuf';
import {
  DeletionMode,
  type DeletionSchema,
  DeletionState as DeletionStateMessage,
  type FailedItemSchema,
  Progress,
} from '#gen/lethe/deletion/v1/deletion_pb.ts';
import {
  ArtifactKind as ArtifactKindMessage,
  type ArtifactSchema,
  type JobSchema,
  JobState as JobStateMessage,
  TaskState as TaskStateMessage,
} from '#gen/lethe/job/v1/job_pb.ts';
import { toCountMessages } from '#libs/grpc/count-messages.ts';
import { optional } from '#libs/grpc/optional.ts';
import { toOptionalTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { ARTIFACT_KINDS, type Artifact, type ArtifactKind } from '../../domain/artifact.ts';
import {
  DELETION_STATES,
  type DeletionState,
  type FailedKey,
  type JobDeletion,
  type RemovalCounts,
  toResourceCounts,
} from '../../domain/deletion.ts';
import { etagOf, JOB_STATES, type Job, type JobState, TASK_STATES, type TaskState } from '../../domain/job.ts';

/** What the numbers of the contract's enums stand for. */
export const JOB_STATE_OF: ReadonlyMap<number, JobState> = new Map(
  JOB_STATES.map((state) => [JobStateMessage[state], state]),
);
/** As JOB_STATE_OF, for tasks. */
export const TASK_STATE_OF: ReadonlyMap<number, TaskState> = new Map(
  TASK_STATES.map((state) => [TaskStateMessage[state], state]),
);
/** As JOB_STATE_OF, for artifacts. */
export const ARTIFACT_KIND_OF: ReadonlyMap<number, ArtifactKind> = new Map(
  ARTIFACT_KINDS.map((kind) => [ArtifactKindMessage[kind], kind]),
);
/** As JOB_STATE_OF, for deletions. */
export const DELETION_STATE_OF: ReadonlyMap<number, DeletionState> = new Map(
  DELETION_STATES.map((state) => [DeletionStateMessage[state], state]),
);

/** The job as a message. */
export const toJobMessage = (job: Job): MessageInitShape<typeof JobSchema> => ({
  id: job.id,
  tenantId: job.tenantId,
  runId: job.runId ?? '',
  step: job.step ?? '',
  displayName: job.displayName,
  state: JobStateMessage[job.state],
  tasks: job.tasks.map((task) => ({
    name: task.name,
    state: TaskStateMessage[task.state],
    error: task.error ?? '',
    ...optional('startTime', toOptionalTimestamp(task.startedAt)),
    ...optional('finishTime', toOptionalTimestamp(task.finishedAt)),
  })),
  error: job.error ?? '',
  createTime: toTimestamp(job.createdAt),
  ...optional('startTime', toOptionalTimestamp(job.startedAt)),
  ...optional('finishTime', toOptionalTimestamp(job.finishedAt)),
  updateTime: toTimestamp(job.updatedAt),
  ...optional('deleteTime', toOptionalTimestamp(job.deletedAt)),
  etag: etagOf(job),
});

/** The artifact as a message. */
export const toArtifactMessage = (artifact: Artifact): MessageInitShape<typeof ArtifactSchema> => ({
  jobId: artifact.jobId,
  kind: ArtifactKindMessage[artifact.kind],
  name: artifact.name,
  contentType: artifact.contentType,
  sizeBytes: BigInt(artifact.bytes),
  createTime: toTimestamp(artifact.createdAt),
});

/** Counts of what the store holds without a job: found, removed, and left by a listing made afterwards. */
export const toOrphanCounts = (counts: {
  readonly found: RemovalCounts;
  readonly deleted: RemovalCounts;
  readonly left: RemovalCounts;
}) =>
  (
    [
      ['object_version', 'objects'],
      ['delete_marker', 'markers'],
      ['open_upload', 'uploads'],
    ] as const
  )
    .map(([resourceType, kind]) => ({
      resourceType,
      found: BigInt(counts.found[kind]),
      deleted: BigInt(counts.deleted[kind]),
      left: BigInt(counts.left[kind]),
      bytes: kind === 'objects' ? BigInt(counts.found.bytes) : 0n,
    }))
    .filter(({ found, deleted, left }) => found + deleted + left > 0n);

/** Failed objects as messages. */
export const toFailedItems = (failedKeys: readonly FailedKey[]): MessageInitShape<typeof FailedItemSchema>[] =>
  failedKeys.map(({ key, code, message, isPermanent: permanent = false }) => ({ key, code, message, permanent }));

// The row counts attempts that began; the contract tells of those that failed.
const failedAttempts = ({ attempts, lastError }: JobDeletion): number => (lastError === undefined ? 0 : attempts);

/** The removal of a job as a message; JobService is its only participant. */
export const toDeletionMessage = (deletion: JobDeletion): MessageInitShape<typeof DeletionSchema> => ({
  id: deletion.id,
  tenantId: deletion.tenantId,
  targetType: 'job',
  targetId: deletion.jobId,
  mode: DeletionMode.PURGE,
  state: DeletionStateMessage[deletion.state],
  actor: deletion.actor,
  reason: deletion.reason ?? '',
  requestId: deletion.requestId ?? '',
  participants: [
    {
      participant: 'job',
      state: DeletionStateMessage[deletion.state],
      progress: deletion.state === 'COMPLETE' ? Progress.COMPLETE : Progress.PARTIAL,
      resourceCounts: toCountMessages(
        toResourceCounts(deletion.counts, deletion.id === '' ? 'found' : 'removed', deletion.left),
      ),
      attempts: failedAttempts(deletion),
      lastError: deletion.lastError ?? '',
      failedItems: toFailedItems(deletion.failedKeys),
      ...optional('nextAttemptTime', toOptionalTimestamp(deletion.nextAttemptAt)),
      ...optional('verifyTime', toOptionalTimestamp(deletion.finishedAt)),
    },
  ],
  attempts: failedAttempts(deletion),
  lastError: deletion.lastError ?? '',
  createTime: toTimestamp(deletion.createdAt),
  ...optional('startTime', toOptionalTimestamp(deletion.startedAt)),
  updateTime: toTimestamp(deletion.updatedAt),
  ...optional('finishTime', toOptionalTimestamp(deletion.finishedAt)),
  runId: deletion.runId ?? '',
  bulkDeletionId: deletion.bulkDeletionId ?? '',
});
