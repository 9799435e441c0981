import { type Ceiling, isSwitchedOff, rowsToSee, usualDays } from './ceiling.ts';
import type { PurgeSubject, Tally, Walk } from './purge-subject.ts';

/**
 * The next count that a decision about the subject needs; undefined: everything is known. First come the rows beyond
 * the window, then, where the last COMPLETE purge had a wider one, those beyond that. Only where the share of the rows
 * matters are others looked at, and no more of them than can change the answer. `ceiling` undefined: nothing is decided,
 * the subject is only counted.
 */
export function nextWalk(subject: PurgeSubject, ceiling: Ceiling | undefined): Walk | undefined {
  const { window, lastDays, expired, usual } = subject;
  if (window.window.kind !== 'DAYS') return undefined;
  const { days } = window.window;
  const begin = (purpose: Walk['purpose'], ofDays: number, upTo: number): Walk => ({
    purpose,
    days: ofDays,
    minToKeep: window.minToKeep ?? 0,
    staleAfterDays: window.staleAfterDays,
    upTo,
    cursor: '',
    expired: 0,
    seen: 0,
    cutoff: undefined,
  });
  const known = usualDays(days, lastDays);
  const checked = ceiling && !isSwitchedOff(ceiling) ? ceiling : undefined;
  // So many rows say whether the share has to be checked at all.
  const first = checked?.maxShare ? Math.ceil(checked.shareFrom / checked.maxShare) : 0;
  if (!expired) return begin('expired', days, known === days ? first : 0);
  if (!checked) return undefined;
  const counted = usual ?? (known === days ? expired : undefined);
  if (!counted) return begin('usual', known, first);
  const needed = rowsToSee(counted.expired, checked);
  const isEnough = needed === undefined || counted.seen >= needed || isWhole(counted);
  return isEnough ? undefined : begin('usual', known, needed);
}

/** Whether there are no rows but those that were seen. */
const isWhole = ({ seen, upTo }: Tally): boolean => upTo > 0 && seen < upTo;

/** What the ceiling is asked about: rows by the wider window where there is one. */
export const tallyForCeiling = ({ usual, expired }: PurgeSubject): Tally | undefined => usual ?? expired;

/** The subject with one more answer of its walk. `isOver`: the walk has seen all it had to. */
export function withCount(
  subject: PurgeSubject,
  walk: Walk,
  answer: { expired: number; remaining: number; cutoff: Temporal.Instant; cursor: string | undefined },
): PurgeSubject {
  const expired = walk.expired + answer.expired;
  const seen = walk.seen + answer.expired + answer.remaining;
  const { purpose, days, minToKeep, staleAfterDays, upTo } = walk;
  // The cutoff of the first answer holds for the whole walk: it is given back with every call.
  const cutoff = walk.cutoff ?? answer.cutoff;
  if (answer.cursor !== undefined) {
    return { ...subject, state: 'COUNTING', walk: { ...walk, expired, seen, cutoff, cursor: answer.cursor } };
  }
  const tally = { days, minToKeep, staleAfterDays, upTo, expired, seen, cutoff };
  return { ...subject, state: 'COUNTING', walk: undefined, [purpose]: tally };
}
