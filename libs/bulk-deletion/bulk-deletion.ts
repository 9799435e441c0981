import { DomainError } from '#libs/kernel/domain-error.ts';

/** Where a bulk deletion stands. */
export const BULK_STATES = ['SELECTING', 'RUNNING', 'CANCELLING', 'COMPLETE', 'STUCK', 'CANCELLED'] as const;

/** One of BULK_STATES. */
export type BulkState = (typeof BULK_STATES)[number];

/** Where one item of a bulk deletion stands. */
export const ITEM_STATES = ['PENDING', 'RUNNING', 'COMPLETE', 'SKIPPED', 'STUCK', 'CANCELLED'] as const;

/** One of ITEM_STATES. */
export type ItemState = (typeof ITEM_STATES)[number];

/** How an item ends; a STUCK one for as long as nobody redrives its deletion. */
export const ITEM_ENDS = ['COMPLETE', 'SKIPPED', 'STUCK', 'CANCELLED'] as const satisfies readonly ItemState[];

/** One of ITEM_ENDS. */
export type ItemEnd = (typeof ITEM_ENDS)[number];

/** What is done to each item. */
export type BulkMode = 'PURGE' | 'SOFT_DELETE';

/** How many items are in one state, of the SKIPPED those with one reason. */
export interface ItemGroup {
  readonly state: ItemState;
  readonly reason: string | null;
  readonly count: number;
}

/** How many items, and why. */
export interface ReasonCount {
  readonly reason: string;
  readonly count: number;
}

/** `matched` is the sum of `pending`, `completed`, `skipped`, `stuck` and `cancelled`. */
export interface BulkCounts {
  readonly matched: number;
  readonly pending: number;
  /** How many of `pending` have a deletion under way. */
  readonly underWay: number;
  readonly completed: number;
  readonly skipped: number;
  readonly stuck: number;
  readonly cancelled: number;
}

/** One durable operation that deletes everything a filter matched. `Filter` is kept as JSON. */
export interface BulkDeletion<Filter = unknown> {
  readonly id: string;
  readonly tenantId: string;
  readonly mode: BulkMode;
  readonly state: BulkState;
  readonly actor: string;
  readonly subject: string;
  /** The entry of the trust file by whose key the subject came; for the audit. */
  readonly trustEntry?: string;
  readonly reason: string;
  readonly requestId: string | undefined;
  readonly force: boolean;
  readonly filter: Filter;
  readonly counts: BulkCounts;
  /** Of the SKIPPED items, the most frequent reason first. */
  readonly skips: readonly ReasonCount[];
  readonly lastError: string | undefined;
  readonly cancelledBy: string | undefined;
  readonly createdAt: Temporal.Instant;
  readonly startedAt: Temporal.Instant | undefined;
  readonly updatedAt: Temporal.Instant;
  readonly finishedAt: Temporal.Instant | undefined;
}

/** One target of a bulk deletion. */
export interface BulkDeletionItem {
  readonly position: number;
  readonly targetId: string;
  readonly deletionId: string | undefined;
  readonly state: ItemState;
  readonly skipReason: string | undefined;
  readonly lastError: string | undefined;
  readonly updatedAt: Temporal.Instant;
}

/** What a filter matches now. */
export interface Matches {
  /** At most MAX_MATCHES. */
  readonly matched: number;
  readonly exceedsCeiling: boolean;
  /** Those that would be skipped, the most frequent reason first; none when the ceiling is exceeded. */
  readonly skips: readonly ReasonCount[];
}

/** No bulk deletion has more items. */
export const MAX_MATCHES = 100_000;

const HAS_ENDED: Readonly<Record<BulkState, boolean>> = {
  SELECTING: false,
  RUNNING: false,
  CANCELLING: false,
  COMPLETE: true,
  STUCK: true,
  CANCELLED: true,
};

/** Whether nothing more happens to it, for good or until a person redrives one of its items. */
export const hasEnded = (state: BulkState): boolean => HAS_ENDED[state];

/** The sums of all groups of items. */
export function toCounts(groups: readonly ItemGroup[]): BulkCounts {
  const sum = (...states: readonly ItemState[]): number =>
    groups.filter(({ state }) => states.includes(state)).reduce((total, { count }) => total + count, 0);
  return {
    matched: sum(...ITEM_STATES),
    pending: sum('PENDING', 'RUNNING'),
    underWay: sum('RUNNING'),
    completed: sum('COMPLETE'),
    skipped: sum('SKIPPED'),
    stuck: sum('STUCK'),
    cancelled: sum('CANCELLED'),
  };
}

/** Why items were skipped, the most frequent reason first. */
export const toSkips = (groups: readonly ItemGroup[]): readonly ReasonCount[] =>
  groups
    .filter(({ state }) => state === 'SKIPPED')
    .map(({ reason, count }) => ({ reason: reason ?? 'UNKNOWN', count }))
    .toSorted((one, other) => other.count - one.count || (one.reason < other.reason ? -1 : 1));

/** How a bulk deletion ends whose items have all ended. */
export function endOf(state: 'RUNNING' | 'CANCELLING', { stuck }: BulkCounts): BulkState {
  if (state === 'CANCELLING') return 'CANCELLED';
  return stuck > 0 ? 'STUCK' : 'COMPLETE';
}

/** Passes unless more match than may, or than the caller saw: TOO_MANY_MATCHES, COUNT_CHANGED. */
export function assertMatches(
  { matched, exceedsCeiling }: Pick<Matches, 'matched' | 'exceedsCeiling'>,
  expected: number | undefined,
): void {
  if (exceedsCeiling) throw tooManyMatches();
  if (expected !== undefined && matched > expected) throw countChanged(matched, expected);
}

/** Unknown, expired, or another tenant's. */
export const bulkDeletionNotFound = (): DomainError =>
  new DomainError('not-found', 'BULK_DELETION_NOT_FOUND', 'Bulk deletion not found.');

/** It is over, so there is nothing to cancel. */
export const bulkDeletionFinished = (state: BulkState): DomainError =>
  new DomainError('failed-precondition', 'BULK_DELETION_FINISHED', `The bulk deletion is ${state}.`, { state });

/** The filter has no condition. */
export const filterRequired = (): DomainError =>
  new DomainError(
    'invalid-argument',
    'FILTER_REQUIRED',
    'The filter must have at least one condition.',
    {},
    { violations: [{ field: 'filter', description: 'must have at least one condition' }] },
  );

/** More match than one bulk deletion takes. */
export const tooManyMatches = (): DomainError =>
  new DomainError(
    'failed-precondition',
    'TOO_MANY_MATCHES',
    `More than ${MAX_MATCHES} match; narrow the filter, by creation time for instance.`,
    { ceiling: String(MAX_MATCHES) },
  );

/** More match now than the caller saw. */
export const countChanged = (matched: number, expected: number): DomainError =>
  new DomainError(
    'failed-precondition',
    'COUNT_CHANGED',
    `${matched} match now, more than the expected ${expected}; look at the preview again.`,
    { matched: String(matched), expected: String(expected) },
  );

/** Another worker has claimed the bulk deletion, or it was cancelled. */
export const bulkLeaseLost = (): DomainError =>
  new DomainError('aborted', 'LEASE_LOST', 'The bulk deletion was cancelled, or its lease is another worker’s.');
