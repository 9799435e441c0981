import { create, type MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import {
  type FleetHoldSchema,
  type HoldSchema,
  PurgeItemState,
  PurgeState,
  PurgeSubjectState,
  PurgeTrigger,
  RetentionPurgeItemSchema,
  RetentionPurgeSchema,
  type RetentionPurgeSubjectSchema,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import { PurgeProgressSchema, type RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { toCountMessages } from '#libs/grpc/count-messages.ts';
import { fitPage } from '#libs/grpc/fit-page.ts';
import { optional, toOptionalBigInt } from '#libs/grpc/optional.ts';
import {
  parseEach,
  parseFields,
  parseOptionalEnum,
  parseReason,
  parseRequestId,
  parseRequiredReason,
} from '#libs/grpc/parse.ts';
import { toDuration, toOptionalTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { parseId, parseTenantId } from '#libs/kernel/id.ts';
import { decodePageToken, KEY, type PageScope, parsePageSize } from '#libs/kernel/page.ts';
import type { Hold } from '../../domain/ceiling.ts';
import {
  type FleetHold,
  PURGE_STATES,
  type PurgeState as PurgeStateName,
  type RetentionPurge,
  type RetentionPurgeItem,
  tenantPlanNotFound,
} from '../../domain/purge.ts';
import type { PurgeStop } from '../../domain/purge-stop.ts';
import { countsOf, type PurgeSubject } from '../../domain/purge-subject.ts';
import type { OrderPurge, PurgeEvent } from '../../use-cases/order-purge.ts';
import type { StopPurges } from '../../use-cases/stop-purges.ts';
import { toWindowMessage } from './messages.ts';
import { mayName, namedTenant, requiredTenant, wantedTenant } from './request-tenant.ts';
import { toStopMessage } from './stop-handlers.ts';

const STATE_OF: ReadonlyMap<number, PurgeStateName> = new Map(PURGE_STATES.map((state) => [PurgeState[state], state]));
const MAX_TENANTS = 1_000;
const MAX_SUBJECTS = 100;
const SUBJECT_NAME = /^[a-z][a-z0-9_]{0,62}$/;

/** Retention purges: ordering, watching, reading and releasing them. */
export const purgeHandlers = (
  orderPurge: OrderPurge,
  stopPurges: Pick<StopPurges, 'get'>,
): Partial<ServiceImpl<typeof RetentionService>> => {
  const withStop = async (purge: RetentionPurge): Promise<MessageInitShape<typeof RetentionPurgeSchema>> =>
    toPurgeMessage(purge, purge.state === 'PENDING' || purge.state === 'RUNNING' ? await stopPurges.get() : undefined);
  return handlersOf(orderPurge, withStop);
};

const handlersOf = (
  orderPurge: OrderPurge,
  withStop: (purge: RetentionPurge) => Promise<MessageInitShape<typeof RetentionPurgeSchema>>,
): Partial<ServiceImpl<typeof RetentionService>> => ({
  async *purge(request, context) {
    const caller = callerOf(context);
    const command = parseFields({
      tenantIds: () => {
        if (request.allTenants !== (request.tenantIds.length === 0)) {
          throw fieldInvalid('tenant_ids', 'or all_tenants must be given, not both');
        }
        if (request.allTenants) return undefined;
        if (request.tenantIds.length > MAX_TENANTS) throw fieldInvalid('tenant_ids', `must be at most ${MAX_TENANTS}`);
        const ids = parseEach(request.tenantIds, (id, index) => parseTenantId(`tenant_ids[${index}]`, id));
        if (new Set(ids).size !== ids.length) throw fieldInvalid('tenant_ids', 'must not name a tenant twice');
        return ids.toSorted();
      },
      subjects: () => parseSubjects(request.subjects),
      requestId: () => parseRequestId(request.requestId),
      reason: () => parseReason(request.reason),
    });
    const { validateOnly } = request;
    const { id } = await orderPurge.order({ ...command, caller, validateOnly, trigger: 'PURGE' });
    for await (const event of orderPurge.watch(id, context.signal)) yield await toProgressMessage(event, withStop);
  },

  async purgeNow(request, context) {
    const caller = callerOf(context);
    const { subjects, requestId, reason } = parseFields({
      tenantId: () => requiredTenant(caller, request.tenantId),
      subjects: () => parseSubjects(request.subjects),
      requestId: () => parseRequestId(request.requestId),
      reason: () => parseReason(request.reason),
    });
    const tenantId = namedTenant(context, request.tenantId, tenantPlanNotFound);
    const { validateOnly } = request;
    const purge = await orderPurge.order({
      caller,
      tenantIds: [tenantId],
      subjects,
      trigger: 'PURGE_NOW',
      validateOnly,
      requestId,
      reason,
    });
    const { items } = await orderPurge.get({ ...caller, tenantId }, purge.id, { limit: 1, after: undefined });
    const item = items.items[0];
    return { purge: await withStop(purge), ...optional('item', item && toItemMessage(item)) };
  },

  async getPurge(request, context) {
    const caller = callerOf(context);
    const { purgeId, limit } = parseFields({
      purgeId: () => parseId('purge_id', request.purgeId),
      limit: () => parsePageSize(request.pageSize, request.pageToken),
    });
    const scope: PageScope = { rpc: 'GetPurge', tenantId: caller.tenantId ?? '', filter: { purgeId } };
    const after = decodePageToken(scope, request.pageToken, [KEY.text]);
    const { purge, items } = await orderPurge.get(caller, purgeId, { limit, after });
    const keyOf = ({ tenantId }: RetentionPurgeItem) => [tenantId];
    const { messages, nextPageToken } = fitPage(scope, RetentionPurgeItemSchema, items, toItemMessage, keyOf);
    return { purge: await withStop(purge), items: messages, nextPageToken };
  },

  async listPurges(request, context) {
    const caller = callerOf(context);
    const { limit, state, tenantId } = parseFields({
      limit: () => parsePageSize(request.pageSize, request.pageToken),
      state: () => parseOptionalEnum('state', request.state, STATE_OF),
      tenantId: () => wantedTenant(caller, request.tenantId),
    });
    if (tenantId !== undefined && !mayName(context, tenantId)) return { purges: [], nextPageToken: '' };
    const filter = { state, tenantId };
    const scope: PageScope = { rpc: 'ListPurges', tenantId: caller.tenantId ?? '', filter };
    const after = decodePageToken(scope, request.pageToken, [KEY.instant, KEY.id]);
    const page = await orderPurge.list(caller, filter, { limit, after });
    const shown = new Map(await Promise.all(page.items.map(async (purge) => [purge, await withStop(purge)] as const)));
    const toMessage = (purge: RetentionPurge) => shown.get(purge) ?? {};
    const keyOf = ({ createdAt, id }: RetentionPurge) => [createdAt.toString(), id];
    const { messages: purges, nextPageToken } = fitPage(scope, RetentionPurgeSchema, page, toMessage, keyOf);
    return { purges, nextPageToken };
  },

  async approveHeldPurge(request, context) {
    const approval = parseFields({
      purgeId: () => parseId('purge_id', request.purgeId),
      tenantId: () => (request.tenantId === '' ? undefined : parseTenantId('tenant_id', request.tenantId)),
      subjects: () => {
        if (request.tenantId === '' && request.subjects.length > 0) {
          throw fieldInvalid('subjects', 'are released of one tenant; name it');
        }
        return parseSubjects(request.subjects);
      },
      reason: () => parseRequiredReason(request.reason),
    });
    const { item, purge } = await orderPurge.approve({ ...approval, caller: callerOf(context) });
    return { purge: await withStop(purge), ...optional('item', item && toItemMessage(item)) };
  },
});

/** Names of subjects, each once, at most 100. */
function parseSubjects(names: readonly string[]): readonly string[] {
  if (names.length > MAX_SUBJECTS) throw fieldInvalid('subjects', `must be at most ${MAX_SUBJECTS}`);
  parseEach(names, (name, index) => {
    if (SUBJECT_NAME.test(name)) return;
    throw fieldInvalid(`subjects[${index}]`, 'must be 1 to 63 of a-z, 0-9 and _, starting with a letter');
  });
  if (new Set(names).size !== names.length) throw fieldInvalid('subjects', 'must not name a subject twice');
  return names;
}

function toPurgeMessage(
  purge: RetentionPurge,
  stop: PurgeStop | undefined,
): MessageInitShape<typeof RetentionPurgeSchema> {
  const { fleetHold } = purge;
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
    skippedFailedTenantCount: purge.tenants.skippedFailed,
    resourceCounts: toCountMessages(purge.counts),
    createTime: toTimestamp(purge.createdAt),
    ...optional('startTime', toOptionalTimestamp(purge.startedAt)),
    ...optional('finishTime', toOptionalTimestamp(purge.finishedAt)),
    subjects: [...purge.subjects],
    ...optional('fleetHold', fleetHold && toFleetHoldMessage(fleetHold, purge.tenants.all)),
    ...optional('stop', stop?.isStopped ? toStopMessage(stop) : undefined),
  };
}

const toFleetHoldMessage = (hold: FleetHold, tenants: number): MessageInitShape<typeof FleetHoldSchema> => ({
  narrowedTenantCount: hold.narrowed,
  tenantCount: tenants,
  holdTime: toTimestamp(hold.heldAt),
  ...(hold.approval
    ? {
        approveTime: toTimestamp(hold.approval.at),
        approvedBy: hold.approval.actor,
        approveReason: hold.approval.reason,
      }
    : {}),
});

const toItemMessage = (item: RetentionPurgeItem): MessageInitShape<typeof RetentionPurgeItemSchema> => ({
  purgeId: item.purgeId,
  tenantId: item.tenantId,
  state: PurgeItemState[item.state],
  planName: item.plan ?? '',
  planVersion: BigInt(item.planVersion ?? 0),
  subjects: item.subjects.map(toSubjectMessage),
  resourceCounts: toCountMessages(countsOf(item.subjects)),
  error: item.error ?? '',
  runningPurgeId: item.runningPurgeId ?? '',
  attempts: item.attempts,
  ...optional('startTime', toOptionalTimestamp(item.startedAt)),
  ...optional('finishTime', toOptionalTimestamp(item.finishedAt)),
});

function toSubjectMessage(subject: PurgeSubject): MessageInitShape<typeof RetentionPurgeSubjectSchema> {
  const { expired, usual, hold } = subject;
  return {
    subject: subject.subject,
    owner: subject.owner ?? '',
    state: PurgeSubjectState[subject.state],
    window: toWindowMessage(subject.window),
    ...optional('cutoffTime', toOptionalTimestamp(subject.cutoff)),
    ...optional('expiredCount', toOptionalBigInt(expired?.expired)),
    ...optional('seenCount', toOptionalBigInt(usual?.seen ?? expired?.seen)),
    resourceCounts: toCountMessages(subject.counts),
    ...optional('hold', hold && toHoldMessage(hold)),
    waits: subject.waits.map(({ cause, ms }) => ({ cause, duration: toDuration(ms) })),
    operationId: subject.operationId ?? '',
    error: subject.error ?? '',
  };
}

const toHoldMessage = (hold: Hold): MessageInitShape<typeof HoldSchema> => ({
  ...optional('expiredCount', toOptionalBigInt(hold.expired)),
  ...optional('totalCount', toOptionalBigInt(hold.total)),
  ...optional('maxShare', hold.maxShare),
  ...optional('maxCount', toOptionalBigInt(hold.maxCount)),
  holdTime: toTimestamp(hold.heldAt),
  ...(hold.approval
    ? {
        approveTime: toTimestamp(hold.approval.at),
        approvedBy: hold.approval.actor,
        approveReason: hold.approval.reason,
        approvedRows: BigInt(hold.approval.rows),
        approvedCutoffTime: toTimestamp(hold.approval.cutoff),
        approvedRetentionDays: hold.approval.days,
      }
    : {}),
});

async function toProgressMessage(
  event: PurgeEvent,
  withStop: (purge: RetentionPurge) => Promise<MessageInitShape<typeof RetentionPurgeSchema>>,
) {
  switch (event.kind) {
    case 'started': {
      const value = { purge: await withStop(event.purge) } as never;
      return create(PurgeProgressSchema, { event: { case: 'started', value } });
    }
    case 'summary': {
      const value = { purge: await withStop(event.purge) } as never;
      return create(PurgeProgressSchema, { event: { case: 'summary', value } });
    }
    case 'progress': {
      const { tenantId, workingOn, subjects } = event.item;
      const value = {
        tenantId,
        subjectName: workingOn ?? '',
        resourceCounts: toCountMessages(countsOf(subjects)),
      } as never;
      return create(PurgeProgressSchema, { event: { case: 'tenantProgress', value } });
    }
    case 'finished': {
      const value = { item: toItemMessage(event.item) } as never;
      return create(PurgeProgressSchema, { event: { case: 'tenantFinished', value } });
    }
  }
}
