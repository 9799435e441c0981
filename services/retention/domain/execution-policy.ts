import { DomainError } from '#libs/kernel/domain-error.ts';
import type { ResolvedWindow } from './windows.ts';

/** How long a tenant's executions are kept. */
export interface ExecutionPolicy {
  readonly tenantId: string;
  readonly retentionDays: number;
  readonly isEnabled: boolean;
  /** So many of the newest stay whatever their age: a floor under what remains. */
  readonly minToKeep: number;
  /** Grows with every change. */
  readonly version: number;
  readonly lastCleanupAt: Temporal.Instant | undefined;
  readonly lastCleanupDeleted: number;
  readonly createdAt: Temporal.Instant;
  readonly updatedAt: Temporal.Instant;
}

/** What a policy says where it does not say otherwise, as the seed "Execution Retention Policy" has it. */
export const DEFAULT_EXECUTION_POLICY = { retentionDays: 90, isEnabled: true, minToKeep: 100 } as const;

/** The window of executions. Without a policy, or with one that is switched off, everything is kept. */
export function windowOfExecutions(policy: ExecutionPolicy | undefined): ResolvedWindow {
  const rest = { subject: 'EXECUTIONS', from: undefined, change: undefined } as const;
  if (!policy) return { ...rest, window: { kind: 'KEEP_ALL' }, source: 'NONE' };
  if (!policy.isEnabled) return { ...rest, window: { kind: 'KEEP_ALL' }, source: 'POLICY' };
  const window = { kind: 'DAYS', days: policy.retentionDays } as const;
  return { ...rest, window, source: 'POLICY', minToKeep: policy.minToKeep };
}

/** The tenant has no execution policy: every execution is kept. */
export const executionPolicyNotFound = (): DomainError =>
  new DomainError('not-found', 'EXECUTION_POLICY_NOT_FOUND', 'The tenant has no execution policy.');
