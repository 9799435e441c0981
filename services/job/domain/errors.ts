import { DomainError } from '#libs/kernel/domain-error.ts';

/** Unknown, deleted, hidden or another tenant's: one answer, so that nobody learns which. */
export const jobNotFound = (): DomainError => new DomainError('not-found', 'JOB_NOT_FOUND', 'Job not found.');

/** The artifact is not stored. */
export const artifactNotFound = (): DomainError =>
  new DomainError('not-found', 'ARTIFACT_NOT_FOUND', 'Artifact not found.');

/** The object's bytes are not the ones that were uploaded. The stream fails instead of ending. */
export const artifactCorrupt = (): DomainError =>
  new DomainError(
    'data-loss',
    'ARTIFACT_CORRUPT',
    'The stored object differs in size or digest from what was uploaded; do not use these bytes.',
  );

/** The object store is not the one that this database's installation uses. `why` is a sentence. */
export const storeNotOurs = (why: string): DomainError =>
  new DomainError(
    'failed-precondition',
    'STORE_NOT_OURS',
    `The object store is not this installation's. ${why} Nothing is removed from it.`,
  );

/** The job has no task of that name. */
export const taskNotFound = (): DomainError => new DomainError('not-found', 'TASK_NOT_FOUND', 'Task not found.');

/** Unknown, or another tenant's. */
export const deletionNotFound = (): DomainError =>
  new DomainError('not-found', 'DELETION_NOT_FOUND', 'Deletion not found.');

/** The deletion is over, so there is nothing to drive. */
export const deletionFinished = (state: string): DomainError =>
  new DomainError('failed-precondition', 'DELETION_FINISHED', `The deletion is ${state}.`, { state });

/** The worker no longer holds the job: its lease ran out, or another has claimed it. */
export const leaseLost = (): DomainError =>
  new DomainError('aborted', 'LEASE_LOST', 'The lease on this job ran out or is another worker’s; stop working on it.');

/** The table of transitions has no such step. */
export const jobTransitionIllegal = (from: string, to: string): DomainError =>
  new DomainError('failed-precondition', 'JOB_TRANSITION_ILLEGAL', `A ${from} job cannot become ${to}.`, { from, to });

/** A task moves forward only. */
export const taskTransitionIllegal = (from: string, to: string): DomainError =>
  new DomainError('failed-precondition', 'TASK_TRANSITION_ILLEGAL', `A ${from} task cannot become ${to}.`, {
    from,
    to,
  });

/** The job takes no artifact of this kind from this caller in this state. */
export const stateForbidsUpload = (state: string, kind: string): DomainError =>
  new DomainError(
    'failed-precondition',
    'JOB_STATE_FORBIDS_UPLOAD',
    `A ${state} job takes no ${kind} from this caller.`,
    {
      state,
      kind,
    },
  );

/** Somebody changed the job since the etag was read. */
export const etagMismatch = (etag: string): DomainError =>
  new DomainError('aborted', 'ETAG_MISMATCH', 'The job has changed since; read it again.', { etag });

/** The action of a step can never succeed; it fails the step. */
export const actionRefused = (message: string): DomainError =>
  new DomainError('failed-precondition', 'ACTION_REFUSED', message);
