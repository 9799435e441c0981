import test from 'ava';
import { DomainError, dependencyUnavailable } from '#libs/kernel/domain-error.ts';
import type { Ceiling } from '../domain/ceiling.ts';
import { type RetentionPurgeItem, sumCounts } from '../domain/purge.ts';
import { type PlanWindow, resolveWindows } from '../domain/windows.ts';
import type { KeepPlans } from './keep-plans.ts';
import type { AgePurgeAnswer, DataOwner, ItemProgress, PurgeRepository } from './ports.ts';
import { makeRunPurges } from './run-purges.ts';

const NOW = Temporal.Instant.from('2026-06-01T00:00:00Z');
const PURGE = '01890000-0000-7000-8000-000000000000';
const OFF: Ceiling = { maxShare: undefined, maxCount: undefined, shareFrom: 0 };
const TYPE: Readonly<Record<string, string>> = {
  drift_checks: 'drift_check',
  incident_payloads: 'incident_payload',
  approvals: 'approval',
};

const LONG_AGO = Temporal.Instant.fromEpochMilliseconds(0);
const BY_SEED = { actor: 'system:seed', reason: undefined };
const WINDOWS = Object.entries({ FREE: [7], PRO: [30, 180, 180], ENTERPRISE: [180, 2_555, 2_555] }).flatMap(
  ([plan, days]): PlanWindow[] =>
    Object.keys(TYPE).map((subject, index) => ({
      ...{ plan, subject, version: 1, minToKeep: 0, recordedAt: LONG_AGO, ...BY_SEED },
      kind: days[index] === undefined ? 'NOT_APPLICABLE' : 'DAYS',
      days: days[index],
    })),
);

const FRESH: RetentionPurgeItem = {
  purgeId: PURGE,
  tenantId: 'acme',
  state: 'RUNNING',
  validateOnly: false,
  actor: 'cron',
  plan: undefined,
  planVersion: undefined,
  windows: [],
  operations: [],
  subject: undefined,
  error: undefined,
  hold: undefined,
  runningPurgeId: undefined,
  attempts: 1,
  failures: 0,
  startedAt: NOW,
  finishedAt: undefined,
  updatedAt: NOW,
};

type Call = Parameters<DataOwner['purge']>[0];

/** An owner that removes two rows a call until its rows are gone, and sums up by operation as the contract says. */
function fixture(options: {
  readonly item?: Partial<RetentionPurgeItem>;
  readonly plan?: string;
  readonly ceiling?: Ceiling;
  readonly rows?: Partial<Record<string, number>>;
  readonly onCall?: (call: Call, count: number) => void;
  readonly answer?: (call: Call, answer: AgePurgeAnswer) => AgePurgeAnswer;
}) {
  let plan: string | undefined = options.plan ?? 'PRO';
  const rows = new Map<string, number>(Object.entries(options.rows ?? {}) as [string, number][]);
  const removed = new Map<string, number>();
  const calls: Call[] = [];
  const saved: ItemProgress[] = [];
  const postponed: ItemProgress[] = [];
  let released = 0;

  const owner: DataOwner = {
    async purge(call) {
      calls.push(call);
      options.onCall?.(call, calls.length);
      const left = rows.get(call.subject) ?? 0;
      const gone = call.validateOnly ? 0 : Math.min(2, left);
      rows.set(call.subject, left - gone);
      const key = `${call.operationId}:${call.subject}`;
      removed.set(key, (removed.get(key) ?? 0) + gone);
      const deleted = removed.get(key) ?? 0;
      const answer: AgePurgeAnswer = {
        progress: left - gone > 0 ? 'PARTIAL' : 'COMPLETE',
        counts: [{ resourceType: TYPE[call.subject] ?? '', found: deleted + left - gone, deleted, left: left - gone }],
        cutoff: NOW.toString(),
        population: 100,
      };
      return options.answer ? options.answer(call, answer) : answer;
    },
  };
  const plans = {
    async resolve() {
      const entry = { tenantId: 'acme', version: 1, effectiveAt: LONG_AGO, createdAt: LONG_AGO, ...BY_SEED };
      const entries = plan ? [{ ...entry, plan }] : [];
      const subjects = Object.keys(TYPE).map((name) => ({ name, hasFloor: false }));
      const input = { entries, planWindows: WINDOWS, policies: [], subjects, at: NOW, graceDays: 7 };
      return { ...resolveWindows(input), at: NOW };
    },
  } as unknown as KeepPlans;
  const purges = {
    claim: async () => ({ item: { ...FRESH, ...options.item }, token: 1n }),
    save: async (_, progress) => void saved.push(progress),
    postpone: async (_, progress) => void postponed.push(progress),
    async release() {
      released += 1;
    },
  } as Partial<PurgeRepository> as PurgeRepository;
  const run = makeRunPurges(
    purges,
    plans,
    owner,
    {
      workerId: 'w',
      leaseMs: 1,
      retry: { maxAttempts: 3, baseMs: 1, maxMs: 1 },
      ceiling: options.ceiling ?? OFF,
    },
    () => undefined,
    () => undefined,
  );
  return {
    run: (signal = new AbortController().signal) => run('acme', PURGE, signal),
    setPlan: (next: string | undefined) => {
      plan = next;
    },
    rows,
    calls,
    saved,
    postponed,
    isReleased: () => released > 0,
    removedIn: (progress: ItemProgress | undefined) =>
      Object.fromEntries(
        sumCounts(progress?.operations ?? []).map(({ resourceType, deleted }) => [resourceType, deleted]),
      ),
  };
}

