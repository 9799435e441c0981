import { create, type MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import {
  type HoldSchema,
  PurgeItemState,
  PurgeState,
  PurgeTrigger,
  type RetentionPurgeItemSchema,
  type RetentionPurgeSchema,
  type RetentionPurgeSubjectSchema,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import { PurgeProgressSchema, type RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { parseFields, parseOptionalEnum, parseReason, parseRequestId, parseRequiredReason } from '#libs/grpc/parse.ts';
import { toOptionalTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { parseId, parseTenantId } from '#libs/kernel/id.ts';
import { decodePageToken, encodePageToken, type PageScope, parsePageSize } from '#libs/kernel/page.ts';
import {
  type ItemHold,
  PURGE_STATES,
  type PurgeState as PurgeStateName,
  type RetentionPurge,
  type RetentionPurgeItem,
  sumCounts,
  tenantPlanNotFound,
} from '../../domain/purge.ts';
import type { ResolvedWindow } from '../../domain/windows.ts';
import type { OrderPurge, PurgeEvent } from '../../use-cases/order-purge.ts';
import { toCountMessages, toWindowMessage } from './messages.ts';
import { mayName, namedTenant, wantedTenant } from './request-tenant.ts';

const STATE_OF: ReadonlyMap<number, PurgeStateName> = new Map(PURGE_STATES.map((state) => [PurgeState[state], state]));
const MAX_TENANTS = 1_000;

/** Retention purges: ordering, watching, reading and releasing them. */
export const purgeHandlers = (orderPurge: OrderPurge): Partial<ServiceImpl<typeof RetentionService>> => ({
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
    const tenantId = namedTenant(caller, request.tenantId, tenantPlanNotFound);
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
    planName: item.plan ?? '',
    planVersion: BigInt(item.planVersion ?? 0),
    subjects: item.windows.map((window) => toSubjectMessage(item, window)),
    resourceCounts: toCountMessages(sumCounts(item.operations)),
    error: item.error ?? '',
    runningPurgeId: item.runningPurgeId ?? '',
    attempts: item.attempts,
    ...(startTime ? { startTime } : {}),
    ...(finishTime ? { finishTime } : {}),
  };
}

function toSubjectMessage(
  item: RetentionPurgeItem,
  window: ResolvedWindow,
): MessageInitShape<typeof RetentionPurgeSubjectSchema> {
  const operations = item.operations.filter(({ subject }) => subject === window.subject);
  const cutoff = operations.at(-1)?.cutoff;
  return {
    subject: window.subject,
    window: toWindowMessage(window),
    ...(cutoff ? { cutoffTime: toTimestamp(Temporal.Instant.from(cutoff)) } : {}),
    resourceCounts: toCountMessages(sumCounts(operations)),
    ...(item.hold?.subject === window.subject ? { hold: toHoldMessage(item.hold) } : {}),
    operationId: operations.at(-1)?.operationId ?? '',
  };
}

const toHoldMessage = (hold: ItemHold): MessageInitShape<typeof HoldSchema> => ({
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
        subjectName: subject ?? '',
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
