import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { isId } from '#libs/kernel/id.ts';
import { stateForbidsUpload } from './errors.ts';
import { assertLease, type Job } from './job.ts';

/** What an artifact is to its job; also the folder of its object. */
export const ARTIFACT_KINDS = ['INPUT', 'TASK', 'OUTPUT'] as const;

/** One of ARTIFACT_KINDS. */
export type ArtifactKind = (typeof ARTIFACT_KINDS)[number];

/** Which object holds an artifact's bytes. Each upload has a key of its own, so that no upload overwrites another's. */
export interface ObjectRef {
  readonly jobId: string;
  readonly kind: ArtifactKind;
  readonly name: string;
  /** The upload that made the object; undefined for objects from before 004, whose key is the artifact's name. */
  readonly objectId: string | undefined;
}

/** One artifact of a job: its row, which points at one object. */
export interface Artifact extends ObjectRef {
  readonly contentType: string;
  readonly bytes: number;
  /** Of the bytes, in lower-case hex; undefined where none was recorded. */
  readonly sha256: string | undefined;
  readonly createdAt: Temporal.Instant;
}

const FOLDERS: Readonly<Record<ArtifactKind, string>> = { INPUT: 'input', TASK: 'tasks', OUTPUT: 'output' };
const ID_LENGTH = 36;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$/;

/** The prefix of every object of a tenant's jobs. */
export const tenantPrefix = (tenantId: string): string => `tenants/${tenantId}/jobs/`;

/** The exact prefix of a job's objects; it ends with a slash, so job 1 is no prefix of job 10. */
export const jobPrefix = (tenantId: string, jobId: string): string => `${tenantPrefix(tenantId)}${jobId}/`;

/** The key of one object: `…/input/UPLOAD-NAME`. */
export const objectKey = (tenantId: string, { jobId, kind, name, objectId }: ObjectRef): string =>
  `${jobPrefix(tenantId, jobId)}${FOLDERS[kind]}/${objectId === undefined ? '' : `${objectId}-`}${name}`;

/**
 * The objects that a key below a tenant's prefix can be of: one whose key has its upload, one from before whose key is its
 * name. None for a key that Lethe does not make.
 */
export function parseObjectKey(tenantId: string, key: string): readonly ObjectRef[] {
  const [jobId = '', folder = '', file = '', ...rest] = key.slice(tenantPrefix(tenantId).length).split('/');
  const kind = ARTIFACT_KINDS.find((each) => FOLDERS[each] === folder);
  if (!key.startsWith(tenantPrefix(tenantId)) || !isId(jobId) || !kind || file === '' || rest.length > 0) return [];
  const byName: ObjectRef = { jobId, kind, name: file, objectId: undefined };
  const objectId = file.slice(0, ID_LENGTH);
  const isByUpload = isId(objectId) && file[ID_LENGTH] === '-';
  return isByUpload ? [{ jobId, kind, name: file.slice(ID_LENGTH + 1), objectId }, byName] : [byName];
}

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
