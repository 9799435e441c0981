/** The parts of an instant that a cron pattern is about, in UTC. */
export interface MinuteDigest {
  readonly min: number;
  readonly hour: number;
  readonly date: number;
  readonly month: number;
  /** 0 is Sunday. */
  readonly dow: number;
}

const MINUTE_MS = 60_000;
const MINUTES_TO_SEARCH = 4 * 366 * 24 * 60;

/**
 * The first whole minute after `now` that the pattern matches, in UTC; undefined when there is none within four years
 * (the 30th of February).
 */
export function nextMatch(
  now: Temporal.Instant,
  matches: (digest: MinuteDigest) => boolean,
): Temporal.Instant | undefined {
  // A Date only takes an instant apart here, some twenty times as fast as a zoned date-time would.
  let at = Math.floor(now.epochMilliseconds / MINUTE_MS) * MINUTE_MS;
  for (let minute = 0; minute < MINUTES_TO_SEARCH; minute += 1) {
    at += MINUTE_MS;
    const utc = new Date(at);
    const digest = {
      min: utc.getUTCMinutes(),
      hour: utc.getUTCHours(),
      date: utc.getUTCDate(),
      month: utc.getUTCMonth() + 1,
      dow: utc.getUTCDay(),
    };
    if (matches(digest)) return Temporal.Instant.fromEpochMilliseconds(at);
  }
  return undefined;
}