test('every subject of the plan is purged to its end, and the receipt names plan, version and windows', async (t) => {
  const { run, saved, removedIn } = fixture({ rows: { drift_checks: 5, incident_payloads: 2, approvals: 1 } });
  await run();
  const end = saved.at(-1);
  t.like(end, { state: 'COMPLETE', plan: 'PRO', planVersion: 1, error: undefined });
  t.deepEqual(removedIn(end), { drift_check: 5, incident_payload: 2, approval: 1 });
  t.deepEqual(
    end?.windows.map(({ window }) => (window.kind === 'DAYS' ? window.days : window.kind)),
    [30, 180, 180],
  );
});

test('what is not applicable is not asked for, and without a plan nothing is', async (t) => {
  const free = fixture({ plan: 'FREE' });
  await free.run();
  t.deepEqual(
    free.calls.map(({ subject }) => subject),
    ['drift_checks'],
  );
  const none = fixture({});
  none.setPlan(undefined);
  await none.run();
  t.deepEqual(none.calls, []);
  t.is(none.saved.at(-1)?.state, 'COMPLETE');
});

test('a subject that fails does not stop the others; it is tried again, and then told', async (t) => {
  const failing = {
    rows: { drift_checks: 1, incident_payloads: 1, approvals: 1 },
    onCall: ({ subject }: Call) => {
      if (subject === 'incident_payloads') throw dependencyUnavailable('incident service');
    },
  };
  const first = fixture(failing);
  await first.run();
  t.like(first.postponed.at(-1), { state: 'RUNNING', failures: 1 });
  t.deepEqual(first.removedIn(first.postponed.at(-1)), { drift_check: 1, approval: 1 });
  const last = fixture({ ...failing, item: { failures: 2 } });
  await last.run();
  const end = last.saved.at(-1);
  t.is(end?.state, 'PARTIAL');
  t.is(end?.error, 'DEPENDENCY_UNAVAILABLE: The incident service is unavailable; try again later.');
  t.deepEqual(last.removedIn(end), { drift_check: 1, approval: 1 });
});

test('what is done is not asked for again when the rest is', async (t) => {
  const done = { operationId: PURGE, retentionDays: 30, cutoff: NOW.toString(), counts: [], isDone: true };
  const { run, calls } = fixture({ item: { operations: [{ subject: 'drift_checks', ...done }], failures: 1 } });
  await run();
  t.deepEqual(
    calls.map(({ subject }) => subject),
    ['incident_payloads', 'approvals'],
  );
});

test('an upgrade on the way keeps the rest, and what went before is counted, answered or not', async (t) => {
  const given = fixture({
    rows: { drift_checks: 10 },
    onCall: (_, count) => {
      // The second batch goes and its answer is lost with the worker that waited for it.
      if (count === 2) given.setPlan('ENTERPRISE');
    },
  });
  await given.run();
  const [first, second, settle, again] = given.calls;
  t.deepEqual([first?.retentionDays, second?.retentionDays], [30, 30]);
  t.like(settle, { retentionDays: 30, validateOnly: true, operationId: PURGE });
  t.like(again, { retentionDays: 180, validateOnly: false });
  t.not(again?.operationId, PURGE);
  t.is(given.removedIn(given.saved.at(-1))['drift_check'], 10);
});

test('a window that was taken away on the way ends the removal', async (t) => {
  const given = fixture({ rows: { drift_checks: 10 }, onCall: () => given.setPlan(undefined) });
  await given.run();
  t.is(given.rows.get('drift_checks'), 8);
  t.deepEqual(given.removedIn(given.saved.at(-1)), { drift_check: 2 });
  t.is(given.saved.at(-1)?.state, 'COMPLETE');
});

