import test from 'ava';
import fc from 'fast-check';
import { type Approval, type Ceiling, decide, isHeldStill, usualDays } from './ceiling.ts';
import { type PlanWindow, resolveWindows, type TenantPlan, type Window } from './windows.ts';

// Times are whole days, so that many of them coincide.
const DAY_ZERO = Temporal.Instant.from('2026-01-01T00:00:00Z');
const instant = (day: number): Temporal.Instant => DAY_ZERO.add({ hours: day * 24 });
const dayOf = (at: Temporal.Instant): number => at.since(DAY_ZERO).total('hours') / 24;

const SUBJECT = 'executions';
const PLANS = ['FREE', 'PRO', 'AGENCY'] as const;

interface Entry {
  readonly version: number;
  readonly plan: string | undefined;
  readonly recordedAt: number;
  readonly effectiveAt: number;
}
interface StatedWindow {
  readonly version: number;
  readonly plan: string;
  readonly subject: string;
  readonly kind: 'DAYS' | 'KEEP' | 'NOT_APPLICABLE';
  readonly days: number;
  readonly recordedAt: number;
}
interface Row {
  readonly id: number;
  readonly age: number | null;
  readonly exempt: boolean;
}
interface World {
  readonly t: number;
  readonly grace: number;
  readonly entries: readonly Entry[];
  readonly windows: readonly StatedWindow[];
  readonly policy: { readonly days: number; readonly isEnabled: boolean } | undefined;
  readonly rows: readonly Row[];
  readonly floor: number;
  readonly last: number | undefined;
  readonly ceiling: { readonly count: number; readonly share: number; readonly from: number };
  readonly approval:
    | { readonly at: number; readonly days: number; readonly cutoff: number; readonly rows: number }
    | undefined;
}

const { max, min } = Math;
const top = <T>(items: readonly T[], by: (item: T) => number): T | undefined =>
  items.toSorted((a, b) => by(b) - by(a))[0];
const newestFirst = (a: Row, b: Row): number => Number(b.age) - Number(a.age) || b.id - a.id;

/** The specification: what is gone, and whether something is held. It shares nothing with the product. */
function specified(world: World): { days: number; held: boolean; gone: readonly Row[] } {
  const { t, grace, entries, windows, policy, rows, floor, last, ceiling: c, approval } = world;
  const subject = SUBJECT;
  const known = (e: Entry) => max(e.recordedAt, e.effectiveAt);
  const inForce = (s: number) =>
    top(
      entries.filter((e) => known(e) <= s),
      (e) => e.version,
    );
  const row = (s: number) => {
    const p = inForce(s)?.plan;
    return (
      p &&
      top(
        windows.filter((w) => w.plan === p && w.subject === subject && w.recordedAt <= s),
        (w) => w.version,
      )
    );
  };
  const changes = [...entries.map(known), ...windows.map((w) => w.recordedAt)]
    .filter((s) => s <= t)
    .sort((a, b) => b - a);
  const stated = (s: number): number => {
    const w = row(s);
    return !w || w.kind === 'KEEP' ? Infinity : w.kind === 'DAYS' ? w.days : before(s);
  };
  const before = (s: number): number => {
    const p = changes.find((at) => {
      const w = at < s ? row(at) : undefined;
      return w && w.kind !== 'NOT_APPLICABLE';
    });
    return p === undefined ? Infinity : stated(p);
  };
  const byPlan = max(...[t - grace, ...changes.filter((s) => s > t - grace)].map(stated));
  const days = min(byPlan, policy?.isEnabled ? policy.days : Infinity);
  const ripe = rows.filter((r) => r.age !== null && !r.exempt).sort(newestFirst);
  const gone = (d: number, cutoff = t - d) =>
    d === Infinity ? [] : ripe.slice(floor).filter((r) => Number(r.age) < cutoff);
  const usual = gone(max(days, last ?? days));
  const tooMany = usual.length > c.count || (usual.length >= c.from && usual.length / rows.length > c.share);
  if (!tooMany) return { days, held: false, gone: gone(days) };
  const a = approval && t < approval.at + 7 ? approval : undefined;
  const d = a && max(days, a.days);
  const set = a && d !== undefined ? gone(d, min(t - d, a.cutoff)).slice(-a.rows) : [];
  return { days, held: !a || gone(days).length > set.length, gone: set };
}

