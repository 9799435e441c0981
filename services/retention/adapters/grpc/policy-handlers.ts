import type { MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import { ExecutionPolicySchema } from '#gen/lethe/retention/v1/retention_pb.ts';
import type { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { fitPage } from '#libs/grpc/fit-page.ts';
import { optional } from '#libs/grpc/optional.ts';
import { parseEtag, parseFields, parseInteger } from '#libs/grpc/parse.ts';
import { toOptionalTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { decodePageToken, KEY, type PageScope, parsePageSize } from '#libs/kernel/page.ts';
import {
  DEFAULT_EXECUTION_POLICY,
  type ExecutionPolicy,
  executionPolicyNotFound,
} from '../../domain/execution-policy.ts';
import type { KeepExecutionPolicies } from '../../use-cases/keep-execution-policies.ts';
import { toForecastMessage } from './messages.ts';
import { mayName, namedTenant, requiredTenant, wantedTenant } from './request-tenant.ts';

const MAX_RETENTION_DAYS = 36_500;
const MAX_TO_KEEP = 1_000_000_000;

/** Tenants' execution policies. */
export const policyHandlers = (keepPolicies: KeepExecutionPolicies): Partial<ServiceImpl<typeof RetentionService>> => ({
  async upsertExecutionPolicy(request, context) {
    const caller = callerOf(context);
    const policy = parseFields({
      tenantId: () => requiredTenant(caller, request.tenantId),
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
      etag: () => parseEtag(request.etag),
    });
    const tenantId = namedTenant(context, request.tenantId, executionPolicyNotFound);
    const isEnabled = request.isEnabled ?? DEFAULT_EXECUTION_POLICY.isEnabled;
    const { actor, subject } = caller;
    const wanted = { ...policy, tenantId, isEnabled, actor, subject };
    if (!request.validateOnly) return { executionPolicy: toPolicyMessage(await keepPolicies.upsert(wanted)) };
    const { policy: previewed, forecast } = await keepPolicies.preview(wanted);
    return {
      executionPolicy: toPolicyMessage(previewed),
      ...optional('forecast', forecast && toForecastMessage(forecast)),
    };
  },

  async deleteExecutionPolicy(request, context) {
    const caller = callerOf(context);
    const { etag, tenantId } = parseFields({
      etag: () => parseEtag(request.etag),
      tenantId: () => requiredTenant(caller, request.tenantId),
    });
    // Another tenant's policy does not exist to this caller, and one that does not exist is no error.
    if (!mayName(context, tenantId)) return {};
    const { actor, subject } = caller;
    await keepPolicies.remove({ tenantId, etag, actor, subject });
    return {};
  },

  async listExecutionPolicies(request, context) {
    const caller = callerOf(context);
    const limit = parsePageSize(request.pageSize, request.pageToken);
    const tenantId = wantedTenant(caller, '');
    const scope: PageScope = { rpc: 'ListExecutionPolicies', tenantId: tenantId ?? '', filter: {} };
    const page = await keepPolicies.list(tenantId, {
      limit,
      after: decodePageToken(scope, request.pageToken, [KEY.text]),
    });
    const keyOf = (policy: ExecutionPolicy) => [policy.tenantId];
    const { messages, nextPageToken } = fitPage(scope, ExecutionPolicySchema, page, toPolicyMessage, keyOf);
    return { executionPolicies: messages, nextPageToken };
  },

  async getExecutionPolicy(request, context) {
    const tenantId = namedTenant(context, request.tenantId, executionPolicyNotFound);
    return { executionPolicy: toPolicyMessage(await keepPolicies.get(tenantId)) };
  },
});

const toPolicyMessage = (policy: ExecutionPolicy): MessageInitShape<typeof ExecutionPolicySchema> => ({
  tenantId: policy.tenantId,
  retentionDays: policy.retentionDays,
  isEnabled: policy.isEnabled,
  minExecutionsToKeep: BigInt(policy.minToKeep),
  ...optional('lastCleanupTime', toOptionalTimestamp(policy.lastCleanupAt)),
  lastCleanupDeletedCount: BigInt(policy.lastCleanupDeleted),
  createTime: toTimestamp(policy.createdAt),
  updateTime: toTimestamp(policy.updatedAt),
  staleAfterDays: policy.staleAfterDays,
  etag: `"${policy.version}"`,
});
