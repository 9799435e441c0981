/** The parts of an instant that a cron pattern is about, in UTC. */
export interface MinuteDigest {
  readonly min: number;
  readonly hour: number;
  readonly date: number;
  readonly month: number;
  /** 0 is Sunday. */
  readonly dow: number;
}

const MINUTES_TO_SEARCH = 4 * 366 * 24 * 60;

/**
 * The first whole minute after `now` that the pattern matches, in UTC; undefined when there is none within four years
 * (the 30th of February).
 */
export function nextMatch(
  now: Temporal.Instant,
  matches: (digest: MinuteDigest) => boolean,
): Temporal.Instant | undefined {
  let at = now.round({ smallestUnit: 'minute', roundingMode: 'floor' });
  for (let minute = 0; minute < MINUTES_TO_SEARCH; minute += 1) {
    at = at.add({ minutes: 1 });
    const utc = at.toZonedDateTimeISO('UTC');
    const digest = { min: utc.minute, hour: utc.hour, date: utc.day, month: utc.month, dow: utc.dayOfWeek % 7 };
    if (matches(digest)) return at;
  }
  return undefined;
}
