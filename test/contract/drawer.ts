import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { Code, ConnectError, createClient, createRouterTransport } from '@connectrpc/connect';
import { BadRequestSchema, ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type { Rule } from '#gen/lethe/owner/v1/owner_pb.ts';
import { RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { parseTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import type { OwnerToken } from '#test/support/owner-clients.ts';
import type { OwnerUnderTest } from './owner.ts';

/** What an owner can get wrong, each a broken promise of the contract, and how the title of the test that catches it begins. */
export const FAULTS = {
  'refuses-a-large-page-size': 'a page_size above the maximum counts',
  'takes-what-lies-at-the-cutoff': 'what is a microsecond older',
  'looks-at-milliseconds': 'what is a microsecond older',
  'takes-undated-rows': 'what is a microsecond older',
  'forgets-undated-rows': 'what is a microsecond older',
  'takes-the-newest-first': 'rows go oldest first',
  'ignores-the-limit': 'rows go oldest first',
  'ignores-max-rows': 'an operation never removes more',
  'ignores-the-tenant': 'rows of other tenants',
  'ignores-the-budget': 'no call works much longer',
  'counts-a-call-alone': 'rows go oldest first',
  'counts-no-dependents': 'a purge takes as many rows as were counted',
  'keeps-dependents': 'a purge takes as many rows as were counted',
  'counts-before-it-removes': 'an owner that dies between two batches',
  'counts-what-another-removed': 'several operations at once',
  'never-completes': 'a tenant that it does not know',
  'completes-too-early': 'a purge takes as many rows as were counted',
  'purges-after-its-end': 'after End nothing is removed',
  'ends-without-a-tombstone': 'after End nothing is removed',
  'ends-without-reading-back': 'an operation never removes more',
  'forgets-its-operations': 'rows go oldest first',
  'takes-another-rule': 'an operation keeps its rule',
  'moves-the-cutoff': 'rows of one instant',
  'takes-any-cutoff': 'a cutoff that was answered',
  'trusts-its-clock-alone': 'an owner whose clock is ahead',
  'begins-before-it-checks': 'a cutoff that was answered',
  'ignores-the-floor': 'the newest rows stay',
  'counts-without-the-floor': 'the newest rows stay',
  'keeps-the-oldest': 'the newest rows stay',
  'cuts-the-floor-by-instant-alone': 'the newest rows stay',
  'takes-unfinished-rows': 'rows that have not finished',
  'keeps-unfinished-rows-for-ever': 'rows that have not finished',
  'removes-while-it-counts': 'a purge takes as many rows as were counted',
  'counts-up-to-up-to-alone': 'counting stops at up_to',
  'repeats-a-row-at-a-border': 'a walk of many short calls',
  'skips-ties-at-a-border': 'a walk of many short calls',
  'lists-empty-tenants': 'the tenants that have rows',
  'lists-a-tenant-twice': 'the tenants that have rows',
  'makes-its-data-id-anew': 'it lists the subject',
  'works-on-any-data-set': 'a call about another data set',
  'believes-anybody': 'a token that is not for this call',
  'believes-any-audience': 'a token that is not for this call',
  'believes-old-tokens': 'a token that is not for this call',
  'believes-long-tokens': 'a token that is not for this call',
  'ignores-the-role': 'a token that is not for this call',
  'ignores-the-scope': 'a token that is not for this call',
  'ignores-what-the-token-is-for': 'a token that is not for this call',
  'checks-nothing': 'every bad field is named',
  'names-one-bad-field': 'every bad field is named',
  'finds-any-subject': 'a subject that it does not have',
} as const;

/** One of FAULTS. */
export type Fault = keyof typeof FAULTS;

interface Letter {
  readonly id: number;
  readonly tenantId: string;
  /** Microseconds since 1970. */
  readonly age: bigint | null;
  readonly isUnfinished: boolean;
  stamps: number;
}

interface Operation {
  rule: Rule | undefined;
  cutoff: bigint | undefined;
  letters: number;
  stamps: number;
  isEnded: boolean;
}

const SUBJECT = 'letters';
const STAMPS = 2;
const BATCH = 10;
// A slow drawer, so that a call has something to do with its budget.
const MS_PER_SLICE = 10;
const MS_WITHOUT_BUDGET = 150;
const SLICE = 25;
const DAY_MICROS = 86_400_000_000n;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

const micros = (instant: Temporal.Instant): bigint => instant.epochNanoseconds / 1_000n;
const instantOf = (at: bigint): Temporal.Instant => Temporal.Instant.fromEpochNanoseconds(at * 1_000n);

/** An owner that keeps letters with two stamps each, in memory: right, or with one fault. */
export function makeDrawer(fault?: Fault): OwnerUnderTest {
  const is = (name: Fault): boolean => fault === name;
  let letters: Letter[] = [];
  let nextId = 1;
  let dataId: string = randomUUID();
  const operations = new Map<string, Operation>();
  const known = new Set<string>();
  const crash = { isArmed: false, hasStruck: false };

  const byAge = (a: Letter, b: Letter): number => {
    if (a.age !== b.age) return a.age === null ? 1 : b.age === null ? -1 : a.age < b.age ? -1 : 1;
    return a.id - b.id;
  };
  const ofTenant = (tenantId: string): Letter[] =>
    letters.filter((letter) => is('ignores-the-tenant') || letter.tenantId === tenantId).toSorted(byAge);

  /** Whether a letter of the tenant may go; the one place where the rule is read. */
  const expiryOf = (tenantId: string, rule: Rule, cutoff: bigint): ((letter: Letter) => boolean) => {
    const dated = ofTenant(tenantId).filter(({ age }) => age !== null);
    const keep = Number(rule.minToKeep);
    const kept = is('keeps-the-oldest') ? dated.slice(0, keep) : keep === 0 ? [] : dated.slice(-keep);
    const floor = new Set(is('ignores-the-floor') ? [] : kept.map(({ id }) => id));
    const border = kept[0]?.age ?? null;
    const stale = rule.staleAfterDays === undefined ? undefined : cutoff - BigInt(rule.staleAfterDays) * DAY_MICROS;
    return ({ id, age, isUnfinished }) => {
      if (age === null) return is('takes-undated-rows');
      if (floor.has(id)) return false;
      if (is('cuts-the-floor-by-instant-alone') && border !== null && age >= border) return false;
      if (isUnfinished && !is('takes-unfinished-rows')) {
        if (stale === undefined || age >= stale || is('keeps-unfinished-rows-for-ever')) return false;
      }
      if (is('takes-what-lies-at-the-cutoff')) return age <= cutoff;
      return is('looks-at-milliseconds') ? age / 1_000n < cutoff / 1_000n : age < cutoff;
    };
  };

  const take = (gone: readonly Letter[]): void => {
    const ids = new Set(gone.map(({ id }) => id));
    letters = letters.filter(({ id }) => !ids.has(id));
    if (is('keeps-dependents')) strayStamps += gone.reduce((sum, { stamps }) => sum + stamps, 0);
  };
  let strayStamps = 0;

  const cutoffOf = (rule: Rule): bigint => {
    const latest = micros(Temporal.Now.instant()) - BigInt(rule.retentionDays) * DAY_MICROS;
    const given = parseTimestamp('rule.cutoff_time', rule.cutoffTime);
    if (given && micros(given) > latest && !is('takes-any-cutoff'))
      throw refusal(Code.FailedPrecondition, 'CUTOFF_TOO_LATE');
    const cutoff = given ? micros(given) : latest;
    assertClocks(rule, cutoff);
    return cutoff;
  };
  const assertClocks = (rule: Rule, cutoff: bigint): void => {
    const latest = parseTimestamp('rule.latest_cutoff_time', rule.latestCutoffTime);
    if (latest && cutoff > micros(latest) + 60_000_000n && !is('trusts-its-clock-alone'))
      throw refusal(Code.FailedPrecondition, 'CLOCKS_DISAGREE');
  };

  const begin = (key: string, rule: Rule): Operation => {
    const found = is('forgets-its-operations') ? undefined : operations.get(key);
    if (found?.isEnded) {
      if (!is('purges-after-its-end')) throw refusal(Code.FailedPrecondition, 'OPERATION_ENDED');
      found.isEnded = false;
    }
    const operation: Operation = found ?? { rule, cutoff: undefined, letters: 0, stamps: 0, isEnded: false };
    if (found?.rule && found.cutoff !== undefined && !is('takes-another-rule')) {
      const asked = [rule.retentionDays, rule.minToKeep, rule.maxRows, rule.staleAfterDays, rule.cutoffTime];
      const kept = found.rule;
      const before = [kept.retentionDays, kept.minToKeep, kept.maxRows, kept.staleAfterDays, kept.cutoffTime];
      if (String(asked.map(show)) !== String(before.map(show))) {
        throw refusal(Code.InvalidArgument, 'REQUEST_ID_REUSED');
      }
      assertClocks(rule, found.cutoff);
    }
    operation.rule ??= rule;
    if (is('begins-before-it-checks') && operation.cutoff === undefined) {
      const given = parseTimestamp('rule.cutoff_time', rule.cutoffTime);
      operations.set(key, { ...operation, cutoff: given && micros(given) });
    }
    if (is('moves-the-cutoff')) operation.cutoff = cutoffOf(rule);
    operation.cutoff ??= cutoffOf(rule);
    operations.set(key, operation);
    return operation;
  };

  /** The call's tenant, with its token checked and its fields. */
  const admit = (
    context: { readonly requestHeader: Headers },
    { scope, subject, operationId }: { scope: string; subject?: string; operationId?: string },
    problems: readonly (string | undefined | false)[],
  ): string => {
    const token = JSON.parse(context.requestHeader.get('x-token') ?? '{}') as OwnerToken;
    const isOurs = token.audience === 'own' || is('believes-any-audience');
    const isSigned = token.signature === 'good' || is('believes-anybody');
    const isYoung = token.issuedSecondsAgo <= token.lifetimeSeconds || is('believes-old-tokens');
    const isShort = token.lifetimeSeconds <= 60 || is('believes-long-tokens');
    if (!isOurs || !isSigned || !isYoung || !isShort) throw refusal(Code.Unauthenticated, 'TOKEN_INVALID');
    if (token.scope !== scope && !is('ignores-the-scope')) throw refusal(Code.PermissionDenied, 'SCOPE_MISSING');
    if (token.role !== 'service' && !is('ignores-the-role')) throw refusal(Code.PermissionDenied, 'ROLE_TOO_LOW');
    if (scope !== 'owner:read') {
      if (!token.tenantId) throw refusal(Code.PermissionDenied, 'TENANT_MISSING');
      const isForThis = token.subject === subject && (operationId === undefined || token.operationId === operationId);
      if (!isForThis && !is('ignores-what-the-token-is-for')) throw refusal(Code.PermissionDenied, 'TOKEN_MISMATCH');
    }
    const bad = problems.filter((problem) => typeof problem === 'string');
    if (bad.length > 0 && !is('checks-nothing')) {
      throw refusal(Code.InvalidArgument, 'FIELD_INVALID', is('names-one-bad-field') ? bad.slice(0, 1) : bad);
    }
    if (subject !== undefined && subject !== SUBJECT && !is('finds-any-subject'))
      throw refusal(Code.NotFound, 'SUBJECT_NOT_FOUND');
    if (token.tenantId) known.add(token.tenantId);
    return token.tenantId ?? '';
  };

  const problemsOf = (rule: Rule | undefined): (string | false)[] => [
    !(rule && rule.retentionDays >= 1 && rule.retentionDays <= 36_500) && 'rule.retention_days',
    !rule?.latestCutoffTime && 'rule.latest_cutoff_time',
    rule?.cutoffTime !== undefined && rule.cutoffTime.nanos < 0 && 'rule.cutoff_time',
    rule !== undefined && (rule.minToKeep < 0n || rule.minToKeep > 1_000_000_000n) && 'rule.min_to_keep',
    rule?.maxRows !== undefined && rule.maxRows < 0n && 'rule.max_rows',
    rule?.staleAfterDays !== undefined &&
      (rule.staleAfterDays < 0 || rule.staleAfterDays > 36_500) &&
      'rule.stale_after_days',
  ];
  const budgetOf = (given: { seconds: bigint; nanos: number } | undefined): number =>
    given ? Number(given.seconds) * 1_000 + given.nanos / 1_000_000 : 10_000;
  const badBudget = (ms: number): string | false => (ms < 100 || ms > 60_000) && 'time_budget';

  const toCounts = (letterCount: number, stampCount: number, left = 0) => [
    {
      resourceType: 'letter',
      found: BigInt(letterCount + left),
      deleted: BigInt(letterCount),
      left: BigInt(is('ends-without-reading-back') ? 0 : left),
    },
    ...(is('counts-no-dependents')
      ? []
      : [{ resourceType: 'stamp', found: BigInt(stampCount), deleted: BigInt(stampCount), left: 0n }]),
  ];

  const assertDataSet = (wanted: string): void => {
    if (wanted !== '' && wanted !== dataId && !is('works-on-any-data-set'))
      throw refusal(Code.FailedPrecondition, 'OWNER_CHANGED');
  };

  const isWrongSize = (size: number, most: number): boolean =>
    size < 0 || (is('refuses-a-large-page-size') && size > most);

  const transport = createRouterTransport(({ service }) => {
    service(RetentionOwnerService, {
      listSubjects({ pageSize, pageToken }, context) {
        admit(context, { scope: 'owner:read' }, [isWrongSize(pageSize, 200) && 'page_size']);
        if (is('makes-its-data-id-anew')) dataId = randomUUID();
        const subject = {
          name: SUBJECT,
          resourceType: 'letter',
          dependentTypes: ['stamp'],
          ageOf: 'sent',
          hasFloor: true,
        };
        return { dataId, contract: 1, subjects: pageToken === '' ? [subject] : [] };
      },

      listTenants({ subject, pageSize, pageToken }, context) {
        admit(context, { scope: 'owner:read', subject }, [isWrongSize(pageSize, 1_000) && 'page_size']);
        const having = is('lists-empty-tenants') ? known : new Set(letters.map(({ tenantId }) => tenantId));
        const after = [...having]
          .toSorted()
          .filter((id) => (is('lists-a-tenant-twice') ? id >= pageToken : id > pageToken));
        const page = after.slice(0, Math.min(pageSize || 1_000, 1_000));
        const isLast = after.length <= page.length;
        return { tenantIds: page, nextPageToken: isLast ? '' : (page.at(-1) ?? '') };
      },

      async count({ rule, cursor, upTo, timeBudget, dataId: wanted }, context) {
        const ms = budgetOf(timeBudget);
        const from = parseCursor(cursor);
        const tenantId = admit(context, { scope: 'owner:count', subject: rule?.subject ?? '' }, [
          ...problemsOf(rule),
          upTo < 0n && 'up_to',
          from === 'bad' && 'cursor',
          badBudget(ms),
        ]);
        assertDataSet(wanted);
        if (!rule) throw new Error('no rule');
        const cutoff = cutoffOf(rule);
        const goes = expiryOf(tenantId, is('counts-without-the-floor') ? { ...rule, minToKeep: 0n } : rule, cutoff);
        const all = ofTenant(tenantId);
        const lastExpired = all.findLastIndex(goes);
        const isBehind = (letter: Letter): boolean => {
          if (from === undefined || from === 'bad') return true;
          if (is('skips-ties-at-a-border')) return letter.age === null || (from.age !== null && letter.age > from.age);
          const order = byAge(letter, { ...letter, age: from.age, id: from.id });
          return is('repeats-a-row-at-a-border') ? order >= 0 : order > 0;
        };
        const isOver = overAfter(ms);
        let [expired, remaining, undated, seen] = [0, 0, 0, 0];
        let last: Letter | undefined;
        for (const [index, letter] of all.entries()) {
          if (!isBehind(letter)) continue;
          const isPastUpTo = BigInt(expired + remaining) >= upTo;
          if (isPastUpTo && (index > lastExpired || is('counts-up-to-up-to-alone'))) break;
          if (seen > 0 && seen % SLICE === 0) {
            await delay(MS_PER_SLICE);
            if (isOver()) {
              const next = { age: last?.age?.toString() ?? null, id: last?.id };
              return {
                progress: Progress.PARTIAL,
                cursor: Buffer.from(JSON.stringify(next)),
                expiredCount: BigInt(expired),
                remainingCount: BigInt(remaining),
                undatedCount: BigInt(undated),
                cutoffTime: toTimestamp(instantOf(cutoff)),
              };
            }
          }
          seen += 1;
          last = letter;
          if (goes(letter)) expired += 1;
          else if (!isPastUpTo && !(letter.age === null && is('forgets-undated-rows'))) {
            remaining += 1;
            if (letter.age === null) undated += 1;
          }
        }
        if (is('removes-while-it-counts')) take(all.filter(goes));
        return {
          progress: Progress.COMPLETE,
          expiredCount: BigInt(expired),
          remainingCount: BigInt(remaining),
          undatedCount: BigInt(undated),
          cutoffTime: toTimestamp(instantOf(cutoff)),
        };
      },

      async purge({ operationId, rule, limit, timeBudget, dataId: wanted }, context) {
        const ms = budgetOf(timeBudget);
        const tenantId = admit(context, { scope: 'owner:purge', subject: rule?.subject ?? '', operationId }, [
          ...problemsOf(rule),
          !UUID.test(operationId) && 'operation_id',
          (limit < 0 || limit > 100_000) && 'limit',
          badBudget(ms),
        ]);
        assertDataSet(wanted);
        if (!rule) throw new Error('no rule');
        const operation = begin(`${tenantId}/${operationId}`, rule);
        const cutoff = operation.cutoff ?? 0n;
        const isOver = overAfter(ms);
        const inCall = { letters: 0, stamps: 0 };
        let left = is('ignores-the-limit') ? Number.POSITIVE_INFINITY : limit || 10_000;
        const answer = (progress: Progress) => ({
          progress: is('never-completes') ? Progress.PARTIAL : progress,
          resourceCounts: is('counts-a-call-alone')
            ? toCounts(inCall.letters, inCall.stamps)
            : toCounts(operation.letters, operation.stamps),
          cutoffTime: toTimestamp(instantOf(cutoff)),
        });
        while (left > 0) {
          if (operation.isEnded && !is('purges-after-its-end'))
            throw refusal(Code.FailedPrecondition, 'OPERATION_ENDED');
          const goes = expiryOf(tenantId, rule, cutoff);
          const expired = ofTenant(tenantId).filter(goes);
          if (is('takes-the-newest-first')) expired.reverse();
          const spent = rule.maxRows === undefined || is('ignores-max-rows') ? undefined : Number(rule.maxRows);
          const most = Math.min(left, BATCH, spent === undefined ? BATCH : spent - operation.letters);
          const gone = expired.slice(0, Math.max(0, most));
          const stamps = gone.reduce((sum, letter) => sum + letter.stamps, 0);
          const count = (): void => {
            operation.letters += gone.length;
            operation.stamps += stamps;
          };
          if (is('counts-before-it-removes') && crash.isArmed) count();
          if (is('counts-what-another-removed')) await delay(1);
          take(gone);
          count();
          inCall.letters += gone.length;
          inCall.stamps += stamps;
          left -= gone.length;
          if (crash.isArmed && operation.letters > 0) {
            Object.assign(crash, { isArmed: false, hasStruck: true });
            throw new ConnectError('it died', Code.Unavailable);
          }
          if (gone.length === expired.length || (spent !== undefined && operation.letters >= spent))
            return answer(Progress.COMPLETE);
          if (is('completes-too-early')) return answer(Progress.COMPLETE);
          await delay(is('ignores-the-budget') ? MS_WITHOUT_BUDGET : MS_PER_SLICE / 4);
          if (isOver()) break;
        }
        return answer(Progress.PARTIAL);
      },

      end({ operationId, subject, timeBudget, dataId: wanted }, context) {
        const ms = budgetOf(timeBudget);
        const tenantId = admit(context, { scope: 'owner:purge', subject, operationId }, [
          !UUID.test(operationId) && 'operation_id',
          badBudget(ms),
        ]);
        assertDataSet(wanted);
        const key = `${tenantId}/${operationId}`;
        const found = operations.get(key);
        if (!found) {
          const tombstone = { rule: undefined, cutoff: undefined, letters: 0, stamps: 0, isEnded: true };
          if (!is('ends-without-a-tombstone')) operations.set(key, tombstone);
          return { progress: Progress.COMPLETE };
        }
        found.isEnded = true;
        if (!found.rule || found.cutoff === undefined) return { progress: Progress.COMPLETE };
        const left = ofTenant(tenantId).filter(expiryOf(tenantId, found.rule, found.cutoff)).length;
        return {
          progress: Progress.COMPLETE,
          resourceCounts: toCounts(found.letters, found.stamps, left),
          cutoffTime: toTimestamp(instantOf(found.cutoff)),
        };
      },
    });
  });
  const overAfter = (ms: number): (() => boolean) => {
    const startedAt = performance.now();
    return () => !is('ignores-the-budget') && performance.now() - startedAt > ms;
  };

  return {
    client: (token) =>
      createClient(RetentionOwnerService, {
        unary: (method, signal, timeoutMs, header, ...rest) =>
          transport.unary(
            method,
            signal,
            timeoutMs,
            { ...Object.fromEntries(new Headers(header)), 'x-token': JSON.stringify(token) },
            ...rest,
          ),
        stream: transport.stream.bind(transport),
      }),
    subject: SUBJECT,
    canBeUnfinished: true,
    bulk: 400,
    async seed(tenantId, rows) {
      for (const { age, isUnfinished = false } of rows) {
        letters.push({ id: nextId, tenantId, age: age && micros(age), isUnfinished, stamps: STAMPS });
        nextId += 1;
      }
    },
    async left(tenantId) {
      const mine = letters.filter((letter) => letter.tenantId === tenantId);
      return {
        ages: mine.map(({ age }) => (age === null ? null : instantOf(age))),
        dependents: mine.reduce((sum, { stamps }) => sum + stamps, strayStamps),
      };
    },
    async armCrash() {
      crash.isArmed = true;
      return async () => crash.hasStruck;
    },
  };
}

function parseCursor(cursor: Uint8Array): { age: bigint | null; id: number } | undefined | 'bad' {
  if (cursor.length === 0) return undefined;
  try {
    const { age, id } = JSON.parse(Buffer.from(cursor).toString()) as { age: string | null; id: number };
    return { age: age === null ? null : BigInt(age), id };
  } catch {
    return 'bad';
  }
}

/** A field of a rule as a text; a message by its content. */
const show = (value: unknown): string =>
  typeof value === 'object' && value !== null
    ? Object.entries(value)
        .filter(([name]) => !name.startsWith('$'))
        .join()
    : String(value);

const refusal = (code: Code, reason: string, fields: readonly string[] = []): ConnectError =>
  new ConnectError(reason, code, undefined, [
    { desc: ErrorInfoSchema, value: { reason, domain: 'drawer' } },
    ...(fields.length === 0
      ? []
      : [
          {
            desc: BadRequestSchema,
            value: { fieldViolations: fields.map((field) => ({ field, description: 'is wrong' })) },
          },
        ]),
  ]);
