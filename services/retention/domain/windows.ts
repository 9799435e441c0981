import { DomainError } from '#libs/kernel/domain-error.ts';

/**
 * How long rows of one subject are kept: a number of days, or for good. What a plan does not have is inherited from
 * what held before it, so a window that applies is always one of these two.
 */
export type Window = { readonly kind: 'DAYS'; readonly days: number } | { readonly kind: 'KEEP_ALL' };

/** What a plan can say of a subject. NOT_APPLICABLE: the plan has no such thing, and says nothing about older rows. */
export type PlanWindowKind = 'DAYS' | 'KEEP_ALL' | 'NOT_APPLICABLE';

/** One recorded window of a plan. Windows are only ever added; the highest version in force replaces the others. */
export interface PlanWindow {
  readonly plan: string;
  readonly subject: string;
  /** Counts up from 1 within plan and subject. */
  readonly version: number;
  readonly kind: PlanWindowKind;
  /** Undefined unless kind is DAYS. */
  readonly days: number | undefined;
  /** How many of the newest rows stay whatever their age. */
  readonly minToKeep: number;
  readonly recordedAt: Temporal.Instant;
  readonly actor: string;
  readonly reason: string | undefined;
}

/** What a tenant can buy, as far as retention is concerned. */
export interface Plan {
  readonly name: string;
  /** Grows by one with each change. */
  readonly version: number;
  /** The windows in force, by subject; a subject that is not among them is kept. */
  readonly windows: readonly PlanWindow[];
  /** How many tenants have it in force. */
  readonly tenants: number;
}

/** One entry in the history of a tenant's plans. */
export interface TenantPlan {
  readonly tenantId: string;
  /** Counts up from 1. */
  readonly version: number;
  /** Undefined: no plan from then on. */
  readonly plan: string | undefined;
  readonly effectiveAt: Temporal.Instant;
  readonly createdAt: Temporal.Instant;
  readonly actor: string;
  readonly reason: string | undefined;
}

/** A tenant's own policy for one subject. */
export interface PolicyWindow {
  readonly subject: string;
  readonly days: number;
  readonly enabled: boolean;
  readonly floor: number;
  readonly staleAfterDays: number;
}

/** What resolving has to know of a subject of the catalogue. */
export interface ResolvableSubject {
  readonly name: string;
  /** Whether a number of its newest rows can be kept whatever their age. */
  readonly hasFloor: boolean;
}

/** Where a window comes from. */
export type WindowSource = 'PLAN' | 'GRACE' | 'POLICY' | 'NONE' | 'INHERITED';

/** The entry of the tenant's history that a window comes from. */
export interface WindowOrigin {
  readonly plan: string;
  readonly version: number;
}

/** What holds for one subject at one instant. */
export interface ResolvedWindow {
  readonly subject: string;
  readonly window: Window;
  readonly source: WindowSource;
  /** Undefined when the window does not come from a plan. */
  readonly from: WindowOrigin | undefined;
  /** The version of that plan's window; undefined when the window does not come from a plan. */
  readonly windowVersion: number | undefined;
  /** When another window takes its place, by what is known now, and which. Undefined: in no year that can be named. */
  readonly change: { readonly at: Temporal.Instant; readonly to: Window } | undefined;
  /**
   * How many of the newest rows stay whatever their age; only where the window has days, and the subject has a floor or
   * one was set: an owner that has none any more refuses it, and removes nothing.
   */
  readonly minToKeep?: number;
  /** A running execution stays until it has been expired for so many days; only under a policy that says so. */
  readonly staleAfterDays?: number;
}

/** What holds for a tenant at one instant. */
export interface Resolution {
  /** The entry in force; it may say that the tenant has no plan. */
  readonly current: TenantPlan | undefined;
  /** One per subject, in the order in which the subjects were given. */
  readonly windows: readonly ResolvedWindow[];
}

