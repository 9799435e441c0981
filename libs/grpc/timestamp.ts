import type { Duration, Timestamp } from '@bufbuild/protobuf/wkt';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';

type Parts<T> = Omit<T, '$typeName' | '$unknown'>;

const NANOS_PER_SECOND = 1_000_000_000n;
// 0001-01-01 and 9999-12-31, the range of google.protobuf.Timestamp.
const MIN_SECONDS = -62_135_596_800n;
const MAX_SECONDS = 253_402_300_799n;
const LAST_NANOS = 999_999_000;
const MAX_DURATION_SECONDS = 315_576_000_000n;

/** An instant as a message's timestamp, to the nanosecond. */
export function toTimestamp(instant: Temporal.Instant): Parts<Timestamp> & { $typeName?: never } {
  const nanos = instant.epochNanoseconds;
  const rest = ((nanos % NANOS_PER_SECOND) + NANOS_PER_SECOND) % NANOS_PER_SECOND;
  return { seconds: (nanos - rest) / NANOS_PER_SECOND, nanos: Number(rest) };
}

/** As toTimestamp, and nothing for nothing: spread it into a message under the field's name. */
export const toOptionalTimestamp = (
  instant: Temporal.Instant | undefined,
): ReturnType<typeof toTimestamp> | undefined => instant && toTimestamp(instant);

/**
 * A message's timestamp as an instant, undefined for an absent one; FIELD_INVALID out of the years 1 to 9999. A database that
 * holds microseconds would round what is later than the last one of these years up to a year that no timestamp has: it is
 * taken for that microsecond.
 */
export function parseTimestamp(field: string, timestamp: Timestamp | undefined): Temporal.Instant | undefined {
  if (!timestamp) return undefined;
  const { seconds, nanos } = timestamp;
  if (seconds < MIN_SECONDS || seconds > MAX_SECONDS || nanos < 0 || nanos > 999_999_999) {
    throw fieldInvalid(field, 'must be between the years 1 and 9999');
  }
  const last = seconds === MAX_SECONDS ? LAST_NANOS : nanos;
  return Temporal.Instant.fromEpochNanoseconds(seconds * NANOS_PER_SECOND + BigInt(Math.min(nanos, last)));
}

/**
 * A message's duration in whole milliseconds, undefined for an absent one; a fraction is rounded away from zero.
 * FIELD_INVALID for what is no valid duration.
 */
export function parseDurationMs(field: string, duration: Duration | undefined): number | undefined {
  if (!duration) return undefined;
  const { seconds, nanos } = duration;
  const mixed = (seconds > 0n && nanos < 0) || (seconds < 0n && nanos > 0);
  if (mixed || Math.abs(nanos) > 999_999_999 || seconds > MAX_DURATION_SECONDS || seconds < -MAX_DURATION_SECONDS) {
    throw fieldInvalid(field, 'is not a valid duration');
  }
  return Number(seconds) * 1_000 + Math.sign(nanos) * Math.ceil(Math.abs(nanos) / 1_000_000);
}

/** Milliseconds as a message's duration, to the nanosecond. */
export function toDuration(milliseconds: number): Parts<Duration> & { $typeName?: never } {
  const nanos = BigInt(Math.round(milliseconds * 1_000_000));
  return { seconds: nanos / NANOS_PER_SECOND, nanos: Number(nanos % NANOS_PER_SECOND) };
}