test('a downgrade on the way waits for the next purge', async (t) => {
  const given = fixture({ plan: 'ENTERPRISE', rows: { drift_checks: 4 }, onCall: () => given.setPlan('FREE') });
  await given.run();
  t.deepEqual(
    given.calls.filter(({ subject }) => subject === 'drift_checks').map(({ retentionDays }) => retentionDays),
    [180, 180],
  );
});

test('the intent is saved before the first call, and the count after each', async (t) => {
  const given = fixture({
    plan: 'FREE',
    rows: { drift_checks: 3 },
    onCall: (_, count) => t.is(given.saved.length, count),
  });
  await given.run();
  t.deepEqual(
    given.saved.map((progress) => given.removedIn(progress)['drift_check'] ?? 0),
    [0, 2, 3, 3],
  );
});

test('a dry run removes nothing, is never held, and tells what would go', async (t) => {
  const ceiling = { maxShare: 0.01, maxCount: 1, shareFrom: 0 };
  const { run, calls, saved } = fixture({ item: { validateOnly: true }, rows: { drift_checks: 7 }, ceiling });
  await run();
  t.true(calls.every(({ validateOnly }) => validateOnly));
  t.is(saved.at(-1)?.state, 'COMPLETE');
  t.like(sumCounts(saved.at(-1)?.operations ?? [])[0], { found: 7, deleted: 0, left: 7 });
});

test('a tenant of which too much would go is held before anything went', async (t) => {
  const ceiling = { maxShare: 0.5, maxCount: undefined, shareFrom: 0 };
  const { run, calls, saved } = fixture({ rows: { drift_checks: 1, approvals: 51 }, ceiling });
  await run();
  t.true(calls.every(({ validateOnly }) => validateOnly));
  t.like(saved.at(-1), { state: 'HELD', error: undefined });
  t.deepEqual(saved.at(-1)?.hold, {
    subject: 'approvals',
    expired: 51,
    total: 100,
    maxShare: 0.5,
    maxCount: undefined,
  });
});

test('a ceiling that cannot be computed holds', async (t) => {
  const ceiling = { maxShare: 0.5, maxCount: undefined, shareFrom: 1_000 };
  for (const odd of [
    (_: Call, answer: AgePurgeAnswer) => ({ ...answer, population: undefined }),
    (_: Call, answer: AgePurgeAnswer) => ({ ...answer, counts: [] }),
    (_: Call, answer: AgePurgeAnswer) => ({ ...answer, population: Number.NaN }),
  ]) {
    const { run, calls, saved } = fixture({ rows: { drift_checks: 1 }, ceiling, answer: odd });
    await run();
    t.is(saved.at(-1)?.state, 'HELD');
    t.true(calls.every(({ validateOnly }) => validateOnly));
  }
});

test('a subject whose owner cannot count it now is left alone in this turn', async (t) => {
  const ceiling = { maxShare: 0.5, maxCount: undefined, shareFrom: 0 };
  const given = fixture({
    rows: { drift_checks: 1, approvals: 1 },
    ceiling,
    item: { failures: 2 },
    onCall: ({ subject, validateOnly }) => {
      if (subject === 'drift_checks' && validateOnly) throw dependencyUnavailable('incident service');
    },
  });
  await given.run();
  t.is(given.rows.get('drift_checks'), 1);
  t.is(given.rows.get('approvals'), 0);
  t.is(given.saved.at(-1)?.state, 'PARTIAL');
});

test('what a person released is not held again', async (t) => {
  const ceiling = { maxShare: 0.01, maxCount: 1, shareFrom: 0 };
  const approval = { at: NOW, actor: 'ada', reason: 'looked at it' };
  const hold = {
    subject: 'drift_checks',
    expired: 9,
    total: 9,
    maxShare: 0.01,
    maxCount: 1,
    heldAt: NOW,
    approval,
  } as const;
  const { run, saved, removedIn } = fixture({ rows: { drift_checks: 9 }, ceiling, item: { hold } });
  await run();
  t.is(saved.at(-1)?.state, 'COMPLETE');
  t.is(removedIn(saved.at(-1))['drift_check'], 9);
});

test('a worker that is to stop gives the tenant back, and its turn does not count', async (t) => {
  const stopping = new AbortController();
  const given = fixture({ rows: { drift_checks: 9 }, onCall: () => stopping.abort() });
  await given.run(stopping.signal);
  t.true(given.isReleased());
  t.is(given.calls.length, 1);
});

test('a worker whose lease is another’s writes nothing more', async (t) => {
  const given = fixture({
    rows: { drift_checks: 9 },
    onCall: () => {
      throw new DomainError('aborted', 'LEASE_LOST', 'The lease is another’s.');
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