function resolved(world: World) {
  const { t, grace, policy, floor } = world;
  const { windows } = resolveWindows({
    entries: world.entries.map(
      ({ version, plan, recordedAt, effectiveAt }): TenantPlan => ({
        ...{ tenantId: 'acme', version, plan, actor: 'ada', reason: undefined },
        effectiveAt: instant(effectiveAt),
        createdAt: instant(recordedAt),
      }),
    ),
    planWindows: world.windows.map(
      ({ version, plan, subject, kind, days, recordedAt }): PlanWindow => ({
        ...{ version, plan, subject, minToKeep: 0, actor: 'ada', reason: undefined },
        kind: kind === 'KEEP' ? 'KEEP_ALL' : kind,
        days: kind === 'DAYS' ? days : undefined,
        recordedAt: instant(recordedAt),
      }),
    ),
    policies: policy
      ? [{ subject: SUBJECT, days: policy.days, enabled: policy.isEnabled, floor, staleAfterDays: 30 }]
      : [],
    subjects: [{ name: SUBJECT, hasFloor: true }],
    at: instant(t),
    graceDays: grace,
  });
  const [window] = windows;
  if (!window) throw new Error('the subject was not resolved');
  return window;
}

const daysKept = (window: Window): number => (window.kind === 'DAYS' ? window.days : Infinity);

/** The same by resolveWindows and decide, with an owner that keeps its contract. */
function built(world: World): { days: number; held: boolean; gone: readonly Row[] } {
  const { t, rows, floor, last, approval } = world;
  const days = daysKept(resolved(world).window);
  if (days === Infinity) return { days, held: false, gone: [] };
  const ripe = rows.filter(({ age, exempt }) => age !== null && !exempt).toSorted(newestFirst);
  const expiredBy = (cutoff: number) => ripe.slice(floor).filter(({ age }) => Number(age) < cutoff);
  const ceiling: Ceiling = {
    maxShare: world.ceiling.share,
    maxCount: world.ceiling.count,
    shareFrom: world.ceiling.from,
  };
  const decision = decide({
    days,
    lastDays: last,
    counts: { expired: expiredBy(t - usualDays(days, last)).length, total: rows.length },
    ceiling,
    approval: approval && toApproval(approval),
    now: instant(t),
  });
  const expired = expiredBy(t - days).length;
  switch (decision.kind) {
    case 'purge':
      return { days, held: false, gone: expiredBy(t - decision.days) };
    case 'hold':
      return { days, held: true, gone: [] };
    case 'purge-approved': {
      const gone = expiredBy(dayOf(decision.cutoff)).slice(-decision.maxRows);
      return { days, held: isHeldStill({ expired, removed: gone.length }), gone };
    }
  }
}

const toApproval = ({ at, cutoff, ...rest }: NonNullable<World['approval']>): Approval => ({
  ...rest,
  at: instant(at),
  cutoff: instant(cutoff),
  actor: 'ada',
  reason: 'looked at it',
});

