import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { stateForbidsUpload } from './errors.ts';
import { assertLease, type Job } from './job.ts';

/** What an artifact is to its job; also the folder of its object. */
export const ARTIFACT_KINDS = ['INPUT', 'TASK', 'OUTPUT'] as const;

/** One of ARTIFACT_KINDS. */
export type ArtifactKind = (typeof ARTIFACT_KINDS)[number];

/** One object of a job. */
export interface Artifact {
  readonly jobId: string;
  readonly kind: ArtifactKind;
  readonly name: string;
  readonly contentType: string;
  readonly bytes: number;
  readonly createdAt: Temporal.Instant;
}

const FOLDERS: Readonly<Record<ArtifactKind, string>> = { INPUT: 'input', TASK: 'tasks', OUTPUT: 'output' };
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$/;

/** The prefix of every object of a tenant's jobs. */
export const tenantPrefix = (tenantId: string): string => `tenants/${tenantId}/jobs/`;

/** The exact prefix of a job's objects; it ends with a slash, so job 1 is no prefix of job 10. */
export const jobPrefix = (tenantId: string, jobId: string): string => `${tenantPrefix(tenantId)}${jobId}/`;

/** The key of one artifact's object. */
export const artifactKey = (tenantId: string, jobId: string, kind: ArtifactKind, name: string): string =>
  `${jobPrefix(tenantId, jobId)}${FOLDERS[kind]}/${name}`;

/** The name as it stands; FIELD_INVALID unless it is safe as the last part of a key. */
export function parseArtifactName(field: string, name: string): string {
  if (!NAME.test(name)) {
    throw fieldInvalid(field, 'must be 1 to 200 of letters, digits, ".", "_" and "-", the first a letter or a digit');
  }
  return name;
}

/** Passes when the job takes this kind now: INPUT from anybody while PENDING, the rest from the worker that holds it. */
export function assertTakesUpload(
  job: Job,
  kind: ArtifactKind,
  leaseToken: bigint | undefined,
  now: Temporal.Instant,
): void {
  if (leaseToken !== undefined) {
    assertLease(job, leaseToken, now);
    if (job.state === 'RUNNING') return;
  } else if (kind === 'INPUT' && job.state === 'PENDING') {
    return;
  }
  throw stateForbidsUpload(job.state, kind);
}
