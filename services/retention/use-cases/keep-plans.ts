import { fieldsInvalid } from '#libs/kernel/domain-error.ts';
import { fingerprint } from '#libs/kernel/fingerprint.ts';
import type { Page, PageQuery } from '#libs/kernel/page.ts';
import { toPolicyWindow } from '../domain/execution-policy.ts';
import { tenantPlanNotFound } from '../domain/purge.ts';
import {
  inForceAt,
  knownAt,
  LAST_INSTANT,
  type Plan,
  type PlanWindow,
  planNotFound,
  type Resolution,
  type ResolveInput,
  resolveWindows,
  type TenantPlan,
} from '../domain/windows.ts';
import type { ForecastPurge, PurgeForecast, WindowChange } from './forecast-purge.ts';
import type {
  ExecutionPolicyRepository,
  NewTenantPlan,
  PlanChange,
  PlanRepository,
  PlanWindowRepository,
  SubjectCatalogue,
} from './ports.ts';

/** Which plans to list: those in force of all tenants, or of one tenant the one in force or all there ever were. */
export type PlanFilter =
  | { readonly tenantId: undefined; readonly plan: string | undefined }
  | { readonly tenantId: string; readonly plan: string | undefined; readonly showHistory: boolean };

/** What holds for a tenant, and the instant that was resolved for. */
export type ResolutionAt = Resolution & { readonly at: Temporal.Instant };

/** Plans, tenants' plans, and the windows that follow from them. */
export interface KeepPlans {
  /** Adds an entry to a tenant's history; PLAN_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED. */
  set(plan: Omit<NewTenantPlan, 'fingerprint'>): Promise<TenantPlan>;
  /** The entry that `set` would add, and what the next purge would then take. Changes nothing. */
  preview(plan: Omit<NewTenantPlan, 'fingerprint'>): Promise<{
    readonly entry: TenantPlan;
    readonly forecasts: readonly PurgeForecast[];
  }>;
  /** The plan in force; TENANT_PLAN_NOT_FOUND. */
  get(tenantId: string): Promise<TenantPlan>;
  /** By tenant, and newest first within one. */
  list(filter: PlanFilter, page: PageQuery): Promise<Page<TenantPlan>>;
  /** What holds at an instant, the database's now by default. The purge uses the very same. */
  resolve(tenantId: string, at: Temporal.Instant | undefined): Promise<ResolutionAt>;

  /** Records windows of a plan; PLAN_NOT_FOUND, FIELD_INVALID, ETAG_MISMATCH, REQUEST_ID_REUSED. */
  updatePlan(change: Omit<PlanChange, 'fingerprint'>): Promise<Plan>;
  /** The plan as updatePlan would leave it, and what the next purge would then take. Changes nothing. */
  previewPlan(change: Omit<PlanChange, 'fingerprint'>): Promise<{
    readonly plan: Plan;
    readonly forecasts: readonly PurgeForecast[];
  }>;
  /** PLAN_NOT_FOUND. */
  getPlan(name: string): Promise<Plan>;
  listPlans(page: PageQuery): Promise<Page<Plan>>;
  /** Every window ever recorded for a plan, newest first; PLAN_NOT_FOUND. */
  listPlanWindows(name: string, page: PageQuery): Promise<Page<PlanWindow>>;
}