/** What windows are resolved from. */
export interface ResolveInput {
  /** The whole history of the tenant's plans, in any order. */
  readonly entries: readonly TenantPlan[];
  /** Every window ever recorded for these plans, in any order. */
  readonly planWindows: readonly PlanWindow[];
  /** The tenant's own policies, at most one per subject. */
  readonly policies: readonly PolicyWindow[];
  readonly subjects: readonly ResolvableSubject[];
  readonly at: Temporal.Instant;
  readonly graceDays: number;
}

/** The window that a plan states from `since` until the next segment begins. */
interface Segment {
  readonly since: Temporal.Instant;
  /** Infinity: everything is kept. */
  readonly days: number;
  readonly source: 'PLAN' | 'INHERITED' | 'NONE';
  readonly from: WindowOrigin | undefined;
  readonly windowVersion: number | undefined;
  readonly minToKeep: number;
}

const HOURS_PER_DAY = 24;

/** The last that a timestamp can name, in microseconds: nobody is told of a change that is later. */
export const LAST_INSTANT = Temporal.Instant.from('9999-12-31T23:59:59.999999Z');

/**
 * Resolves a tenant's windows at an instant:
 *
 * - The plan in force is the entry of the highest version that is recorded and effective.
 * - The plan's window is the widest that was in force at any instant of the last `graceDays`. Where nothing was set,
 *   everything was kept, so a first plan and a backdated one have grace as well.
 * - A plan without the subject (NOT_APPLICABLE) inherits the window before it.
 * - An enabled policy may narrow the plan's window and never widens it. It has no grace.
 */
export function resolveWindows(input: ResolveInput): Resolution {
  const { entries, at, subjects } = input;
  return { current: inForceAt(entries, at), windows: subjects.map((subject) => resolveSubject(input, subject)) };
}

function resolveSubject(
  { entries, planWindows, policies, at, graceDays }: ResolveInput,
  { name, hasFloor }: ResolvableSubject,
): ResolvedWindow {
  const segments = segmentsOf(
    entries,
    planWindows.filter(({ subject }) => subject === name),
  );
  const policy = policies.find(({ subject, enabled }) => subject === name && enabled);
  const resolveAt = (instant: Temporal.Instant) => narrow(planWindowAt(segments, instant, graceDays), policy);
  const now = resolveAt(at);
  const changeAt = segments
    .flatMap(({ since }) => [since, since.add({ hours: graceDays * HOURS_PER_DAY })])
    .filter((instant) => Temporal.Instant.compare(instant, at) > 0)
    .filter((instant) => Temporal.Instant.compare(instant, LAST_INSTANT) <= 0)
    .toSorted(Temporal.Instant.compare)
    .find((instant) => resolveAt(instant).days !== now.days);
  return {
    subject: name,
    window: toWindow(now.days),
    source: now.source,
    from: now.from,
    windowVersion: now.windowVersion,
    change: changeAt && { at: changeAt, to: toWindow(resolveAt(changeAt).days) },
    ...(now.days !== Infinity && (hasFloor || now.minToKeep > 0) ? { minToKeep: now.minToKeep } : {}),
    ...(policy ? { staleAfterDays: policy.staleAfterDays } : {}),
  };
}

/** The window the plans give at an instant: the widest of the segments that reach into the days of grace before it. */
function planWindowAt(
  segments: readonly Segment[],
  at: Temporal.Instant,
  graceDays: number,
): Omit<Segment, 'source'> & { readonly source: WindowSource } {
  const graceStart = at.subtract({ hours: graceDays * HOURS_PER_DAY });
  const current = segmentAt(segments, at);
  const considered = [
    segmentAt(segments, graceStart),
    ...segments.filter(
      ({ since }) => Temporal.Instant.compare(since, graceStart) > 0 && Temporal.Instant.compare(since, at) <= 0,
    ),
  ];
  const widest = considered.reduce((best, segment) => (segment.days > best.days ? segment : best), current);
  const minToKeep = Math.max(...considered.map((segment) => segment.minToKeep));
  return { ...widest, minToKeep, source: widest === current ? current.source : 'GRACE' };
}

