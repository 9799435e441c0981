import { type FieldViolation, fieldsInvalid, hasReason } from '#libs/kernel/domain-error.ts';
import type { Action } from '#libs/participant/action.ts';
import { leftCount } from '#libs/participant/counts.ts';
import type { KeepDrift } from '../../use-cases/keep-drift.ts';
import type { OpenForStep } from '../../use-cases/participate.ts';
import { type OpenIncidentAction, parseOpenIncidentAction, parseReferences } from './parse-action.ts';

type References = Pick<KeepDrift, 'getEnvironment' | 'getCheck'>;

/** What the steps of runs can have done here. */
export const makeIncidentActions = (open: OpenForStep, drift: References): Readonly<Record<string, Action>> => ({
  'open-incident': makeOpenIncident(open, drift),
});

const makeOpenIncident = (open: OpenForStep, drift: References): Action<OpenIncidentAction> => ({
  parse: parseOpenIncidentAction,

  async check(tenantId, given) {
    const { environmentId, driftCheckId } = parseReferences(given);
    const violations = await Promise.all([
      environmentId &&
        missing(
          drift.getEnvironment(tenantId, environmentId),
          'ENVIRONMENT_NOT_FOUND',
          'input.environment_id',
          'names no environment',
        ),
      driftCheckId &&
        missing(
          drift.getCheck(tenantId, driftCheckId),
          'DRIFT_CHECK_NOT_FOUND',
          'input.drift_check_id',
          'names no drift check',
        ),
    ]);
    const found = violations.filter((violation) => typeof violation === 'object');
    if (found.length > 0) throw fieldsInvalid(found);
  },

  async execute({ tenantId, runId, step, caller: { actor } }, action) {
    const { incidentId, hasPayload } = await open({ tenantId, actor, runId, step, ...action });
    const counts = [leftCount('incident', 1), ...(hasPayload ? [leftCount('incident_payload', 1)] : [])];
    return { output: { incident_id: incidentId }, counts };
  },
});

/** The violation of the field that names something which is not there; throws what else went wrong. */
async function missing(
  asked: Promise<unknown>,
  reason: string,
  field: string,
  description: string,
): Promise<FieldViolation | undefined> {
  try {
    await asked;
    return undefined;
  } catch (error) {
    if (hasReason(error, reason)) return { field, description };
    throw error;
  }
}
