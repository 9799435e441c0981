import test from 'ava';
import { type PlanWindow, type PolicyWindow, resolveWindows, type TenantPlan } from './windows.ts';

const start = Temporal.Instant.from('2026-01-01T00:00:00Z');
const day = (count: number): Temporal.Instant => start.add({ hours: count * 24 });

const dayOf = (at: Temporal.Instant): number => at.since(start).total('hours') / 24;

const SUBJECTS = ['drift_checks', 'incident_payloads', 'approvals', 'executions'] as const;
const DAYS: Readonly<Record<string, readonly (number | 'NOT_APPLICABLE')[]>> = {
  FREE: [7, 'NOT_APPLICABLE', 'NOT_APPLICABLE'],
  PRO: [30, 180, 180],
  AGENCY: [90, 365, 365],
  ENTERPRISE: [180, 2_555, 2_555],
};

const aWindow = (
  plan: string,
  subject: string,
  days: number | 'NOT_APPLICABLE' | 'KEEP_ALL',
  { version = 1, at = -10_000, minToKeep = 0 } = {},
): PlanWindow => ({
  plan,
  subject,
  version,
  kind: typeof days === 'number' ? 'DAYS' : days,
  days: typeof days === 'number' ? days : undefined,
  minToKeep,
  recordedAt: day(at),
  actor: 'ada',
  reason: undefined,
});

const SEED: readonly PlanWindow[] = Object.entries(DAYS).flatMap(([plan, windows]) =>
  windows.map((days, index) => aWindow(plan, SUBJECTS[index] ?? '', days)),
);

/** Entries as [plan, day recorded, day effective]; both are the same by default. */
const history = (...entries: [string | undefined, number, number?][]): TenantPlan[] =>
  entries.map(([plan, recorded, effective], index) => ({
    tenantId: 'acme',
    version: index + 1,
    plan,
    effectiveAt: day(effective ?? recorded),
    createdAt: day(recorded),
    actor: 'ada',
    reason: undefined,
  }));

const resolve = (
  entries: readonly TenantPlan[],
  at: number,
  subject: (typeof SUBJECTS)[number] = 'drift_checks',
  { windows = [], policy }: { readonly windows?: readonly PlanWindow[]; readonly policy?: Partial<PolicyWindow> } = {},
) => {
  const policies = policy
    ? [{ subject, days: 90, enabled: true, floor: 100, staleAfterDays: 30, ...policy } satisfies PolicyWindow]
    : [];
  const { windows: resolved } = resolveWindows({
    entries,
    planWindows: [...SEED, ...windows],
    policies,
    subjects: SUBJECTS.map((name) => ({ name, hasFloor: name === 'executions' })),
    at: day(at),
    graceDays: 7,
  });
  const found = resolved.find((window) => window.subject === subject);
  // As days, since ava cannot compare instants.
  return found && { ...found, change: found.change && { ...found.change, at: dayOf(found.change.at) } };
};

const KEEP_ALL = { kind: 'KEEP_ALL' } as const;
const days = (count: number) => ({ kind: 'DAYS', days: count }) as const;

test('without a plan in force everything is kept', (t) => {
  for (const entries of [[], history(['PRO', 10])]) {
    for (const subject of SUBJECTS) {
      t.like(resolve(entries, 5, subject), { window: KEEP_ALL, source: 'NONE', from: undefined });
    }
  }
});

test('an upgrade holds at once', (t) => {
  t.like(resolve(history(['FREE', 0], ['PRO', 100]), 100), {
    window: days(30),
    source: 'PLAN',
    from: { plan: 'PRO', version: 2 },
    windowVersion: 1,
    change: undefined,
  });
});

test('after a downgrade the longer window holds until grace ends, and the answer says when', (t) => {
  const entries = history(['PRO', 0], ['FREE', 100]);
  const within = resolve(entries, 106);
  t.like(within, { window: days(30), source: 'GRACE', from: { plan: 'PRO', version: 1 } });
  t.is(within?.change?.at, 107);
  t.deepEqual(within?.change?.to, days(7));
  t.like(resolve(entries, 107), { window: days(7), source: 'PLAN', change: undefined });
});

