import test from 'ava';
import { nextInstant, parseCronPattern } from './cron-pattern.ts';

const next = (pattern: string, now: string) => nextInstant(pattern, Temporal.Instant.from(now))?.toString();

test('the next instant is a whole minute after now, never now itself', (t) => {
  t.is(next('0 3 * * *', '2026-03-01T02:59:59.999999Z'), '2026-03-01T03:00:00Z');
  t.is(next('0 3 * * *', '2026-03-01T03:00:00Z'), '2026-03-02T03:00:00Z');
  t.is(next('0 3 * * *', '2026-03-01T03:00:00.000001Z'), '2026-03-02T03:00:00Z');
  t.is(next('0 3 * * *', '2026-02-28T12:00:00Z'), '2026-03-01T03:00:00Z');
});

test('the pattern is in UTC, whatever the zone of the process', (t) => {
  const zone = process.env['TZ'];
  t.teardown(() => {
    if (zone === undefined) delete process.env['TZ'];
    else process.env['TZ'] = zone;
  });
  process.env['TZ'] = 'America/New_York';
  // The night on which New York's clocks are put forward.
  t.is(next('30 2 * * *', '2026-03-08T02:00:00Z'), '2026-03-08T02:30:00Z');
  t.is(next('30 2 * * *', '2026-03-08T06:00:00Z'), '2026-03-09T02:30:00Z');
});

test('weekdays count from Sunday, and months from January', (t) => {
  t.is(next('0 0 * * 0', '2026-11-21T00:00:00Z'), '2026-11-22T00:00:00Z');
  t.is(next('0 0 29 2 *', '2026-01-01T00:00:00Z'), '2028-02-29T00:00:00Z');
});

test('a pattern needs five fields and must match some instant', (t) => {
  t.is(parseCronPattern('0 3 * * 1-5'), '0 3 * * 1-5');
  for (const pattern of ['0 0 30 2 *', '* * * * * *', '0 3 * *', '@daily', '60 * * * *', 'a b c d e', '']) {
    t.throws(() => parseCronPattern(pattern), { message: /cron pattern of five fields/ }, pattern);
  }
});
