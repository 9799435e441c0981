import type { MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import {
  PlanSchema,
  type PlanWindow as PlanWindowMessage,
  PlanWindowSchema,
  TenantPlanSchema,
  WindowKind,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import type { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { fitPage } from '#libs/grpc/fit-page.ts';
import { optional } from '#libs/grpc/optional.ts';
import {
  parseEnum,
  parseEtag,
  parseFields,
  parseInteger,
  parseReason,
  parseRequestId,
  parseRequiredReason,
} from '#libs/grpc/parse.ts';
import { parseTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import type { Caller } from '#libs/kernel/caller.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { parseTenantId } from '#libs/kernel/id.ts';
import { decodePageToken, KEY, type PageScope, parsePageSize } from '#libs/kernel/page.ts';
import { tenantPlanNotFound } from '../../domain/purge.ts';
import type { Plan, PlanWindow, PlanWindowKind, TenantPlan } from '../../domain/windows.ts';
import type { KeepPlans } from '../../use-cases/keep-plans.ts';
import type { NewPlanWindow } from '../../use-cases/ports.ts';
import { toForecastMessage, toWindowMessage } from './messages.ts';
import { mayName, namedTenant, requiredTenant, wantedTenant } from './request-tenant.ts';

const KIND_OF: ReadonlyMap<number, PlanWindowKind> = new Map(
  (['DAYS', 'KEEP_ALL', 'NOT_APPLICABLE'] as const).map((kind) => [WindowKind[kind], kind]),
);
const SUBJECT_NAME = /^[a-z][a-z0-9_]{0,62}$/;
const MAX_WINDOWS = 100;
const MAX_RETENTION_DAYS = 36_500;
const MAX_TO_KEEP = 1_000_000_000;

const PLAN_NAME = /^[A-Z][A-Z0-9_]{0,62}$/;

/** Plans, tenants' plans and the windows that follow from them. */
export const planHandlers = (keepPlans: KeepPlans): Partial<ServiceImpl<typeof RetentionService>> => ({
  async setTenantPlan(request, context) {
    const command = parseFields({
      tenantId: () => parseTenantId('tenant_id', request.tenantId),
      plan: () => {
        if (!request.noPlan) return parsePlanName('plan_name', request.planName);
        if (request.planName !== '') throw fieldInvalid('plan_name', 'must be empty with no_plan');
        return undefined;
      },
      effectiveAt: () => parseTimestamp('effective_time', request.effectiveTime),
      reason: () => parseReason(request.reason),
      etag: () => parseEtag(request.etag),
      requestId: () => parseRequestId(request.requestId),
    });
    const { actor, subject } = callerOf(context);
    if (!request.validateOnly) {
      return { tenantPlan: toTenantPlanMessage(await keepPlans.set({ ...command, actor, subject })) };
    }
    const { entry, forecasts } = await keepPlans.preview({ ...command, actor, subject });
    return { tenantPlan: toTenantPlanMessage(entry), forecasts: forecasts.map(toForecastMessage) };
  },

  async getTenantPlan(request, context) {
    const tenantId = namedTenant(context, request.tenantId, tenantPlanNotFound);
    return { tenantPlan: toTenantPlanMessage(await keepPlans.get(tenantId)) };
  },

  async listTenantPlans(request, context) {
    const caller = callerOf(context);
    const { limit, plan, tenantId, showHistory } = parseFields({
      limit: () => parsePageSize(request.pageSize, request.pageToken),
      plan: () => (request.planName === '' ? undefined : parsePlanName('plan_name', request.planName)),
      tenantId: () => wantedTenant(caller, request.tenantId),
      showHistory: () => {
        const isOne = caller.tenantId !== undefined || request.tenantId !== '';
        if (request.showHistory && !isOne) throw fieldInvalid('show_history', 'is for one tenant; name it');
        return request.showHistory;
      },
    });
    // Tell nothing about another tenant, not even whether it exists.
    if (tenantId !== undefined && !mayName(context, tenantId)) return { tenantPlans: [], nextPageToken: '' };
    const filter = { tenantId: tenantId ?? '', plan, showHistory };
    const scope: PageScope = { rpc: 'ListTenantPlans', tenantId: caller.tenantId ?? '', filter };
    const after = decodePageToken(scope, request.pageToken, [showHistory ? KEY.int8 : KEY.text]);
    const page = await keepPlans.list(tenantId === undefined ? { tenantId, plan } : { tenantId, plan, showHistory }, {
      limit,
      after,
    });
    const keyOf = (entry: TenantPlan) => [showHistory ? String(entry.version) : entry.tenantId];
    const { messages, nextPageToken } = fitPage(scope, TenantPlanSchema, page, toTenantPlanMessage, keyOf);
    return { tenantPlans: messages, nextPageToken };
  },

  async resolveRetention(request, context) {
    const { atTime } = parseFields({
      tenantId: () => requiredTenant(callerOf(context), request.tenantId),
      atTime: () => parseTimestamp('at_time', request.atTime),
    });
    const tenantId = namedTenant(context, request.tenantId, tenantPlanNotFound);
    const { current, windows, at } = await keepPlans.resolve(tenantId, atTime);
    return {
      tenantId,
      planName: current?.plan ?? '',
      planVersion: BigInt(current?.version ?? 0),
      windows: windows.map(toWindowMessage),
      resolveTime: toTimestamp(at),
    };
  },

  async updatePlan(request, context) {
    const change = parseFields({
      name: () => parsePlanName('name', request.name),
      windows: () => parseWindows(request.name, request.windows),
      etag: () => parseEtag(request.etag),
      requestId: () => parseRequestId(request.requestId),
      reason: () => parseRequiredReason(request.reason),
    });
    const { actor, subject } = callerOf(context);
    const command = { ...change, allowMissing: request.allowMissing, actor, subject };
    if (!request.validateOnly) return { plan: toPlanMessage(await keepPlans.updatePlan(command)) };
    const { plan, forecasts } = await keepPlans.previewPlan(command);
    return { plan: toPlanMessage(plan), forecasts: forecasts.map(toForecastMessage) };
  },

  async getPlan(request, context) {
    const plan = await keepPlans.getPlan(parsePlanName('name', request.name));
    return { plan: toPlanMessage(toldTo(callerOf(context), plan)) };
  },

  async listPlans(request, context) {
    const limit = parsePageSize(request.pageSize, request.pageToken);
    const caller = callerOf(context);
    const scope: PageScope = { rpc: 'ListPlans', tenantId: caller.tenantId ?? '', filter: {} };
    const page = await keepPlans.listPlans({ limit, after: decodePageToken(scope, request.pageToken, [KEY.text]) });
    const toMessage = (plan: Plan) => toPlanMessage(toldTo(caller, plan));
    const { messages: plans, nextPageToken } = fitPage(scope, PlanSchema, page, toMessage, ({ name }) => [name]);
    return { plans, nextPageToken };
  },

  async listPlanWindows(request, context) {
    const { name, limit } = parseFields({
      name: () => parsePlanName('name', request.name),
      limit: () => parsePageSize(request.pageSize, request.pageToken),
    });
    const tenantId = callerOf(context).tenantId ?? '';
    const scope: PageScope = { rpc: 'ListPlanWindows', tenantId, filter: { name } };
    const after = decodePageToken(scope, request.pageToken, [KEY.instant, KEY.text, KEY.int8]);
    const page = await keepPlans.listPlanWindows(name, { limit, after });
    const keyOf = (window: PlanWindow) => [window.recordedAt.toString(), window.subject, String(window.version)];
    const { messages: windows, nextPageToken } = fitPage(scope, PlanWindowSchema, page, toPlanWindowMessage, keyOf);
    return { windows, nextPageToken };
  },
});

/** Only platform callers learn how many tenants are on a plan. */
const toldTo = (caller: Caller, plan: Plan): Plan => (caller.kind === 'platform' ? plan : { ...plan, tenants: 0 });

function parseWindows(plan: string, windows: readonly PlanWindowMessage[]): readonly NewPlanWindow[] {
  if (windows.length === 0 || windows.length > MAX_WINDOWS) {
    throw fieldInvalid('windows', `must be 1 to ${MAX_WINDOWS}`);
  }
  if (new Set(windows.map(({ subject }) => subject)).size !== windows.length) {
    throw fieldInvalid('windows', 'must not name a subject twice');
  }
  const read = parseFields(
    Object.fromEntries(windows.map((window, index) => [index, () => parseWindow(plan, window, `windows[${index}]`)])),
  );
  return Object.values(read);
}

function parseWindow(plan: string, window: PlanWindowMessage, field: string): NewPlanWindow {
  const { subject, retentionDays } = window;
  const { kind, days, minToKeep } = parseFields({
    plan: () => {
      if (window.plan === '' || window.plan === plan) return;
      throw fieldInvalid(`${field}.plan`, 'must be the plan that is changed');
    },
    subject: () => {
      if (!SUBJECT_NAME.test(subject)) throw fieldInvalid(`${field}.subject`, 'must be the name of a subject');
    },
    kind: () => parseEnum(`${field}.kind`, window.kind, KIND_OF),
    days: () => {
      // Of a wrong kind nobody can say whether it has days.
      const kind = KIND_OF.get(window.kind);
      if (kind === undefined) return undefined;
      if (kind === 'DAYS')
        return parseInteger(`${field}.retention_days`, retentionDays ?? 0, { min: 1, max: MAX_RETENTION_DAYS });
      if (retentionDays !== undefined) throw fieldInvalid(`${field}.retention_days`, 'is for DAYS alone');
      return undefined;
    },
    minToKeep: () => parseInteger(`${field}.min_to_keep`, window.minToKeep, { min: 0, max: MAX_TO_KEEP }),
  });
  return kind === 'DAYS'
    ? { subject, kind, days: days as number, minToKeep }
    : { subject, kind, days: undefined, minToKeep };
}

function parsePlanName(field: string, value: string): string {
  if (PLAN_NAME.test(value)) return value;
  throw fieldInvalid(field, 'must be 1 to 63 of A-Z, 0-9 and _, beginning with a letter');
}

const toTenantPlanMessage = (entry: TenantPlan): MessageInitShape<typeof TenantPlanSchema> => ({
  tenantId: entry.tenantId,
  planName: entry.plan ?? '',
  version: BigInt(entry.version),
  effectiveTime: toTimestamp(entry.effectiveAt),
  createTime: toTimestamp(entry.createdAt),
  actor: entry.actor,
  reason: entry.reason ?? '',
  etag: `"${entry.version}"`,
});

const toPlanMessage = (plan: Plan): MessageInitShape<typeof PlanSchema> => ({
  name: plan.name,
  windows: plan.windows.map(toPlanWindowMessage),
  etag: `"${plan.version}"`,
  tenantCount: plan.tenants,
});

const toPlanWindowMessage = (window: PlanWindow): MessageInitShape<typeof PlanWindowSchema> => ({
  plan: window.plan,
  subject: window.subject,
  version: BigInt(window.version),
  kind: WindowKind[window.kind],
  ...optional('retentionDays', window.days),
  minToKeep: BigInt(window.minToKeep),
  recordTime: toTimestamp(window.recordedAt),
  actor: window.actor,
  reason: window.reason ?? '',
});
