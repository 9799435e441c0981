import { type ExecutionPolicy, executionPolicyNotFound } from '../domain/execution-policy.ts';
import type { ExecutionPolicyRepository, NewExecutionPolicy } from './ports.ts';

/** Tenants' execution policies. */
export interface KeepExecutionPolicies {
  /** Creates or replaces; ETAG_MISMATCH. */
  upsert(policy: NewExecutionPolicy): Promise<ExecutionPolicy>;
  /** EXECUTION_POLICY_NOT_FOUND. */
  get(tenantId: string): Promise<ExecutionPolicy>;
}

/** Makes KeepExecutionPolicies. */
export const makeKeepExecutionPolicies = (policies: ExecutionPolicyRepository): KeepExecutionPolicies => ({
  upsert: policies.upsert,
  async get(tenantId) {
    const policy = await policies.get(tenantId);
    if (!policy) throw executionPolicyNotFound();
    return policy;
  },
});
