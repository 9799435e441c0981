import test from 'ava';
import {
  type Approval,
  type Ceiling,
  type DecideInput,
  decide,
  exceedsCeiling,
  isHeldStill,
  isNarrower,
  narrowedTooMany,
  rowsToSee,
  usualDays,
} from './ceiling.ts';

const ceiling: Ceiling = { maxShare: 0.5, maxCount: 1_000, shareFrom: 10 };
const off: Ceiling = { maxShare: undefined, maxCount: undefined, shareFrom: 10 };

test('what is within share and number passes, and what is beyond either is held', (t) => {
  for (const [expired, total, held] of [
    [0, 0, false],
    [50, 100, false],
    [51, 100, true],
    [1_000, 10_000, false],
    [1_001, 10_000, true],
    [9, 9, false],
    [10, 10, true],
  ] as const) {
    t.is(exceedsCeiling({ expired, total }, ceiling), held, `${expired} of ${total}`);
  }
});

test('what cannot be computed is held, however little it seems to be', (t) => {
  for (const bad of [undefined, Number.NaN, -1, 0.5, Number.POSITIVE_INFINITY]) {
    t.true(exceedsCeiling({ expired: bad, total: 100 }, ceiling), `${bad} of 100`);
    t.true(exceedsCeiling({ expired: 1, total: bad }, ceiling), `1 of ${bad}`);
  }
  t.true(exceedsCeiling({ expired: 2, total: 1 }, ceiling), 'more than there are');
});

test('a ceiling that is no number holds everything', (t) => {
  t.true(exceedsCeiling({ expired: 10, total: 100 }, { ...ceiling, maxShare: Number.NaN }));
  t.true(exceedsCeiling({ expired: 1, total: 100 }, { ...ceiling, maxCount: Number.NaN }));
});

test('either half can be switched off without the other', (t) => {
  t.false(exceedsCeiling({ expired: 100, total: 100 }, { ...ceiling, maxShare: undefined }));
  t.true(exceedsCeiling({ expired: 1_001, total: undefined }, { ...ceiling, maxShare: undefined }));
  t.true(exceedsCeiling({ expired: 1_001, total: 1_001 }, { ...ceiling, maxCount: undefined }));
  t.false(exceedsCeiling({ expired: undefined, total: undefined }, off));
});

const now = Temporal.Instant.from('2026-06-01T00:00:00Z');
const ago = (days: number): Temporal.Instant => now.subtract({ hours: days * 24 });
const approvalOf = (given: Partial<Approval>): Approval => ({
  at: ago(1),
  actor: 'ada',
  reason: 'looked at it',
  days: 30,
  cutoff: ago(31),
  rows: 21,
  ...given,
});
const decideOn = (given: Partial<DecideInput>) => {
  const counts = { expired: 600, total: 1_000 };
  const decision = decide({ days: 30, lastDays: 30, counts, ceiling, approval: undefined, now, ...given });
  // As text, since ava cannot compare instants.
  return 'cutoff' in decision ? { ...decision, cutoff: decision.cutoff.toString() } : decision;
};

test('the ceiling counts what the last complete purge would also take, and everything without one', (t) => {
  t.is(usualDays(7, 30), 30, 'a downgrade after grace is not held for what its narrower window expires');
  t.is(usualDays(30, 7), 30, 'an upgrade counts by the wider window');
  t.is(usualDays(7, undefined), 7, 'a first backlog counts whole');
});

test('what is within the ceiling is purged by its window, and what is not is held', (t) => {
  t.deepEqual(decideOn({ counts: { expired: 400, total: 1_000 } }), { kind: 'purge', days: 30 });
  t.deepEqual(decideOn({}), { kind: 'hold' });
  t.deepEqual(decideOn({ counts: { expired: undefined, total: undefined } }), { kind: 'hold' });
});

test('an approval is for the rows, the cutoff and the days that were counted', (t) => {
  const approval = approvalOf({});
  t.deepEqual(decideOn({ approval }), { kind: 'purge-approved', days: 30, cutoff: ago(31).toString(), maxRows: 21 });
  // A downgrade between approval and claim took 121 rows where 21 were approved.
  t.deepEqual(decideOn({ days: 7, lastDays: undefined, approval }), {
    kind: 'purge-approved',
    days: 30,
    cutoff: ago(31).toString(),
    maxRows: 21,
  });
  // An upgrade keeps what its wider window keeps.
  t.deepEqual(decideOn({ days: 180, approval }), {
    kind: 'purge-approved',
    days: 180,
    cutoff: ago(180).toString(),
    maxRows: 21,
  });
});

test('an approval is good for seven days, and one that is no number is none', (t) => {
  t.is(decideOn({ approval: approvalOf({ at: ago(7).add({ microseconds: 1 }) }) }).kind, 'purge-approved');
  t.is(decideOn({ approval: approvalOf({ at: ago(7) }) }).kind, 'hold');
  for (const bad of [{ rows: Number.NaN }, { rows: -1 }, { days: 0 }, { days: Number.NaN }]) {
    t.is(decideOn({ approval: approvalOf(bad) }).kind, 'hold');
  }
});

test('what an approval did not cover is held still', (t) => {
  t.true(isHeldStill({ expired: 121, removed: 21 }));
  t.false(isHeldStill({ expired: 21, removed: 21 }));
  t.true(isHeldStill({ expired: undefined, removed: 21 }));
});

test('no more rows have to be seen than make the share small enough', (t) => {
  t.is(rowsToSee(100, ceiling), 200);
  t.is(rowsToSee(9, ceiling), undefined);
  t.is(rowsToSee(100, { ...ceiling, maxShare: undefined }), undefined);
});

test('a purge that narrows many tenants at once is held whole', (t) => {
  const fleet = { share: 0.1, tenants: 20 };
  for (const [narrowed, tenants, held] of [
    [19, 19, false],
    [20, 200, false],
    [20, 199, true],
    [21, 1_000, false],
    [0, 0, false],
    [20, 0, true],
  ] as const) {
    t.is(narrowedTooMany({ narrowed, tenants }, fleet), held, `${narrowed} of ${tenants}`);
  }
  t.false(narrowedTooMany({ narrowed: 1_000, tenants: 1_000 }, { ...fleet, share: undefined }));
  t.true(isNarrower({ kind: 'DAYS', days: 7 }, { kind: 'DAYS', days: 30 }));
  t.true(isNarrower({ kind: 'DAYS', days: 7 }, { kind: 'KEEP_ALL' }));
  t.false(isNarrower({ kind: 'DAYS', days: 7 }, undefined), 'a tenant that was never purged is not narrowed');
  t.false(isNarrower({ kind: 'KEEP_ALL' }, { kind: 'DAYS', days: 7 }));
});
