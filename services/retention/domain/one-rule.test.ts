import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import type {
  CatalogueRepository,
  ItemProgress,
  PurgeRepository,
  RetentionOwners,
  StopRepository,
} from '../use-cases/purge-ports.ts';
import { makeRunPurges } from '../use-cases/run-purges.ts';
import type { CatalogueSubject } from './catalogue.ts';
import { type Approval, type Ceiling, decide, isHeldStill, usualDays } from './ceiling.ts';
import type { RetentionPurgeItem } from './purge.ts';
import { newSubject, type OperationRule } from './purge-subject.ts';
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
  /** How many rows the owner walks or removes in one call; the specification knows nothing of it. */
  readonly rowsPerCall: number;
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
        ...{ version, plan, subject, minToKeep: floor, actor: 'ada', reason: undefined },
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

const CATALOGUED: CatalogueSubject = {
  ...{ name: SUBJECT, owner: 'run', dataId: 'd', resourceType: 'execution', dependentTypes: [], ageOf: '' },
  ...{ hasFloor: true, problem: undefined, claim: undefined, listedAt: DAY_ZERO, observeNightsLeft: 0 },
  retirement: undefined,
};

/** An owner of the world's rows as the contract has it, a few rows a call. */
function ownerOf({ t, rows, rowsPerCall }: World): { owners: RetentionOwners; left: () => readonly Row[] } {
  let left = rows;
  const operations = new Map<string, { cutoff: number; rule: OperationRule; deleted: number; hasEnded: boolean }>();
  const cutoffOf = (rule: Pick<OperationRule, 'cutoff' | 'days'>): number => {
    const cutoff = rule.cutoff ? dayOf(rule.cutoff) : t - rule.days;
    if (cutoff > t - rule.days) throw new Error('CUTOFF_TOO_LATE');
    return cutoff;
  };
  const expired = ({ minToKeep }: Pick<OperationRule, 'minToKeep'>, cutoff: number): readonly Row[] =>
    left
      .filter(({ age, exempt }) => age !== null && !exempt)
      .toSorted(newestFirst)
      .slice(minToKeep)
      .filter(({ age }) => Number(age) < cutoff)
      .toReversed();
  const countsOf = (deleted: number, still: number) =>
    deleted + still === 0 ? [] : [{ resourceType: 'execution', found: deleted + still, deleted, left: still }];
  const owners: RetentionOwners = {
    names: ['run'],
    list: async () => ({ dataId: 'd', subjects: [] }),
    listTenants: async () => ({ tenantIds: [], nextPageToken: '' }),
    async count(_, rule, cursor, upTo) {
      const cutoff = cutoffOf(rule);
      const going = expired(rule, cutoff).length;
      const done = Number(cursor);
      const wanted = Math.max(going - done, Math.min(upTo, left.length - done));
      const walked = Math.min(wanted, rowsPerCall);
      const seen = Math.min(done + walked, going) - Math.min(done, going);
      const next = walked === wanted ? undefined : String(done + walked);
      return { cursor: next, expired: seen, remaining: walked - seen, cutoff: instant(cutoff) };
    },
    async purge(_, operationId, rule) {
      const known = operations.get(operationId) ?? { cutoff: cutoffOf(rule), rule, deleted: 0, hasEnded: false };
      operations.set(operationId, known);
      if (known.hasEnded) throw new Error('OPERATION_ENDED');
      const spare = (rule.maxRows ?? Infinity) - known.deleted;
      const batch = expired(rule, known.cutoff).slice(0, Math.min(rowsPerCall, spare));
      left = left.filter((row) => !batch.includes(row));
      known.deleted += batch.length;
      const still = expired(rule, known.cutoff).length;
      return {
        ...{ retryDelayMs: 0, waits: [], blockers: [], cutoff: instant(known.cutoff) },
        isComplete: still === 0 || known.deleted === rule.maxRows,
        counts: countsOf(known.deleted, still),
      };
    },
    async end(_, operationId) {
      const known = operations.get(operationId);
      if (!known) return { cursor: undefined, counts: [], cutoff: undefined };
      known.hasEnded = true;
      const still = expired(known.rule, known.cutoff).length;
      return { cursor: undefined, counts: countsOf(known.deleted, still), cutoff: instant(known.cutoff) };
    },
  };
  return { owners, left: () => left };
}

