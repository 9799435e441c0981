import { DomainError } from '#libs/kernel/domain-error.ts';

/** The run was purged, or its step compensated: what would be made now would be left. */
export const stepCompensated = (runId: string, step: string): DomainError =>
  new DomainError(
    'failed-precondition',
    'STEP_COMPENSATED',
    step === '' ? `Run ${runId} takes no more effects.` : `Step ${step} of run ${runId} takes no more effects.`,
    { run_id: runId, step },
  );

/** The step has had another action, or the same with another input. */
export const stepKeyReused = (runId: string, step: string): DomainError =>
  new DomainError(
    'invalid-argument',
    'REQUEST_ID_REUSED',
    `Step ${step} of run ${runId} was used before with another action or input.`,
    { run_id: runId, step },
    { violations: [{ field: 'key', description: 'was used before with another action or input' }] },
  );
