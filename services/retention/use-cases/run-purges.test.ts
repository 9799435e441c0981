import test from 'ava';
import { DomainError, dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import type { CatalogueSubject } from '../domain/catalogue.ts';
import type { Ceiling } from '../domain/ceiling.ts';
import type { RetentionPurgeItem } from '../domain/purge.ts';
import { countsOf, type OperationRule, type PurgeSubject } from '../domain/purge-subject.ts';
import type { ResolvedWindow, Window } from '../domain/windows.ts';
import type {
  CatalogueRepository,
  CountAnswer,
  EndAnswer,
  ItemProgress,
  OwnerCall,
  Postponement,
  PurgeAnswer,
  PurgeRepository,
  RetentionOwners,
  StopRepository,
} from './purge-ports.ts';
import { makeRunPurges } from './run-purges.ts';

const NOW = Temporal.Instant.from('2026-06-01T00:00:00Z');
const PURGE = '01890000-0000-7000-8000-000000000000';
const OFF: Ceiling = { maxShare: undefined, maxCount: undefined, shareFrom: 0 };
const HALF: Ceiling = { maxShare: 0.5, maxCount: undefined, shareFrom: 0 };
const SUBJECTS = ['approvals', 'drift_checks', 'executions', 'incident_payloads'];
const PRO = { approvals: 180, drift_checks: 30, incident_payloads: 180 };
const ENTERPRISE = { approvals: 2_555, drift_checks: 180, incident_payloads: 2_555 };

const FRESH: RetentionPurgeItem = {
  purgeId: PURGE,
  tenantId: 'acme',
  state: 'RUNNING',
  validateOnly: false,
  actor: 'cron',
  plan: undefined,
  planVersion: undefined,
  subjects: [],
  workingOn: undefined,
  error: undefined,
  runningPurgeId: undefined,
  attempts: 1,
  failures: 0,
  waitingSince: undefined,
  startedAt: NOW,
  finishedAt: undefined,
  updatedAt: NOW,
};

const ENTRY: CatalogueSubject = {
  name: '',
  owner: 'incident',
  dataId: 'd',
  resourceType: '',
  dependentTypes: [],
  ageOf: '',
  hasFloor: false,
  problem: undefined,
  claim: undefined,
  listedAt: NOW,
  observeNightsLeft: 0,
  retirement: undefined,
};

type Days = Readonly<Record<string, number | undefined>>;

const windowsOf = (days: Days): ResolvedWindow[] =>
  SUBJECTS.map((subject) => {
    const count = days[subject];
    const window: Window = count === undefined ? { kind: 'KEEP_ALL' } : { kind: 'DAYS', days: count };
    return { subject, window, source: 'PLAN', from: { plan: 'PRO', version: 1 }, windowVersion: 1, change: undefined };
  });

interface Call extends OwnerCall {
  readonly rpc: 'count' | 'purge' | 'end';
  readonly operationId?: string;
  readonly rule?: Partial<OperationRule>;
}

/** An owner that removes two rows a call until its rows are gone, and sums up by operation as the contract says. */
function fixture(options: {
  readonly item?: Partial<RetentionPurgeItem>;
  readonly days?: Days;
  readonly lastDays?: Days;
  readonly ceiling?: Ceiling;
  readonly maxWaitMs?: number;
  /** Whether the purge goes over every tenant and subject. Absent: it does. */
  readonly isOfAll?: boolean;
  /** Expired rows by subject; each has a hundred in all. */
  readonly rows?: Readonly<Record<string, number>>;
  readonly onCall?: (call: Call, count: number) => void;
  /** What every call of Purge says keeps rows from going. */
  readonly blockers?: readonly string[];
  /** What is otherwise with the owner's answers. */
  readonly answers?: {
    readonly count?: (call: OwnerCall) => Partial<CountAnswer>;
    readonly purge?: (call: OwnerCall) => Partial<PurgeAnswer>;
    readonly end?: (call: OwnerCall) => Partial<EndAnswer>;
  };
  /** What is otherwise with subjects of the catalogue. */
  readonly entries?: Readonly<Record<string, Partial<CatalogueSubject>>>;
}) {
  let days: Days = options.days ?? PRO;
  let isStopped = false;
  const rows = new Map(Object.entries(options.rows ?? {}));
  const removed = new Map<string, number>();
  const ended = new Set<string>();
  const calls: Call[] = [];
  const saved: ItemProgress[] = [];
  const postponed: { progress: ItemProgress; how: Postponement }[] = [];
  const settled: PurgeSubject[] = [];
  const settledLater: number[] = [];
  const cleanups: number[] = [];
  const nights: string[] = [];
  let released = 0;
  const finished: string[] = [];

  const seen = (call: Call): void => {
    calls.push(call);
    options.onCall?.(call, calls.length);
  };
  const counts = (subject: string, operationId: string, left: number) => {
    const deleted = removed.get(operationId) ?? 0;
    return [{ resourceType: subject, found: deleted + left, deleted, left }];
  };
  const owners: RetentionOwners = {
    names: ['incident'],
    list: async () => ({ dataId: 'd', subjects: [] }),
    listTenants: async () => ({ tenantIds: [], nextPageToken: '' }),
    async count(call, rule, _cursor, upTo) {
      seen({ rpc: 'count', ...call, rule });
      const expired = rows.get(call.subject) ?? 0;
      const remaining = Math.max(0, Math.min(upTo, 100) - expired);
      return { cursor: undefined, expired, remaining, cutoff: NOW, ...options.answers?.count?.(call) };
    },
    async purge(call, operationId, rule) {
      seen({ rpc: 'purge', ...call, operationId, rule });
      if (ended.has(operationId)) throw new DomainError('failed-precondition', 'OPERATION_ENDED', 'It has ended.');
      const told = options.answers?.purge?.(call) ?? {};
      const left = rows.get(call.subject) ?? 0;
      const spare = (rule.maxRows ?? Infinity) - (removed.get(operationId) ?? 0);
      const gone = told.retryDelayMs === undefined ? Math.min(2, left, spare) : 0;
      rows.set(call.subject, left - gone);
      removed.set(operationId, (removed.get(operationId) ?? 0) + gone);
      const isComplete = left - gone === 0 || spare - gone === 0;
      const answer = counts(call.subject, operationId, left - gone);
      const { blockers = [] } = options;
      return { isComplete, counts: answer, cutoff: NOW, retryDelayMs: 0, waits: [], blockers, ...told };
    },
    async end(call, operationId) {
      seen({ rpc: 'end', ...call, operationId });
      ended.add(operationId);
      const told = counts(call.subject, operationId, rows.get(call.subject) ?? 0);
      return { cursor: undefined, counts: told, cutoff: NOW, ...options.answers?.end?.(call) };
    },
  };
  const purges = {
    claim: async () =>
      isStopped
        ? undefined
        : {
            item: { ...FRESH, ...options.item },
            token: 1n,
            subjects: [],
            isOfAll: options.isOfAll ?? true,
            fleetHold: undefined,
            lastDays: new Map(
              Object.entries(options.lastDays ?? {}).flatMap(([s, d]) => (d === undefined ? [] : [[s, d]])),
            ),
          },
    save: async (_, progress) => void saved.push(progress),
    postpone: async (_, progress, how) => void postponed.push({ progress, how }),
    async release() {
      released += 1;
    },
    settle: async (_, subjects) => void settled.push(...subjects),
    settleLater: async (_, ms) => void settledLater.push(ms),
  } as Partial<PurgeRepository> as PurgeRepository;
  const ports = {
    purges,
    plans: {
      resolve: async () => ({
        current: {
          tenantId: 'acme',
          version: 1,
          plan: 'PRO',
          effectiveAt: NOW,
          createdAt: NOW,
          actor: 'a',
          reason: undefined,
        },
        windows: windowsOf(days),
        at: NOW,
      }),
    },
    catalogue: {
      list: async () => SUBJECTS.map((name) => ({ ...ENTRY, name, resourceType: name, ...options.entries?.[name] })),
      findObserved: async () =>
        new Set(SUBJECTS.filter((name) => (options.entries?.[name]?.observeNightsLeft ?? 0) > 0)),
      recordNight: async (subject: string) => void nights.push(subject),
    } as Partial<CatalogueRepository> as CatalogueRepository,
    owners,
    stops: {
      get: async () => ({ isStopped, version: 1, last: undefined }),
    } as Partial<StopRepository> as StopRepository,
    recordCleanup: async (_tenantId: string, _at: Temporal.Instant, deleted: number) => void cleanups.push(deleted),
  };
  const run = makeRunPurges(
    ports,
    {
      workerId: 'w',
      leaseMs: 60_000,
      retry: { maxAttempts: 3, baseMs: 1, maxMs: 1 },
      maxWaitMs: options.maxWaitMs ?? 60_000,
      maxPauseMs: 7_200_000,
      ceiling: options.ceiling ?? OFF,
    },
    (_, { state }) => finished.push(state),
    () => undefined,
  );
  return {
    run: (signal = new AbortController().signal) => run({ tenantId: 'acme', purgeId: PURGE }, signal),
    setDays: (next: Days) => {
      days = next;
    },
    stop: () => {
      isStopped = true;
    },
    rows,
    calls,
    saved,
    postponed,
    settled,
    cleanups,
    nights,
    settledLater,
    released: () => released,
    finished,
    of: (rpc: Call['rpc']) => calls.filter((call) => call.rpc === rpc),
    removedIn: (progress: ItemProgress | undefined) =>
      Object.fromEntries(
        countsOf(progress?.subjects ?? []).map(({ resourceType, deleted }) => [resourceType, deleted]),
      ),
    stateOf: (progress: ItemProgress | undefined, name: string) =>
      progress?.subjects.find(({ subject }) => subject === name)?.state,
  };
}

const EVERY = { drift_checks: 5, incident_payloads: 2, approvals: 1 };

test('every subject with a window is purged to its end, and the receipt names plan, version and windows', async (t) => {
  const { run, saved, removedIn, of } = fixture({ rows: EVERY });
  await run();
  const end = saved.at(-1);
  t.like(end, { state: 'COMPLETE', plan: 'PRO', planVersion: 1, error: undefined });
  t.deepEqual(removedIn(end), { ...EVERY });
  t.is(of('end').length, 3, 'every operation is closed');
  t.deepEqual(
    end?.subjects.map(({ window: { window } }) => (window.kind === 'DAYS' ? window.days : window.kind)),
    [180, 30, 'KEEP_ALL', 180],
  );
});

test('what is kept is not asked for, and what has no expired rows is counted alone', async (t) => {
  const free = fixture({ days: { drift_checks: 7 } });
  await free.run();
  t.deepEqual(
    free.calls.map(({ rpc, subject }) => `${rpc} ${subject}`),
    ['count drift_checks'],
  );
  t.is(free.saved.at(-1)?.state, 'COMPLETE');
  const none = fixture({ days: {} });
  await none.run();
  t.deepEqual(none.calls, []);
  t.is(none.saved.at(-1)?.state, 'COMPLETE');
});

test('a subject that fails does not stop the others; it is tried again, and then told', async (t) => {
  const failing = {
    rows: { drift_checks: 1, incident_payloads: 1, approvals: 1 },
    onCall: ({ subject }: Call) => {
      if (subject === 'incident_payloads') throw new DomainError('failed-precondition', 'BROKEN', 'It is broken.');
    },
  };
  const first = fixture(failing);
  await first.run();
  t.like(first.postponed.at(-1)?.progress, { state: 'RUNNING', failures: 1, error: 'BROKEN: It is broken.' });
  t.deepEqual(first.removedIn(first.postponed.at(-1)?.progress), { drift_checks: 1, approvals: 1 });
  const last = fixture({ ...failing, item: { failures: 2 } });
  await last.run();
  const end = last.saved.at(-1);
  t.like(end, { state: 'PARTIAL', error: 'BROKEN: It is broken.' });
  t.is(last.stateOf(end, 'incident_payloads'), 'PARTIAL');
  t.deepEqual(last.removedIn(end), { drift_checks: 1, approvals: 1 });
});

test('an owner that is silent is waited for without counting as a failed attempt, and given up in the end', async (t) => {
  const silent = {
    rows: { drift_checks: 1 },
    onCall: () => {
      throw dependencyUnavailable('owner incident');
    },
  };
  const waits = fixture({ ...silent, item: { failures: 2, waitingSince: NOW.subtract({ seconds: 59 }) } });
  await waits.run();
  t.like(waits.postponed[0], {
    how: { silence: 'SAME', isAttempt: false },
    progress: { state: 'RUNNING', failures: 2 },
  });
  t.is(waits.calls.length, 1, 'it is not asked again for the other subjects');
  const over = fixture({ ...silent, item: { waitingSince: NOW.subtract({ seconds: 60 }) } });
  await over.run();
  t.is(over.saved.at(-1)?.state, 'PARTIAL');
  t.regex(over.saved.at(-1)?.error ?? '', /^DEPENDENCY_UNAVAILABLE: /);
  const heard = fixture({
    rows: { drift_checks: 1 },
    item: { waitingSince: NOW.subtract({ seconds: 60 }) },
    onCall: (_, count) => {
      if (count > 1) throw dependencyUnavailable('owner incident');
    },
  });
  await heard.run();
  t.like(heard.postponed[0], { how: { silence: 'NEW' } }, 'it has answered meanwhile');
});

for (const [where, nothing] of [
  ['count', { expired: 0, remaining: 0 }],
  ['end', {}],
] as const) {
  for (const [how, cursorOf] of [
    ['the cursor that it named before', () => 'bGV0aGU='],
    ['ever new cursors for nothing', (count: number) => `bGV0aGU${count}`],
  ] as const) {
    test(`an owner whose ${where} names ${how} is stalled: an attempt, and the other subjects are done`, async (t) => {
      const stopping = new AbortController();
      const given = fixture({
        rows: { drift_checks: 2, approvals: 1 },
        onCall: (_, count) => {
          if (count > 2_000) stopping.abort();
        },
        answers: {
          [where]: ({ subject }: OwnerCall) =>
            subject === 'drift_checks' ? { ...nothing, cursor: cursorOf(given.calls.length) } : {},
        },
      });
      await given.run(stopping.signal);
      t.is(given.released(), 0, 'its worker is not held');
      const { progress, how: postponement } = given.postponed.at(-1) ?? {};
      t.is(postponement?.isAttempt, true);
      t.regex(progress?.error ?? '', /^OWNER_STALLED: The owner incident /);
      t.is(given.stateOf(progress, 'approvals'), 'COMPLETE');
      t.is(progress?.subjects.find(({ subject }) => subject === 'drift_checks')?.walk, undefined);
    });
  }
}

const LATER_MS = 3_600_000;
const askForTime = {
  purge: ({ subject }: OwnerCall): Partial<PurgeAnswer> =>
    subject === 'drift_checks' ? { isComplete: false, retryDelayMs: LATER_MS } : {},
};

test('an owner is not called before the time is over that it asked for, however soon another subject’s turn comes', async (t) => {
  const first = fixture({ rows: { drift_checks: 2, approvals: 1 }, answers: askForTime });
  await first.run();
  const { how, progress } = first.postponed.at(-1) ?? {};
  t.true((how?.ms ?? 0) > LATER_MS / 2);
  t.is(how?.isAttempt, false);
  const soon = fixture({
    item: { subjects: progress?.subjects ?? [] },
    rows: { drift_checks: 2 },
    answers: askForTime,
  });
  await soon.run();
  t.deepEqual(soon.calls, []);
  t.true((soon.postponed.at(-1)?.how.ms ?? 0) > LATER_MS / 2);
  t.is(soon.stateOf(soon.postponed.at(-1)?.progress, 'drift_checks'), 'RUNNING');
});

test('an owner that asks for time for ever is given up when no row has gone for too long, and not before', async (t) => {
  const first = fixture({ days: { drift_checks: 30 }, rows: { drift_checks: 4 }, answers: askForTime });
  await first.run();
  const pausedSince = (since: Temporal.Instant) =>
    first.postponed.at(-1)?.progress.subjects.map((subject) => ({
      ...subject,
      ...(subject.subject === 'drift_checks' && { pause: { since, until: NOW } }),
    })) ?? [];
  const subjects = pausedSince(NOW.subtract({ hours: 2 }));
  const once = fixture({ item: { subjects }, rows: { drift_checks: 4 }, answers: askForTime });
  await once.run();
  t.like(once.postponed.at(-1), { how: { isAttempt: true } });
  const over = fixture({ item: { subjects, failures: 2 }, rows: { drift_checks: 4 }, answers: askForTime });
  await over.run();
  t.regex(over.saved.at(-1)?.error ?? '', /^OWNER_STALLED: /);
  t.is(over.saved.at(-1)?.state, 'PARTIAL');
  const almost = pausedSince(NOW.subtract({ minutes: 119 }));
  const given = fixture({ item: { subjects: almost, failures: 2 }, rows: { drift_checks: 4 }, answers: askForTime });
  await given.run();
  const { ms = 0 } = given.postponed.at(-1)?.how ?? {};
  t.true(ms > 0 && ms <= 60_000, 'it is called once more when that is over');
  const going = fixture({ item: { subjects, failures: 2 }, rows: { drift_checks: 4 } });
  await going.run();
  t.is(going.saved.at(-1)?.state, 'COMPLETE');
});

test('what is done is not asked for again when the rest is', async (t) => {
  const first = fixture({ days: { drift_checks: 30 }, rows: { drift_checks: 2 } });
  await first.run();
  const subjects = first.saved.at(-1)?.subjects.filter(({ subject }) => subject === 'drift_checks') ?? [];
  const { run, calls } = fixture({ item: { subjects, failures: 1 } });
  await run();
  t.deepEqual([...new Set(calls.map(({ subject }) => subject))], ['approvals', 'incident_payloads']);
});

test('an upgrade on the way closes the operation and keeps the rest, and what went before is counted', async (t) => {
  const given = fixture({
    days: { drift_checks: 30 },
    rows: { drift_checks: 10 },
    onCall: ({ rpc }, count) => {
      if (rpc === 'purge' && count === 3) given.setDays(ENTERPRISE);
    },
  });
  await given.run();
  const [first, second, third] = given.of('purge');
  t.deepEqual([first?.rule?.days, second?.rule?.days, third?.rule?.days], [30, 30, 180]);
  t.not(third?.operationId, first?.operationId);
  const ends = given.of('end').map(({ operationId }) => operationId);
  t.is(ends[0], first?.operationId);
  t.true(ends.includes(third?.operationId));
  t.is(given.removedIn(given.saved.at(-1))['drift_checks'], 10);
});

test('a window that was taken away on the way ends the removal', async (t) => {
  const given = fixture({
    days: { drift_checks: 30 },
    rows: { drift_checks: 10 },
    onCall: ({ rpc }) => {
      if (rpc === 'purge') given.setDays({});
    },
  });
  await given.run();
  t.is(given.rows.get('drift_checks'), 8);
  t.deepEqual(given.removedIn(given.saved.at(-1)), { drift_checks: 2 });
  t.is(given.saved.at(-1)?.state, 'COMPLETE');
  t.is(given.stateOf(given.saved.at(-1), 'drift_checks'), 'KEPT');
  t.is(given.of('end').length, 1);
});

test('a downgrade on the way waits for the next purge', async (t) => {
  const given = fixture({
    days: { drift_checks: 180 },
    rows: { drift_checks: 4 },
    onCall: ({ rpc }) => {
      if (rpc === 'purge') given.setDays({ drift_checks: 7 });
    },
  });
  await given.run();
  t.deepEqual(
    given.of('purge').map(({ rule }) => rule?.days),
    [180, 180],
  );
});

test('the intent is saved before the first removal, and the count after each', async (t) => {
  const given = fixture({
    days: { drift_checks: 30 },
    rows: { drift_checks: 3 },
    onCall: ({ rpc, operationId }) => {
      if (rpc !== 'purge') return;
      const known = given.saved.at(-1)?.subjects.find(({ subject }) => subject === 'drift_checks');
      t.is(known?.operationId, operationId);
    },
  });
  await given.run();
  t.deepEqual(
    given.saved.map((progress) => given.removedIn(progress)['drift_checks'] ?? 0),
    [0, 2, 3, 3],
  );
});

test('rows that are still there when an operation is read back go by another one, and nothing is COMPLETE before', async (t) => {
  for (const [comesBack, outcome] of [
    [1, 'COMPLETE'],
    [Number.POSITIVE_INFINITY, 'RUNNING'],
  ] as const) {
    let ends = 0;
    const { run, rows, of, saved, postponed, removedIn, stateOf } = fixture({
      rows: { drift_checks: 2 },
      onCall({ rpc, subject }) {
        if (rpc !== 'end' || subject !== 'drift_checks') return;
        ends += 1;
        if (ends <= comesBack) rows.set(subject, 3);
      },
    });
    await run();
    const told = outcome === 'COMPLETE' ? saved.at(-1) : postponed.at(-1)?.progress;
    t.is(told?.state, outcome);
    t.is(stateOf(told, 'drift_checks'), outcome);
    t.is(new Set(of('end').map(({ operationId }) => operationId)).size, of('end').length, 'each operation ends once');
    if (outcome !== 'COMPLETE') continue;
    t.is(rows.get('drift_checks'), 0);
    t.deepEqual(removedIn(told), { drift_checks: 5 });
    const checks = told?.subjects.find(({ subject }) => subject === 'drift_checks');
    t.deepEqual(checks?.counts, [{ resourceType: 'drift_checks', found: 5, deleted: 5, left: 0 }]);
  }
});

test('a worker that takes over after End reads the final sums and goes on', async (t) => {
  const first = fixture({ days: { drift_checks: 30 }, rows: { drift_checks: 3 } });
  await first.run();
  // As it was saved before End.
  const before = first.saved.at(-2)?.subjects ?? [];
  const given = fixture({
    days: { drift_checks: 30 },
    rows: {},
    item: { subjects: before },
    onCall: ({ rpc }) => {
      if (rpc === 'purge') throw new DomainError('failed-precondition', 'OPERATION_ENDED', 'It has ended.');
    },
  });
  await given.run();
  t.is(given.saved.at(-1)?.state, 'COMPLETE');
  t.is(given.of('end').length, 1);
});

test('a dry run removes nothing, is never held, and tells what would go', async (t) => {
  const ceiling = { maxShare: 0.01, maxCount: 1, shareFrom: 0 };
  const { run, calls, saved } = fixture({ item: { validateOnly: true }, rows: { drift_checks: 7 }, ceiling });
  await run();
  t.true(calls.every(({ rpc }) => rpc === 'count'));
  t.is(saved.at(-1)?.state, 'COMPLETE');
  const told = saved.at(-1)?.subjects.find(({ subject }) => subject === 'drift_checks');
  t.like(told, { state: 'OBSERVED' });
  t.deepEqual(told?.counts, [{ resourceType: 'drift_checks', found: 7, deleted: 0, left: 7 }]);
});

test('a subject that is observed is counted, and nothing of it goes', async (t) => {
  const { run, of, saved, stateOf } = fixture({
    rows: { drift_checks: 7, approvals: 2 },
    entries: { drift_checks: { observeNightsLeft: 1 } },
  });
  await run();
  t.deepEqual([...new Set(of('purge').map(({ subject }) => subject))], ['approvals']);
  t.is(stateOf(saved.at(-1), 'drift_checks'), 'OBSERVED');
  t.is(saved.at(-1)?.state, 'COMPLETE');
});

test('a night of an observed subject is one purge of every tenant, and no dry run', async (t) => {
  const entries = { drift_checks: { observeNightsLeft: 1 } };
  const rows = { drift_checks: 7, approvals: 2 };
  const night = fixture({ rows, entries });
  await night.run();
  t.deepEqual(night.nights, ['drift_checks']);
  for (const more of [{ item: { validateOnly: true } }, { isOfAll: false }]) {
    const given = fixture({ rows, entries, ...more });
    await given.run();
    t.is(given.rows.get('drift_checks'), 7);
    t.deepEqual(given.nights, []);
  }
});

test('only the subject of which too much would go is held, and the others go on', async (t) => {
  const { run, of, saved, stateOf } = fixture({ rows: { drift_checks: 1, approvals: 51 }, ceiling: HALF });
  await run();
  t.deepEqual([...new Set(of('purge').map(({ subject }) => subject))], ['drift_checks']);
  t.like(saved.at(-1), { state: 'HELD', error: undefined });
  t.is(stateOf(saved.at(-1), 'drift_checks'), 'COMPLETE');
  const held = saved.at(-1)?.subjects.find(({ subject }) => subject === 'approvals')?.hold;
  t.like(held, { expired: 51, maxShare: 0.5, maxCount: undefined, approval: undefined });
});

test('an approval carries days, cutoff and rows into the operation, and what is left after that is held', async (t) => {
  const held = fixture({ days: { approvals: 180 }, rows: { approvals: 51 }, ceiling: HALF });
  await held.run();
  const [waiting] = held.saved.at(-1)?.subjects.filter(({ subject }) => subject === 'approvals') ?? [];
  if (!waiting?.hold) return t.fail();
  const cutoff = NOW.subtract({ hours: 24 });
  const approval = { at: NOW, actor: 'ada', reason: 'r', days: 180, cutoff, rows: 51 };
  const approved: PurgeSubject = {
    ...waiting,
    state: 'PENDING',
    expired: undefined,
    usual: undefined,
    hold: { ...waiting.hold, approval },
  };
  const { run, of, rows, saved, stateOf } = fixture({
    days: { approvals: 30 },
    rows: { approvals: 80 },
    ceiling: HALF,
    item: { subjects: [approved] },
  });
  await run();
  t.like(of('purge')[0]?.rule, { days: 180, maxRows: 51 });
  t.true((of('purge')[0]?.rule?.cutoff?.since(cutoff).sign ?? 1) <= 0);
  t.is(rows.get('approvals'), 29);
  t.is(stateOf(saved.at(-1), 'approvals'), 'HELD');
  const again = saved.at(-1)?.subjects.find(({ subject }) => subject === 'approvals');
  t.like(again, { expired: { expired: 29 }, hold: { approval: undefined } });
});

test('a window that widens under an approval leaves what is left of its rows, and no later cutoff', async (t) => {
  const held = fixture({ days: { approvals: 30 }, rows: { approvals: 51 }, ceiling: HALF });
  await held.run();
  const [waiting] = held.saved.at(-1)?.subjects.filter(({ subject }) => subject === 'approvals') ?? [];
  if (!waiting?.hold) return t.fail();
  const cutoff = NOW.subtract({ hours: 24 * 400 });
  const approval = { at: NOW, actor: 'ada', reason: 'r', days: 30, cutoff, rows: 6 };
  const approved: PurgeSubject = {
    ...waiting,
    ...{ state: 'PENDING', expired: undefined, usual: undefined, hold: { ...waiting.hold, approval } },
  };
  const given = fixture({
    days: { approvals: 30 },
    rows: { approvals: 80 },
    ceiling: HALF,
    item: { subjects: [approved] },
    onCall: ({ rpc }) => {
      if (rpc === 'purge') given.setDays({ approvals: 180 });
    },
  });
  await given.run();
  const rules = given.of('purge').map(({ operationId, rule }) => ({ operationId, ...rule }));
  t.deepEqual(
    rules.map(({ days, maxRows }) => [days, maxRows]),
    [
      [30, 6],
      [180, 4],
      [180, 4],
    ],
  );
  t.not(rules[0]?.operationId, rules[1]?.operationId);
  t.deepEqual([...new Set(rules.map((rule) => String(rule.cutoff)))], [cutoff.toString()]);
  t.is(given.rows.get('approvals'), 74);
  t.is(given.stateOf(given.saved.at(-1), 'approvals'), 'HELD');
});

test('a subject that cannot be asked about is left alone, and the tenant is PARTIAL with the reason', async (t) => {
  const { run, of, saved } = fixture({
    rows: { drift_checks: 1, approvals: 1 },
    entries: { drift_checks: { problem: 'SUBJECT_UNLISTED' } },
    item: { failures: 2 },
  });
  await run();
  t.deepEqual([...new Set(of('purge').map(({ subject }) => subject))], ['approvals']);
  t.like(saved.at(-1), { state: 'PARTIAL' });
  t.regex(saved.at(-1)?.error ?? '', /^SUBJECT_UNLISTED: /);
});

test('while purges are stopped nothing is claimed, and what is under way is given up before the next call', async (t) => {
  const stopped = fixture({ rows: { drift_checks: 9 } });
  stopped.stop();
  t.false(await stopped.run());
  t.deepEqual([stopped.calls, stopped.released()], [[], 0]);
  const running = fixture({
    rows: { drift_checks: 9 },
    onCall: ({ rpc }) => {
      if (rpc === 'purge') running.stop();
    },
  });
  await running.run();
  t.is(running.released(), 1);
  t.is(running.of('purge').length, 1);
});

test('executions’ cleanups are recorded with the owner’s own sums, also when there was nothing', async (t) => {
  for (const rows of [5, 0]) {
    const { run, cleanups } = fixture({ days: { executions: 90 }, rows: { executions: rows } });
    await run();
    t.deepEqual(cleanups, [rows]);
  }
});

test('executions’ cleanups are recorded when the tenant ends PARTIAL, too', async (t) => {
  const blocked = fixture({
    days: { executions: 90 },
    rows: { executions: 5 },
    blockers: ['LOCKED: Some are locked.'],
  });
  await blocked.run();
  t.is(blocked.saved.at(-1)?.state, 'PARTIAL');
  t.deepEqual(blocked.cleanups, [2]);
});

test('a worker that is to stop gives the tenant back, and its turn does not count', async (t) => {
  const stopping = new AbortController();
  const given = fixture({ rows: { drift_checks: 9 }, onCall: () => stopping.abort() });
  await given.run(stopping.signal);
  t.is(given.released(), 1);
  t.is(given.calls.length, 1);
});

test('a worker whose lease is another’s writes nothing more', async (t) => {
  const given = fixture({
    rows: { drift_checks: 9 },
    onCall: ({ rpc }) => {
      if (rpc === 'purge') throw new DomainError('aborted', 'LEASE_LOST', 'The lease is another’s.');
    },
  });
  await given.run();
  t.is(given.saved.length, 1);
  t.is(given.postponed.length, 0);
});

test('a tenant that kills its workers is parked where a person sees it', async (t) => {
  const { run, saved, calls } = fixture({ item: { attempts: 51 } });
  await run();
  t.deepEqual(calls, []);
  t.is(saved.at(-1)?.state, 'FAILED');
  t.regex(saved.at(-1)?.error ?? '', /^WORKERS_LOST: 50 /);
});

test('what ended with an open operation is settled: it is closed, and its sums are the owner’s', async (t) => {
  const cut = fixture({
    days: { drift_checks: 30 },
    rows: { drift_checks: 9 },
    item: { failures: 2 },
    onCall: ({ rpc }) => {
      if (rpc === 'purge') throw new DomainError('failed-precondition', 'BROKEN', 'It is broken.');
    },
  });
  await cut.run();
  const ended = cut.saved.at(-1);
  t.is(ended?.state, 'PARTIAL');
  const given = fixture({ item: { ...FRESH, state: 'PARTIAL', subjects: ended?.subjects ?? [], finishedAt: NOW } });
  await given.run();
  t.deepEqual(
    given.calls.map(({ rpc }) => rpc),
    ['end'],
  );
  t.like(given.settled[0], { subject: 'drift_checks', isEnded: true });
  const silent = fixture({
    item: { ...FRESH, state: 'PARTIAL', subjects: ended?.subjects ?? [], finishedAt: NOW, failures: 3 },
    onCall: () => {
      throw dependencyUnavailable('incident', undefined);
    },
  });
  await silent.run();
  t.deepEqual(silent.settled, []);
  t.is(silent.settledLater.length, 1);
  t.true((silent.settledLater[0] ?? 0) >= 4_000, 'later each time');
});
