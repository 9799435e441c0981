import type { Window } from './windows.ts';

/** How much one purge may take of one subject of one tenant before a person has looked at it. */
export interface Ceiling {
  /** The share of a subject's rows, above 0 and up to 1; undefined: switched off. */
  readonly maxShare: number | undefined;
  /** The number of a subject's rows; undefined: switched off. */
  readonly maxCount: number | undefined;
  /** Below this many expired rows the share is not checked: of a handful, any share is a handful. */
  readonly shareFrom: number;
}

/** What a purge would take; undefined where it could not be counted. */
export interface SubjectCount {
  readonly expired: number | undefined;
  readonly total: number | undefined;
}

/** What a person released: at most `rows` rows that are older than `cutoff` and beyond `days`. */
export interface Approval {
  readonly at: Temporal.Instant;
  readonly actor: string;
  readonly reason: string;
  readonly days: number;
  readonly cutoff: Temporal.Instant;
  readonly rows: number;
}

/** Why a subject of a tenant was held, and who released it. */
export interface Hold extends SubjectCount {
  readonly maxShare: number | undefined;
  readonly maxCount: number | undefined;
  readonly heldAt: Temporal.Instant;
  readonly approval: Approval | undefined;
}

/** How long an approval is good for, in days. */
export const APPROVAL_DAYS = 7;

const isCount = (value: number | undefined): value is number => Number.isSafeInteger(value) && Number(value) >= 0;

/** Whether the ceiling is there at all. */
export const isSwitchedOff = ({ maxShare, maxCount }: Ceiling): boolean =>
  maxShare === undefined && maxCount === undefined;

/**
 * Whether a purge must wait for a person: it would take more than the ceiling, or what it would take is unknown. A
 * count that is missing, no number or more than all there is cannot be trusted, and so holds.
 */
export function exceedsCeiling({ expired, total }: SubjectCount, ceiling: Ceiling): boolean {
  const { maxShare, maxCount, shareFrom } = ceiling;
  if (isSwitchedOff(ceiling)) return false;
  if (!isCount(expired) || (maxCount !== undefined && !(expired <= maxCount))) return true;
  if (maxShare === undefined || expired === 0) return false;
  if (!isCount(total) || total < expired) return true;
  return expired >= shareFrom && !(expired / total <= maxShare);
}

/**
 * The days beyond which the ceiling counts rows. Only what the window of the last COMPLETE purge would also take
 * counts, so a change between two known windows is not held. Without such a purge everything expired counts.
 */
export const usualDays = (days: number, lastDays: number | undefined): number => Math.max(days, lastDays ?? days);

/**
 * The most rows that have to be seen to check the ceiling for `expired` rows: once there are so many, their share is
 * small enough. Undefined: the share is not checked, so none have to be seen.
 */
export function rowsToSee(expired: number, { maxShare, shareFrom }: Ceiling): number | undefined {
  if (maxShare === undefined || !(maxShare > 0) || expired < shareFrom) return undefined;
  return Math.ceil(expired / maxShare);
}

/** What a decision is made from. */
export interface DecideInput {
  /** The days of the window in force. */
  readonly days: number;
  /** The days of the window in the tenant's last COMPLETE purge; undefined: there was none, or it kept everything. */
  readonly lastDays: number | undefined;
  /** The rows beyond `usualDays(days, lastDays)`, and all rows as far as they had to be seen. */
  readonly counts: SubjectCount;
  readonly ceiling: Ceiling;
  /** The newest approval of this subject; undefined: there is none. */
  readonly approval: Approval | undefined;
  readonly now: Temporal.Instant;
}

/** What may be done with one subject of a tenant. */
export type Decision =
  | { readonly kind: 'purge'; readonly days: number }
  | { readonly kind: 'hold' }
  | {
      /** Oldest first, at most `maxRows` rows older than `cutoff`. What is left after that is held: isHeldStill. */
      readonly kind: 'purge-approved';
      readonly days: number;
      readonly cutoff: Temporal.Instant;
      readonly maxRows: number;
    };

/** Decides whether a subject is purged, held, or purged as far as an approval goes. */
export function decide({ days, counts, ceiling, approval, now }: DecideInput): Decision {
  if (!exceedsCeiling(counts, ceiling)) return { kind: 'purge', days };
  if (!approval || !isGood(approval, now)) return { kind: 'hold' };
  const wider = Math.max(days, approval.days);
  const byWindow = now.subtract({ hours: wider * 24 });
  const cutoff = Temporal.Instant.compare(byWindow, approval.cutoff) < 0 ? byWindow : approval.cutoff;
  return { kind: 'purge-approved', days: wider, cutoff, maxRows: approval.rows };
}

/** Whether a subject is held again after its approved rows went: `expired` rows were beyond its window before that. */
export const isHeldStill = ({ expired, removed }: { expired: number | undefined; removed: number }): boolean =>
  !isCount(expired) || expired > removed;

const isGood = ({ at, rows, days }: Approval, now: Temporal.Instant): boolean =>
  isCount(rows) &&
  Number.isSafeInteger(days) &&
  days > 0 &&
  Temporal.Instant.compare(now, at.add({ hours: APPROVAL_DAYS * 24 })) < 0;

/** How many tenants of one purge may have a narrower window than before, before a person has looked at it. */
export interface FleetCeiling {
  /** The share of the tenants, above 0 and up to 1; undefined: switched off. */
  readonly share: number | undefined;
  /** Fewer tenants than this never hold a purge. */
  readonly tenants: number;
}

/** Whether a window keeps less than the one of the tenant's last COMPLETE purge; undefined: there was none. */
export const isNarrower = (window: Window, last: Window | undefined): boolean =>
  last !== undefined && daysKept(window) < daysKept(last);

const daysKept = (window: Window): number => (window.kind === 'DAYS' ? window.days : Infinity);

/** Whether so many tenants of a purge have narrower windows that the whole purge must wait for a person. */
export function narrowedTooMany(
  { narrowed, tenants }: { readonly narrowed: number; readonly tenants: number },
  ceiling: FleetCeiling,
): boolean {
  if (ceiling.share === undefined) return false;
  return narrowed >= ceiling.tenants && narrowed > 0 && !(narrowed / tenants <= ceiling.share);
}
