import { Cron } from 'croner';

/** The pattern, or an Error unless it is a cron pattern of five fields that matches some instant. */
export function parseCronPattern(text: string): string {
  try {
    if (nextInstant(text, Temporal.Instant.from('2000-01-01T00:00Z'))) return text;
  } catch {
    // Reported below.
  }
  throw new Error('must be a cron pattern of five fields, such as 0 3 * * *');
}

/** The first instant after `now` that the pattern matches, in UTC; undefined when there is none (the 30th of February). */
export function nextInstant(pattern: string, now: Temporal.Instant): Temporal.Instant | undefined {
  if (pattern.trim().split(/\s+/).length !== 5) throw new Error('a cron pattern has five fields');
  const next = new Cron(pattern, { timezone: 'UTC', mode: '5-part' }).nextRun(new Date(now.epochMilliseconds));
  return next ? Temporal.Instant.fromEpochMilliseconds(next.getTime()) : undefined;
}
