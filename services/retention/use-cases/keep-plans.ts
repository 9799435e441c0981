import { tenantPlanNotFound } from '../domain/purge.ts';
import { type Resolution, resolveWindows, type TenantPlan } from '../domain/windows.ts';
import type { NewTenantPlan, PlanRepository } from './ports.ts';

/** Tenants' plans, and the windows that follow from them. */
export interface KeepPlans {
  set(plan: NewTenantPlan): Promise<TenantPlan>;
  /** The plan in force; TENANT_PLAN_NOT_FOUND. */
  get(tenantId: string): Promise<TenantPlan>;
  /** What holds at an instant, the database's now by default. The purge uses the very same. */
  resolve(tenantId: string, at: Temporal.Instant | undefined): Promise<Resolution & { readonly at: Temporal.Instant }>;
}

/** Makes KeepPlans; `graceDays` is how long a longer window holds after a downgrade. */
export const makeKeepPlans = (plans: PlanRepository, graceDays: number): KeepPlans => ({
  set: plans.set,
  async get(tenantId) {
    const { entries, now } = await plans.history(tenantId);
    const { current } = resolveWindows(entries, now, graceDays);
    if (!current) throw tenantPlanNotFound();
    return current;
  },
  async resolve(tenantId, at) {
    const { entries, now } = await plans.history(tenantId);
    return { ...resolveWindows(entries, at ?? now, graceDays), at: at ?? now };
  },
});
