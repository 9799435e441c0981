import type { MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import { Progress, type ResourceCountSchema } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { parseFields } from '#libs/grpc/parse.ts';
import { parsePurge, parseRestore, parseSoftDelete, parseStepKey, parseVerify } from '#libs/grpc/parse-participant.ts';
import { tenantOf } from '#libs/kernel/caller.ts';
import { type FieldViolation, fieldInvalid, fieldsInvalid, hasReason } from '#libs/kernel/domain-error.ts';
import { parseId } from '#libs/kernel/id.ts';
import type { KeepDrift } from '../../use-cases/keep-drift.ts';
import type { Participate, Participation } from '../../use-cases/participate.ts';
import type { EndingCounts } from '../../use-cases/ports.ts';
import { toResourceCount } from './messages.ts';
import { parseOpenIncidentAction, parseReferences } from './parse-action.ts';

const NOTHING: EndingCounts = { incidents: 0, payloads: 0, payloadBytes: 0 };

/** IncidentService as a participant of runs: the actions of their steps, and the deletions. */
export const participantService = (
  participate: Participate,
  drift: Pick<KeepDrift, 'getEnvironment' | 'getCheck'>,
): Partial<ServiceImpl<typeof ParticipantService>> => ({
  async preview(request, context) {
    const runId = parseId('run_id', request.runId);
    const scope = { tenantId: tenantOf(callerOf(context)), runId, step: undefined };
    const { sampleIds, ...left } = await participate.inspect(scope);
    return { resourceCounts: toResourceCounts(NOTHING, left), samples: sampleIds.map(toSample) };
  },

  async checkAction(request, context) {
    const tenantId = tenantOf(callerOf(context));
    const { input } = parseFields({
      runId: () => parseId('run_id', request.runId),
      input: () => {
        if (request.action !== 'open-incident') throw fieldInvalid('action', 'must be open-incident');
        return parseReferences(request.input);
      },
    });
    const { environmentId, driftCheckId } = input;
    const violations = await Promise.all([
      environmentId === undefined
        ? undefined
        : drift
            .getEnvironment(tenantId, environmentId)
            .then(
              () => undefined,
              unlessMissing('ENVIRONMENT_NOT_FOUND', 'input.environment_id', 'names no environment'),
            ),
      driftCheckId === undefined
        ? undefined
        : drift
            .getCheck(tenantId, driftCheckId)
            .then(
              () => undefined,
              unlessMissing('DRIFT_CHECK_NOT_FOUND', 'input.drift_check_id', 'names no drift check'),
            ),
    ]);
    const missing = violations.filter((violation) => violation !== undefined);
    if (missing.length > 0) throw fieldsInvalid(missing);
    return {};
  },

  async execute(request, context) {
    const caller = callerOf(context);
    const { key, input } = parseFields({
      key: () => parseStepKey(request),
      input: () => {
        if (request.action !== 'open-incident') throw fieldInvalid('action', 'must be open-incident');
        return parseOpenIncidentAction(request.input);
      },
    });
    const { operationId: runId, step } = key;
    const { incidentId, hasPayload } = await participate.execute({
      tenantId: tenantOf(caller),
      actor: caller.actor,
      runId,
      step,
      ...input,
    });
    const one = { found: 1, deleted: 0, left: 1 };
    return {
      progress: Progress.COMPLETE,
      output: { incident_id: incidentId },
      resourceCounts: [
        toResourceCount('incident', one),
        ...(hasPayload ? [toResourceCount('incident_payload', one)] : []),
      ],
    };
  },

  async compensate(request, context) {
    const caller = callerOf(context);
    const { operationId: runId, step } = parseStepKey(request);
    const scope = { tenantId: tenantOf(caller), runId, step };
    return toParticipationMessage(
      await participate.compensate(scope, { operationId: runId, caller, reason: 'compensation' }),
    );
  },

  async softDelete(request, context) {
    const caller = callerOf(context);
    const { key, runId, reason } = parseSoftDelete(request);
    const scope = { tenantId: tenantOf(caller), runId, step: undefined };
    const incidents = await participate.softDelete(scope, { operationId: key.operationId, caller, reason });
    return { progress: Progress.COMPLETE, resourceCounts: toResourceCounts({ ...NOTHING, incidents }, NOTHING) };
  },

  async restore(request, context) {
    const caller = callerOf(context);
    const { key, runId, softDeleteId, reason } = parseRestore(request);
    const scope = { tenantId: tenantOf(caller), runId, step: undefined };
    const operation = { operationId: key.operationId, caller, reason };
    const incidents = await participate.restore(scope, operation, softDeleteId);
    return { progress: Progress.COMPLETE, resourceCounts: toResourceCounts({ ...NOTHING, incidents }, NOTHING) };
  },

  async purge(request, context) {
    const caller = callerOf(context);
    const { key, runId, limit, reason } = parsePurge(request);
    const scope = { tenantId: tenantOf(caller), runId, step: undefined };
    const operation = { operationId: key.operationId, caller, reason };
    return toParticipationMessage(await participate.purge(scope, operation, limit));
  },

  async verify(request, context) {
    const { runId, step } = parseVerify(request);
    const { sampleIds, ...left } = await participate.inspect({ tenantId: tenantOf(callerOf(context)), runId, step });
    return { resourceCounts: toResourceCounts(NOTHING, left), samples: sampleIds.map(toSample) };
  },
});

/** Turns the error of a thing that is not there into the violation of the field that names it; throws all others. */
const unlessMissing =
  (reason: string, field: string, description: string) =>
  (error: unknown): FieldViolation => {
    if (hasReason(error, reason)) return { field, description };
    throw error;
  };

const toParticipationMessage = ({ progress, sums, left }: Participation) => ({
  progress: Progress[progress],
  resourceCounts: toResourceCounts(sums, left),
});

/** What there was is what went and what is left. */
function toResourceCounts(went: EndingCounts, left: EndingCounts): MessageInitShape<typeof ResourceCountSchema>[] {
  const rows = [
    { type: 'incident', went: went.incidents, left: left.incidents, bytes: 0 },
    {
      type: 'incident_payload',
      went: went.payloads,
      left: left.payloads,
      bytes: went.payloadBytes + left.payloadBytes,
    },
  ];
  return rows
    .filter((row) => row.went + row.left > 0)
    .map((row) =>
      toResourceCount(row.type, {
        found: row.went + row.left,
        deleted: row.went,
        left: row.left,
        bytes: row.bytes,
      }),
    );
}

const toSample = (resourceId: string) => ({ resourceType: 'incident', resourceId });
