import { type FieldViolation, fieldsInvalid, hasReason } from '#libs/kernel/domain-error.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import type { Action, Inventory, Participant, Participation } from '#libs/participant/participant.ts';
import type { KeepDrift } from '../../use-cases/keep-drift.ts';
import type { Participation as IncidentParticipation, Participate } from '../../use-cases/participate.ts';
import type { EndingCounts } from '../../use-cases/ports.ts';
import { type OpenIncidentAction, parseOpenIncidentAction, parseReferences } from './parse-action.ts';

type References = Pick<KeepDrift, 'getEnvironment' | 'getCheck'>;

const NOTHING: EndingCounts = { incidents: 0, payloads: 0, payloadBytes: 0 };

/** IncidentService as a participant of runs: the actions of their steps, and the deletions. */
export const makeIncidentParticipant = (participate: Participate, drift: References): Participant => ({
  actions: { 'open-incident': makeOpenIncident(participate, drift) },

  preview: async (scope) => toInventory(await participate.inspect(scope)),

  softDelete: async (scope, operation) => toGone(await participate.softDelete(scope, operation)),

  restore: async (scope, operation, softDeleteId) => toGone(await participate.restore(scope, operation, softDeleteId)),

  purge: async (scope, operation, limit) => toParticipation(await participate.purge(scope, operation, limit)),

  compensate: async (scope, operation) => toParticipation(await participate.compensate(scope, operation)),

  verify: async (scope) => toInventory(await participate.inspect(scope)),
});

const makeOpenIncident = (participate: Participate, drift: References): Action<OpenIncidentAction> => ({
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
    const { incidentId, hasPayload } = await participate.execute({ tenantId, actor, runId, step, ...action });
    const payloads = hasPayload ? 1 : 0;
    const counts = toCounts(NOTHING, { ...NOTHING, incidents: 1, payloads });
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

const toInventory = ({ sampleIds, ...left }: EndingCounts & { readonly sampleIds: readonly string[] }): Inventory => ({
  counts: toCounts(NOTHING, left),
  samples: sampleIds.map((resourceId) => ({ resourceType: 'incident', resourceId })),
});

const toGone = (incidents: number): readonly ResourceCount[] => toCounts({ ...NOTHING, incidents }, NOTHING);

const toParticipation = ({ progress, sums, left }: IncidentParticipation): Participation => ({
  progress,
  counts: toCounts(sums, left),
  failedItems: [],
});

/** What there was is what went and what is left. */
const toCounts = (went: EndingCounts, left: EndingCounts): readonly ResourceCount[] =>
  [
    { resourceType: 'incident', deleted: went.incidents, left: left.incidents, bytes: 0 },
    {
      resourceType: 'incident_payload',
      deleted: went.payloads,
      left: left.payloads,
      bytes: went.payloadBytes + left.payloadBytes,
    },
  ]
    .map((count) => ({ ...count, found: count.deleted + count.left }))
    .filter(({ found }) => found > 0);
