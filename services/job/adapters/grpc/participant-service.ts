import type { ServiceImpl } from '@connectrpc/connect';
import type { ParticipantService } from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { parseFields, parseInteger, parseReason, parseRequiredReason } from '#libs/grpc/parse.ts';
import { tenantOf } from '#libs/kernel/caller.ts';
import { parseId } from '#libs/kernel/id.ts';
import { NOTHING_REMOVED } from '../../domain/deletion.ts';
import { deletionRefusal } from '../../domain/job.ts';
import type { Participate } from '../../use-cases/participate.ts';
import { toFailedItems, toProgress, toResourceCounts } from './messages.ts';

const DEFAULT_LIMIT = 10_000;
const MAX_LIMIT = 100_000;
// A job is some ten rows and objects; the contract's limit counts those.
const ITEMS_PER_JOB = 10;

/** JobService as a participant of the deletions of runs. */
export const participantService = (participate: Participate): Partial<ServiceImpl<typeof ParticipantService>> => ({
  async preview(request, context) {
    const scope = scopeOf(tenantOf(callerOf(context)), request.runId);
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

  async compensate(request, context) {
    const caller = callerOf(context);
    const { operationId, step } = parseKey(request.key);
    const scope = { ...scopeOf(tenantOf(caller), request.runId), step: step || undefined };
    const { progress, counts, failedKeys } = await participate.compensate(scope, operationId, caller);
    return {
      progress: toProgress(progress),
      resourceCounts: toResourceCounts(counts, 'removed'),
      failedItems: toFailedItems(failedKeys),
    };
  },

  async softDelete(request, context) {
    const caller = callerOf(context);
    const { operationId } = parseKey(request.key);
    const scope = scopeOf(tenantOf(caller), request.runId);
    const hidden = await participate.softDelete(scope, operationId, caller, parseReason(request.reason));
    return {
      progress: toProgress('COMPLETE'),
      resourceCounts: toResourceCounts({ ...NOTHING_REMOVED, jobs: hidden }, 'removed'),
    };
  },

  async restore(request, context) {
    parseKey(request.key);
    const scope = scopeOf(tenantOf(callerOf(context)), request.runId);
    const softDeleteId = parseId('soft_delete_operation_id', request.softDeleteOperationId);
    const back = await participate.restore(scope, softDeleteId);
    return {
      progress: toProgress('COMPLETE'),
      resourceCounts: toResourceCounts({ ...NOTHING_REMOVED, jobs: back }, 'removed'),
    };
  },

  async purge(request, context) {
    const caller = callerOf(context);
    const { operationId } = parseKey(request.key);
    const { limit, reason } = parseFields({
      limit: () => parseInteger('limit', request.limit || DEFAULT_LIMIT, { min: 1, max: MAX_LIMIT }),
      reason: () => parseRequiredReason(request.reason),
    });
    const scope = scopeOf(tenantOf(caller), request.runId);
    const jobs = Math.max(1, Math.floor(limit / ITEMS_PER_JOB));
    const { progress, counts, failedKeys } = await participate.purge(scope, operationId, caller, reason, jobs);
    return {
      progress: toProgress(progress),
      resourceCounts: toResourceCounts(counts, 'removed'),
      failedItems: toFailedItems(failedKeys),
    };
  },

  async verify(request, context) {
    const scope = { ...scopeOf(tenantOf(callerOf(context)), request.runId), step: request.step || undefined };
    const { jobs, objects, samples } = await participate.verify(scope);
    return {
      resourceCounts: toResourceCounts({ ...NOTHING_REMOVED, jobs, objects }, 'found'),
      samples: samples.map((resourceId) => ({ resourceType: 'job', resourceId })),
    };
  },
});

const scopeOf = (tenantId: string, runId: string) => ({ tenantId, runId: parseId('run_id', runId), step: undefined });

const parseKey = (key: { operationId: string; step: string } | undefined): { operationId: string; step: string } => ({
  operationId: parseId('key.operation_id', key?.operationId ?? ''),
  step: key?.step ?? '',
});
