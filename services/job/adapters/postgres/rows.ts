import { Model } from 'objection';
import { OPERATION, toOperation } from '#libs/durable/operation-row.ts';
import { column, columnsOf, type RowOf } from '#libs/postgres/columns.ts';
import type { Artifact, ArtifactKind } from '../../domain/artifact.ts';
import type { DeletionState, FailedKey, JobDeletion, RemovalCounts } from '../../domain/deletion.ts';
import type { Job, JobState, Task, TaskState } from '../../domain/job.ts';

/** A row of `jobs`. */
export class JobRow extends Model {
  static override readonly tableName = 'jobs';
  static override readonly idColumn = ['tenant_id', 'id'];
  declare tenant_id: string;
  declare id: string;
  declare run_id: string | null;
  declare step: string | null;
  declare display_name: string;
  declare state: JobState;
  declare error: string | null;
  declare lease_owner: string | null;
  declare lease_token: number;
  declare lease_expires_at: Temporal.Instant | null;
  declare created_at: Temporal.Instant;
  declare started_at: Temporal.Instant | null;
  declare finished_at: Temporal.Instant | null;
  declare updated_at: Temporal.Instant;
  declare deleted_at: Temporal.Instant | null;
  declare deletion_id: string | null;
  declare version: number;
}

/** A row of `job_tasks`. */
export class TaskRow extends Model {
  static override readonly tableName = 'job_tasks';
  static override readonly idColumn = ['tenant_id', 'job_id', 'name'];
  declare tenant_id: string;
  declare job_id: string;
  declare name: string;
  declare position: number;
  declare state: TaskState;
  declare error: string | null;
  declare started_at: Temporal.Instant | null;
  declare finished_at: Temporal.Instant | null;
}

const ARTIFACT = {
  job_id: column<string>(),
  kind: column<ArtifactKind>(),
  name: column<string>(),
  content_type: column<string>(),
  bytes: column<number | null>(),
  sha256: column<string | null>(),
  object_id: column<string | null>(),
  stored_at: column<Temporal.Instant | null>(),
  created_at: column<Temporal.Instant>(),
};

/** A row of `artifacts`. */
export type ArtifactRow = RowOf<typeof ARTIFACT>;

/** The columns of an artifact as SQL. */
export const ARTIFACT_COLUMNS = columnsOf(ARTIFACT);

const DELETION = {
  ...OPERATION,
  bulk_deletion_id: column<string | null>(),
  job_id: column<string>(),
  run_id: column<string | null>(),
  state: column<DeletionState>(),
  fingerprint: column<string | null>(),
  counts: column<RemovalCounts>(),
  remaining: column<number>(),
  failed_keys: column<readonly FailedKey[]>(),
  next_attempt_at: column<Temporal.Instant | null>(),
  accept_missing: column<boolean>(),
};

/** A row of `job_deletions`. */
export type DeletionRow = RowOf<typeof DELETION>;

/** The columns of a deletion as SQL. */
export const DELETION_COLUMNS = columnsOf(DELETION);

/** A task as the reading statement's JSON gives it: timestamps are text there. */
export interface TaskJson {
  readonly name: string;
  readonly state: TaskState;
  readonly error: string | null;
  readonly started_at: string | null;
  readonly finished_at: string | null;
}

const OWN_COLUMNS = columnsOf({
  tenant_id: true,
  id: true,
  run_id: true,
  step: true,
  display_name: true,
  state: true,
  error: true,
  lease_owner: true,
  lease_token: true,
  lease_expires_at: true,
  created_at: true,
  started_at: true,
  finished_at: true,
  updated_at: true,
  deleted_at: true,
  deletion_id: true,
  version: true,
} satisfies Readonly<Record<keyof Omit<JobRow, keyof Model>, true>>);

/** A job's columns with its tasks in order as JSON, from one statement; `j` is the alias of jobs. */
export const JOB_COLUMNS = `${OWN_COLUMNS('j')}, coalesce((
  select json_agg(json_build_object('name', t.name, 'state', t.state, 'error', t.error,
                                    'started_at', t.started_at, 'finished_at', t.finished_at) order by t.position)
  from job_tasks t where t.tenant_id = j.tenant_id and t.job_id = j.id), '[]') as tasks`;

/** As JOB_COLUMNS, without the tasks: of the BASIC view. */
export const BASIC_JOB_COLUMNS = `${OWN_COLUMNS('j')}, '[]'::json as tasks`;

/** A row of jobs read with JOB_COLUMNS. */
export type JobWithTasks = Omit<JobRow, keyof Model> & { readonly tasks: readonly TaskJson[] };

/** The domain's job. */
export const toJob = (row: JobWithTasks): Job => ({
  id: row.id,
  tenantId: row.tenant_id,
  runId: row.run_id ?? undefined,
  step: row.step ?? undefined,
  displayName: row.display_name,
  state: row.state,
  tasks: row.tasks.map(toTask),
  error: row.error ?? undefined,
  lease:
    row.lease_owner === null || row.lease_expires_at === null
      ? undefined
      : { owner: row.lease_owner, token: BigInt(row.lease_token), expiresAt: row.lease_expires_at },
  createdAt: row.created_at,
  startedAt: row.started_at ?? undefined,
  finishedAt: row.finished_at ?? undefined,
  updatedAt: row.updated_at,
  deletedAt: row.deleted_at ?? undefined,
  version: BigInt(row.version),
});

const toTask = (row: TaskJson): Task => ({
  name: row.name,
  state: row.state,
  error: row.error ?? undefined,
  startedAt: row.started_at === null ? undefined : Temporal.Instant.from(row.started_at),
  finishedAt: row.finished_at === null ? undefined : Temporal.Instant.from(row.finished_at),
});

/** The domain's artifact. */
export const toArtifact = (row: ArtifactRow): Artifact => ({
  jobId: row.job_id,
  kind: row.kind,
  name: row.name,
  objectId: row.object_id ?? undefined,
  contentType: row.content_type,
  bytes: row.bytes ?? 0,
  sha256: row.sha256 ?? undefined,
  createdAt: row.stored_at ?? row.created_at,
});

/** The domain's deletion. */
export const toDeletion = (row: DeletionRow): JobDeletion => ({
  ...toOperation(row),
  attempts: row.attempts,
  bulkDeletionId: row.bulk_deletion_id ?? undefined,
  jobId: row.job_id,
  runId: row.run_id ?? undefined,
  state: row.state,
  counts: row.counts,
  left: row.remaining,
  failedKeys: row.failed_keys,
  nextAttemptAt: row.next_attempt_at ?? undefined,
  acceptsMissing: row.accept_missing,
});
