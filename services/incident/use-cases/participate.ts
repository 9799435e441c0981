import { crashPoint } from '#libs/durable/crash-point.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import { actionRefused } from '../domain/incident.ts';
import type { StepAction, StepActions } from './ports.ts';

/**
 * Opens the step's incident once, however often it is asked for. STEP_COMPENSATED, RUN_DELETED, REQUEST_ID_REUSED, and
 * ACTION_REFUSED where it names an environment or a check that is not there.
 */
export type OpenForStep = (
  action: Omit<StepAction, 'fingerprint'>,
) => Promise<{ readonly incidentId: string; readonly hasPayload: boolean }>;

/** Makes OpenForStep. */
export const makeOpenForStep =
  (stepActions: StepActions): OpenForStep =>
  async (action) => {
    const { tenantId: _, runId: __, step: ___, actor: ____, ...input } = action;
    try {
      const print = fingerprint({ action: 'open-incident', ...input });
      const outcome = await stepActions.open({ ...action, fingerprint: print });
      crashPoint('incident.execute.after-outcome');
      return outcome;
    } catch (error) {
      throw error instanceof DomainError && error.kind === 'not-found' ? actionRefused(error) : error;
    }
  };
