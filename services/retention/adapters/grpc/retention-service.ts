import { create, type MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import type { ResourceCountSchema } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import {
  type ExecutionPolicySchema,
  type HoldSchema,
  Plan as PlanMessage,
  PurgeItemState,
  PurgeState,
  PurgeTrigger,
  type RetentionPurgeItemSchema,
  type RetentionPurgeSchema,
  type RetentionWindowSchema,
  RetentionSubject as SubjectMessage,
  type TenantPlanSchema,
  WindowKind,
  WindowSource,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import { PurgeProgressSchema, type RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import {
  parseEnum,
  parseFields,
  parseInteger,
  parseOptionalEnum,
  parseOptionalText,
  parseReason,
  parseRequestId,
  parseRequiredReason,
} from '#libs/grpc/parse.ts';
import { parseTimestamp, toOptionalTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { parseId, parseTenantId } from '#libs/kernel/id.ts';
import { decodePageToken, encodePageToken, type PageScope, parsePageSize } from '#libs/kernel/page.ts';
import type { Hold } from '../../domain/ceiling.ts';
import {
  DEFAULT_EXECUTION_POLICY,
  type ExecutionPolicy,
  executionPolicyNotFound,
} from '../../domain/execution-policy.ts';
import {
  PURGE_STATES,
  type PurgeState as PurgeStateName,
  type ResourceCount,
  type RetentionPurge,
  type RetentionPurgeItem,
  sumCounts,
  tenantPlanNotFound,
} from '../../domain/purge.ts';
import { PLANS, type Plan, type ResolvedWindow, type TenantPlan } from '../../domain/windows.ts';
import type { KeepExecutionPolicies } from '../../use-cases/keep-execution-policies.ts';
import type { KeepPlans } from '../../use-cases/keep-plans.ts';
import type { OrderPurge, PurgeEvent } from '../../use-cases/order-purge.ts';

const PLAN_OF: ReadonlyMap<number, Plan> = new Map(PLANS.map((plan) => [PlanMessage[plan], plan]));
const STATE_OF: ReadonlyMap<number, PurgeStateName> = new Map(PURGE_STATES.map((state) => [PurgeState[state], state]));
const MAX_TENANTS = 1_000;
const MAX_RETENTION_DAYS = 36_500;
const MAX_TO_KEEP = 1_000_000_000;

/** RetentionService over gRPC: a request becomes a command, its outcome a message. */
export const retentionService = (
  keepPlans: KeepPlans,
  keepPolicies: KeepExecutionPolicies,
  orderPurge: OrderPurge,
): Partial<ServiceImpl<typeof RetentionService>> => ({
  async setTenantPlan(request, context) {
    const command = parseFields({
      tenantId: () => parseTenantId('tenant_id', request.tenantId),
      plan: () => parseEnum('plan', request.plan, PLAN_OF),
      effectiveAt: () => parseTimestamp('effective_time', request.effectiveTime),
      reason: () => parseReason(request.reason),
      etag: () => parseOptionalText('etag', request.etag, 100) ?? '',
      requestId: () => parseRequestId(request.requestId),
    });
    const { actor, subject } = callerOf(context);
    return { tenantPlan: toPlanMessage(await keepPlans.set({ ...command, actor, subject })) };
  },

  async getTenantPlan(request, context) {
    return { tenantPlan: toPlanMessage(await keepPlans.get(ownTenant(callerOf(context), request.tenantId))) };
  },

  async listTenantPlans(request, context) {
    const caller = callerOf(context);
    const { limit, plan, tenantId, showHistory } = parseFields({
      limit: () => parsePageSize(request.pageSize),
      plan: () => parseOptionalEnum('plan', request.plan, PLAN_OF),
      tenantId: () => wantedTenant(caller, request.tenantId),
      showHistory: () => {
        const isOne = caller.tenantId !== undefined || request.tenantId !== '';
        if (request.showHistory && !isOne) throw fieldInvalid('show_history', 'is for one tenant; name it');
        return request.showHistory;
      },
    });
    // Of a tenant that is not the caller's nothing is told, not even whether there is one.
    if (tenantId !== undefined && !mayName(caller, tenantId)) return { tenantPlans: [], nextPageToken: '' };
    const filter = { tenantId: tenantId ?? '', plan, showHistory };
    const scope: PageScope = { rpc: 'ListTenantPlans', tenantId: caller.tenantId ?? '', filter };
    const after = decodePageToken(scope, request.pageToken, 1);
    const page = await keepPlans.list(tenantId === undefined ? { tenantId, plan } : { tenantId, plan, showHistory }, {
      limit,
      after,
    });
    const nextPageToken = page.next ? encodePageToken(scope, page.next) : '';
    return { tenantPlans: page.items.map(toPlanMessage), nextPageToken };
  },

  async resolveRetention(request, context) {
    const tenantId = ownTenant(callerOf(context), request.tenantId);
    const { current, windows, at } = await keepPlans.resolve(tenantId, parseTimestamp('at_time', request.atTime));
    return {
      tenantId,
      ...(current ? { plan: PlanMessage[current.plan], planVersion: BigInt(current.version) } : {}),
      windows: windows.map(toWindowMessage),
      resolveTime: toTimestamp(at),
    };
  },

  async upsertExecutionPolicy(request, context) {
    const caller = callerOf(context);
    const tenantId = ownTenant(caller, request.tenantId);
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

  async *purge(request, context) {
    const caller = callerOf(context);
    const command = parseFields({
      tenantIds: () => {
        if (request.allTenants !== (request.tenantIds.length === 0)) {
          throw fieldInvalid('tenant_ids', 'or all_tenants must be given, not both');
        }
        if (request.allTenants) return undefined;
        if (request.tenantIds.length > MAX_TENANTS) throw fieldInvalid('tenant_ids', `must be at most ${MAX_TENANTS}`);
        const ids = request.tenantIds.map((id, index) => parseTenantId(`tenant_ids[${index}]`, id));
        if (new Set(ids).size !== ids.length) throw fieldInvalid('tenant_ids', 'must not name a tenant twice');
        return ids.toSorted();
      },
      requestId: () => parseRequestId(request.requestId),
      reason: () => parseReason(request.reason),
    });
    const { validateOnly } = request;
    const { id } = await orderPurge.order({ ...command, caller, validateOnly, trigger: 'PURGE' });
    for await (const event of orderPurge.watch(id, context.signal)) yield toProgressMessage(event);
  },

  async purgeNow(request, context) {
    const caller = callerOf(context);
    const { requestId, reason } = parseFields({
      requestId: () => parseRequestId(request.requestId),
      reason: () => parseReason(request.reason),
    });
    const tenantId = ownTenant(caller, request.tenantId);
    const { validateOnly } = request;
    const command = { caller, tenantIds: [tenantId], trigger: 'PURGE_NOW', validateOnly, requestId, reason } as const;
    const purge = await orderPurge.order(command);
    const { items } = await orderPurge.get({ ...caller, tenantId }, purge.id, { limit: 1, after: undefined });
    const item = items.items[0];
    return { purge: toPurgeMessage(purge), ...(item ? { item: toItemMessage(item) } : {}) };
  },

  async getPurge(request, context) {
    const caller = callerOf(context);
    const { purgeId, limit } = parseFields({
      purgeId: () => parseId('purge_id', request.purgeId),
      limit: () => parsePageSize(request.pageSize),
    });
    const scope: PageScope = { rpc: 'GetPurge', tenantId: caller.tenantId ?? '', filter: { purgeId } };
    const after = decodePageToken(scope, request.pageToken, 1);
    const { purge, items } = await orderPurge.get(caller, purgeId, { limit, after });
    const nextPageToken = items.next ? encodePageToken(scope, items.next) : '';
    return { purge: toPurgeMessage(purge), items: items.items.map(toItemMessage), nextPageToken };
  },

  async listPurges(request, context) {
    const caller = callerOf(context);
    const { limit, state, tenantId } = parseFields({
      limit: () => parsePageSize(request.pageSize),
      state: () => parseOptionalEnum('state', request.state, STATE_OF),
      tenantId: () => wantedTenant(caller, request.tenantId),
    });
    if (tenantId !== undefined && !mayName(caller, tenantId)) return { purges: [], nextPageToken: '' };
    const filter = { state, tenantId };
    const scope: PageScope = { rpc: 'ListPurges', tenantId: caller.tenantId ?? '', filter };
    const after = decodePageToken(scope, request.pageToken, 2);
    const page = await orderPurge.list(caller, filter, { limit, after });
    const nextPageToken = page.next ? encodePageToken(scope, page.next) : '';
    return { purges: page.items.map(toPurgeMessage), nextPageToken };
  },

  async approveHeldPurge(request, context) {
    const approval = parseFields({
      purgeId: () => parseId('purge_id', request.purgeId),
      tenantId: () => parseTenantId('tenant_id', request.tenantId),
    });
    const reason = parseRequiredReason(request.reason);
    return { item: toItemMessage(await orderPurge.approve({ ...approval, reason, caller: callerOf(context) })) };
  },
});

/** The tenant a request names, or the credential's; undefined for platform that has and names none. */
const wantedTenant = (caller: Caller, tenantId: string): string | undefined =>
  tenantId === ''
    ? caller.kind === 'platform'
      ? caller.tenantId
      : tenantOf(caller)
    : parseTenantId('tenant_id', tenantId);

const mayName = (caller: Caller, tenantId: string): boolean =>
  caller.kind === 'platform' || caller.tenantId === tenantId;

/** As wantedTenant, and there must be one. Another's is answered as one that there is nothing of. */
function namedTenant(caller: Caller, tenantId: string, notFound: () => Error): string {
  const wanted = wantedTenant(caller, tenantId) ?? parseTenantId('tenant_id', tenantId);
  if (!mayName(caller, wanted)) throw notFound();
  return wanted;
}

const ownTenant = (caller: Caller, tenantId: string): string => namedTenant(caller, tenantId, tenantPlanNotFound);

const toPlanMessage = (entry: TenantPlan): MessageInitShape<typeof TenantPlanSchema> => ({
  tenantId: entry.tenantId,
  plan: PlanMessage[entry.plan],
  version: BigInt(entry.version),
  effectiveTime: toTimestamp(entry.effectiveAt),
  createTime: toTimestamp(entry.createdAt),
  actor: entry.actor,
  reason: entry.reason ?? '',
  etag: `"${entry.version}"`,
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
    etag: `"${policy.version}"`,
  };
}

function toWindowMessage({
  subject,
  window,
  source,
  from,
  change,
  minToKeep,
}: ResolvedWindow): MessageInitShape<typeof RetentionWindowSchema> {
  const changeTime = toOptionalTimestamp(change?.at);
  return {
    subject: SubjectMessage[subject],
    kind: WindowKind[window.kind],
    ...(window.kind === 'DAYS' ? { retentionDays: window.days } : {}),
    source: WindowSource[source],
    ...(from ? { plan: PlanMessage[from.plan], planVersion: BigInt(from.version) } : {}),
    ...(changeTime && change ? { changeTime, nextKind: WindowKind[change.to.kind] } : {}),
    ...(change?.to.kind === 'DAYS' ? { nextRetentionDays: change.to.days } : {}),
    ...(minToKeep === undefined ? {} : { minExecutionsToKeep: BigInt(minToKeep) }),
  };
}

const toCountMessages = (counts: readonly ResourceCount[]): MessageInitShape<typeof ResourceCountSchema>[] =>
  counts.map(({ resourceType, found, deleted, left }) => ({
    resourceType,
    found: BigInt(found),
    deleted: BigInt(deleted),
    left: BigInt(left),
  }));

function toPurgeMessage(purge: RetentionPurge): MessageInitShape<typeof RetentionPurgeSchema> {
  const startTime = toOptionalTimestamp(purge.startedAt);
  const finishTime = toOptionalTimestamp(purge.finishedAt);
  return {
    id: purge.id,
    trigger: PurgeTrigger[purge.trigger],
    state: PurgeState[purge.state],
    validateOnly: purge.validateOnly,
    actor: purge.actor,
    reason: purge.reason ?? '',
    requestId: purge.requestId ?? '',
    tenantCount: purge.tenants.all,
    completeTenantCount: purge.tenants.complete,
    failedTenantCount: purge.tenants.failed,
    heldTenantCount: purge.tenants.held,
    skippedTenantCount: purge.tenants.skipped,
    resourceCounts: toCountMessages(purge.counts),
    createTime: toTimestamp(purge.createdAt),
    ...(startTime ? { startTime } : {}),
    ...(finishTime ? { finishTime } : {}),
  };
}

function toItemMessage(item: RetentionPurgeItem): MessageInitShape<typeof RetentionPurgeItemSchema> {
  const startTime = toOptionalTimestamp(item.startedAt);
  const finishTime = toOptionalTimestamp(item.finishedAt);
  return {
    purgeId: item.purgeId,
    tenantId: item.tenantId,
    state: PurgeItemState[item.state],
    ...(item.plan ? { plan: PlanMessage[item.plan] } : {}),
    ...(item.planVersion === undefined ? {} : { planVersion: BigInt(item.planVersion) }),
    windows: item.windows.map(toWindowMessage),
    cutoffs: item.operations.flatMap(({ subject, cutoff }) =>
      cutoff ? [{ subject: SubjectMessage[subject], cutoffTime: toTimestamp(Temporal.Instant.from(cutoff)) }] : [],
    ),
    resourceCounts: toCountMessages(sumCounts(item.operations)),
    error: item.error ?? '',
    ...(item.hold ? { hold: toHoldMessage(item.hold) } : {}),
    runningPurgeId: item.runningPurgeId ?? '',
    attempts: item.attempts,
    ...(startTime ? { startTime } : {}),
    ...(finishTime ? { finishTime } : {}),
  };
}

const toHoldMessage = (hold: Hold): MessageInitShape<typeof HoldSchema> => ({
  subject: SubjectMessage[hold.subject],
  ...(hold.expired === undefined ? {} : { expiredCount: BigInt(hold.expired) }),
  ...(hold.total === undefined ? {} : { totalCount: BigInt(hold.total) }),
  ...(hold.maxShare === undefined ? {} : { maxShare: hold.maxShare }),
  ...(hold.maxCount === undefined ? {} : { maxCount: BigInt(hold.maxCount) }),
  holdTime: toTimestamp(hold.heldAt),
  ...(hold.approval
    ? {
        approveTime: toTimestamp(hold.approval.at),
        approvedBy: hold.approval.actor,
        approveReason: hold.approval.reason,
      }
    : {}),
});

function toProgressMessage(event: PurgeEvent) {
  switch (event.kind) {
    case 'started':
      return create(PurgeProgressSchema, {
        event: { case: 'started', value: { purge: toPurgeMessage(event.purge) } as never },
      });
    case 'summary':
      return create(PurgeProgressSchema, {
        event: { case: 'summary', value: { purge: toPurgeMessage(event.purge) } as never },
      });
    case 'progress': {
      const { tenantId, subject, operations } = event.item;
      const value = {
        tenantId,
        subject: SubjectMessage[subject ?? 'UNSPECIFIED'],
        resourceCounts: toCountMessages(sumCounts(operations)),
      } as never;
      return create(PurgeProgressSchema, { event: { case: 'tenantProgress', value } });
    }
    case 'finished': {
      const value = { item: toItemMessage(event.item) } as never;
      return create(PurgeProgressSchema, { event: { case: 'tenantFinished', value } });
    }
  }
}
