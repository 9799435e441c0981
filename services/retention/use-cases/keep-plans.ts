import { fingerprint } from '#libs/kernel/fingerprint.ts';
import { toPolicyWindow } from '../domain/execution-policy.ts';
import { tenantPlanNotFound } from '../domain/purge.ts';
import { inForceAt, type Resolution, resolveWindows, type TenantPlan } from '../domain/windows.ts';
import type {
  ExecutionPolicyRepository,
  NewTenantPlan,
  Page,
  PageQuery,
  PlanRepository,
  SubjectCatalogue,
} from './ports.ts';

/** Which plans to list: those in force of all tenants, or of one tenant the one in force or all there ever were. */
export type PlanFilter =
  | { readonly tenantId: undefined; readonly plan: string | undefined }
  | { readonly tenantId: string; readonly plan: string | undefined; readonly showHistory: boolean };

/** Tenants' plans, and the windows that follow from them. */
export interface KeepPlans {
  set(plan: Omit<NewTenantPlan, 'fingerprint'>): Promise<TenantPlan>;
  /** The plan in force; TENANT_PLAN_NOT_FOUND. */
  get(tenantId: string): Promise<TenantPlan>;
  /** By tenant, and newest first within one. */
  list(filter: PlanFilter, page: PageQuery): Promise<Page<TenantPlan>>;
  /** What holds at an instant, the database's now by default. The purge uses the very same. */
  resolve(tenantId: string, at: Temporal.Instant | undefined): Promise<Resolution & { readonly at: Temporal.Instant }>;
}

/** Makes KeepPlans; `graceDays` is how long a longer window holds after a downgrade. */
export function makeKeepPlans(
  plans: PlanRepository,
  policies: ExecutionPolicyRepository,
  catalogue: SubjectCatalogue,
  graceDays: number,
): KeepPlans {
  const inForce = async (tenantId: string): Promise<TenantPlan | undefined> => {
    const { entries, now } = await plans.history(tenantId);
    const current = inForceAt(entries, now);
    return current?.plan === undefined ? undefined : current;
  };
  return {
    set: ({ requestId, ...plan }) => {
      const { tenantId, plan: bought, effectiveAt, reason, etag } = plan;
      const body = fingerprint({ tenantId, bought, effectiveAt: effectiveAt?.toString(), reason, etag });
      return plans.set({ ...plan, requestId, fingerprint: body });
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
      const [{ entries, planWindows, now }, policy, subjects] = await Promise.all([
        plans.history(tenantId),
        policies.get(tenantId),
        catalogue.listSubjects(),
      ]);
      const resolveAt = at ?? now;
      const policyWindows = policy ? [toPolicyWindow(policy)] : [];
      const input = { entries, planWindows, policies: policyWindows, subjects, at: resolveAt, graceDays };
      return { ...resolveWindows(input), at: resolveAt };
    },
  };
}
