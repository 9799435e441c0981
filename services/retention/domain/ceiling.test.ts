import test from 'ava';
import { type Ceiling, exceedsCeiling } from './ceiling.ts';

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
