import { create } from '@bufbuild/protobuf';
import { DurationSchema, TimestampSchema } from '@bufbuild/protobuf/wkt';
import test from 'ava';
import fc from 'fast-check';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { parseDurationMs, parseTimestamp, toDuration, toOptionalTimestamp, toTimestamp } from './timestamp.ts';

const MIN_NANOS = -62_135_596_800n * 1_000_000_000n;
const MAX_NANOS = 253_402_300_799n * 1_000_000_000n + 999_999_000n;

test('an instant of the years 1 to 9999 goes to a message and back, to the nanosecond', (t) => {
  fc.assert(
    fc.property(fc.bigInt(MIN_NANOS, MAX_NANOS), (nanos) => {
      const instant = Temporal.Instant.fromEpochNanoseconds(nanos);
      const message = create(TimestampSchema, toTimestamp(instant));
      return (
        message.nanos >= 0 && message.nanos < 1_000_000_000 && parseTimestamp('at', message)?.epochNanoseconds === nanos
      );
    }),
  );
  t.is(toOptionalTimestamp(undefined), undefined);
  t.is(parseTimestamp('at', undefined), undefined);
});

test('what is later than the last microsecond of the year 9999 is that one, so that a database can round it', (t) => {
  for (const nanos of [999_999_000, 999_999_001, 999_999_500, 999_999_999]) {
    const parsed = parseTimestamp('at', create(TimestampSchema, { seconds: 253_402_300_799n, nanos }));
    t.is(parsed?.toString(), '9999-12-31T23:59:59.999999Z');
  }
});

test('a timestamp that is none is FIELD_INVALID', (t) => {
  for (const parts of [
    { seconds: -62_135_596_801n, nanos: 0 },
    { seconds: 253_402_300_800n, nanos: 0 },
    { seconds: 0n, nanos: -1 },
    { seconds: 0n, nanos: 1_000_000_000 },
  ]) {
    const error = t.throws(() => parseTimestamp('at', create(TimestampSchema, parts)), { instanceOf: DomainError });
    t.is(error?.reason, 'FIELD_INVALID');
  }
});

test('milliseconds are a valid duration, whatever their fraction, and come back whole', (t) => {
  fc.assert(
    fc.property(fc.double({ min: -1e9, max: 1e9, noNaN: true }), (milliseconds) => {
      const duration = create(DurationSchema, toDuration(milliseconds));
      const back = parseDurationMs('for', duration);
      return back !== undefined && Number.isInteger(back) && Math.abs(back - milliseconds) <= 1.001;
    }),
  );
  t.is(parseDurationMs('for', create(DurationSchema, { seconds: 10n, nanos: 999_999_999 })), 11_000);
  t.is(parseDurationMs('for', create(DurationSchema, { seconds: 0n, nanos: -1 })), -1);
  t.like(toDuration(1_999.999_999_9), { seconds: 2n, nanos: 0 });
});

test('a duration that is none is FIELD_INVALID', (t) => {
  t.is(parseDurationMs('for', undefined), undefined);
  for (const parts of [
    { seconds: 1n, nanos: -1 },
    { seconds: -1n, nanos: 1 },
    { seconds: 0n, nanos: 1_000_000_000 },
    { seconds: 315_576_000_001n, nanos: 0 },
  ]) {
    t.throws(() => parseDurationMs('for', create(DurationSchema, parts)), { instanceOf: DomainError });
  }
});