test('coming back within grace loses nothing', (t) => {
  t.like(resolve(history(['PRO', 0], ['FREE', 100], ['PRO', 102]), 103), { window: days(30), source: 'PLAN' });
});

test('AGENCY to FREE dated eight days back keeps what AGENCY kept for the whole grace after it was recorded', (t) => {
  const entries = history(['AGENCY', 0], ['FREE', 100, 92]);
  t.like(resolve(entries, 100), { window: days(90), source: 'GRACE', from: { plan: 'AGENCY' } });
  t.is(resolve(entries, 100)?.change?.at, 107);
  t.like(resolve(entries, 107), { window: days(7), source: 'PLAN' });
});

test('a first plan has grace, also when it is backdated', (t) => {
  for (const effective of [100, 0]) {
    const entries = history(['FREE', 100, effective]);
    t.like(resolve(entries, 100), { window: KEEP_ALL, source: 'GRACE', change: { to: days(7) } });
    t.like(resolve(entries, 107), { window: days(7), source: 'PLAN' });
  }
});

test('a plan scheduled for next month does not stand in the way of an upgrade today, which replaces it', (t) => {
  const entries = history(['PRO', 0], ['FREE', 100, 130], ['ENTERPRISE', 101]);
  t.like(resolve(entries, 101), { window: days(180), source: 'PLAN', change: undefined });
  t.like(resolve(entries, 200), { window: days(180), from: { plan: 'ENTERPRISE', version: 3 } });
});

test('a scheduled plan is cancelled by recording the present one again', (t) => {
  const scheduled = history(['PRO', 0], ['FREE', 100, 130]);
  t.deepEqual(resolve(scheduled, 101)?.change, { at: 137, to: days(7) }, 'grace begins when it takes effect');
  const cancelled = history(['PRO', 0], ['FREE', 100, 130], ['PRO', 105]);
  t.like(resolve(cancelled, 105), { window: days(30), change: undefined });
  t.like(resolve(cancelled, 200), { window: days(30), from: { plan: 'PRO', version: 3 } });
});

test('payloads and approvals of a tenant that went to FREE go by the last window that applied', (t) => {
  const entries = history(['PRO', 0], ['FREE', 100]);
  for (const subject of ['incident_payloads', 'approvals'] as const) {
    for (const at of [101, 107, 5_000]) {
      t.like(resolve(entries, at, subject), {
        window: days(180),
        source: 'INHERITED',
        from: { plan: 'PRO', version: 1 },
        change: undefined,
      });
    }
  }
});

test('what FREE never had is kept when no plan before it had it', (t) => {
  const entries = history(['FREE', 0]);
  t.like(resolve(entries, 100, 'approvals'), { window: KEEP_ALL, source: 'NONE', from: undefined, change: undefined });
});

test('a tenant that leaves its plan keeps everything at once, and has grace when it comes back', (t) => {
  const entries = history(['PRO', 0], [undefined, 100], ['FREE', 200]);
  t.like(resolve(entries, 100), { window: KEEP_ALL, source: 'NONE', change: { at: 207, to: days(7) } });
  t.like(resolve(entries, 203), { window: KEEP_ALL, source: 'GRACE' });
  t.like(resolve(entries, 207), { window: days(7), source: 'PLAN' });
  t.like(resolve(entries, 207, 'approvals'), { window: days(180), source: 'INHERITED', from: { plan: 'PRO' } });
});

test('of several plans within one grace the widest holds', (t) => {
  const entries = history(['ENTERPRISE', 0], ['AGENCY', 100], ['FREE', 103]);
  t.like(resolve(entries, 106), {
    window: days(180),
    from: { plan: 'ENTERPRISE' },
    change: { at: 107, to: days(90) },
  });
  t.like(resolve(entries, 107), { window: days(90), source: 'GRACE', from: { plan: 'AGENCY' } });
  t.like(resolve(entries, 110), { window: days(7), source: 'PLAN' });
});

