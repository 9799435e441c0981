import type { MessageInitShape } from '@bufbuild/protobuf';
import type { HandlerContext, ServiceImpl } from '@connectrpc/connect';
import { Progress, type ResourceCountSchema } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type Rule, SubjectSchema } from '#gen/lethe/owner/v1/owner_pb.ts';
import { RetentionOwnerService } from '#gen/lethe/owner/v1/owner_service_pb.ts';
import { assertTokenMatches } from '#libs/auth/authorize.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { bindService, type ServiceBinding } from '#libs/grpc/connect-handlers.ts';
import { fitPage } from '#libs/grpc/fit-page.ts';
import { optional } from '#libs/grpc/optional.ts';
import { parseFields, parseInteger, parseText } from '#libs/grpc/parse.ts';
import { parseDurationMs, parseTimestamp, toDuration, toOptionalTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { tenantOf } from '#libs/kernel/caller.ts';
import { DomainError, fieldInvalid } from '#libs/kernel/domain-error.ts';
import { parseId } from '#libs/kernel/id.ts';
import {
  decodePageToken,
  encodePageToken,
  KEY,
  type KeyPart,
  MAX_CURSOR_LENGTH,
  type PageScope,
  pageOf,
} from '#libs/kernel/page.ts';
import type { Cursor, Operation, Owner, OwnerOrder } from './owner.ts';
import type { OwnedSubject, OwnerRule } from './subject.ts';

/** The version of the contract that is served. */
const CONTRACT = 1;
const MAX_DAYS = 36_500;
const MAX_FLOOR = 1_000_000_000;
const DEFAULT_LIMIT = 10_000;
const MAX_LIMIT = 100_000;
const DEFAULT_BUDGET_MS = 10_000;
const MIN_BUDGET_MS = 100;
const MAX_BUDGET_MS = 60_000;
const DEFAULT_SUBJECTS = 100;
const MAX_SUBJECTS = 200;
const MAX_TENANTS = 1_000;
const PARTS = ['expired', 'dated', 'undated'] as const satisfies readonly Cursor['part'][];

/** Serves the owner contract. */
export const bindOwner = (owner: Owner): ServiceBinding => bindService(RetentionOwnerService, ownerService(owner));

const ownerService = (owner: Owner): ServiceImpl<typeof RetentionOwnerService> => {
  const subjects = owner.subjects.toSorted((a, b) => (a.name < b.name ? -1 : 1));
  const subjectOf = (name: string): OwnedSubject => {
    const subject = subjects.find((candidate) => candidate.name === name);
    if (!subject) {
      throw new DomainError('not-found', 'SUBJECT_NOT_FOUND', `This owner has no subject ${name}.`, { subject: name });
    }
    return subject;
  };
  const orderOf = (context: HandlerContext, subject: OwnedSubject): OwnerOrder => {
    const caller = callerOf(context);
    return { tenantId: tenantOf(caller), subject, caller };
  };

  /** Throws OWNER_CHANGED unless the database holds the data set that the caller means. */
  const assertDataSet = async (wanted: string): Promise<void> => {
    if (wanted === '' || wanted === (await owner.dataId())) return;
    throw new DomainError('failed-precondition', 'OWNER_CHANGED', 'This owner holds another data set by now.');
  };

  return {
    async listSubjects({ pageSize, pageToken }) {
      const scope: PageScope = { rpc: 'ListSubjects', tenantId: '', filter: {} };
      const { limit, after } = parseFields({
        limit: () => parsePageSize(pageSize, { usual: DEFAULT_SUBJECTS, max: MAX_SUBJECTS }),
        after: () => decodePageToken(scope, pageToken, [KEY.text]),
      });
      const left = subjects.filter(({ name }) => after?.[0] === undefined || name > after[0]);
      const keyOf = ({ name }: OwnedSubject) => [name];
      const page = pageOf(left, limit, (subject) => subject, keyOf);
      const { messages, nextPageToken } = fitPage(scope, SubjectSchema, page, toSubjectMessage, keyOf);
      return { dataId: await owner.dataId(), contract: CONTRACT, subjects: messages, nextPageToken };
    },

    async listTenants(request) {
      const scope: PageScope = { rpc: 'ListTenants', tenantId: '', filter: { subject: request.subject } };
      const { name, limit, after } = parseFields({
        name: () => parseSubject('subject', request.subject),
        limit: () => parsePageSize(request.pageSize, { usual: MAX_TENANTS, max: MAX_TENANTS }),
        after: () => decodePageToken(scope, request.pageToken, [KEY.text]),
      });
      const tenants = await owner.listTenants(subjectOf(name), after?.[0] ?? '', limit + 1);
      const page = tenants.slice(0, limit);
      const last = page.at(-1);
      return {
        tenantIds: [...page],
        nextPageToken: last !== undefined && tenants.length > limit ? encodePageToken(scope, [last]) : '',
      };
    },

    async count(request, context) {
      const caller = callerOf(context);
      const { rule, upTo, budgetMs, from, dataId } = parseFields({
        rule: () => parseRule(request.rule, subjects),
        upTo: () => parseInteger('up_to', request.upTo, { min: 0, max: Number.MAX_SAFE_INTEGER }),
        budgetMs: () => parseBudget(request.timeBudget),
        dataId: () => parseText('data_id', request.dataId, { min: 0, max: 100 }),
        from: () => parseCursor('Count', tenantOf(caller), request.rule, request.cursor, subjects),
      });
      assertTokenMatches(caller, { subjectName: rule.subject });
      await assertDataSet(dataId);
      const order = orderOf(context, subjectOf(rule.subject));
      const limits = { budgetMs, signal: context.signal };
      const { expired, remaining, undated, cutoff, next } = await owner.count(order, rule, from, upTo, limits);
      return {
        ...progressOf('Count', order, request.rule, next),
        expiredCount: BigInt(expired),
        remainingCount: BigInt(remaining),
        undatedCount: BigInt(undated),
        cutoffTime: toTimestamp(cutoff),
      };
    },

    async purge(request, context) {
      const { operationId, rule, limit, budgetMs, dataId } = parseFields({
        operationId: () => parseId('operation_id', request.operationId),
        rule: () => parseRule(request.rule, subjects),
        limit: () => parseInteger('limit', request.limit || DEFAULT_LIMIT, { min: 1, max: MAX_LIMIT }),
        budgetMs: () => parseBudget(request.timeBudget),
        dataId: () => parseText('data_id', request.dataId, { min: 0, max: 100 }),
      });
      assertTokenMatches(callerOf(context), { subjectName: rule.subject, operationId });
      await assertDataSet(dataId);
      const order = orderOf(context, subjectOf(rule.subject));
      const limits = { budgetMs, signal: context.signal };
      const { operation, isComplete, retryAfterMs, isThrottled, isStuck, isTooSlow } = await owner.purge(
        order,
        operationId,
        rule,
        limit,
        limits,
      );
      return {
        progress: isComplete ? Progress.COMPLETE : Progress.PARTIAL,
        resourceCounts: toCounts(order.subject, operation, 0),
        ...optional('cutoffTime', toOptionalTimestamp(operation.rule?.cutoff)),
        ...optional('retryDelay', retryAfterMs === undefined ? undefined : toDuration(retryAfterMs)),
        waits: Object.entries(operation.waits).map(([cause, ms]) => ({ cause, duration: toDuration(ms) })),
        blockers: [
          ...(isThrottled ? [throttled(order.subject)] : []),
          ...(isStuck ? [rowsNotRemoved(order.subject)] : []),
          ...(isTooSlow ? [rowTooSlow(order.subject)] : []),
        ],
      };
    },

    async end(request, context) {
      const caller = callerOf(context);
      const { operationId, name, budgetMs, from, dataId } = parseFields({
        operationId: () => parseId('operation_id', request.operationId),
        name: () => parseSubject('subject', request.subject),
        budgetMs: () => parseBudget(request.timeBudget),
        dataId: () => parseText('data_id', request.dataId, { min: 0, max: 100 }),
        from: () => parseCursor('End', tenantOf(caller), request, request.cursor, subjects),
      });
      assertTokenMatches(caller, { subjectName: name, operationId });
      await assertDataSet(dataId);
      const order = orderOf(context, subjectOf(name));
      const limits = { budgetMs, signal: context.signal };
      const { operation, left, next } = await owner.end(order, operationId, from, limits);
      return {
        ...progressOf('End', order, request, next),
        resourceCounts: toCounts(order.subject, operation, left),
        ...optional('cutoffTime', toOptionalTimestamp(operation.rule?.cutoff)),
      };
    },
  };
};

const toSubjectMessage = ({ name, resourceType, dependents = [], ageOf, hasFloor = false }: OwnedSubject) => ({
  name,
  resourceType,
  dependentTypes: dependents.map(({ type }) => type),
  ageOf,
  hasFloor,
});

/** The sums of an operation; none of one that never began. */
function toCounts(
  { resourceType, dependents = [] }: OwnedSubject,
  { rule, removed, dependents: removedDependents }: Operation,
  left: number,
): MessageInitShape<typeof ResourceCountSchema>[] {
  if (!rule) return [];
  const toCount = (type: string, deleted: number, stays: number) => ({
    resourceType: type,
    found: BigInt(deleted + stays),
    deleted: BigInt(deleted),
    left: BigInt(stays),
  });
  return [
    toCount(resourceType, removed, left),
    ...dependents.map(({ type }) => toCount(type, removedDependents[type] ?? 0, 0)),
  ];
}

const throttled = ({ resourceType }: OwnedSubject) => ({
  reason: 'THROTTLED',
  resourceType,
  message: 'A transaction has held back the cleaning up of the database for too long; end it and purge again.',
});

const rowsNotRemoved = ({ resourceType, table }: OwnedSubject) => ({
  reason: 'ROWS_NOT_REMOVED',
  resourceType,
  message: `Deleting expired rows of ${table} leaves them there; look for a trigger or a rule that keeps them.`,
});

const rowTooSlow = ({ resourceType, table }: OwnedSubject) => ({
  reason: 'ROWS_NOT_REMOVED',
  resourceType,
  message: `Deleting a single expired row of ${table} takes longer than a statement may; look for a foreign key to it without an index, or for a slow trigger.`,
});

function parseRule(
  rule: Rule | undefined,
  subjects: readonly OwnedSubject[],
): OwnerRule & { readonly subject: string } {
  const { subject = '', retentionDays = 0, minToKeep = 0n, maxRows, staleAfterDays } = rule ?? {};
  const described = subjects.find(({ name }) => name === subject);
  const days = (field: string, value: number, min: number) => parseInteger(field, value, { min, max: MAX_DAYS });
  return parseFields({
    subject: () => parseSubject('rule.subject', subject),
    retentionDays: () => days('rule.retention_days', retentionDays, 1),
    cutoff: () => parseMicroseconds('rule.cutoff_time', rule?.cutoffTime),
    latestCutoff: () => {
      const latest = parseTimestamp('rule.latest_cutoff_time', rule?.latestCutoffTime);
      if (!latest) throw fieldInvalid('rule.latest_cutoff_time', 'is required');
      return latest;
    },
    minToKeep: () => {
      if (described && !described.hasFloor && minToKeep !== 0n)
        throw fieldInvalid('rule.min_to_keep', 'must be 0: the subject has no floor');
      return parseInteger('rule.min_to_keep', minToKeep, { min: 0, max: MAX_FLOOR });
    },
    maxRows: () =>
      maxRows === undefined
        ? undefined
        : parseInteger('rule.max_rows', maxRows, { min: 0, max: Number.MAX_SAFE_INTEGER }),
    staleAfterDays: () => (staleAfterDays === undefined ? undefined : days('rule.stale_after_days', staleAfterDays, 0)),
  });
}

/** To the microsecond, as the database has it; what is finer is cut off, so that a cutoff takes no row more. */
function parseMicroseconds(field: string, timestamp: Rule['cutoffTime']): Temporal.Instant | undefined {
  return parseTimestamp(field, timestamp)?.round({ smallestUnit: 'microsecond', roundingMode: 'floor' });
}

const parseSubject = (field: string, value: string): string => parseText(field, value, { min: 1, max: 63 });

function parseBudget(timeBudget: Parameters<typeof parseDurationMs>[1]): number {
  const ms = parseDurationMs('time_budget', timeBudget) ?? DEFAULT_BUDGET_MS;
  if (ms < MIN_BUDGET_MS || ms > MAX_BUDGET_MS) throw fieldInvalid('time_budget', 'must be from 100 ms to 60 s');
  return ms;
}

function parsePageSize(value: number, { usual, max }: { usual: number; max: number }): number {
  if (value < 0) throw fieldInvalid('page_size', 'must not be negative');
  return Math.min(value || usual, max);
}

/** What a cursor goes on with; one of another walk is refused. */
interface Walked {
  readonly subject: string;
  readonly operationId?: string;
  readonly retentionDays?: number;
  readonly minToKeep?: bigint;
  readonly staleAfterDays?: number | undefined;
}

const scopeOf = (rpc: string, tenantId: string, walked: Walked | undefined): PageScope => ({
  rpc: `RetentionOwnerService/${rpc}`,
  tenantId,
  filter: {
    subject: walked?.subject,
    operationId: walked?.operationId?.toLowerCase(),
    retentionDays: walked?.retentionDays,
    minToKeep: walked?.minToKeep === undefined ? undefined : String(walked.minToKeep),
    staleAfterDays: walked?.staleAfterDays,
  },
});

function progressOf(
  rpc: string,
  { tenantId, subject }: OwnerOrder,
  walked: Walked | undefined,
  next: Cursor | undefined,
) {
  if (!next) return { progress: Progress.COMPLETE };
  // Without a position there are as many empty parts, so that a cursor of a subject always has the same number.
  const position = next.after ?? Array<string>(subject.key.length + 1).fill('');
  const key = [next.part, next.after ? 'after' : '', ...position];
  return {
    progress: Progress.PARTIAL,
    cursor: new Uint8Array(Buffer.from(encodePageToken(scopeOf(rpc, tenantId, walked), key))),
  };
}

// As Postgres writes an instant down, of whatever year, and where the column is of a type without a time or an offset.
const WRITTEN_INSTANT =
  /^(?:-?infinity|\d{4,6}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?: [\d:.]{8,15}(?:[+-]\d\d(?::\d\d){0,2})?)?(?: BC)?)$/;

