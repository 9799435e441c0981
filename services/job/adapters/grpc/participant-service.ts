import type { ServiceImpl } from '@connectrpc/connect';
import type { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { parseFields } from '#libs/grpc/parse.ts';
import { parsePurge, parseRestore, parseSoftDelete, parseStepKey, parseVerify } from '#libs/grpc/parse-participant.ts';
import { tenantOf } from '#libs/kernel/caller.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { parseId } from '#libs/kernel/id.ts';
import { NOTHING_REMOVED } from '../../domain/deletion.ts';
import { deletionRefusal } from '../../domain/job.ts';
import type { ExecuteStep } from '../../use-cases/execute-step.ts';
import type { Participate, Participation } from '../../use-cases/participate.ts';
import { toFailedItems, toProgress, toResourceCounts } from './messages.ts';
import { parseCreateJobAction } from './parse-action.ts';

/** JobService as a participant of runs: the actions of their steps, and the deletions. */
export const participantService = (
  participate: Participate,
  executeStep: ExecuteStep,
): Partial<ServiceImpl<typeof ParticipantService>> => ({
  async preview(request, context) {
    const scope = {
      tenantId: tenantOf(callerOf(context)),
      runId: parseId('run_id', request.runId),
      step: undefined,
    };
    const { inventory, stored } = await participate.preview(scope);
    return {
      resourceCounts: toResourceCounts(stored, 'found'),
      blockers: inventory.unfinishedJobs.map(({ jobId, state }) => ({
        reason: 'JOB_NOT_TERMINAL',
        resourceType: 'job',
        resourceId: jobId,
        message: deletionRefusal(state) ?? '',
      })),
      samples: inventory.sampleJobIds.map((resourceId) => ({ resourceType: 'job', resourceId })),
    };
  },

  async checkAction({ runId, action }) {
    parseFields({
      runId: () => parseId('run_id', runId),
      action: () => {
        if (action !== 'create-job') throw fieldInvalid('action', 'must be create-job');
      },
    });
    // A job names nothing that has to be there.
    return {};
  },

  async execute(request, context) {
    const tenantId = tenantOf(callerOf(context));
    const { key, action } = parseFields({
      key: () => parseStepKey(request),
      action: () => {
        if (request.action !== 'create-job') throw fieldInvalid('action', 'must be create-job');
        return parseCreateJobAction(request.input);
      },
    });
    const { operationId: runId, step } = key;
    const outcome = await executeStep({ tenantId, runId, step, action, signal: context.signal });
    if (!outcome) return { progress: toProgress('PARTIAL') };
    const { jobId, state, tasks, assets } = outcome;
    const bytes = assets.reduce((sum, asset) => sum + asset.bytes, 0);
    const { length } = assets;
    return {
      progress: toProgress('COMPLETE'),
      output: { job_id: jobId, state, assets: assets.map((asset) => ({ name: asset.name, size_bytes: asset.bytes })) },
      resourceCounts: toResourceCounts(
        { ...NOTHING_REMOVED, jobs: 1, tasks, artifacts: length, objects: length, bytes },
        'found',
      ),
    };
  },

  async compensate(request, context) {
    const caller = callerOf(context);
    const key = parseStepKey(request);
    const { operationId: runId } = key;
    const scope = { tenantId: tenantOf(caller), runId, step: key.step };
    const operation = { operationId: key.operationId, caller, reason: 'compensation' };
    return toParticipationMessage(await participate.compensate(scope, operation));
  },

  async softDelete(request, context) {
    const caller = callerOf(context);
    const { key, runId, reason } = parseSoftDelete(request);
    const scope = { tenantId: tenantOf(caller), runId, step: undefined };
    const hidden = await participate.softDelete(scope, { operationId: key.operationId, caller, reason });
    return {
      progress: toProgress('COMPLETE'),
      resourceCounts: toResourceCounts({ ...NOTHING_REMOVED, jobs: hidden }, 'removed'),
    };
  },

  async restore(request, context) {
    const caller = callerOf(context);
    const { key, runId, softDeleteId, reason } = parseRestore(request);
    const scope = { tenantId: tenantOf(caller), runId, step: undefined };
    const back = await participate.restore(scope, { operationId: key.operationId, caller, reason }, softDeleteId);
    return {
      progress: toProgress('COMPLETE'),
      resourceCounts: toResourceCounts({ ...NOTHING_REMOVED, jobs: back }, 'removed'),
    };
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
    const scope = { tenantId: tenantOf(callerOf(context)), runId, step };
    const { jobs, objects, samples } = await participate.verify(scope, request.rowsOnly);
    return {
      resourceCounts: toResourceCounts({ ...NOTHING_REMOVED, jobs, objects }, 'found'),
      samples: samples.map((resourceId) => ({ resourceType: 'job', resourceId })),
    };
  },
});

const toParticipationMessage = ({ progress, counts, failedKeys, isQueued }: Participation) => ({
  progress: toProgress(progress),
  resourceCounts: toResourceCounts(counts, 'removed'),
  failedItems: toFailedItems(failedKeys),
  queued: isQueued,
});