test('a plan whose window is narrowed gives its tenants grace; a wider one holds at once', (t) => {
  const entries = history(['PRO', 0]);
  const narrowed = { windows: [aWindow('PRO', 'drift_checks', 10, { version: 2, at: 100 })] };
  t.like(resolve(entries, 104, 'drift_checks', narrowed), {
    window: days(30),
    source: 'GRACE',
    windowVersion: 1,
    change: { at: 107, to: days(10) },
  });
  t.like(resolve(entries, 107, 'drift_checks', narrowed), { window: days(10), source: 'PLAN', windowVersion: 2 });
  const widened = { windows: [aWindow('PRO', 'drift_checks', 60, { version: 2, at: 100 })] };
  t.like(resolve(entries, 99, 'drift_checks', widened), { window: days(30), change: { at: 100, to: days(60) } });
  t.like(resolve(entries, 100, 'drift_checks', widened), { window: days(60), source: 'PLAN', change: undefined });
});

test('a plan that loses a subject goes on by the window it had, and one that keeps all keeps all', (t) => {
  const entries = history(['PRO', 0]);
  const lost = { windows: [aWindow('PRO', 'drift_checks', 'NOT_APPLICABLE', { version: 2, at: 100 })] };
  t.like(resolve(entries, 500, 'drift_checks', lost), { window: days(30), source: 'INHERITED', windowVersion: 1 });
  const all = { windows: [aWindow('PRO', 'drift_checks', 'KEEP_ALL', { version: 2, at: 100 })] };
  t.like(resolve(entries, 500, 'drift_checks', all), { window: KEEP_ALL, source: 'PLAN', from: { plan: 'PRO' } });
});

test('a subject that a plan never mentions is kept', (t) => {
  t.like(resolve(history(['PRO', 0]), 100, 'executions'), { window: KEEP_ALL, source: 'NONE' });
});

test('a policy decides where the plan is silent, at once, and one that is switched off says nothing', (t) => {
  const entries = history(['PRO', 0]);
  t.like(resolve(entries, 1, 'executions', { policy: { subject: 'executions' } }), {
    window: days(90),
    source: 'POLICY',
    from: undefined,
    minToKeep: 100,
    staleAfterDays: 30,
  });
  const off = resolve(entries, 1, 'executions', { policy: { subject: 'executions', enabled: false } });
  t.like(off, { window: KEEP_ALL, source: 'NONE' });
  t.is(off?.minToKeep, undefined);
});

test("a policy narrows the plan's window and never widens it, and the larger floor holds", (t) => {
  const entries = history(['PRO', 0]);
  const windows = [aWindow('PRO', 'executions', 60, { minToKeep: 500 })];
  const by = (days: number, floor: number) =>
    resolve(entries, 100, 'executions', { windows, policy: { subject: 'executions', days, floor } });
  t.like(by(30, 100), { window: days(30), source: 'POLICY', minToKeep: 500 });
  t.like(by(60, 100), { window: days(60), source: 'PLAN', minToKeep: 500 });
  t.like(by(90, 1_000), { window: days(60), source: 'PLAN', minToKeep: 1_000 });
});

test("a policy has no grace and cuts the plan's grace short", (t) => {
  const entries = history(['PRO', 0]);
  const options = { windows: [aWindow('PRO', 'executions', 60)], policy: { subject: 'executions', days: 5 } };
  t.like(resolve(entries, 1, 'executions', options), { window: days(5), source: 'POLICY', change: undefined });
});

test('the order in which history and windows are given does not matter', (t) => {
  const entries = history(['ENTERPRISE', 0], ['FREE', 100], [undefined, 101], ['PRO', 102]);
  const windows = [aWindow('PRO', 'drift_checks', 20, { version: 2, at: 103 })];
  const told = (given: readonly TenantPlan[], planWindows: readonly PlanWindow[]) => {
    const subjects = [{ name: 'drift_checks', hasFloor: false }];
    const input = { entries: given, planWindows, policies: [], subjects, at: day(104), graceDays: 7 };
    return JSON.stringify(resolveWindows(input));
  };
  const all = [...SEED, ...windows];
  t.is(told(entries.toReversed(), all.toReversed()), told(entries, all));
});
