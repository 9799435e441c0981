import { DomainError } from '#libs/kernel/domain-error.ts';

/** Whether an environment is as its source says. */
export const DRIFT_STATUSES = ['IN_SYNC', 'DRIFT', 'UNKNOWN'] as const;

/** One of DRIFT_STATUSES. */
export type DriftStatus = (typeof DRIFT_STATUSES)[number];

/** How one workflow of an environment differs from its source. */
export const DRIFT_FLAGS = ['MODIFIED', 'NOT_IN_GIT', 'UNKNOWN'] as const;

/** One of DRIFT_FLAGS. */
export type DriftFlag = (typeof DRIFT_FLAGS)[number];

/** JSON as the checker gave it. */
export type JsonObject = { readonly [key: string]: unknown };

/** How many workflows have each flag. */
export interface FlagCounts {
  readonly modified: number;
  readonly notInGit: number;
  readonly unknown: number;
}

/** One environment. Its badge is a copy of the newest check's result, so that it outlives the check. */
export interface Environment {
  readonly id: string;
  readonly tenantId: string;
  readonly displayName: string;
  readonly driftStatus: DriftStatus;
  readonly counts: FlagCounts;
  readonly lastCheckedAt: Temporal.Instant | undefined;
  readonly createdAt: Temporal.Instant;
  readonly updatedAt: Temporal.Instant;
}

/** A workflow that a check flagged. */
export interface FlaggedWorkflow {
  readonly workflow: string;
  readonly flag: DriftFlag;
}

/** One comparison of an environment with its source. */
export interface DriftCheck {
  readonly id: string;
  readonly tenantId: string;
  readonly environmentId: string;
  readonly status: DriftStatus;
  readonly checkedAt: Temporal.Instant;
  readonly summary: JsonObject | undefined;
  readonly workflows: readonly FlaggedWorkflow[];
  readonly counts: FlagCounts;
  readonly createdAt: Temporal.Instant;
}

/** Counts the flags of a check. */
export const countFlags = (workflows: readonly FlaggedWorkflow[]): FlagCounts => ({
  modified: workflows.filter(({ flag }) => flag === 'MODIFIED').length,
  notInGit: workflows.filter(({ flag }) => flag === 'NOT_IN_GIT').length,
  unknown: workflows.filter(({ flag }) => flag === 'UNKNOWN').length,
});

/** Unknown, or another tenant's. */
export const environmentNotFound = (): DomainError =>
  new DomainError('not-found', 'ENVIRONMENT_NOT_FOUND', 'Environment not found.');

/** Unknown, purged, or another tenant's. */
export const driftCheckNotFound = (): DomainError =>
  new DomainError('not-found', 'DRIFT_CHECK_NOT_FOUND', 'Drift check not found.');

/** The tenant has an environment of that name. */
export const nameTaken = (displayName: string): DomainError =>
  new DomainError('failed-precondition', 'NAME_TAKEN', `There is an environment ${displayName} already.`, {
    display_name: displayName,
  });
