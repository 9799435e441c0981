import test from 'ava';
import { type PlanWindow, type PolicyWindow, resolveWindows, type TenantPlan } from './windows.ts';

const start = Temporal.Instant.from('2026-01-01T00:00:00Z');
const day = (count: number): Temporal.Instant => start.add({ hours: count * 24 });

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
  return resolved.find((window) => window.subject === subject);
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
  t.is(within?.change?.at.toString(), day(107).toString());
  t.deepEqual(within?.change?.to, days(7));
  t.like(resolve(entries, 107), { window: days(7), source: 'PLAN', change: undefined });
});

test('coming back within grace loses nothing', (t) => {
  t.like(resolve(history(['PRO', 0], ['FREE', 100], ['PRO', 102]), 103), { window: days(30), source: 'PLAN' });
});