const PART_OF: Readonly<Record<OwnedSubject['key'][number]['type'], KeyPart>> = {
  uuid: KEY.id,
  text: KEY.text,
  bigint: (text) => KEY.int8(text.replace(/^-/, '')),
  timestamptz: (text) => WRITTEN_INSTANT.test(text),
};

/** Whether the statement of the part can cast the position: an age, which rows without an instant lack, and the key. */
function isPosition(part: Cursor['part'], subject: OwnedSubject, [age = '', ...key]: readonly string[]): boolean {
  const isAge = part === 'undated' ? age === '' : WRITTEN_INSTANT.test(age);
  return isAge && subject.key.every(({ type }, index) => PART_OF[type](key[index] ?? ''));
}

function parseCursor(
  rpc: string,
  tenantId: string,
  walked: Walked | undefined,
  cursor: Uint8Array,
  subjects: readonly OwnedSubject[],
): Cursor | undefined {
  if (cursor.length === 0) return undefined;
  const subject = subjects.find(({ name }) => name === walked?.subject);
  const parts = Array<KeyPart>(3 + (subject?.key.length ?? 0)).fill(KEY.text);
  try {
    const token = Buffer.from(cursor).toString('latin1');
    const key = decodePageToken(scopeOf(rpc, tenantId, walked), token, parts, MAX_CURSOR_LENGTH) ?? [];
    const [name, hasAfter, ...position] = key;
    const part = PARTS.find((candidate) => candidate === name);
    if (part && hasAfter === '') return { part, after: undefined };
    if (part && subject && isPosition(part, subject, position)) return { part, after: position };
  } catch {
    // Told as one of this field, whatever is wrong with it.
  }
  throw fieldInvalid('cursor', 'must be a cursor that this walk gave');
}
