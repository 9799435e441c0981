import test from 'ava';
import type { ResolvedWindow, Window } from '../domain/windows.ts';
import { makeForecastPurge, type WindowChange } from './forecast-purge.ts';
import type { CountExpired, ExpiredCount } from './ports.ts';

const NOW = Temporal.Instant.from('2026-06-01T00:00:00Z');
const IN_A_WEEK = NOW.add({ hours: 7 * 24 });
const SETTINGS = { budgetMs: 10_000, parallel: 4 };

const windowOf = (subject: string, days: number): ResolvedWindow => {
  const window: Window = days === Infinity ? { kind: 'KEEP_ALL' } : { kind: 'DAYS', days };
  return { subject, window, source: 'PLAN', from: undefined, windowVersion: undefined, change: undefined };
};
const change = (subject: string, before: number, after: number, effectAt?: Temporal.Instant): WindowChange => ({
  before: windowOf(subject, before),
  after: windowOf(subject, after),
  effectAt,
});

/** An owner that has a row for each day from 0 to 99. */
const owner = () => {
  const calls: ExpiredCount[] = [];
  const countExpired: CountExpired = async (count) => {
    calls.push(count);
    return Math.max(0, 100 - count.retentionDays);
  };
  return { calls, countExpired };
};

test('each subject is counted as it would be and as it is, over all tenants', async (t) => {
  const { countExpired, calls } = owner();
  const forecast = makeForecastPurge(countExpired, SETTINGS);
  const forecasts = await forecast({
    subjects: ['approvals', 'drift_checks'],
    tenants: ['a', 'b', 'c'],
    actor: 'ada',
    changesOf: async () => [change('drift_checks', 30, 7, IN_A_WEEK), change('approvals', 60, 60)],
  });
  t.deepEqual(
    forecasts.map(({ effectAt, ...rest }) => ({ ...rest, effectAt: effectAt?.toString() })),
    [
      { subject: 'approvals', expired: 120, currentExpired: 120, tenants: 3, uncounted: 0, effectAt: undefined },
      {
        subject: 'drift_checks',
        expired: 279,
        currentExpired: 210,
        tenants: 3,
        uncounted: 0,
        effectAt: IN_A_WEEK.toString(),
      },
    ],
  );
  t.is(calls.filter(({ subject }) => subject === 'approvals').length, 3, 'what does not change is counted once');
});

test('what is kept takes nothing, and its owner is not asked', async (t) => {
  const { countExpired, calls } = owner();
  const [forecast] = await makeForecastPurge(
    countExpired,
    SETTINGS,
  )({
    subjects: ['drift_checks'],
    tenants: ['a'],
    actor: 'ada',
    changesOf: async () => [change('drift_checks', Infinity, 90)],
  });
  t.like(forecast, { expired: 10, currentExpired: 0, tenants: 1, effectAt: undefined });
  t.is(calls.length, 1);
});

test('a tenant whose owner does not answer is told as uncounted, and the others are counted', async (t) => {
  const { countExpired } = owner();
  const [forecast] = await makeForecastPurge(
    async (count) => (count.tenantId === 'b' ? undefined : countExpired(count)),
    SETTINGS,
  )({
    subjects: ['drift_checks'],
    tenants: ['a', 'b', 'c'],
    actor: 'ada',
    changesOf: async () => [change('drift_checks', 30, 7)],
  });
  t.like(forecast, { expired: 186, currentExpired: 140, tenants: 2, uncounted: 1 });
});

test('it ends after its budget also when an owner never answers, and tells how many were not counted', async (t) => {
  const aborted: boolean[] = [];
  const countExpired: CountExpired = ({ signal }) =>
    new Promise((resolve) => {
      signal.addEventListener('abort', () => aborted.push(true));
      // Like an open connection, it keeps the process alive.
      const never = setTimeout(resolve, 3_600_000, undefined);
      t.teardown(() => clearTimeout(never));
    });
  const startedAt = performance.now();
  const [forecast] = await makeForecastPurge(countExpired, { budgetMs: 100, parallel: 2 })({
    subjects: ['drift_checks'],
    tenants: Array.from({ length: 50 }, (_, index) => `tenant-${index}`),
    actor: 'ada',
    changesOf: async () => [change('drift_checks', 30, 7)],
  });
  t.true(performance.now() - startedAt < 5_000);
  t.like(forecast, { expired: 0, tenants: 0, uncounted: 50 });
  t.is(aborted.length, 2, 'who was asked learns that nobody waits');
});

test('tenants are counted side by side, so many at a time', async (t) => {
  let running = 0;
  let most = 0;
  const gate = Promise.withResolvers<void>();
  const countExpired: CountExpired = async () => {
    running += 1;
    most = Math.max(most, running);
    if (running === SETTINGS.parallel) gate.resolve();
    await gate.promise;
    running -= 1;
    return 1;
  };
  const [forecast] = await makeForecastPurge(
    countExpired,
    SETTINGS,
  )({
    subjects: ['drift_checks'],
    tenants: Array.from({ length: 20 }, (_, index) => `tenant-${index}`),
    actor: 'ada',
    changesOf: async () => [change('drift_checks', 30, 30)],
  });
  t.is(forecast?.expired, 20);
  t.is(most, SETTINGS.parallel);
});

test('a change that takes something from some tenants at once is told as coming with the next purge', async (t) => {
  const { countExpired } = owner();
  const [forecast] = await makeForecastPurge(
    countExpired,
    SETTINGS,
  )({
    subjects: ['drift_checks'],
    tenants: ['graced', 'at-once'],
    actor: 'ada',
    changesOf: async (tenantId) => [change('drift_checks', 30, 7, tenantId === 'graced' ? IN_A_WEEK : undefined)],
  });
  t.is(forecast?.effectAt, undefined);
});
