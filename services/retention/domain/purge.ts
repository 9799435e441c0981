import { DomainError } from '#libs/kernel/domain-error.ts';
import type { Hold } from './ceiling.ts';
import type { ResolvedWindow } from './windows.ts';

/** Where one tenant's part of a retention purge stands. */
export const ITEM_STATES = ['PENDING', 'RUNNING', 'COMPLETE', 'PARTIAL', 'FAILED', 'HELD', 'SKIPPED'] as const;

/** One of ITEM_STATES. */
export type ItemState = (typeof ITEM_STATES)[number];

/** Where a whole retention purge stands: it follows from its items. */
export const PURGE_STATES = ['PENDING', 'RUNNING', 'COMPLETE', 'PARTIAL'] as const;

/** One of PURGE_STATES. */
export type PurgeState = (typeof PURGE_STATES)[number];

/** Who set a purge going: a call of Purge, a tenant's PurgeNow, or the service's own schedule. */
export type PurgeTrigger = 'PURGE' | 'PURGE_NOW' | 'SCHEDULE';

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
  readonly trigger: PurgeTrigger;
  readonly validateOnly: boolean;
  readonly actor: string;
  readonly reason: string | undefined;
  readonly requestId: string | undefined;
  readonly state: PurgeState;
  readonly tenants: {
    readonly all: number;
    readonly complete: number;
    readonly failed: number;
    readonly held: number;
    readonly skipped: number;
  };
  readonly counts: readonly ResourceCount[];
  readonly createdAt: Temporal.Instant;
  readonly startedAt: Temporal.Instant | undefined;
  readonly finishedAt: Temporal.Instant | undefined;
}

/**
 * The removal of one subject by one window, as the owner of the data knows it by its id. A purge whose window grew
 * while it was under way goes on with another operation, and the first keeps what it counted.
 */
export interface PurgeOperation {
  readonly subject: string;
  readonly operationId: string;
  readonly retentionDays: number;
  /** By the owner's database, as ISO 8601; undefined before its first answer. */
  readonly cutoff: string | undefined;
  readonly counts: readonly ResourceCount[];
  /** Whether nothing more is to be done under this id. */
  readonly isDone: boolean;
}

/** Why a tenant's part was held, and who released it. */
export interface ItemHold extends Omit<Hold, 'approval'> {
  readonly subject: string;
  readonly approval: { readonly at: Temporal.Instant; readonly actor: string; readonly reason: string } | undefined;
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
  /** What was resolved when it was last worked on. */
  readonly windows: readonly ResolvedWindow[];
  readonly operations: readonly PurgeOperation[];
  /** What is being removed. */
  readonly subject: string | undefined;
  readonly error: string | undefined;
  readonly hold: ItemHold | undefined;
  readonly runningPurgeId: string | undefined;
  /** How often a worker took it up. */
  readonly attempts: number;
  /** How many of those ended with an error. */
  readonly failures: number;
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

/** Whether this purge does nothing more for the tenant by itself. */
export const isFinished = (state: ItemState): boolean => IS_FINISHED[state];

/** Whether the purge has ended, but for what is held. */
export const hasEnded = ({ state }: RetentionPurge): boolean => state === 'COMPLETE' || state === 'PARTIAL';

/** Sums of operations by resource type. `left` is what the last one told, since it alone looked last. */
export function sumCounts(operations: readonly PurgeOperation[]): readonly ResourceCount[] {
  const sums = new Map<string, ResourceCount>();
  for (const { counts } of operations) {
    for (const { resourceType, found, deleted, left } of counts) {
      const sum = sums.get(resourceType);
      sums.set(resourceType, {
        resourceType,
        found: (sum?.found ?? 0) + found,
        deleted: (sum?.deleted ?? 0) + deleted,
        left,
      });
    }
  }
  return [...sums.values()];
}

/** Unknown, or nothing that this caller's tenant is part of. */
export const purgeNotFound = (): DomainError =>
  new DomainError('not-found', 'PURGE_NOT_FOUND', 'Retention purge not found.');

/** It goes on by itself, has ended, or was never held. */
export const purgeNotHeld = (state: ItemState): DomainError =>
  new DomainError('failed-precondition', 'PURGE_NOT_HELD', `The tenant's purge is not held: it is ${state}.`, {
    state,
  });

/** The tenant has no plan in force. */
export const tenantPlanNotFound = (): DomainError =>
  new DomainError('not-found', 'TENANT_PLAN_NOT_FOUND', 'The tenant has no plan in force.');
