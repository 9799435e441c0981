import test from 'ava';
import { PLANS, type Plan, resolveWindows, type TenantPlan, WINDOWS_OF_PLAN } from './windows.ts';

const start = Temporal.Instant.from('2026-01-01T00:00:00Z');
const day = (count: number): Temporal.Instant => start.add({ hours: count * 24 });

const history = (...entries: [Plan, number][]): TenantPlan[] =>
  entries.map(([plan, at], index) => ({
    tenantId: 'acme',
    version: index + 1,
    plan,
    effectiveAt: day(at),
    createdAt: day(at),
    actor: 'ada',
    reason: undefined,
  }));

const driftOf = (entries: TenantPlan[], at: Temporal.Instant) => resolveWindows(entries, at, 7).windows[0];

test("each plan keeps what the seed's table says, and Free's N/A is no number", (t) => {
  const days = (plan: Plan) =>
    Object.values(WINDOWS_OF_PLAN[plan]).map((window) => (window.kind === 'DAYS' ? window.days : window.kind));
  t.deepEqual(Object.fromEntries(PLANS.map((plan) => [plan, days(plan)])), {
    FREE: [7, 'NOT_APPLICABLE', 'NOT_APPLICABLE'],
    PRO: [30, 180, 180],
    AGENCY: [90, 365, 365],
    ENTERPRISE: [180, 2_555, 2_555],
  });
});

test('without a plan in force everything is kept', (t) => {
  for (const entries of [[], history(['PRO', 10])]) {
    for (const { window, source } of resolveWindows(entries, day(5), 7).windows) {
      t.deepEqual([window.kind, source], ['KEEP_ALL', 'NONE']);
    }
  }
});

test('an upgrade holds at once', (t) => {
  t.like(driftOf(history(['FREE', 0], ['PRO', 10]), day(10)), {
    window: { days: 30 },
    source: 'PLAN',
    change: undefined,
  });
});

test('after a downgrade the longer window holds until grace ends, and the answer says when', (t) => {
  const entries = history(['PRO', 0], ['FREE', 10]);
  const within = driftOf(entries, day(16));
  t.like(within, { window: { days: 30 }, source: 'GRACE', from: { plan: 'PRO' } });
  t.is(within?.change?.at.toString(), day(17).toString());
  t.deepEqual(within?.change?.to, { kind: 'DAYS', days: 7 });
  t.like(driftOf(entries, day(17)), { window: { days: 7 }, source: 'PLAN' });
});

test('coming back within grace loses nothing', (t) => {
  t.like(driftOf(history(['PRO', 0], ['FREE', 10], ['PRO', 12]), day(13)), { window: { days: 30 }, source: 'PLAN' });
});

test("Free's payloads of a tenant that was Pro are kept by Pro's window during grace, and then are not applicable", (t) => {
  const entries = history(['PRO', 0], ['FREE', 10]);
  const payloads = (at: Temporal.Instant) => resolveWindows(entries, at, 7).windows[1]?.window;
  t.deepEqual(payloads(day(11)), { kind: 'DAYS', days: 180 });
  t.deepEqual(payloads(day(18)), { kind: 'NOT_APPLICABLE' });
});

test('the order in which the history is given does not matter', (t) => {
  const entries = history(['ENTERPRISE', 0], ['FREE', 10], ['PRO', 12]);
  const told = (given: readonly TenantPlan[]) => JSON.stringify(resolveWindows(given, day(13), 7));
  t.is(told(entries.toReversed()), told(entries));
});
