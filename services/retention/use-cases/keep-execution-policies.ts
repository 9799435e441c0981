import type { Page, PageQuery } from '#libs/kernel/page.ts';
import {
  EXECUTIONS,
  type ExecutionPolicy,
  executionPolicyNotFound,
  toPolicyWindow,
} from '../domain/execution-policy.ts';
import { resolveWindows } from '../domain/windows.ts';
import type { ForecastPurge, PurgeForecast } from './forecast-purge.ts';
import type { ExecutionPolicyRepository, NewExecutionPolicy, PlanRepository, SubjectCatalogue } from './ports.ts';

/** Tenants' execution policies. */
export interface KeepExecutionPolicies {
  /** Creates or replaces; ETAG_MISMATCH. */
  upsert(policy: NewExecutionPolicy): Promise<ExecutionPolicy>;
  /** The policy as `upsert` would leave it, and what the next purge would then take. Changes nothing. */
  preview(policy: NewExecutionPolicy): Promise<{
    readonly policy: ExecutionPolicy;
    readonly forecast: PurgeForecast | undefined;
  }>;
  /** EXECUTION_POLICY_NOT_FOUND. */
  get(tenantId: string): Promise<ExecutionPolicy>;
  /** Removes a policy, if there is one; ETAG_MISMATCH. */
  remove(policy: Pick<NewExecutionPolicy, 'tenantId' | 'actor' | 'subject' | 'etag'>): Promise<void>;
  /** By tenant: all policies, or with a tenant its own. */
  list(tenantId: string | undefined, page: PageQuery): Promise<Page<ExecutionPolicy>>;
}

/** Makes KeepExecutionPolicies; `graceDays` is the grace of plans, which a policy can cut short. */
export const makeKeepExecutionPolicies = (
  policies: ExecutionPolicyRepository,
  plans: PlanRepository,
  catalogue: SubjectCatalogue,
  forecast: ForecastPurge,
  graceDays: number,
): KeepExecutionPolicies => ({
  upsert: policies.upsert,

  async preview(wanted) {
    const policy = await policies.preview(wanted);
    const [forecasted] = await forecast({
      subjects: [EXECUTIONS],
      tenants: [wanted.tenantId],
      actor: wanted.actor,
      async changesOf(tenantId) {
        const [{ now, ...history }, current, catalogued] = await Promise.all([
          plans.history(tenantId),
          policies.get(tenantId),
          catalogue.listSubjects(),
        ]);
        const subjects = catalogued.filter(({ name }) => name === EXECUTIONS);
        const input = { ...history, subjects, at: now, graceDays };
        const [before] = resolveWindows({ ...input, policies: current ? [toPolicyWindow(current)] : [] }).windows;
        const [after] = resolveWindows({ ...input, policies: [toPolicyWindow(policy)] }).windows;
        // A policy has no grace.
        return before && after ? [{ before, after, effectAt: undefined }] : [];
      },
    });
    return { policy, forecast: forecasted };
  },

  async get(tenantId) {
    const policy = await policies.get(tenantId);
    if (!policy) throw executionPolicyNotFound();
    return policy;
  },

  remove: policies.remove,

  async list(tenantId, page) {
    if (tenantId === undefined) return policies.list(page);
    const policy = await policies.get(tenantId);
    return { items: policy ? [policy] : [], next: undefined };
  },
});
