import { randomUUID } from 'node:crypto';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError } from '@connectrpc/connect';
import type { ExecutionContext } from 'ava';
import { BadRequestSchema } from '#gen/google/rpc/error_details_pb.ts';
import { Progress, type ResourceCount } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type { CountResponse, PurgeResponse } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { parseTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { NIGHT_TOKEN, type OwnerClient, type OwnerToken } from '#test/support/owner-clients.ts';
import { refusalOf, until } from '#test/support/test-stack.ts';

/** Declares a test, under its title. */
export type Declare = (title: string, body: (t: ExecutionContext<unknown>) => Promise<void>) => void;

/** A row to make. */
export interface SeededRow {
  /** Its instant, to the microsecond; null: it has none. */
  readonly age: Temporal.Instant | null;
  /** It has not finished. Only for owners whose rows can be unfinished. */
  readonly isUnfinished?: boolean;
}

/** What a tenant has of the subject, read without the owner's own code. */
export interface LeftRows {
  /** The instants of its rows, in no order. */
  readonly ages: readonly (Temporal.Instant | null)[];
  /** How many rows hang on them, of all types. */
  readonly dependents: number;
}

/** How the suite reaches an owner, and how it makes rows of one of its subjects and reads what is left. */
export interface OwnerUnderTest {
  client(token: OwnerToken): OwnerClient;
  readonly subject: string;
  /** Makes rows, each with the same number of dependents where the subject has any. */
  seed(tenantId: string, rows: readonly SeededRow[]): Promise<void>;
  left(tenantId: string): Promise<LeftRows>;
  /** A tenant that was never used. Absent: any slug will do. */
  readonly newTenant?: () => string;
  /** How many rows are many, for which one short call is not enough. Absent: 3,000. */
  readonly bulk?: number;
  /** Whether a row can be without an instant. Absent: it can. */
  readonly canBeUndated?: boolean;
  /** Whether a row can be unfinished. Absent: it cannot. */
  readonly canBeUnfinished?: boolean;
  /**
   * Makes the owner die right after it has committed the next batch; it is up again some time later. Answers whether it
   * has died. Absent: not tried.
   */
  readonly armCrash?: ArmCrash;
  /** The same right after it has stored an operation that begins, and right after it has ended one. Absent: not tried. */
  readonly armCrashAfterIntent?: ArmCrash;
  readonly armCrashAfterFence?: ArmCrash;
}

/** Arms a crash; what it resolves to answers whether the owner has died since. */
export type ArmCrash = () => Promise<() => Promise<boolean>>;

type Stamp = ReturnType<typeof toTimestamp> | Timestamp;

/** What a test says of a rule; the rest is as usual. */
interface Rule {
  readonly subject?: string;
  readonly retentionDays?: number;
  readonly cutoffTime?: Stamp;
  /** Null: left out. */
  readonly latestCutoffTime?: Stamp | null;
  readonly minToKeep?: bigint;
  readonly maxRows?: bigint;
  readonly staleAfterDays?: number;
}

interface CountMore {
  readonly cursor?: Uint8Array;
  readonly upTo?: bigint;
  readonly timeBudget?: ReturnType<typeof budget>;
}

type T = ExecutionContext<unknown>;

const DAYS = 30;
const MAX_CALLS = 300;
const MAX_PAGES = 2_000;
const RACES = 4;
// A second or so beyond the budget, and a second for a machine that is busy with other things.
const SLACK_MS = 2_000;
const USUAL_BULK = 3_000;
const CRASH_DEADLINE_MS = 30_000;

const now = (): Temporal.Instant => Temporal.Now.instant().round('microsecond');
const daysAgo = (days: number): Temporal.Instant => now().subtract({ hours: 24 * days });
const budget = (ms: number) => ({ seconds: BigInt(Math.floor(ms / 1_000)), nanos: (ms % 1_000) * 1_000_000 });

const textOf = (age: Temporal.Instant | null): string => age?.toString({ smallestUnit: 'microsecond' }) ?? 'none';
const sorted = (ages: readonly (Temporal.Instant | null)[]): string[] => ages.map(textOf).toSorted();

const countsByType = (
  counts: readonly ResourceCount[],
): Record<string, { found: number; deleted: number; left: number }> =>
  Object.fromEntries(
    counts.map(({ resourceType, found, deleted, left }) => [
      resourceType,
      { found: Number(found), deleted: Number(deleted), left: Number(left) },
    ]),
  );

/** The fields that a refusal names in its BadRequest. */
async function badFieldsOf(call: Promise<unknown>): Promise<string[]> {
  try {
    await call;
  } catch (error) {
    const violations = ConnectError.from(error).findDetails(BadRequestSchema)[0]?.fieldViolations ?? [];
    return [...new Set(violations.map(({ field }) => field))].toSorted();
  }
  throw new Error('the call was not refused');
}

/** What every retention owner must do, in the words of the contract. */
export function ownerContract(declare: Declare, name: string, open: () => OwnerUnderTest): void {
  const bulk = open().bulk ?? USUAL_BULK;
  const test: Declare = (title, body) => declare(`${name}: ${title}`, body);

  const reading = (subject: OwnerUnderTest): OwnerClient => subject.client({ ...NIGHT_TOKEN, scope: 'owner:read' });

  /** The subject as it is listed. */
  const described = async (under: OwnerUnderTest) => {
    let pageToken = '';
    do {
      const { subjects, nextPageToken } = await reading(under).listSubjects({ pageToken });
      const found = subjects.find((each) => each.name === under.subject);
      if (found) return found;
      pageToken = nextPageToken;
    } while (pageToken !== '');
    throw new Error(`the owner does not list ${under.subject}`);
  };

  /** A tenant with rows, and the calls of a purge of it. */
  const holding = async (rows: readonly SeededRow[], under = open()) => {
    const tenantId = under.newTenant?.() ?? `t-${randomUUID()}`;
    const { subject } = under;
    if (rows.length > 0) await under.seed(tenantId, rows);
    const token = { ...NIGHT_TOKEN, tenantId, subject };
    const counting = under.client({ ...token, scope: 'owner:count' });
    const purging = (operationId: string): OwnerClient => under.client({ ...token, operationId });
    const ruleOf = ({ latestCutoffTime, ...rule }: Rule = {}) => {
      const usual = toTimestamp(daysAgo(rule.retentionDays ?? DAYS).add({ seconds: 30 }));
      const latest = latestCutoffTime === undefined ? usual : latestCutoffTime;
      return { subject, retentionDays: DAYS, ...(latest === null ? {} : { latestCutoffTime: latest }), ...rule };
    };
    const { resourceType, dependentTypes } = await described(under);
    return {
      under,
      tenantId,
      subject,
      token,
      ruleOf,
      rows,
      count: (rule?: Rule, more: CountMore = {}) => counting.count({ rule: ruleOf(rule), ...more }),
      purge: (
        operationId: string,
        rule?: Rule,
        more: { limit?: number; timeBudget?: ReturnType<typeof budget> } = {},
      ) => purging(operationId).purge({ operationId, rule: ruleOf(rule), ...more }),
      endOnce: (operationId: string, cursor = new Uint8Array()) =>
        purging(operationId).end({ operationId, subject, cursor }),
      left: () => under.left(tenantId),
      /** The rows of the answer that are the subject's own, and those that went with them. */
      deletedIn(counts: readonly ResourceCount[]): { rows: number; dependents: number } {
        const byType = countsByType(counts);
        const dependents = dependentTypes.reduce((sum, type) => sum + (byType[type]?.deleted ?? 0), 0);
        return { rows: byType[resourceType]?.deleted ?? 0, dependents };
      },
      leftIn: (counts: readonly ResourceCount[]): number => countsByType(counts)[resourceType]?.left ?? 0,
    };
  };
  type Holding = Awaited<ReturnType<typeof holding>>;

  /** Counts by one walk of several calls, and adds up. */
  const countWhole = async (held: Holding, rule?: Rule, upTo = 1_000_000, timeBudget = budget(10_000)) => {
    const sums = { expired: 0, remaining: 0, undated: 0 };
    let cursor = new Uint8Array();
    let cutoffTime: CountResponse['cutoffTime'];
    for (let calls = 0; calls < MAX_CALLS; calls += 1) {
      const seen = sums.expired + sums.remaining;
      const answer: CountResponse = await held.count(
        { ...rule, ...(cutoffTime ? { cutoffTime } : {}) },
        { cursor, upTo: BigInt(Math.max(0, upTo - seen)), timeBudget },
      );
      sums.expired += Number(answer.expiredCount);
      sums.remaining += Number(answer.remainingCount);
      sums.undated += Number(answer.undatedCount);
      cutoffTime = answer.cutoffTime;
      cursor = Uint8Array.from(answer.cursor);
      if (answer.progress === Progress.COMPLETE) return { ...sums, cutoffTime };
    }
    throw new Error(`no COMPLETE in ${MAX_CALLS} calls`);
  };

  /** Repeats a purge until it is COMPLETE, and checks on the way that its counts are sums. */
  const purgeWhole = async (t: T, held: Holding, operationId: string, rule?: Rule, more: { limit?: number } = {}) => {
    const answers: PurgeResponse[] = [];
    for (let calls = 0; calls < MAX_CALLS; calls += 1) {
      const answer = await held.purge(operationId, rule, more);
      const before = held.deletedIn(answers.at(-1)?.resourceCounts ?? []);
      const after = held.deletedIn(answer.resourceCounts);
      t.true(after.rows >= before.rows && after.dependents >= before.dependents, 'counts are sums over all calls');
      t.deepEqual(
        answer.cutoffTime,
        answers[0]?.cutoffTime ?? answer.cutoffTime,
        'the cutoff is that of the first call',
      );
      answers.push(answer);
      if (answer.progress === Progress.COMPLETE) return answers;
      t.is(answer.progress, Progress.PARTIAL);
    }
    throw new Error(`no COMPLETE in ${MAX_CALLS} calls`);
  };

  /** Ends an operation and reads back to the end; the last answer, with what is left over all calls. */
  const endWhole = async (held: Holding, operationId: string) => {
    let left = 0;
    let cursor = new Uint8Array();
    for (let calls = 0; calls < MAX_CALLS; calls += 1) {
      const answer = await held.endOnce(operationId, cursor);
      left += held.leftIn(answer.resourceCounts);
      cursor = Uint8Array.from(answer.cursor);
      if (answer.progress === Progress.COMPLETE)
        return { ...answer, left, deleted: held.deletedIn(answer.resourceCounts) };
    }
    throw new Error(`no COMPLETE in ${MAX_CALLS} calls`);
  };

  const untilUp = (held: Holding): Promise<void> =>
    until('it is up again', async () => (await held.count()).progress !== Progress.UNSPECIFIED, CRASH_DEADLINE_MS);

  /** Rows that have expired for as many days each, the oldest first. */
  const old = (count: number, days = 100): SeededRow[] =>
    Array.from({ length: count }, (_, index) => ({ age: daysAgo(days).add({ microseconds: index }) }));
  const young = (count: number): SeededRow[] =>
    Array.from({ length: count }, (_, index) => ({ age: daysAgo(2).add({ microseconds: index }) }));
  const undated = (count: number): SeededRow[] =>
    open().canBeUndated === false ? [] : Array.from({ length: count }, () => ({ age: null }));

  test('it lists the subject with what it is made of, and always the same data id', async (t) => {
    const under = open();
    const first = await reading(under).listSubjects({});
    const again = await reading(under).listSubjects({});
    t.true(first.dataId.length >= 1 && first.dataId.length <= 100);
    t.is(again.dataId, first.dataId);
    t.is(first.contract, 1);
    const { name: subject, resourceType, ageOf } = await described(under);
    t.true(/^[a-z][a-z0-9_]{0,62}$/.test(subject), 'a name for plans');
    t.true(resourceType !== '' && ageOf !== '');
    const names: string[] = [];
    for (let pageToken = '', pages = 0; pages === 0 || pageToken !== ''; pages += 1) {
      const page = await reading(under).listSubjects({ pageSize: 1, pageToken });
      t.true(page.subjects.length <= 1);
      names.push(...page.subjects.map((each) => each.name));
      pageToken = page.nextPageToken;
    }
    t.deepEqual(
      names,
      first.subjects.map((each) => each.name),
    );
    t.deepEqual(names, names.toSorted());
  });

  test('a tenant that it does not know has no rows, which is no error', async (t) => {
    const held = await holding([]);
    t.like(await countWhole(held), { expired: 0, remaining: 0, undated: 0 });
    const operationId = randomUUID();
    const [answer] = await purgeWhole(t, held, operationId);
    t.is(held.deletedIn(answer?.resourceCounts ?? []).rows, 0);
    const end = await endWhole(held, operationId);
    t.deepEqual([end.left, end.deleted.rows], [0, 0]);
  });

  test('what is a microsecond older than the cutoff goes, and nothing at it, after it or without an instant', async (t) => {
    const under = open();
    const empty = await holding([], under);
    const look = async () => {
      const { cutoffTime } = await empty.count();
      const cutoff = parseTimestamp('cutoff_time', cutoffTime);
      if (!cutoffTime || !cutoff) throw new Error('no cutoff');
      return { cutoffTime, cutoff };
    };
    let { cutoffTime, cutoff } = await look();
    // At the begin of a millisecond, an owner that looks at milliseconds alone would be right by chance.
    for (let looks = 0; looks < 5 && (cutoff.epochNanoseconds / 1_000n) % 1_000n < 3n; looks += 1)
      ({ cutoffTime, cutoff } = await look());
    const off = cutoff.until(daysAgo(DAYS)).total('milliseconds');
    t.true(Math.abs(off) < 60_000, 'the cutoff is now less the window');
    const at = (microseconds: number): SeededRow => ({ age: cutoff.add({ microseconds }) });
    const rows = [at(-1_000_000), at(-2), at(-1), at(0), at(1), at(999), ...undated(1)];
    const held = await holding(rows, under);
    const rule = { cutoffTime };
    const counted = await countWhole(held, rule);
    t.like(counted, { expired: 3, remaining: rows.length - 3, undated: undated(1).length });
    t.deepEqual(counted.cutoffTime, cutoffTime);
    const answers = await purgeWhole(t, held, randomUUID(), rule);
    t.is(held.deletedIn(answers.at(-1)?.resourceCounts ?? []).rows, 3);
    t.deepEqual(answers.at(-1)?.cutoffTime, cutoffTime);
    t.deepEqual(sorted((await held.left()).ages), sorted(rows.slice(3).map(({ age }) => age)));
  });

  test('a purge takes as many rows as were counted, with what hangs on them, and is read back as done', async (t) => {
    const held = await holding([...old(40), ...young(7), ...undated(3)]);
    const before = await held.left();
    const counted = await countWhole(held);
    t.like(counted, { expired: 40, remaining: 7 + undated(3).length, undated: undated(3).length });
    t.deepEqual(sorted((await held.left()).ages), sorted(before.ages), 'to count changes nothing');
    const operationId = randomUUID();
    const last = (await purgeWhole(t, held, operationId)).at(-1);
    const after = await held.left();
    const gone = { rows: before.ages.length - after.ages.length, dependents: before.dependents - after.dependents };
    t.is(gone.rows, 40);
    t.is(after.dependents * before.ages.length, before.dependents * after.ages.length, 'dependents go with their row');
    t.deepEqual(held.deletedIn(last?.resourceCounts ?? []), gone, 'the counts are true');
    t.deepEqual(sorted(after.ages), sorted(held.rows.slice(40).map(({ age }) => age)));
    const again = await held.purge(operationId);
    t.is(again.progress, Progress.COMPLETE);
    t.deepEqual(again.resourceCounts, last?.resourceCounts, 'a repetition counts nothing twice');
    const end = await endWhole(held, operationId);
    t.deepEqual([end.left, end.deleted], [0, gone]);
    t.deepEqual(end.cutoffTime, last?.cutoffTime);
    t.deepEqual(await endWhole(held, operationId), end, 'to end is idempotent');
    t.like(await countWhole(held), { expired: 0, remaining: counted.remaining });
    const other = (await purgeWhole(t, held, randomUUID())).at(-1);
    t.is(held.deletedIn(other?.resourceCounts ?? []).rows, 0, 'another one has nothing left to take');
  });

  test('counting stops at up_to, but never before the expired rows are counted', async (t) => {
    const held = await holding([...old(12), ...young(9), ...undated(4)]);
    const all = 21 + undated(4).length;
    for (const [upTo, seen] of [
      [0, 12],
      [5, 12],
      [12, 12],
      [13, 13],
      [20, 20],
      [1_000, all],
    ] as const) {
      const { expired, remaining, undated: without } = await countWhole(held, {}, upTo);
      t.deepEqual([expired, expired + remaining], [12, seen], `up to ${upTo}`);
      t.true(without <= remaining);
    }
  });

  test('a walk of many short calls counts what one long call counts', async (t) => {
    const held = await holding([...old(bulk, 90), ...young(50), ...undated(5)]);
    const { cutoffTime, ...whole } = await countWhole(held);
    t.deepEqual(whole, { expired: bulk, remaining: 50 + undated(5).length, undated: undated(5).length });
    const { cutoffTime: _, ...walked } = await countWhole(
      held,
      cutoffTime ? { cutoffTime } : {},
      1_000_000,
      budget(100),
    );
    t.deepEqual(walked, whole);
    const instant = daysAgo(80);
    const tied = await holding(Array.from({ length: 400 }, () => ({ age: instant })));
    t.like(await countWhole(tied, {}, 1_000_000, budget(100)), { expired: 400, remaining: 0 });
  });

  test('rows go oldest first, never more than the limit in a call, and every microsecond has its turn', async (t) => {
    const rows = [...old(23), ...young(2)];
    const held = await holding(rows);
    const operationId = randomUUID();
    let gone = 0;
    for (let calls = 0; calls < 30; calls += 1) {
      const answer = await held.purge(operationId, {}, { limit: 5 });
      const { ages } = await held.left();
      const removed = rows.length - ages.length;
      t.true(removed - gone <= 5, 'the limit holds');
      t.is(held.deletedIn(answer.resourceCounts).rows, removed, 'the sums are true after each call');
      t.deepEqual(sorted(ages), sorted(rows.slice(removed).map(({ age }) => age)), 'the oldest are gone');
      gone = removed;
      if (answer.progress === Progress.COMPLETE) break;
    }
    t.is(gone, 23);
  });

  test('rows of one instant all go, over as many calls as it takes', async (t) => {
    const instant = daysAgo(77);
    const held = await holding(Array.from({ length: 20 }, () => ({ age: instant })));
    const answers = await purgeWhole(t, held, randomUUID(), {}, { limit: 3 });
    t.is(held.deletedIn(answers.at(-1)?.resourceCounts ?? []).rows, 20);
    t.deepEqual((await held.left()).ages, []);
  });

  test('an operation never removes more than max_rows, and its end tells what its rule has left', async (t) => {
    const held = await holding([...old(15), ...young(1)]);
    const operationId = randomUUID();
    const answers = await purgeWhole(t, held, operationId, { maxRows: 6n }, { limit: 4 });
    t.is(held.deletedIn(answers.at(-1)?.resourceCounts ?? []).rows, 6);
    t.deepEqual(sorted((await held.left()).ages), sorted(held.rows.slice(6).map(({ age }) => age)));
    await held.purge(operationId, { maxRows: 6n });
    t.is((await held.left()).ages.length, 10);
    const end = await endWhole(held, operationId);
    t.deepEqual([end.left, end.deleted.rows], [9, 6]);
    t.like(await countWhole(held, { maxRows: 1n }), { expired: 9 }, 'Count ignores max_rows');
    const none = randomUUID();
    await purgeWhole(t, held, none, { maxRows: 0n });
    t.is((await held.left()).ages.length, 10);
    t.is((await endWhole(held, none)).left, 9);
  });

  test('rows of other tenants are neither counted nor removed', async (t) => {
    const under = open();
    const held = await holding([...old(5), ...young(1)], under);
    const neighbour = await holding([...old(4), ...young(1)], under);
    t.like(await countWhole(held), { expired: 5, remaining: 1 });
    const operationId = randomUUID();
    await purgeWhole(t, held, operationId);
    t.is((await neighbour.left()).ages.length, 5);
    // The same id is another operation there.
    t.is((await purgeWhole(t, neighbour, operationId)).length > 0, true);
    t.is((await endWhole(neighbour, operationId)).deleted.rows, 4);
    t.is((await endWhole(held, operationId)).deleted.rows, 5);
  });

  test('several callers of one operation remove and count every row once', async (t) => {
    const held = await holding(old(120));
    const operationId = randomUUID();
    await Promise.all(
      Array.from({ length: RACES }, () => purgeWhole(t, held, operationId, { maxRows: 70n }, { limit: 15 })),
    );
    const { ages } = await held.left();
    t.is(ages.length, 50, 'max_rows holds for all callers together');
    t.deepEqual(sorted(ages), sorted(held.rows.slice(70).map(({ age }) => age)));
    t.is((await endWhole(held, operationId)).deleted.rows, 70);
  });

  test('several operations at once count every row once, and none is complete before all is gone', async (t) => {
    const held = await holding([...old(150), ...young(2)]);
    const sums = await Promise.all(
      Array.from({ length: RACES }, async () => {
        const operationId = randomUUID();
        await purgeWhole(t, held, operationId, {}, { limit: 20 });
        t.is((await held.left()).ages.length, 2);
        return (await endWhole(held, operationId)).deleted.rows;
      }),
    );
    t.is(
      sums.reduce((sum, rows) => sum + rows, 0),
      150,
    );
  });

  test('after End nothing is removed under that operation, whenever it came', async (t) => {
    const held = await holding(old(30));
    const [begun, never] = [randomUUID(), randomUUID()];
    const first = await held.purge(begun, {}, { limit: 10 });
    const end = await endWhole(held, begun);
    t.deepEqual([end.deleted.rows, end.left], [10, 20]);
    t.deepEqual(end.cutoffTime, first.cutoffTime);
    const unknown = await endWhole(held, never);
    t.deepEqual([unknown.deleted.rows, unknown.left, unknown.cutoffTime], [0, 0, undefined]);
    for (const operationId of [begun, never]) {
      for (const rule of [{}, { retentionDays: DAYS + 1 }]) {
        const refusal = await refusalOf(held.purge(operationId, rule));
        t.like(refusal, { code: Code.FailedPrecondition, reason: 'OPERATION_ENDED' });
      }
      t.is((await held.left()).ages.length, 20);
    }
    t.is((await endWhole(held, begun)).deleted.rows, 10);
    await purgeWhole(t, held, randomUUID());
    t.is((await held.left()).ages.length, 0, 'another operation goes on');
  });

  test('when End has answered, a purge that was under way has stopped', async (t) => {
    const held = await holding(old(200));
    const operationId = randomUUID();
    await held.purge(operationId, {}, { limit: 1 });
    const late = Array.from({ length: RACES }, async () => {
      for (let calls = 0; calls < 50; calls += 1) await held.purge(operationId, {}, { limit: 2 });
    });
    const end = await endWhole(held, operationId);
    const atEnd = (await held.left()).ages.length;
    await Promise.allSettled(late);
    t.is((await held.left()).ages.length, atEnd);
    t.is(end.deleted.rows, 200 - atEnd);
    t.is((await endWhole(held, operationId)).deleted.rows, 200 - atEnd);
  });

  test('an operation keeps its rule, and another one under its id is refused', async (t) => {
    const { hasFloor } = await described(open());
    const held = await holding(old(9));
    const operationId = randomUUID();
    const rule: Rule = { maxRows: 5n };
    const { cutoffTime } = await held.purge(operationId, rule, { limit: 2 });
    const cutoff = parseTimestamp('cutoff_time', cutoffTime);
    if (!cutoff) throw new Error('no cutoff');
    const others: Rule[] = [
      { ...rule, retentionDays: DAYS - 1 },
      { ...rule, retentionDays: DAYS + 1 },
      { maxRows: 6n },
      {},
      { ...rule, cutoffTime: toTimestamp(cutoff.subtract({ microseconds: 1 })) },
      ...(hasFloor ? [{ ...rule, minToKeep: 1n }] : []),
    ];
    for (const other of others) {
      const refusal = await refusalOf(held.purge(operationId, other));
      t.like(refusal, { code: Code.InvalidArgument, reason: 'REQUEST_ID_REUSED' });
    }
    t.is((await held.left()).ages.length, 7);
    const moved = { ...rule, latestCutoffTime: toTimestamp(daysAgo(DAYS).add({ seconds: 50 })) };
    t.is((await purgeWhole(t, held, operationId, moved)).at(-1)?.progress, Progress.COMPLETE);
    t.is((await held.left()).ages.length, 4);
  });

  test('a cutoff that was answered before is used, one beyond the window is refused', async (t) => {
    const held = await holding([...old(3, 60), ...old(3, 40)]);
    const before = toTimestamp(daysAgo(50));
    const beyond = toTimestamp(daysAgo(DAYS).add({ minutes: 10 }));
    const latestCutoffTime = toTimestamp(daysAgo(DAYS).add({ minutes: 30 }));
    const operationId = randomUUID();
    for (const call of [
      held.count({ cutoffTime: beyond, latestCutoffTime }),
      held.purge(operationId, { cutoffTime: beyond, latestCutoffTime }),
    ]) {
      t.like(await refusalOf(call), { code: Code.FailedPrecondition, reason: 'CUTOFF_TOO_LATE' });
    }
    t.like(await countWhole(held, { cutoffTime: before }), { expired: 3, remaining: 3 });
    const answer = (await purgeWhole(t, held, operationId, { cutoffTime: before })).at(-1);
    t.is(held.deletedIn(answer?.resourceCounts ?? []).rows, 3, 'the refusal has begun nothing');
    t.is((await held.left()).ages.length, 3);
  });

  test('an owner whose clock is ahead of the caller’s by more than a minute removes nothing', async (t) => {
    const held = await holding([...old(3)]);
    const operationId = randomUUID();
    const ahead = { latestCutoffTime: toTimestamp(daysAgo(DAYS).subtract({ minutes: 5 })) };
    for (const call of [held.count(ahead), held.purge(operationId, ahead)]) {
      t.like(await refusalOf(call), { code: Code.FailedPrecondition, reason: 'CLOCKS_DISAGREE' });
    }
    t.is((await held.left()).ages.length, 3);
    const slightly = { latestCutoffTime: toTimestamp(daysAgo(DAYS).subtract({ seconds: 20 })) };
    await purgeWhole(t, held, operationId, slightly);
    t.is((await held.left()).ages.length, 0, 'half a minute is no disagreement, and the refusal has begun nothing');
  });

  test('the newest rows stay where the subject has a floor, and are refused where it has none', async (t) => {
    const under = open();
    const { hasFloor } = await described(under);
    if (!hasFloor) {
      const held = await holding(old(2), under);
      for (const call of [held.count({ minToKeep: 1n }), held.purge(randomUUID(), { minToKeep: 1n })])
        t.deepEqual(await badFieldsOf(call), ['rule.min_to_keep']);
      t.is((await held.left()).ages.length, 2);
      return;
    }
    const tied = daysAgo(70);
    const ties = Array.from({ length: 6 }, (): SeededRow => ({ age: tied }));
    for (const [what, rows, minToKeep, stay] of [
      ['some of them are young', [...old(10), ...young(3)], 5, 5],
      ['all of them are old', old(10), 4, 4],
      ['there are no more', old(10), 10, 10],
      ['there are fewer', old(10), 11, 10],
      ['the young ones are enough', [...old(10), ...young(3)], 2, 3],
      ['one', old(3), 1, 1],
      ['they are of one instant', ties, 2, 2],
      ['the border is in the middle of one instant', [...old(3), ...ties, ...young(1)], 4, 4],
      ['some have no instant', [...old(5), ...undated(3)], 2, 2 + undated(3).length],
    ] as const) {
      const held = await holding(rows, under);
      const rule = { minToKeep: BigInt(minToKeep) };
      const counted = await countWhole(held, rule);
      t.deepEqual([counted.expired, counted.remaining], [rows.length - stay, stay], what);
      const operationId = randomUUID();
      const answers = await purgeWhole(t, held, operationId, rule, { limit: 3 });
      t.is(held.deletedIn(answers.at(-1)?.resourceCounts ?? []).rows, rows.length - stay, what);
      const { ages } = await held.left();
      const byAge = rows.toSorted((a, b) => (textOf(a.age) < textOf(b.age) ? -1 : 1));
      t.deepEqual(sorted(ages), sorted(byAge.slice(rows.length - stay).map(({ age }) => age)), what);
      t.is((await endWhole(held, operationId)).left, 0, what);
      t.like(await countWhole(held, rule), { expired: 0, remaining: stay }, what);
    }
  });

  test('rows that have not finished stay, until they have been expired for as long as the rule says', async (t) => {
    const under = open();
    if (!under.canBeUnfinished) {
      t.not(under.canBeUnfinished, true);
      return;
    }
    const running = (days: number): SeededRow => ({ age: daysAgo(days), isUnfinished: true });
    const rows = [running(300), running(90), ...old(4, 80), running(50), ...young(2)];
    const held = await holding(rows, under);
    t.like(await countWhole(held), { expired: 4, remaining: 5, undated: 0 });
    const kept = randomUUID();
    await purgeWhole(t, held, kept, {}, { limit: 2 });
    t.is((await held.left()).ages.length, 5);
    t.is((await endWhole(held, kept)).left, 0);
    const stale = { staleAfterDays: 45 };
    t.like(await countWhole(held, stale), { expired: 2, remaining: 3 });
    const operationId = randomUUID();
    await purgeWhole(t, held, operationId, stale);
    t.is((await held.left()).ages.length, 3);
    t.is((await endWhole(held, operationId)).deleted.rows, 2);
    const reused = await refusalOf(held.purge(operationId, { staleAfterDays: 46 }));
    t.is(reused.reason, 'OPERATION_ENDED');
  });

  test('no call works much longer than its budget', async (t) => {
    const held = await holding(old(bulk, 95));
    const operationId = randomUUID();
    const isInTime = async (call: () => Promise<unknown>): Promise<boolean> => {
      const startedAt = performance.now();
      await call();
      return performance.now() - startedAt < 100 + SLACK_MS;
    };
    // Again, where there is still something to do: a machine that is busy with other things says nothing of the owner.
    const isBounded = async (call: () => Promise<unknown>, isAnyLeft: () => Promise<boolean>): Promise<boolean> =>
      (await isInTime(call)) || ((await isAnyLeft()) && (await isInTime(call)));
    const timeBudget = budget(100);
    const isAnyLeft = async (): Promise<boolean> => (await held.left()).ages.length > 0;
    t.true(await isBounded(() => held.count({}, { timeBudget, upTo: 1_000_000n }), isAnyLeft), 'Count');
    t.true(await isBounded(() => held.purge(operationId, {}, { limit: 100_000, timeBudget }), isAnyLeft), 'Purge');
    const before = (await held.left()).ages.length;
    t.true(before < bulk, 'each call makes some progress');
    t.is((await endWhole(held, operationId)).left, before);
  });

  test('every bad field is named, all of them at once, and nothing is changed', async (t) => {
    const held = await holding(old(3));
    const badRule = { retentionDays: 0, latestCutoffTime: null, maxRows: -1n, minToKeep: -1n };
    const ofRule = ['rule.latest_cutoff_time', 'rule.max_rows', 'rule.min_to_keep', 'rule.retention_days'];
    const tooLong = budget(60_001);
    t.deepEqual(await badFieldsOf(held.purge('no-uuid', badRule, { limit: 100_001, timeBudget: tooLong })), [
      'limit',
      'operation_id',
      ...ofRule,
      'time_budget',
    ]);
    const counting = held.count(badRule, { timeBudget: budget(99), upTo: -1n, cursor: new Uint8Array([1, 2, 3]) });
    t.deepEqual(await badFieldsOf(counting), ['cursor', ...ofRule, 'time_budget', 'up_to']);
    const ending = held.under.client({ ...held.token, operationId: 'no-uuid' });
    t.deepEqual(await badFieldsOf(ending.end({ operationId: 'no-uuid', subject: held.subject, timeBudget: tooLong })), [
      'operation_id',
      'time_budget',
    ]);
    for (const [rule, field] of [
      [{ retentionDays: -1 }, 'rule.retention_days'],
      [{ retentionDays: 36_501 }, 'rule.retention_days'],
      [{ minToKeep: 1_000_000_001n }, 'rule.min_to_keep'],
      [{ staleAfterDays: -1 }, 'rule.stale_after_days'],
      [{ staleAfterDays: 36_501 }, 'rule.stale_after_days'],
      [{ cutoffTime: { seconds: 0n, nanos: -1 } }, 'rule.cutoff_time'],
    ] as const) {
      t.deepEqual(await badFieldsOf(held.purge(randomUUID(), rule)), [field]);
      t.deepEqual(await badFieldsOf(held.count(rule)), [field]);
    }
    for (const limit of [-1, 100_001])
      t.deepEqual(await badFieldsOf(held.purge(randomUUID(), {}, { limit })), ['limit']);
    const { subject } = held;
    t.deepEqual(await badFieldsOf(reading(held.under).listTenants({ subject, pageSize: -1 })), ['page_size']);
    t.deepEqual(await badFieldsOf(reading(held.under).listSubjects({ pageSize: -1 })), ['page_size']);
    t.is((await held.left()).ages.length, 3);
  });

  test('a subject that it does not have is not found', async (t) => {
    const held = await holding([]);
    const subject = 'no_such_subject';
    const operationId = randomUUID();
    const client = (scope: string) => held.under.client({ ...held.token, subject, operationId, scope });
    const rule = held.ruleOf({ subject });
    for (const call of [
      client('owner:count').count({ rule }),
      client('owner:purge').purge({ operationId, rule }),
      client('owner:purge').end({ operationId, subject }),
      reading(held.under).listTenants({ subject }),
    ]) {
      t.like(await refusalOf(call), { code: Code.NotFound, reason: 'SUBJECT_NOT_FOUND' });
    }
  });

  test('a call about another data set is refused, and nothing is changed', async (t) => {
    const held = await holding(old(3));
    const { dataId } = await reading(held.under).listSubjects({});
    const { subject, token } = held;
    const [begun, operationId] = [randomUUID(), randomUUID()];
    const rule = held.ruleOf();
    const call = (id: string) => held.under.client({ ...token, operationId: id });
    const counting = held.under.client({ ...token, scope: 'owner:count' });
    for (const refused of [
      counting.count({ rule, dataId: 'another' }),
      call(operationId).purge({ operationId, rule, dataId: 'another' }),
      call(operationId).end({ operationId, subject, dataId: 'another' }),
    ]) {
      t.like(await refusalOf(refused), { code: Code.FailedPrecondition, reason: 'OWNER_CHANGED' });
    }
    t.is((await held.left()).ages.length, 3);
    // The refused End closed nothing, and of its own data set the owner does as it is told.
    t.is((await counting.count({ rule, dataId })).expiredCount, 3n);
    t.is((await call(operationId).purge({ operationId, rule, dataId })).progress, Progress.COMPLETE);
    t.is((await call(begun).end({ operationId: begun, subject, dataId })).progress, Progress.COMPLETE);
    t.is((await held.left()).ages.length, 0);
  });

  test('a token that is not for this call is refused, and nothing is changed', async (t) => {
    const held = await holding(old(3));
    const { under, subject, tenantId } = held;
    const operationId = randomUUID();
    const rule = held.ruleOf();
    const calls: Record<string, { scope: string; ofTenant: boolean; call: (client: OwnerClient) => Promise<unknown> }> =
      {
        ListSubjects: { scope: 'owner:read', ofTenant: false, call: (client) => client.listSubjects({}) },
        ListTenants: { scope: 'owner:read', ofTenant: false, call: (client) => client.listTenants({ subject }) },
        Count: { scope: 'owner:count', ofTenant: true, call: (client) => client.count({ rule }) },
        Purge: { scope: 'owner:purge', ofTenant: true, call: (client) => client.purge({ operationId, rule }) },
        End: { scope: 'owner:purge', ofTenant: true, call: (client) => client.end({ operationId, subject }) },
      };
    const UNBELIEVED = { code: Code.Unauthenticated };
    const DENIED = { code: Code.PermissionDenied };
    for (const [rpc, { scope, ofTenant, call }] of Object.entries(calls)) {
      const good: OwnerToken = { ...NIGHT_TOKEN, scope, ...(ofTenant ? { tenantId, subject, operationId } : {}) };
      const bad: [string, Partial<OwnerToken>, { code: Code; reason?: string }][] = [
        ['unsigned', { signature: 'none' }, { ...UNBELIEVED, reason: 'TOKEN_INVALID' }],
        ['of another key', { signature: 'of another key' }, { ...UNBELIEVED, reason: 'TOKEN_INVALID' }],
        ['of Lethe’s own audience', { audience: 'lethe' }, { ...UNBELIEVED, reason: 'TOKEN_INVALID' }],
        ['of another owner', { audience: 'lethe-owner:somebody-else' }, { ...UNBELIEVED, reason: 'TOKEN_INVALID' }],
        ['expired', { issuedSecondsAgo: 300 }, UNBELIEVED],
        ['of more than a minute', { lifetimeSeconds: 3_600 }, { ...UNBELIEVED, reason: 'TOKEN_INVALID' }],
        ['with another role', { role: 'owner' }, { ...DENIED, reason: 'ROLE_TOO_LOW' }],
        ['of the platform', { role: 'platform' }, { ...DENIED, reason: 'ROLE_TOO_LOW' }],
        ['without a scope', { scope: '' }, { ...DENIED, reason: 'SCOPE_MISSING' }],
        ...['owner:read', 'owner:count', 'owner:purge']
          .filter((other) => other !== scope)
          .map((other): [string, Partial<OwnerToken>, { code: Code; reason: string }] => [
            `with the scope ${other}`,
            { scope: other },
            { ...DENIED, reason: 'SCOPE_MISSING' },
          ]),
      ];
      if (ofTenant) {
        const mismatch = { ...DENIED, reason: 'TOKEN_MISMATCH' };
        bad.push(
          ['without a tenant', { tenantId: undefined }, { ...DENIED, reason: 'TENANT_MISSING' }],
          ['of another subject', { subject: 'something_else' }, mismatch],
          ['without a subject', { subject: undefined }, mismatch],
        );
        if (rpc !== 'Count') {
          bad.push(
            ['of another operation', { operationId: randomUUID() }, mismatch],
            ['without an operation', { operationId: undefined }, mismatch],
          );
        }
      }
      for (const [what, change, expected] of bad) {
        const refusal = await refusalOf(call(under.client({ ...good, ...change })));
        t.like(refusal, expected, `${rpc}: a token ${what}`);
      }
    }
    t.is((await held.left()).ages.length, 3);
    // None of them has begun or ended anything.
    await purgeWhole(t, held, operationId);
    t.is((await endWhole(held, operationId)).deleted.rows, 3);
  });

  test('a token of another tenant reaches that tenant’s rows alone', async (t) => {
    const under = open();
    const held = await holding(old(3), under);
    const other = await holding([], under);
    const operationId = randomUUID();
    t.like(await countWhole(other), { expired: 0, remaining: 0 });
    await purgeWhole(t, other, operationId);
    await endWhole(other, operationId);
    t.is((await held.left()).ages.length, 3);
    await purgeWhole(t, held, operationId);
    t.is((await held.left()).ages.length, 0, 'the other tenant has ended no operation here');
  });

  test('a page_size above the maximum counts as the maximum', async (t) => {
    const held = await holding(old(1));
    const [pageSize, { subject }] = [2_147_483_647, held];
    const { subjects } = await reading(held.under).listSubjects({ pageSize });
    t.true(subjects.length > 0 && subjects.length <= 200);
    const { tenantIds } = await reading(held.under).listTenants({ subject, pageSize });
    t.true(tenantIds.length > 0 && tenantIds.length <= 1_000);
  });

  test('the tenants that have rows are listed once each, in byte order, page by page', async (t) => {
    const under = open();
    const mine = await Promise.all(Array.from({ length: 5 }, () => holding(old(2), under)));
    const without = await holding([], under);
    const { subject } = under;
    const listAll = async (pageSize: number): Promise<string[]> => {
      const listed: string[] = [];
      for (let pageToken = '', pages = 0; pages === 0 || pageToken !== ''; pages += 1) {
        if (pages > MAX_PAGES) throw new Error('the pages do not end');
        const page = await reading(under).listTenants({ subject, pageSize, pageToken });
        if (pageSize > 0) t.true(page.tenantIds.length <= pageSize);
        listed.push(...page.tenantIds);
        pageToken = page.nextPageToken;
      }
      return listed;
    };
    const ids = mine.map(({ tenantId }) => tenantId);
    for (const pageSize of [3, 0]) {
      const listed = await listAll(pageSize);
      t.deepEqual(listed.filter((id) => ids.includes(id)).toSorted(), ids.toSorted());
      t.false(listed.includes(without.tenantId));
      const inByteOrder = listed.toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
      t.deepEqual(listed, inByteOrder);
      t.is(new Set(listed).size, listed.length);
    }
    for (const held of mine) await purgeWhole(t, held, randomUUID());
    const after = await listAll(0);
    t.deepEqual(
      after.filter((id) => ids.includes(id)),
      [],
      'who has none left is not listed',
    );
  });

  test('a cursor of another tenant is refused, or shows nothing of it', async (t) => {
    const under = open();
    const rich = await holding(old(bulk, 120), under);
    const poor = await holding(old(2), under);
    const { cursor, progress } = await rich.count({}, { timeBudget: budget(100) });
    if (progress === Progress.COMPLETE) {
      t.is(cursor.length, 0);
      return;
    }
    try {
      const { expiredCount, remainingCount } = await poor.count({}, { cursor, upTo: 1_000n });
      t.true(expiredCount + remainingCount <= 2n);
    } catch (error) {
      t.deepEqual(await badFieldsOf(Promise.reject(error)), ['cursor']);
    }
  });

  test('an owner that dies with an operation begun and nothing removed goes on by the same rule', async (t) => {
    const under = open();
    if (!under.armCrashAfterIntent) {
      t.is(under.armCrashAfterIntent, undefined);
      return;
    }
    const held = await holding([...old(20), ...young(2)], under);
    const operationId = randomUUID();
    const hasStruck = await under.armCrashAfterIntent();
    await refusalOf(held.purge(operationId));
    await until('it has died', hasStruck, CRASH_DEADLINE_MS);
    t.is((await held.left()).ages.length, 22, 'nothing is gone');
    await untilUp(held);
    const reused = await refusalOf(held.purge(operationId, { retentionDays: DAYS + 1 }));
    t.is(reused.reason, 'REQUEST_ID_REUSED', 'the operation was stored');
    await purgeWhole(t, held, operationId);
    const end = await endWhole(held, operationId);
    t.deepEqual([end.left, end.deleted.rows, (await held.left()).ages.length], [0, 20, 2]);
  });

  test('an owner that dies with an operation ended removes nothing more under it, and ends it by the same sums', async (t) => {
    const under = open();
    if (!under.armCrashAfterFence) {
      t.is(under.armCrashAfterFence, undefined);
      return;
    }
    const held = await holding([...old(20), ...young(2)], under);
    const operationId = randomUUID();
    await held.purge(operationId, {}, { limit: 7 });
    const hasStruck = await under.armCrashAfterFence();
    await refusalOf(held.endOnce(operationId));
    await until('it has died', hasStruck, CRASH_DEADLINE_MS);
    await untilUp(held);
    t.is((await refusalOf(held.purge(operationId))).reason, 'OPERATION_ENDED');
    const end = await endWhole(held, operationId);
    t.deepEqual([end.left, end.deleted.rows, (await held.left()).ages.length], [13, 7, 15]);
  });

  // After the others, so that the owner has just been started and its first batch is a small one.
  test('an owner that dies between two batches has counted what it removed, and goes on', async (t) => {
    const under = open();
    if (!under.armCrash) {
      t.is(under.armCrash, undefined);
      return;
    }
    const held = await holding([...old(bulk, 110), ...young(1)], under);
    const operationId = randomUUID();
    const hasStruck = await under.armCrash();
    await refusalOf(held.purge(operationId, {}, { limit: 100_000 }));
    await until('it has died', hasStruck, CRASH_DEADLINE_MS);
    const gone = bulk + 1 - (await held.left()).ages.length;
    t.true(gone > 0 && gone < bulk, 'some batches were committed');
    await untilUp(held);
    const next = await held.purge(operationId, {}, { limit: 1 });
    t.is(held.deletedIn(next.resourceCounts).rows, gone + 1, 'what was removed before is counted');
    await purgeWhole(t, held, operationId);
    t.is((await held.left()).ages.length, 1);
    const end = await endWhole(held, operationId);
    t.deepEqual([end.left, end.deleted.rows], [0, bulk]);
  });
}
