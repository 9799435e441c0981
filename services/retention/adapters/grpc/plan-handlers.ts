import type { MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import type { TenantPlanSchema } from '#gen/lethe/retention/v1/retention_pb.ts';
import type { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { parseFields, parseOptionalText, parseReason, parseRequestId } from '#libs/grpc/parse.ts';
import { parseTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { parseTenantId } from '#libs/kernel/id.ts';
import { decodePageToken, encodePageToken, type PageScope, parsePageSize } from '#libs/kernel/page.ts';
import { tenantPlanNotFound } from '../../domain/purge.ts';
import type { TenantPlan } from '../../domain/windows.ts';
import type { KeepPlans } from '../../use-cases/keep-plans.ts';
import { toWindowMessage } from './messages.ts';
import { mayName, namedTenant, wantedTenant } from './request-tenant.ts';

const PLAN_NAME = /^[A-Z][A-Z0-9_]{0,62}$/;

/** Plans, tenants' plans and the windows that follow from them. */
export const planHandlers = (keepPlans: KeepPlans): Partial<ServiceImpl<typeof RetentionService>> => ({
  async setTenantPlan(request, context) {
    const command = parseFields({
      tenantId: () => parseTenantId('tenant_id', request.tenantId),
      plan: () => (request.noPlan ? undefined : parsePlanName('plan_name', request.planName)),
      effectiveAt: () => parseTimestamp('effective_time', request.effectiveTime),
      reason: () => parseReason(request.reason),
      etag: () => parseOptionalText('etag', request.etag, 100) ?? '',
      requestId: () => parseRequestId(request.requestId),
    });
    const { actor, subject } = callerOf(context);
    return { tenantPlan: toPlanMessage(await keepPlans.set({ ...command, actor, subject })) };
  },

  async getTenantPlan(request, context) {
    return {
      tenantPlan: toPlanMessage(
        await keepPlans.get(namedTenant(callerOf(context), request.tenantId, tenantPlanNotFound)),
      ),
    };
  },

  async listTenantPlans(request, context) {
    const caller = callerOf(context);
    const { limit, plan, tenantId, showHistory } = parseFields({
      limit: () => parsePageSize(request.pageSize),
      plan: () => (request.planName === '' ? undefined : parsePlanName('plan_name', request.planName)),
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
    const tenantId = namedTenant(callerOf(context), request.tenantId, tenantPlanNotFound);
    const { current, windows, at } = await keepPlans.resolve(tenantId, parseTimestamp('at_time', request.atTime));
    return {
      tenantId,
      planName: current?.plan ?? '',
      planVersion: BigInt(current?.version ?? 0),
      windows: windows.map(toWindowMessage),
      resolveTime: toTimestamp(at),
    };
  },
});

function parsePlanName(field: string, value: string): string {
  if (PLAN_NAME.test(value)) return value;
  throw fieldInvalid(field, 'must be 1 to 63 of A-Z, 0-9 and _, beginning with a letter');
}

const toPlanMessage = (entry: TenantPlan): MessageInitShape<typeof TenantPlanSchema> => ({
  tenantId: entry.tenantId,
  planName: entry.plan ?? '',
  version: BigInt(entry.version),
  effectiveTime: toTimestamp(entry.effectiveAt),
  createTime: toTimestamp(entry.createdAt),
  actor: entry.actor,
  reason: entry.reason ?? '',
  etag: `"${entry.version}"`,
});