/** The same by a whole turn of a worker, from the windows to what the owner has left, and what the receipt counts. */
async function purged(world: World): Promise<{ days: number; held: boolean; gone: readonly Row[]; counted: number }> {
  const { t, rows, last, approval, ceiling } = world;
  const window = resolved(world);
  const { owners, left } = ownerOf(world);
  const lastDays = new Map(last === undefined ? [] : [[SUBJECT, last]]);
  const shown = { maxShare: ceiling.share, maxCount: ceiling.count };
  // As approving a held subject leaves it.
  const approved = approval && {
    ...newSubject({ ...window, window: { kind: 'DAYS', days: approval.days } }, undefined),
    hold: { ...shown, expired: approval.rows, total: undefined, heldAt: instant(t), approval: toApproval(approval) },
  };
  const item: RetentionPurgeItem = {
    ...{ purgeId: 'p', tenantId: 'acme', state: 'RUNNING', validateOnly: false, actor: 'cron', plan: undefined },
    ...{ planVersion: undefined, workingOn: undefined, error: undefined, runningPurgeId: undefined, attempts: 1 },
    ...{ failures: 0, waitingSince: undefined, startedAt: instant(t), finishedAt: undefined, updatedAt: instant(t) },
    subjects: approved ? [approved] : [],
  };
  const claim = { item, token: 1n, subjects: [], isOfAll: false, fleetHold: undefined, lastDays };
  let end: ItemProgress | undefined;
  const run = makeRunPurges(
    {
      purges: {
        claim: async () => claim,
        save: async (_, progress) => {
          end = progress;
        },
      } as Partial<PurgeRepository> as PurgeRepository,
      plans: { resolve: async () => ({ current: undefined, windows: [window], at: instant(t) }) },
      catalogue: {
        list: async () => [CATALOGUED],
        findObserved: async () => new Set(),
      } as Partial<CatalogueRepository> as CatalogueRepository,
      owners,
      stops: {
        get: async () => ({ isStopped: false, version: 1, last: undefined }),
      } as Partial<StopRepository> as StopRepository,
      recordCleanup: async () => undefined,
    },
    {
      ...{
        workerId: 'w',
        leaseMs: 60_000,
        maxWaitMs: 0,
        maxPauseMs: 60_000,
        retry: { maxAttempts: 1, baseMs: 1, maxMs: 1 },
      },
      ceiling: { ...shown, shareFrom: ceiling.from },
    },
    () => undefined,
    (_, error) => {
      throw error;
    },
  );
  await run({ tenantId: 'acme', purgeId: 'p' }, new AbortController().signal);
  const [subject] = end?.subjects ?? [];
  if (!subject || end?.state === 'PARTIAL') throw new Error(`it ended ${end?.state} with ${end?.error}`);
  return {
    days: daysKept(subject.window.window),
    held: subject.state === 'HELD',
    gone: rows.filter((row) => !left().includes(row)),
    counted: subject.counts.reduce((sum, { deleted }) => sum + deleted, 0),
  };
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
const someAge = fc.integer({ min: -10, max: 50 });
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
    // In every world some rows have no age and some are exempt.
    rows: fc
      .tuple(
        fc.array(fc.record({ age: someAge, exempt: fc.constant(false) }), { minLength: 4, maxLength: 20 }),
        fc.array(fc.record({ age: fc.constant(null), exempt: fc.boolean() }), { minLength: 1, maxLength: 3 }),
        fc.array(fc.record({ age: someAge, exempt: fc.constant(true) }), { minLength: 1, maxLength: 3 }),
      )
      .chain((rows) => fc.shuffledSubarray(rows.flat(), { minLength: rows.flat().length }))
      .map((rows) => rows.map((row, id) => ({ ...row, id }))),
    floor: fc.integer({ min: 0, max: 6 }),
    last: fc.option(fewDays, { nil: undefined }),
    ceiling: fc.record({
      count: fc.integer({ min: 1, max: 12 }),
      share: fc.constantFrom(0.1, 0.25, 0.5, 1),
      from: fc.integer({ min: 0, max: 5 }),
    }),
    approval: fc.record({
      // How long ago: most of them are good still.
      at: fc.integer({ min: 0, max: 9 }),
      days: fewDays,
      cutoff: fc.integer({ min: -10, max: 40 }),
      rows: fc.oneof(fc.integer({ min: 1, max: 10 }), fc.constant(25)),
    }),
    rowsPerCall: fc.integer({ min: 1, max: 8 }),
  })
  .map(({ approval, ...world }) => ({ ...world, approval: { ...approval, at: world.t - approval.at } }));

