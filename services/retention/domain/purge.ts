import { DomainError } from '#libs/kernel/domain-error.ts';
import type { ResourceCount } from './counts.ts';
import type { PurgeSubject } from './purge-subject.ts';

/** Where one tenant's part of a retention purge stands. */
export const ITEM_STATES = ['PENDING', 'RUNNING', 'COMPLETE', 'PARTIAL', 'FAILED', 'HELD', 'SKIPPED'] as const;

/** One of ITEM_STATES. */
export type ItemState = (typeof ITEM_STATES)[number];

/** Where a whole retention purge stands: it follows from its items and from whether it is held as a whole. */
export const PURGE_STATES = ['PENDING', 'RUNNING', 'COMPLETE', 'PARTIAL', 'HELD'] as const;

/** One of PURGE_STATES. */
export type PurgeState = (typeof PURGE_STATES)[number];

/** Who set a purge going: a call of Purge, a tenant's PurgeNow, or the service's own schedule. */
export type PurgeTrigger = 'PURGE' | 'PURGE_NOW' | 'SCHEDULE';

/** Why a whole purge was held, and who released it. */
export interface FleetHold {
  /** How many of its tenants have a narrower window than in their last COMPLETE purge. */
  readonly narrowed: number;
  readonly heldAt: Temporal.Instant;
  readonly approval: { readonly at: Temporal.Instant; readonly actor: string; readonly reason: string } | undefined;
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
    /** Those of the skipped ones that the purge which had them left PARTIAL or FAILED. */
    readonly skippedFailed: number;
  };
  readonly counts: readonly ResourceCount[];
  readonly createdAt: Temporal.Instant;
  readonly startedAt: Temporal.Instant | undefined;
  readonly finishedAt: Temporal.Instant | undefined;
  /** The subjects it is limited to; empty: all. */
  readonly subjects: readonly string[];
  readonly fleetHold: FleetHold | undefined;
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
  /** By name; empty: it was not worked on yet. */
  readonly subjects: readonly PurgeSubject[];
  /** What is being counted or removed. */
  readonly workingOn: string | undefined;
  readonly error: string | undefined;
  readonly runningPurgeId: string | undefined;
  /** How often a worker took it up. */
  readonly attempts: number;
  /** How many of those ended with an error. */
  readonly failures: number;
  /** Since when it waits for an owner that does not answer. */
  readonly waitingSince: Temporal.Instant | undefined;
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
export const hasEnded = ({ state }: Pick<RetentionPurge, 'state'>): boolean =>
  state === 'COMPLETE' || state === 'PARTIAL' || state === 'HELD';

/**
 * Where a purge stands. `own` are the states of its items, `states` the same with those that were left to another purge
 * standing as they do there.
 */
export function purgeStateOf(
  own: Partial<Record<ItemState, number>>,
  states: Partial<Record<ItemState, number>>,
  fleetHold: FleetHold | undefined,
): PurgeState {
  if (fleetHold && !fleetHold.approval) return 'HELD';
  const count = (of: Partial<Record<ItemState, number>>, ...wanted: ItemState[]): number =>
    wanted.reduce((sum, state) => sum + (of[state] ?? 0), 0);
  if (count(states, 'PENDING', 'RUNNING') > 0) {
    const begun = count(own, 'RUNNING', 'COMPLETE', 'PARTIAL', 'FAILED', 'HELD');
    return begun > 0 ? 'RUNNING' : 'PENDING';
  }
  return count(states, 'PARTIAL', 'FAILED', 'HELD', 'SKIPPED') > 0 ? 'PARTIAL' : 'COMPLETE';
}

/** Where a tenant's part ends up: a failure outweighs a hold, since the next purge tries it again by itself. */
export function endOf(subjects: readonly PurgeSubject[]): Extract<ItemState, 'COMPLETE' | 'PARTIAL' | 'HELD'> {
  if (subjects.some(({ state }) => state === 'PARTIAL')) return 'PARTIAL';
  return subjects.some(({ state }) => state === 'HELD') ? 'HELD' : 'COMPLETE';
}

/** Unknown, or nothing that this caller's tenant is part of. */
export const purgeNotFound = (): DomainError =>
  new DomainError('not-found', 'PURGE_NOT_FOUND', 'Retention purge not found.');

/** It goes on by itself, has ended, or was never held. */
export const purgeNotHeld = (state: ItemState): DomainError =>
  new DomainError('failed-precondition', 'PURGE_NOT_HELD', `The tenant's purge is not held: it is ${state}.`, {
    state,
  });

/** The purge as a whole goes on by itself, has ended, or was never held. */
export const wholePurgeNotHeld = (state: PurgeState): DomainError =>
  new DomainError('failed-precondition', 'PURGE_NOT_HELD', `The purge is not held as a whole: it is ${state}.`, {
    state,
  });

/** No plan, no policy and no owner knows the tenants. */
export const tenantsUnknown = (tenantIds: readonly string[]): DomainError =>
  new DomainError(
    'not-found',
    'TENANT_UNKNOWN',
    `No plan, no policy and no data is known of ${tenantIds.slice(0, 10).join(', ')}${tenantIds.length > 10 ? ', …' : ''}.`,
    { tenant_ids: tenantIds.slice(0, 10).join(',') },
  );

/** The tenant has no plan in force. */
export const tenantPlanNotFound = (): DomainError =>
  new DomainError('not-found', 'TENANT_PLAN_NOT_FOUND', 'The tenant has no plan in force.');
