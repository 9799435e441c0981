import type { Caller } from '#libs/kernel/caller.ts';
import type { Artifact } from '../domain/artifact.ts';
import type { JobDeletion } from '../domain/deletion.ts';
import { NOTHING_REMOVED } from '../domain/deletion.ts';
import type { Job, JobState } from '../domain/job.ts';
import type { Refusal } from './ports.ts';
import { makeRecordRefusal, type RecordRefusal } from './record-refusal.ts';

/** The database's clock, standing still. */
export const NOW = Temporal.Instant.from('2026-01-02T03:04:05.678901Z');

/** The tenant of every fake. */
export const TENANT = 'acme';

/** The id of the one job. */
export const JOB = '01890000-0000-7000-8000-000000000001';

/** The id of its deletion. */
export const DELETION = '01890000-0000-7000-8000-0000000000d1';

/** Who calls. */
export const CALLER: Caller = {
  subject: 'ann',
  kind: 'user',
  tenantId: TENANT,
  role: 'admin',
  scopes: new Set(['jobs:delete']),
  actor: 'ann',
};

/** Where everything of the job is. */
export const PREFIX = `tenants/${TENANT}/jobs/${JOB}/`;

/** A job with one task. */
export const jobIn = (state: JobState, more: Partial<Job> = {}): Job => ({
  id: JOB,
  tenantId: TENANT,
  runId: undefined,
  step: undefined,
  displayName: '',
  state,
  tasks: [{ name: 'a', state: 'PENDING', error: undefined, startedAt: undefined, finishedAt: undefined }],
  error: undefined,
  lease: undefined,
  createdAt: NOW,
  startedAt: undefined,
  finishedAt: undefined,
  updatedAt: NOW,
  deletedAt: undefined,
  version: 1n,
  ...more,
});

/** An artifact of that job, stored before objects were keyed by upload. */
export const artifactOf = (more: Partial<Artifact> = {}): Artifact => ({
  jobId: JOB,
  kind: 'INPUT',
  name: 'a',
  objectId: undefined,
  contentType: 'a/b',
  bytes: 1,
  sha256: undefined,
  createdAt: NOW,
  ...more,
});

/** The deletion of that job. */
export const deletionOf = (more: Partial<JobDeletion> = {}): JobDeletion => ({
  id: DELETION,
  tenantId: TENANT,
  jobId: JOB,
  runId: undefined,
  state: 'PENDING',
  actor: 'ann',
  reason: undefined,
  requestId: undefined,
  counts: NOTHING_REMOVED,
  left: 0,
  failedKeys: [],
  attempts: 0,
  lastError: undefined,
  nextAttemptAt: NOW,
  acceptsMissing: false,
  bulkDeletionId: undefined,
  createdAt: NOW,
  startedAt: undefined,
  updatedAt: NOW,
  finishedAt: undefined,
  ...more,
});

/** A port of which a test needs a part; what it does not give must not be asked. */
export const partOf = <T extends object>(given: Partial<T>): T =>
  new Proxy(given, {
    get(target, name) {
      if (name in target) return target[name as keyof T];
      throw new Error(`${String(name)} was not to be asked`);
    },
  }) as T;

/** The true RecordRefusal, and what it has written down. */
export function makeRefusals(): { readonly recorded: Refusal[]; readonly recordRefusal: RecordRefusal } {
  const recorded: Refusal[] = [];
  const recordRefusal = makeRecordRefusal({
    async record(refusal) {
      recorded.push(refusal);
    },
  });
  return { recorded, recordRefusal };
}
