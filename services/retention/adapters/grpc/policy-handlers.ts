import type { MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import type { ExecutionPolicySchema } from '#gen/lethe/retention/v1/retention_pb.ts';
import type { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { parseFields, parseInteger, parseOptionalText } from '#libs/grpc/parse.ts';
import { toOptionalTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import {
  DEFAULT_EXECUTION_POLICY,
  type ExecutionPolicy,
  executionPolicyNotFound,
} from '../../domain/execution-policy.ts';
import type { KeepExecutionPolicies } from '../../use-cases/keep-execution-policies.ts';
import { namedTenant } from './request-tenant.ts';

const MAX_RETENTION_DAYS = 36_500;
const MAX_TO_KEEP = 1_000_000_000;

/** Tenants' execution policies. */
export const policyHandlers = (keepPolicies: KeepExecutionPolicies): Partial<ServiceImpl<typeof RetentionService>> => ({
  async upsertExecutionPolicy(request, context) {
    const caller = callerOf(context);
    const tenantId = namedTenant(caller, request.tenantId, executionPolicyNotFound);
    const policy = parseFields({
      retentionDays: () =>
        parseInteger('retention_days', request.retentionDays ?? DEFAULT_EXECUTION_POLICY.retentionDays, {
          min: 1,
          max: MAX_RETENTION_DAYS,
        }),
      minToKeep: () =>
        parseInteger('min_executions_to_keep', request.minExecutionsToKeep ?? DEFAULT_EXECUTION_POLICY.minToKeep, {
          min: 0,
          max: MAX_TO_KEEP,
        }),
      staleAfterDays: () =>
        parseInteger('stale_after_days', request.staleAfterDays ?? DEFAULT_EXECUTION_POLICY.staleAfterDays, {
          min: 0,
          max: MAX_RETENTION_DAYS,
        }),
      etag: () => parseOptionalText('etag', request.etag, 100) ?? '',
    });
    const isEnabled = request.isEnabled ?? DEFAULT_EXECUTION_POLICY.isEnabled;
    const { actor, subject } = caller;
    const kept = await keepPolicies.upsert({ ...policy, tenantId, isEnabled, actor, subject });
    return { executionPolicy: toPolicyMessage(kept) };
  },

  async getExecutionPolicy(request, context) {
    const tenantId = namedTenant(callerOf(context), request.tenantId, executionPolicyNotFound);
    return { executionPolicy: toPolicyMessage(await keepPolicies.get(tenantId)) };
  },
});

function toPolicyMessage(policy: ExecutionPolicy): MessageInitShape<typeof ExecutionPolicySchema> {
  const lastCleanupTime = toOptionalTimestamp(policy.lastCleanupAt);
  return {
    tenantId: policy.tenantId,
    retentionDays: policy.retentionDays,
    isEnabled: policy.isEnabled,
    minExecutionsToKeep: BigInt(policy.minToKeep),
    ...(lastCleanupTime ? { lastCleanupTime } : {}),
    lastCleanupDeletedCount: BigInt(policy.lastCleanupDeleted),
    createTime: toTimestamp(policy.createdAt),
    updateTime: toTimestamp(policy.updatedAt),
    staleAfterDays: policy.staleAfterDays,
    etag: `"${policy.version}"`,
  };
}