const shown = ({ days, held, gone }: ReturnType<typeof specified>) => ({
  days,
  held,
  gone: gone.map(({ id }) => id).toSorted((a, b) => a - b),
});

/** The world as it is, and without what a person released. */
const withAndWithoutApproval = (world: World): readonly World[] => [world, { ...world, approval: undefined }];

/** Counts which cases came up; each must be common, or the property was about nothing. */
function makeSeen() {
  const seen = {
    gone: 0,
    purged: 0,
    held: 0,
    heldWithGone: 0,
    approvedWhole: 0,
    approvalTooOld: 0,
    kept: 0,
    byFloor: 0,
  };
  return {
    add(world: World, { days, held, gone }: ReturnType<typeof specified>): void {
      const unapproved = specified({ ...world, approval: undefined });
      if (gone.length > 0) seen.gone += 1;
      if (!unapproved.held && gone.length > 0) seen.purged += 1;
      if (held) seen.held += 1;
      if (held && gone.length > 0) seen.heldWithGone += 1;
      if (unapproved.held && !held) seen.approvedWhole += 1;
      if (unapproved.held && world.approval && world.t >= world.approval.at + 7) seen.approvalTooOld += 1;
      if (days === Infinity) seen.kept += 1;
      if (specified({ ...world, floor: 0 }).gone.length > gone.length) seen.byFloor += 1;
    },
    assertCommon(t: ExecutionContext, runs: number): void {
      for (const [what, count] of Object.entries(seen)) t.true(count > runs / 200, `${what}: ${count} of ${runs}`);
    },
  };
}

test('whatever the plans, dates, grace, ceilings, approvals and rows: what goes is what the specification says', (t) => {
  const seen = makeSeen();
  const numRuns = 2_000;
  fc.assert(
    fc.property(worlds, (world) => {
      for (const each of withAndWithoutApproval(world)) {
        const wanted = specified(each);
        seen.add(each, wanted);
        t.deepEqual(shown(built(each)), shown(wanted));
      }
    }),
    { numRuns },
  );
  seen.assertCommon(t, 2 * numRuns);
});

test('a worker holds and removes what the specification says, in calls of a few rows, and counts it exactly', async (t) => {
  const seen = makeSeen();
  const numRuns = 1_000;
  await fc.assert(
    fc.asyncProperty(worlds, async (world) => {
      for (const each of withAndWithoutApproval(world)) {
        const wanted = specified(each);
        seen.add(each, wanted);
        const { counted, ...found } = await purged(each);
        t.deepEqual(shown(found), shown(wanted));
        t.is(counted, wanted.gone.length);
      }
    }),
    { numRuns, includeErrorInReport: true },
  );
  seen.assertCommon(t, 2 * numRuns);
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