/** Makes KeepPlans; `graceDays` is how long a wider window holds after a change. */
export function makeKeepPlans(
  plans: PlanRepository,
  planWindows: PlanWindowRepository,
  policies: ExecutionPolicyRepository,
  catalogue: SubjectCatalogue,
  forecast: ForecastPurge,
  graceDays: number,
): KeepPlans {
  const inForce = async (tenantId: string): Promise<TenantPlan | undefined> => {
    const { entries, now } = await plans.history(tenantId);
    const current = inForceAt(entries, now);
    return current?.plan === undefined ? undefined : current;
  };

  const inputOf = async (tenantId: string, plan?: string): Promise<ResolveInput> => {
    const [{ now, ...history }, policy, subjects] = await Promise.all([
      plans.history(tenantId, plan),
      policies.get(tenantId),
      catalogue.listSubjects(),
    ]);
    return { ...history, policies: policy ? [toPolicyWindow(policy)] : [], subjects, at: now, graceDays };
  };

  /** The effect of an entry or of windows that are not recorded, for each subject. */
  const changesOf = async (
    tenantId: string,
    { entry, windows = [] }: { entry?: TenantPlan; windows?: readonly PlanWindow[] },
  ): Promise<readonly WindowChange[]> => {
    const input = await inputOf(tenantId, entry?.plan);
    const changed = {
      ...input,
      entries: entry ? [...input.entries.filter(({ version }) => version !== entry.version), entry] : input.entries,
      planWindows: [...input.planWindows, ...windows],
    };
    const since = laterOf(input.at, ...(entry ? [knownAt(entry)] : []), ...windows.map(({ recordedAt }) => recordedAt));
    const settledAt = earlierOf(LAST_INSTANT, since.add({ hours: graceDays * 24 }));
    const settled = resolveWindows({ ...changed, at: settledAt }).windows;
    const atOnce = resolveWindows({ ...changed, at: laterOf(input.at, ...windows.map((w) => w.recordedAt)) }).windows;
    return resolveWindows(input).windows.flatMap((before, index) => {
      const [after, now] = [settled[index], atOnce[index]];
      if (!after || !now) return [];
      const isAtOnce = daysOf(after) === daysOf(now);
      return [{ before, after, effectAt: isAtOnce ? undefined : (now.change?.at ?? settledAt) }];
    });
  };

  const assertSubjects = async ({ windows }: Pick<PlanChange, 'windows'>): Promise<void> => {
    const subjects = await catalogue.listSubjects();
    const violations = windows.flatMap(({ subject, minToKeep }, index) => {
      const known = subjects.find(({ name }) => name === subject);
      if (!known) {
        return [{ field: `windows[${index}].subject`, description: 'must be a subject of the catalogue' }];
      }
      if (minToKeep === 0 || known.hasFloor) return [];
      return [{ field: `windows[${index}].min_to_keep`, description: `must be 0, since ${subject} has no floor` }];
    });
    if (violations.length > 0) throw fieldsInvalid(violations);
  };

  return {
    set: (plan) => plans.set({ ...plan, fingerprint: fingerprintOfEntry(plan) }),

    async preview(plan) {
      const entry = await plans.preview({ ...plan, fingerprint: '' });
      const subjects = (await catalogue.listSubjects()).map(({ name }) => name);
      const order = { subjects, tenants: [plan.tenantId], actor: plan.actor };
      const forecasts = await forecast({ ...order, changesOf: (tenantId) => changesOf(tenantId, { entry }) });
      return { entry, forecasts };
    },

    async get(tenantId) {
      const current = await inForce(tenantId);
      if (!current) throw tenantPlanNotFound();
      return current;
    },

    async list(filter, page) {
      if (filter.tenantId === undefined) return plans.listInForce(filter.plan, page);
      const current = await inForce(filter.tenantId);
      if (filter.plan !== undefined && filter.plan !== current?.plan) return { items: [], next: undefined };
      if (filter.showHistory) return plans.listHistory(filter.tenantId, page);
      return { items: current ? [current] : [], next: undefined };
    },

    async resolve(tenantId, at) {
      const input = await inputOf(tenantId);
      const resolveAt = at ?? input.at;
      return { ...resolveWindows({ ...input, at: resolveAt }), at: resolveAt };
    },

    async updatePlan(change) {
      await assertSubjects(change);
      return planWindows.update({ ...change, fingerprint: fingerprintOfChange(change) });
    },

    async previewPlan(change) {
      await assertSubjects(change);
      const { plan, recorded } = await planWindows.preview({ ...change, fingerprint: '' });
      const subjects = change.windows.map(({ subject }) => subject);
      const order = { subjects, tenants: await plans.tenantsOn(change.name), actor: change.actor };
      const forecasts = await forecast({
        ...order,
        async changesOf(tenantId) {
          const changes = await changesOf(tenantId, { windows: recorded });
          return changes.filter(({ after }) => subjects.includes(after.subject));
        },
      });
      return { plan, forecasts };
    },

    async getPlan(name) {
      const plan = await planWindows.get(name);
      if (!plan) throw planNotFound(name);
      return plan;
    },

    listPlans: planWindows.list,

    async listPlanWindows(name, page) {
      const found = await planWindows.listWindows(name, page);
      if (found.items.length === 0 && !(await planWindows.get(name))) throw planNotFound(name);
      return found;
    },
  };
}

const fingerprintOfEntry = ({ tenantId, plan, effectiveAt, reason, etag }: Omit<NewTenantPlan, 'fingerprint'>) =>
  fingerprint({ tenantId, bought: plan, effectiveAt: effectiveAt?.toString(), reason, etag });

const fingerprintOfChange = ({ name, windows, reason, etag, allowMissing }: Omit<PlanChange, 'fingerprint'>) =>
  fingerprint({ name, windows, reason, etag, allowMissing });

const laterOf = (at: Temporal.Instant, ...others: readonly Temporal.Instant[]): Temporal.Instant =>
  others.reduce((latest, other) => (Temporal.Instant.compare(other, latest) > 0 ? other : latest), at);

const earlierOf = (a: Temporal.Instant, b: Temporal.Instant): Temporal.Instant =>
  Temporal.Instant.compare(a, b) < 0 ? a : b;

const daysOf = ({ window }: { readonly window: { readonly kind: string; readonly days?: number } }): number =>
  window.days ?? Infinity;
