import type { ExecutionPolicy } from '#gen/lethe/retention/v1/retention_pb.ts';
import { retention } from '../rpc.ts';

/** The key of the policy's query. */
export const POLICY_KEY = ['execution-policy'] as const;

/**
 * Reads the tenant's policy; null where it has none, so that every execution is kept. By the list, which answers with
 * nothing then; the single read answers with an error.
 */
export async function readPolicy(signal?: AbortSignal): Promise<ExecutionPolicy | null> {
  const { executionPolicies } = await retention.listExecutionPolicies({ pageSize: 1 }, signal ? { signal } : {});
  return executionPolicies[0] ?? null;
}