function narrow(
  byPlan: ReturnType<typeof planWindowAt>,
  policy: PolicyWindow | undefined,
): ReturnType<typeof planWindowAt> {
  if (!policy) return byPlan;
  // A floor keeps rows, so the larger one holds whichever window decides.
  const minToKeep = Math.max(byPlan.minToKeep, policy.floor);
  if (policy.days >= byPlan.days) return { ...byPlan, minToKeep };
  return { ...byPlan, days: policy.days, source: 'POLICY', from: undefined, windowVersion: undefined, minToKeep };
}

/** What the plans state for one subject over time, oldest first. Before the first segment nothing was set. */
function segmentsOf(entries: readonly TenantPlan[], windows: readonly PlanWindow[]): readonly Segment[] {
  const instants = [...entries.map(knownAt), ...windows.map(({ recordedAt }) => recordedAt)];
  const segments: Segment[] = [];
  let stated: Segment | undefined;
  for (const since of instants.toSorted(Temporal.Instant.compare)) {
    if (segments.at(-1)?.since.equals(since)) continue;
    const entry = inForceAt(entries, since);
    const window = entry && statedBy(windows, entry.plan, since);
    if (!entry?.plan || !window) {
      segments.push(nothingSet(since));
    } else if (window.kind === 'NOT_APPLICABLE') {
      segments.push(stated ? { ...stated, since, source: 'INHERITED' } : nothingSet(since));
    } else {
      stated = {
        since,
        days: window.kind === 'DAYS' && window.days !== undefined ? window.days : Infinity,
        source: 'PLAN',
        from: { plan: entry.plan, version: entry.version },
        windowVersion: window.version,
        minToKeep: window.minToKeep,
      };
      segments.push(stated);
    }
  }
  return segments;
}

const nothingSet = (since: Temporal.Instant): Segment => ({
  since,
  days: Infinity,
  source: 'NONE',
  from: undefined,
  windowVersion: undefined,
  minToKeep: 0,
});

const LONG_AGO = Temporal.Instant.fromEpochMilliseconds(0);

const segmentAt = (segments: readonly Segment[], at: Temporal.Instant): Segment =>
  segments.findLast(({ since }) => Temporal.Instant.compare(since, at) <= 0) ?? nothingSet(LONG_AGO);

/** An entry counts from when it is both recorded and effective: backdating does not cut grace short. */
export const knownAt = ({ createdAt, effectiveAt }: TenantPlan): Temporal.Instant =>
  Temporal.Instant.compare(createdAt, effectiveAt) > 0 ? createdAt : effectiveAt;

/** The entry of a tenant's history that is in force at an instant. */
export const inForceAt = (entries: readonly TenantPlan[], at: Temporal.Instant): TenantPlan | undefined =>
  highest(entries.filter((entry) => Temporal.Instant.compare(knownAt(entry), at) <= 0));

const statedBy = (
  windows: readonly PlanWindow[],
  plan: string | undefined,
  at: Temporal.Instant,
): PlanWindow | undefined =>
  highest(windows.filter((w) => w.plan === plan && Temporal.Instant.compare(w.recordedAt, at) <= 0));

const highest = <T extends { readonly version: number }>(items: readonly T[]): T | undefined =>
  items.reduce<T | undefined>((top, item) => (top && top.version >= item.version ? top : item), undefined);

const toWindow = (days: number): Window => (days === Infinity ? { kind: 'KEEP_ALL' } : { kind: 'DAYS', days });

/** There is no such plan. */
export const planNotFound = (name: string): DomainError =>
  new DomainError('not-found', 'PLAN_NOT_FOUND', `There is no plan ${name}.`, { plan: name });
