/** The plans a tenant can be on. */
export const PLANS = ['FREE', 'PRO', 'AGENCY', 'ENTERPRISE'] as const;

/** One of PLANS. */
export type Plan = (typeof PLANS)[number];

/** What a plan decides the retention of. */
export const PLAN_SUBJECTS = ['DRIFT_CHECKS', 'INCIDENT_PAYLOADS', 'APPROVALS'] as const;

/** One of PLAN_SUBJECTS. */
export type PlanSubject = (typeof PLAN_SUBJECTS)[number];

/** What has a window: what plans decide, and executions, which a tenant's own policy does. */
export type RetentionSubject = PlanSubject | 'EXECUTIONS';

/**
 * How long something is kept: some days; not at all applicable, since the plan has no such thing and there is
 * nothing to purge; or all of it, since nobody said otherwise.
 */
export type Window =
  | { readonly kind: 'DAYS'; readonly days: number }
  | { readonly kind: 'NOT_APPLICABLE' }
  | { readonly kind: 'KEEP_ALL' };

const days = (count: number): Window => ({ kind: 'DAYS', days: count });
const NOT_APPLICABLE: Window = { kind: 'NOT_APPLICABLE' };

/** The plan defaults, in days, as the table of the seed "Drift Retention + Deletion" has them. */
export const WINDOWS_OF_PLAN: Readonly<Record<Plan, Readonly<Record<PlanSubject, Window>>>> = {
  FREE: { DRIFT_CHECKS: days(7), INCIDENT_PAYLOADS: NOT_APPLICABLE, APPROVALS: NOT_APPLICABLE },
  PRO: { DRIFT_CHECKS: days(30), INCIDENT_PAYLOADS: days(180), APPROVALS: days(180) },
  AGENCY: { DRIFT_CHECKS: days(90), INCIDENT_PAYLOADS: days(365), APPROVALS: days(365) },
  ENTERPRISE: { DRIFT_CHECKS: days(180), INCIDENT_PAYLOADS: days(2_555), APPROVALS: days(2_555) },
};

/** One entry of a tenant's plan history. */
export interface TenantPlan {
  readonly tenantId: string;
  readonly version: number;
  readonly plan: Plan;
  readonly effectiveAt: Temporal.Instant;
  readonly createdAt: Temporal.Instant;
  readonly actor: string;
  readonly reason: string | undefined;
}

/** Where a window comes from. */
export type WindowSource = 'PLAN' | 'GRACE' | 'POLICY' | 'NONE';

/** What holds for one subject at one instant. */
export interface ResolvedWindow {
  readonly subject: RetentionSubject;
  readonly window: Window;
  readonly source: WindowSource;
  /** The entry of the history that it comes from. */
  readonly from: Pick<TenantPlan, 'plan' | 'version'> | undefined;
  /** When it changes by what is known now, and to what. */
  readonly change: { readonly at: Temporal.Instant; readonly to: Window } | undefined;
  /** Of executions: how many of the newest stay whatever their age. */
  readonly minToKeep?: number;
}

/** What holds for a tenant at one instant. */
export interface Resolution {
  readonly current: TenantPlan | undefined;
  readonly windows: readonly ResolvedWindow[];
}

/**
 * Resolves a tenant's windows at `at` from its whole plan history, in any order. The plan in force decides, but a
 * longer window of any plan that was in force within the grace period before still holds, so that a downgrade takes
 * nothing at once and a return within grace loses nothing. Without a plan everything is kept.
 */
export function resolveWindows(history: readonly TenantPlan[], at: Temporal.Instant, graceDays: number): Resolution {
  const ordered = history.toSorted(
    (a, b) => Temporal.Instant.compare(a.effectiveAt, b.effectiveAt) || a.version - b.version,
  );
  const current = inForceAt(ordered, at);
  const windows = PLAN_SUBJECTS.map((subject): ResolvedWindow => {
    const now = windowAt(ordered, at, graceDays, subject);
    const instants = ordered.flatMap(({ effectiveAt }) => [effectiveAt, effectiveAt.add({ hours: graceDays * 24 })]);
    const changeAt = instants
      .filter((instant) => Temporal.Instant.compare(instant, at) > 0)
      .toSorted(Temporal.Instant.compare)
      .find((instant) => !isSame(windowAt(ordered, instant, graceDays, subject).window, now.window));
    const change = changeAt && { at: changeAt, to: windowAt(ordered, changeAt, graceDays, subject).window };
    const from = now.from && { plan: now.from.plan, version: now.from.version };
    return { subject, window: now.window, source: now.source, from, change };
  });
  return { current, windows };
}

function windowAt(
  ordered: readonly TenantPlan[],
  at: Temporal.Instant,
  graceDays: number,
  subject: PlanSubject,
): Pick<ResolvedWindow, 'window' | 'source' | 'from'> {
  const current = inForceAt(ordered, at);
  if (!current) return { window: { kind: 'KEEP_ALL' }, source: 'NONE', from: undefined };
  const graceStart = at.subtract({ hours: graceDays * 24 });
  let best = { window: WINDOWS_OF_PLAN[current.plan][subject], source: 'PLAN' as WindowSource, from: current };
  for (const [index, entry] of ordered.entries()) {
    const endedAt = ordered[index + 1]?.effectiveAt;
    const wasInForce =
      Temporal.Instant.compare(entry.effectiveAt, at) <= 0 &&
      (endedAt === undefined || Temporal.Instant.compare(endedAt, graceStart) > 0);
    if (!wasInForce || entry === current) continue;
    const window = WINDOWS_OF_PLAN[entry.plan][subject];
    if (keepsLonger(window, best.window)) best = { window, source: 'GRACE', from: entry };
  }
  return best;
}

const inForceAt = (ordered: readonly TenantPlan[], at: Temporal.Instant): TenantPlan | undefined =>
  ordered.findLast(({ effectiveAt }) => Temporal.Instant.compare(effectiveAt, at) <= 0);

/** Whether `a` keeps longer than `b`. A plan that has no such thing says nothing about how long another's is kept. */
function keepsLonger(a: Window, b: Window): boolean {
  if (a.kind !== 'DAYS') return false;
  return b.kind === 'NOT_APPLICABLE' || (b.kind === 'DAYS' && a.days > b.days);
}

const isSame = (a: Window, b: Window): boolean =>
  a.kind === b.kind && (a.kind !== 'DAYS' || b.kind !== 'DAYS' || a.days === b.days);
