import { DomainError } from '#libs/kernel/domain-error.ts';
import type { RetentionSubject } from './windows.ts';

/** Where one tenant's part of a retention purge stands. */
export const ITEM_STATES = ['PENDING', 'RUNNING', 'COMPLETE', 'PARTIAL', 'FAILED', 'HELD', 'SKIPPED'] as const;

/** One of ITEM_STATES. */
export type ItemState = (typeof ITEM_STATES)[number];

/** Where a whole retention purge stands: it follows from its items. */
export type PurgeState = 'PENDING' | 'RUNNING' | 'COMPLETE' | 'PARTIAL';

/** Counts of one kind of resource. */
export interface ResourceCount {
  readonly resourceType: string;
  readonly found: number;
  readonly deleted: number;
  readonly left: number;
}

/** One run of the retention job. */
export interface RetentionPurge {
  readonly id: string;
  readonly trigger: 'PURGE' | 'PURGE_NOW';
  readonly validateOnly: boolean;
  readonly actor: string;
  readonly reason: string | undefined;
  readonly requestId: string | undefined;
  readonly state: PurgeState;
  readonly tenants: {
    readonly all: number;
    readonly complete: number;
    readonly failed: number;
    readonly skipped: number;
  };
  readonly counts: readonly ResourceCount[];
  readonly createdAt: Temporal.Instant;
  readonly startedAt: Temporal.Instant | undefined;
  readonly finishedAt: Temporal.Instant | undefined;
}

/** One tenant's part of it. */
export interface RetentionPurgeItem {
  readonly purgeId: string;
  readonly tenantId: string;
  readonly state: ItemState;
  readonly validateOnly: boolean;
  readonly actor: string;
  readonly plan: string | undefined;
  readonly planVersion: number | undefined;
  readonly cutoffs: readonly { readonly subject: RetentionSubject; readonly cutoff: string }[];
  readonly counts: readonly ResourceCount[];
  readonly error: string | undefined;
  readonly runningPurgeId: string | undefined;
  readonly attempts: number;
  readonly startedAt: Temporal.Instant | undefined;
  readonly finishedAt: Temporal.Instant | undefined;
  readonly updatedAt: Temporal.Instant;
}

const IS_FINISHED: Readonly<Record<ItemState, boolean>> = {
  PENDING: false,
  RUNNING: false,
  COMPLETE: true,
  PARTIAL: true,
  FAILED: true,
  HELD: true,
  SKIPPED: true,
};

/** Whether this purge does nothing more for the tenant. */
export const isFinished = (state: ItemState): boolean => IS_FINISHED[state];

/** A purge is COMPLETE only when every tenant is; anything else that has ended is PARTIAL. */
export function purgeStateOf(count: Readonly<Record<ItemState, number>>): PurgeState {
  if (count.PENDING + count.RUNNING > 0)
    return count.RUNNING + count.COMPLETE + count.FAILED > 0 ? 'RUNNING' : 'PENDING';
  return count.PARTIAL + count.FAILED + count.HELD + count.SKIPPED > 0 ? 'PARTIAL' : 'COMPLETE';
}

/** Unknown, or nothing that this caller's tenant is part of. */
export const purgeNotFound = (): DomainError =>
  new DomainError('not-found', 'PURGE_NOT_FOUND', 'Retention purge not found.');

/** The tenant has no plan in force. */
export const tenantPlanNotFound = (): DomainError =>
  new DomainError('not-found', 'TENANT_PLAN_NOT_FOUND', 'The tenant has no plan in force.');
