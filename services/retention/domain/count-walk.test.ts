import test from 'ava';
import type { Ceiling } from './ceiling.ts';
import { nextWalk, tallyForCeiling, withCount } from './count-walk.ts';
import { newSubject, type PurgeSubject } from './purge-subject.ts';

const ceiling: Ceiling = { maxShare: 0.5, maxCount: 1_000, shareFrom: 10 };
const now = Temporal.Instant.from('2026-06-01T00:00:00Z');

const subjectOf = (days: number, lastDays: number | undefined): PurgeSubject =>
  newSubject(
    {
      subject: 'drift_checks',
      window: { kind: 'DAYS', days },
      source: 'PLAN',
      from: undefined,
      windowVersion: undefined,
      change: undefined,
    },
    lastDays,
  );

/** Counts over `rows`, the days that each is old, until nothing more is asked; and how many were to be seen each time. */
function countOver(rows: readonly number[], subject: PurgeSubject, by: Ceiling | undefined) {
  const asked: [string, number, number][] = [];
  let counted = subject;
  for (let walk = nextWalk(counted, by); walk; walk = nextWalk(counted, by)) {
    const { purpose, days, upTo } = walk;
    asked.push([purpose, days, upTo]);
    const expired = rows.filter((age) => age > days).length;
    const remaining = Math.max(0, Math.min(upTo, rows.length) - expired);
    counted = withCount(counted, walk, { expired, remaining, cutoff: now, cursor: undefined });
  }
  return { counted, asked };
}

const aged = (count: number, days: number): number[] => Array.from({ length: count }, () => days);

test('one walk is enough where the rows that it may see tell the share', (t) => {
  const { counted, asked } = countOver([...aged(5, 40), ...aged(100, 1)], subjectOf(30, 30), ceiling);
  t.deepEqual(asked, [['expired', 30, 20]]);
  t.like(tallyForCeiling(counted), { expired: 5, seen: 20 });
});

test('no more rows are looked at than can change the share of those that expired', (t) => {
  const { counted, asked } = countOver([...aged(400, 40), ...aged(100_000, 1)], subjectOf(30, 30), ceiling);
  t.deepEqual(asked, [
    ['expired', 30, 20],
    ['usual', 30, 800],
  ]);
  t.like(tallyForCeiling(counted), { expired: 400, seen: 800 });
});

test('a tenant with fewer rows than were to be seen is not counted again', (t) => {
  const { counted, asked } = countOver([...aged(12, 40), ...aged(3, 1)], subjectOf(30, 30), ceiling);
  t.deepEqual(asked, [['expired', 30, 20]]);
  t.like(tallyForCeiling(counted), { expired: 12, seen: 15 });
});

test('after a narrower window the ceiling is told of the rows beyond the wider one', (t) => {
  const { counted, asked } = countOver([...aged(50, 90), ...aged(300, 10), ...aged(10, 1)], subjectOf(7, 30), ceiling);
  t.deepEqual(asked, [
    ['expired', 7, 0],
    ['usual', 30, 20],
    ['usual', 30, 100],
  ]);
  t.like(counted.expired, { expired: 350 });
  t.like(tallyForCeiling(counted), { expired: 50, seen: 100 });
});

test('without a ceiling only what expired is counted', (t) => {
  for (const by of [undefined, { ...ceiling, maxShare: undefined, maxCount: undefined }]) {
    t.deepEqual(countOver(aged(50, 40), subjectOf(30, undefined), by).asked, [['expired', 30, 0]]);
  }
});

test('the first answer’s cutoff holds for the whole walk, whatever a later one says', (t) => {
  const subject = subjectOf(30, 30);
  const walk = nextWalk(subject, ceiling);
  if (!walk) throw new Error('nothing is counted');
  const first = withCount(subject, walk, { expired: 3, remaining: 0, cutoff: now, cursor: 'next' });
  t.is(first.state, 'COUNTING');
  if (!first.walk) throw new Error('the walk is over');
  const later = now.add({ hours: 1 });
  const whole = withCount(first, first.walk, { expired: 4, remaining: 5, cutoff: later, cursor: undefined });
  t.is(whole.walk, undefined);
  t.deepEqual([whole.expired?.cutoff.toString(), whole.expired?.expired, whole.expired?.seen], [now.toString(), 7, 12]);
});
