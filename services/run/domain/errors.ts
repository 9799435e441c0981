import { DomainError, fieldInvalid } from '#libs/kernel/domain-error.ts';

/** Unknown, purged, hidden or another tenant's: one answer, so that nobody learns which. */
export const runNotFound = (): DomainError => new DomainError('not-found', 'RUN_NOT_FOUND', 'Run not found.');

/** Unknown, or another tenant's. */
export const deletionNotFound = (): DomainError =>
  new DomainError('not-found', 'DELETION_NOT_FOUND', 'Deletion not found.');

/** The run still works; what it would do next could not be taken along. */
export const runNotTerminal = (state: string): DomainError =>
  new DomainError('failed-precondition', 'RUN_NOT_TERMINAL', `The run is ${state}; end it first.`, { state });

/** The run has ended. */
export const runNotRunning = (state: string): DomainError =>
  new DomainError('failed-precondition', 'RUN_NOT_RUNNING', `The run is ${state}.`, { state });

/** The step stands where this state cannot follow. */
export const stepTransitionIllegal = (name: string, from: string, to: string): DomainError =>
  new DomainError('failed-precondition', 'STEP_TRANSITION_ILLEGAL', `Step ${name} is ${from} and cannot be ${to}.`, {
    name,
    from,
    to,
  });

/** The run has as many steps as it may. */
export const tooManySteps = (most: number): DomainError =>
  new DomainError('failed-precondition', 'TOO_MANY_STEPS', `A run has at most ${most} steps.`, { most: String(most) });

/** The participant, which `metadata.dependency` names, does not answer or does not come on. */
export const participantUnavailable = (name: string, cause?: unknown): DomainError =>
  new DomainError(
    'unavailable',
    'DEPENDENCY_UNAVAILABLE',
    `Participant ${name} is unavailable; try again later.`,
    { dependency: name },
    { retryAfterMs: 1_000, cause },
  );

/** Nobody of that name takes part in cascades. */
export const participantUnknown = (name: string): DomainError =>
  new DomainError(
    'failed-precondition',
    'PARTICIPANT_UNKNOWN',
    `Participant ${name} is not configured; configure it, or retire it if its data is gone.`,
    { name },
  );

/** This installation never had a participant of that name. */
export const participantNotFound = (name: string): DomainError =>
  new DomainError('not-found', 'PARTICIPANT_NOT_FOUND', `There was never a participant ${name}.`, { name });

/** The participant answers from another data set than the one that is known: what it says of a run may not be so. */
export const participantChanged = (name: string): DomainError =>
  new DomainError(
    'failed-precondition',
    'PARTICIPANT_CHANGED',
    `Participant ${name} answers from another data set than before; point it at the right one, or confirm it.`,
    { name },
  );

/** The participant is configured, so it cannot be retired. */
export const participantConfigured = (name: string): DomainError =>
  new DomainError(
    'failed-precondition',
    'PARTICIPANT_CONFIGURED',
    `Participant ${name} is configured; remove it from LETHE_PARTICIPANTS first.`,
    { name },
  );

/** Somebody changed the run since the etag was read. */
export const etagMismatch = (etag: string): DomainError =>
  new DomainError('aborted', 'ETAG_MISMATCH', 'The run has changed since; read it again.', { etag });

/** A participant has something that forbids the deletion; the metadata names it. */
export const blockedBy = (blocker: {
  readonly reason: string;
  readonly message: string;
  readonly resourceType: string;
  readonly resourceId: string;
}): DomainError =>
  new DomainError('failed-precondition', blocker.reason, blocker.message, {
    [`${blocker.resourceType}_id`]: blocker.resourceId,
  });

/** Only whoever has this role may do that. */
export const roleTooLow = (role: string, message: string): DomainError =>
  new DomainError('permission-denied', 'ROLE_TOO_LOW', message, { role });

/** The run is younger than the operator allows runs to be purged. */
export const retentionGuard = (purgeableAt: Temporal.Instant): DomainError =>
  new DomainError('failed-precondition', 'RETENTION_GUARD', `The run can be purged from ${purgeableAt}.`, {
    purgeable_time: purgeableAt.toString(),
  });

/** The deletion is over, so there is nothing to drive. */
export const deletionFinished = (state: string): DomainError =>
  new DomainError('failed-precondition', 'DELETION_FINISHED', `The deletion is ${state}.`, { state });

/** Another worker has claimed the deletion. */
export const leaseLost = (): DomainError =>
  new DomainError('aborted', 'LEASE_LOST', 'The lease on this deletion is another worker’s.');

/** The run is not parked, so there is nothing to drive. */
export const runNotParked = (state: string): DomainError =>
  new DomainError('failed-precondition', 'RUN_NOT_PARKED', `The run is ${state} and not parked.`, { state });

/** Lethe does no workflow of that name. */
export const workflowNotFound = (name: string): DomainError =>
  new DomainError('not-found', 'WORKFLOW_NOT_FOUND', `There is no workflow ${name}.`, { name });

/** Lethe does the run itself, so its caller has no say in its steps. */
export const runDrivenByEngine = (): DomainError =>
  new DomainError('failed-precondition', 'RUN_DRIVEN_BY_ENGINE', 'Lethe does this run itself; cancel it instead.');

/** A step of another version of the workflow than this one; a replica of that version can do it. */
export const stepUnknown = (workflow: string, step: string): DomainError =>
  new DomainError('unavailable', 'STEP_UNKNOWN', `This version has no step ${step} of workflow ${workflow}.`, {
    workflow,
    step,
  });

/** Every worker that took a step up vanished without a word. */
export const workerLost = (): DomainError =>
  new DomainError('aborted', 'WORKER_LOST', 'Every worker that took this step up vanished.');

/** The participant has no action of that name. */
export const actionUnknown = (action: string): DomainError => fieldInvalid('action', `is not ${action} here`);

/**
 * Passes for a place that a participant has not named before in the same look, and for none: DEPENDENCY_UNAVAILABLE, or it
 * would be asked for ever.
 */
export function assertGoesOn(participant: string, places: Set<string>, cursor: Uint8Array | undefined): void {
  if (cursor === undefined || cursor.length === 0) return;
  const place = cursor.join();
  if (places.has(place))
    throw participantUnavailable(participant, new Error('it goes back to a part that it has told'));
  places.add(place);
}