const day = fc.integer({ min: 0, max: 40 });
const fewDays = fc.integer({ min: 1, max: 25 });
const worlds: fc.Arbitrary<World> = fc
  .record({
    t: fc.integer({ min: 0, max: 50 }),
    grace: fc.integer({ min: 1, max: 8 }),
    entries: fc
      .array(
        fc.record({
          plan: fc.option(fc.constantFrom(...PLANS), { nil: undefined }),
          recordedAt: day,
          effectiveAt: day,
        }),
        { maxLength: 6 },
      )
      // Versions are given in the order of recording.
      .map((entries) =>
        entries
          .toSorted((a, b) => a.recordedAt - b.recordedAt)
          .map((entry, index) => ({ ...entry, version: index + 1 })),
      ),
    windows: fc
      .array(
        fc.record({
          plan: fc.constantFrom(...PLANS),
          subject: fc.constantFrom(SUBJECT, SUBJECT, 'approvals'),
          kind: fc.constantFrom('DAYS', 'DAYS', 'DAYS', 'KEEP', 'NOT_APPLICABLE'),
          days: fewDays,
          recordedAt: fc.integer({ min: -10, max: 40 }),
        }),
        { maxLength: 10 },
      )
      .map((windows) =>
        windows
          .toSorted((a, b) => a.recordedAt - b.recordedAt)
          .map((window, index) => ({ ...window, version: index + 1 })),
      ),
    policy: fc.option(fc.record({ days: fewDays, isEnabled: fc.boolean() }), { nil: undefined }),
    rows: fc
      .array(
        fc.record({
          age: fc.option(fc.integer({ min: -10, max: 50 }), { nil: null, freq: 8 }),
          exempt: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
        }),
        { maxLength: 25 },
      )
      .map((rows) => rows.map((row, id) => ({ ...row, id }))),
    floor: fc.integer({ min: 0, max: 6 }),
    last: fc.option(fewDays, { nil: undefined }),
    ceiling: fc.record({
      count: fc.integer({ min: 1, max: 12 }),
      share: fc.constantFrom(0.1, 0.25, 0.5, 1),
      from: fc.integer({ min: 0, max: 5 }),
    }),
    approval: fc.option(
      fc.record({
        // How long ago: many of them are good still.
        at: fc.integer({ min: 0, max: 9 }),
        days: fewDays,
        cutoff: fc.integer({ min: -10, max: 40 }),
        rows: fc.integer({ min: 1, max: 10 }),
      }),
      { nil: undefined },
    ),
  })
  .map(({ approval, ...world }) => ({ ...world, approval: approval && { ...approval, at: world.t - approval.at } }));

const shown = ({ days, held, gone }: ReturnType<typeof specified>) => ({
  days,
  held,
  gone: gone.map(({ id }) => id).toSorted((a, b) => a - b),
});

test('whatever the plans, dates, grace, ceilings, approvals and rows: what goes is what the specification says', (t) => {
  const seen = { gone: 0, held: 0, approved: 0, kept: 0 };
  fc.assert(
    fc.property(worlds, (world) => {
      const wanted = specified(world);
      if (wanted.gone.length > 0) seen.gone += 1;
      if (wanted.held) seen.held += 1;
      if (wanted.held && wanted.gone.length > 0) seen.approved += 1;
      if (wanted.days === Infinity) seen.kept += 1;
      t.deepEqual(shown(built(world)), shown(wanted));
    }),
    { numRuns: 2_000 },
  );
  // Each of them came up often, so the property was about something.
  for (const [what, count] of Object.entries(seen)) t.true(count > 10, `${what}: ${count}`);
});

test('the change that an answer foretells is the next one there is', (t) => {
  fc.assert(
    fc.property(worlds, (world) => {
      // What will be recorded later is not known yet.
      const entries = world.entries.filter(({ recordedAt }) => recordedAt <= world.t);
      const windows = world.windows.filter(({ recordedAt }) => recordedAt <= world.t);
      const daysAt = (at: number): number => specified({ ...world, entries, windows, rows: [], t: at }).days;
      const next = Array.from({ length: 60 }, (_, ahead) => world.t + 1 + ahead).find(
        (at) => daysAt(at) !== daysAt(world.t),
      );
      const { change } = resolved({ ...world, entries, windows });
      t.is(change && dayOf(change.at), next);
      if (change && next !== undefined) t.is(daysKept(change.to), daysAt(next));
    }),
    { numRuns: 500 },
  );
});
