import test from 'ava';
import { type MinuteDigest, nextMatch } from './schedule.ts';

const at = (text: string): Temporal.Instant => Temporal.Instant.from(text);
const threeAtNight = ({ min, hour }: MinuteDigest): boolean => min === 0 && hour === 3;

test('the next match is a whole minute after now, never now itself', (t) => {
  const next = (now: string) => nextMatch(at(now), threeAtNight)?.toString();
  t.is(next('2026-03-01T02:59:59.999999Z'), '2026-03-01T03:00:00Z');
  t.is(next('2026-03-01T03:00:00Z'), '2026-03-02T03:00:00Z');
  t.is(next('2026-02-28T12:00:00Z'), '2026-03-01T03:00:00Z');
});

test('weekdays count from Sunday, and months from January', (t) => {
  const sunday = nextMatch(at('2026-11-21T00:00:00Z'), ({ dow }) => dow === 0);
  t.is(sunday?.toString(), '2026-11-22T00:00:00Z');
  const leap = nextMatch(at('2026-01-01T00:00:00Z'), ({ month, date }) => month === 2 && date === 29);
  t.is(leap?.toString(), '2028-02-29T00:00:00Z');
});

test('what never comes to pass is not waited for', (t) => {
  t.is(
    nextMatch(at('2026-01-01T00:00:00Z'), ({ month, date }) => month === 2 && date === 30),
    undefined,
  );
});
