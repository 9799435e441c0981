import type { PlanSubject } from './windows.ts';

/** How much one purge may take of one subject of one tenant before a person has looked at it. */
export interface Ceiling {
  /** The share of a subject's rows, above 0 and up to 1; undefined: switched off. */
  readonly maxShare: number | undefined;
  /** The number of a subject's rows; undefined: switched off. */
  readonly maxCount: number | undefined;
  /** The share is asked from so many expired rows on: of a handful, any share is a handful. */
  readonly shareFrom: number;
}

/** What a purge would take; undefined where it could not be counted. */
export interface Blast {
  readonly expired: number | undefined;
  readonly total: number | undefined;
}

/** Why a tenant's purge was held, and who released it. */
export interface Hold extends Blast {
  readonly subject: PlanSubject;
  readonly maxShare: number | undefined;
  readonly maxCount: number | undefined;
  readonly heldAt: Temporal.Instant;
  readonly approval: { readonly at: Temporal.Instant; readonly actor: string; readonly reason: string } | undefined;
}

const isCount = (value: number | undefined): value is number => Number.isSafeInteger(value) && Number(value) >= 0;

/** Whether the ceiling is there at all. */
export const isSwitchedOff = ({ maxShare, maxCount }: Ceiling): boolean =>
  maxShare === undefined && maxCount === undefined;

/**
 * Whether a purge must wait for a person: it would take more than the ceiling, or what it would take is unknown. A
 * count that is missing, no number or more than all there is cannot be trusted, and so holds.
 */
export function exceedsCeiling({ expired, total }: Blast, ceiling: Ceiling): boolean {
  const { maxShare, maxCount, shareFrom } = ceiling;
  if (isSwitchedOff(ceiling)) return false;
  if (!isCount(expired) || (maxCount !== undefined && !(expired <= maxCount))) return true;
  if (maxShare === undefined || expired === 0) return false;
  if (!isCount(total) || total < expired) return true;
  return expired >= shareFrom && !(expired / total <= maxShare);
}
