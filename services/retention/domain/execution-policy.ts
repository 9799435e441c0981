import { DomainError } from '#libs/kernel/domain-error.ts';
import type { PolicyWindow } from './windows.ts';

/** The subject that execution policies are about. */
export const EXECUTIONS = 'executions';

/** How long a tenant's executions are kept. */
export interface ExecutionPolicy {
  readonly tenantId: string;
  readonly retentionDays: number;
  readonly isEnabled: boolean;
  /** So many of the newest stay whatever their age: a floor under what remains. */
  readonly minToKeep: number;
  /** A running execution stays until it has been expired for so many days. */
  readonly staleAfterDays: number;
  /** Grows with every change. */
  readonly version: number;
  readonly lastCleanupAt: Temporal.Instant | undefined;
  readonly lastCleanupDeleted: number;
  readonly createdAt: Temporal.Instant;
  readonly updatedAt: Temporal.Instant;
}

/** What a policy says where it does not say otherwise, as the seed "Execution Retention Policy" has it. */
export const DEFAULT_EXECUTION_POLICY = {
  retentionDays: 90,
  isEnabled: true,
  minToKeep: 100,
  staleAfterDays: 30,
} as const;

/** What the policy says of its subject, for resolveWindows. */
export const toPolicyWindow = (policy: ExecutionPolicy): PolicyWindow => ({
  subject: EXECUTIONS,
  days: policy.retentionDays,
  enabled: policy.isEnabled,
  floor: policy.minToKeep,
  staleAfterDays: policy.staleAfterDays,
});

/** The tenant has no execution policy: every execution is kept. */
export const executionPolicyNotFound = (): DomainError =>
  new DomainError('not-found', 'EXECUTION_POLICY_NOT_FOUND', 'The tenant has no execution policy.');
