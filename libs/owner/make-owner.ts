import { audit } from '#libs/audit/write-audit.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import { codeOf } from '#libs/postgres/sql-errors.ts';
import { crashPoint } from '#libs/saga/crash-point.ts';
import type { Turns } from '#libs/saga/turns.ts';
import { tenantListOf } from './migrations.ts';
import {
  BY_INDEX,
  beginOperation,
  cutoffOf,
  endOperation,
  lockRunning,
  type OperationKey,
  readClock,
  type StoredOperation,
  saveOperation,
} from './operations.ts';
import type {
  CallLimits,
  Counted,
  Cursor,
  Ended,
  OnPurged,
  Operation,
  OperationRule,
  Owner,
  OwnerOrder,
  Purged,
} from './owner.ts';
import {
  type BatchRow,
  countDated,
  countExpired,
  countUndated,
  type ExpiredRange,
  type Named,
  noteRange,
  type RangeEnd,
  removeBatch,
  removeRange,
  type SliceRow,
  selectFirstExpired,
  selectFloor,
  selectLastExpired,
  selectRangeEnd,
  selectSpanEnd,
} from './statements.ts';
import type { OwnedSubject, Position } from './subject.ts';

/** What an owner is made of. */
export interface OwnerOptions {
  readonly database: Database;
  readonly subjects: readonly OwnedSubject[];
  readonly turns: Turns;
  readonly onPurged: OnPurged;
  /** How long an operation may stand still in all because of an old snapshot: LETHE_PURGE_MAX_PAUSE. */
  readonly maxPauseMs: number;
  /** How old a snapshot makes a purge stand still: LETHE_PURGE_SNAPSHOT_AGE. */
  readonly snapshotAgeMs: number;
}

// A transaction is aimed at a fifth of a second, so that nobody waits for its locks, and cut off below two seconds.
const TARGET_MS = 200;
const MAX_STATEMENT_MS = 1_800;
const BATCH_ROWS = { first: 1_000, min: 200, max: 100_000 };
const SLICE_ROWS = { first: 5_000, min: 1_000, max: 100_000 };
// A piece of fewer rows costs what it costs, whatever it removes.
const MIN_PIECE = 50;
// A range that may hold fewer rows would be all of rows that stay, and the next one again.
const MIN_RANGE = 1_000;
// A guess is rarely wrong by a tenth, and one that is too large costs the whole batch.
const GUESSED_SHARE = 0.9;
const MOST_MEMORIES = 1_000;
// A call that has fewer left of its limit ends: a small batch costs nearly as much as a large one.
const SHARE_WORTH_A_BATCH = 0.2;
const LOCK_TRIES = 5;

const SNAPSHOT_CHECK_MS = 1_000;
const PAUSE_MS = 2_000;
// A caller that stays away for longer has not been kept waiting by the snapshot.
const MAX_COUNTED_PAUSE_MS = 5 * PAUSE_MS;
const OLD_SNAPSHOT = 'OLD_SNAPSHOT';
const FOREGROUND_CALLS = 'FOREGROUND_CALLS';

const EXPIRED_TENANTS = 100;
const EXPIRED_ROWS = 1_000;
const STATEMENT_CUT_OFF = '57014';

/** Makes a retention owner over a service's Postgres. Its slices and batches give way to calls that somebody waits for. */
export function makeOwner(options: OwnerOptions): Owner {
  const { database, subjects, turns, onPurged, maxPauseMs, snapshotAgeMs } = options;
  const batches = new Map(subjects.map(({ name }) => [name, makePace(BATCH_ROWS)]));
  const slices = new Map(subjects.map(({ name }) => [name, makePace(SLICE_ROWS)]));
  const paceOf = (paces: ReadonlyMap<string, Pace>, { name }: OwnedSubject): Pace => {
    const pace = paces.get(name);
    if (!pace) throw new Error(`${name} is no subject of this owner`);
    return pace;
  };

  const memories = new Map<string, Memory>();
  const memoryOf = ({ operationId, subject }: Pick<OperationKey, 'operationId' | 'subject'>): Memory => {
    const name = `${operationId} ${subject}`;
    const known = memories.get(name);
    if (known) return known;
    // Those of operations that are over are the oldest.
    if (memories.size >= MOST_MEMORIES) memories.delete(memories.keys().next().value ?? '');
    const memory: Memory = { pitch: makePitch(), floor: undefined };
    memories.set(name, memory);
    return memory;
  };

  const readSnapshotAgeMs = async (): Promise<number> => {
    const [row] = await database.acrossTenants<{ seconds: number }>({
      text: 'select owner_oldest_snapshot() as seconds',
      values: [],
    });
    return 1_000 * (row?.seconds ?? 0);
  };

  const readFloor = async (
    { tenantId, subject }: OwnerOrder,
    { minToKeep, cutoff }: Pick<OperationRule, 'minToKeep' | 'cutoff'>,
    memory?: Memory,
  ): Promise<Floor> => {
    if (minToKeep === 0) return 'none';
    const read = (from?: Position) =>
      turns.take(() =>
        database.forTenant(tenantId, async (trx) => {
          await trx.raw(`select ${BY_INDEX}`);
          const statement = selectFloor(subject, tenantId, cutoff, minToKeep, from);
          return firstOf<{ floor: Position; is_expired: boolean }>(await run(trx, statement));
        }),
      );
    // Rows that come in move the floor to newer ones; where newer ones were removed, it is looked for anew.
    const row = (memory?.floor && (await read(memory.floor))) ?? (await read());
    if (memory) memory.floor = row?.floor;
    if (!row) return 'all';
    return row.is_expired ? row.floor : 'none';
  };

  /** Walks from a cursor on, a slice at a time, until the parts are done, `upTo` rows were seen or the time is up. */
  const walk = async (
    order: OwnerOrder,
    rule: Pick<OperationRule, 'cutoff' | 'minToKeep' | 'staleAfterDays'>,
    from: Cursor | undefined,
    upTo: number,
    limits: CallLimits,
  ): Promise<Omit<Counted, 'cutoff'>> => {
    const { tenantId, subject } = order;
    const isOver = overAt(limits);
    const pace = paceOf(slices, subject);
    let [expired, remaining, undated] = [0, 0, 0];
    let cursor: Cursor | undefined = from ?? { part: 'expired', after: undefined };
    // What lies behind the floor is not expired, but it is there.
    const floor = cursor.part === 'expired' ? await readFloor(order, rule) : 'none';
    if (floor === 'all' && cursor.part === 'expired') cursor = { part: 'dated', after: cursor.after };
    while (cursor) {
      const { part, after }: Cursor = cursor;
      const wanted: number = part === 'expired' ? Number.POSITIVE_INFINITY : upTo - expired - remaining;
      if (wanted <= 0) break;
      const slice: { scan: number; row: SliceRow } = await pace.run(turns, wanted, (scan) =>
        database.forTenant(tenantId, async (trx) => {
          await trx.raw(`select ${BY_INDEX}`);
          const statement =
            part === 'expired'
              ? countExpired(subject, { tenantId, ...rangeOf(rule), floor: positionOf(floor), after, scan })
              : (part === 'dated' ? countDated : countUndated)(subject, tenantId, after, scan);
          return { scan, row: one(await run<SliceRow>(trx, statement)) };
        }),
      );
      const { seen, going, last } = slice.row;
      expired += going;
      remaining += seen - going;
      if (part === 'undated') undated += seen;
      cursor = seen < slice.scan ? nextPart(part, last ?? after) : { part, after: last ?? after };
      const isCounted = cursor?.part !== 'expired' && expired + remaining >= upTo;
      if (cursor && !isCounted && isOver()) return { expired, remaining, undated, next: cursor };
    }
    return { expired, remaining, undated, next: undefined };
  };

  /** One batch in a transaction of its own; it is tried with fewer rows where it takes too long. */
  const purgeBatch = (
    order: OwnerOrder,
    key: OperationKey,
    floor: Floor,
    most: number,
    onWaited: (ms: number) => Readonly<Record<string, number>>,
  ): Promise<AfterBatch> =>
    paceOf(batches, order.subject)
      .run(turns, mostLookedAt(order.subject, most), (scan, waitedMs) =>
        database.forTenant(key.tenantId, async (trx) => {
          const before = await lockRunning(trx, key, MAX_STATEMENT_MS);
          const allowed = Math.min(most, (before.rule.maxRows ?? Number.POSITIVE_INFINITY) - before.removed);
          const outcome = await removeFrom(trx, order, before, floor, allowed, scan, memoryOf(key).pitch);
          const isFirstEnd = outcome.isDone && (!before.finishedAt || outcome.removed > 0);
          const operation: StoredOperation = {
            ...outcome.operation,
            waits: sumOf(before.waits, onWaited(waitedMs), pausedMs(before)),
            pausedAt: undefined,
            finishedAt: outcome.isDone ? (before.finishedAt ?? before.now) : before.finishedAt,
          };
          await saveOperation(trx, key, operation);
          if (isFirstEnd) await auditPurge(trx, order, operation, 'COMPLETE');
          return { ...outcome, operation, isFirstEnd };
        }),
      )
      .then((batch) => {
        if (batch.isFirstEnd) onPurged(order, batch.operation);
        return batch;
      });

  /** Notes that the operation stands still. Undefined: it may not go on standing still. */
  const pause = (key: OperationKey): Promise<StoredOperation> =>
    database.forTenant(key.tenantId, async (trx) => {
      const before = await lockRunning(trx, key, MAX_STATEMENT_MS);
      const operation = { ...before, waits: sumOf(before.waits, pausedMs(before)), pausedAt: before.now };
      await saveOperation(trx, key, operation);
      return operation;
    });

  return {
    subjects,

    async dataId() {
      const [row] = await database.acrossTenants<{ data_id: string }>({
        text: 'select data_id from owner_data',
        values: [],
      });
      if (!row) throw new Error('the data set has no id');
      return row.data_id;
    },

    async listTenants(subject, after, limit) {
      const rows = await database.acrossTenants<{ tenant_id: string }>({
        text: `select t as tenant_id from ${tenantListOf(subject)}($1, $2) t`,
        values: [after, limit],
      });
      return rows.map(({ tenant_id }) => tenant_id);
    },

    async count(order, rule, from, upTo, limits) {
      const cutoff = await database.forTenant(order.tenantId, async (trx) => cutoffOf(rule, await readClock(trx)));
      return { ...(await walk(order, { ...rule, cutoff }, from, upTo, limits)), cutoff };
    },

    async purge(order, operationId, rule, limit, limits): Promise<Purged> {
      const isOver = overAt(limits);
      const key = { tenantId: order.tenantId, operationId, subject: order.subject.name };
      const begun = await database.forTenant(order.tenantId, (trx) => beginOperation(trx, order, operationId, rule));
      let operation: StoredOperation = begun;
      crashPoint('owner.purge.after-intent');
      const answer = (how: Partial<Purged>): Purged => ({
        operation,
        isComplete: false,
        retryAfterMs: undefined,
        isThrottled: false,
        isStuck: false,
        ...how,
      });
      const isStuck = watchPasses(begun.position === undefined);
      const floor = await readFloor(order, begun.rule, memoryOf(key));
      let left = limit;
      let checkedAt = Number.NEGATIVE_INFINITY;
      while (left > 0) {
        if (performance.now() - checkedAt > SNAPSHOT_CHECK_MS) {
          if ((await readSnapshotAgeMs()) > snapshotAgeMs) {
            operation = await pause(key);
            const isThrottled = (operation.waits[OLD_SNAPSHOT] ?? 0) >= maxPauseMs;
            return answer({ retryAfterMs: PAUSE_MS, isThrottled });
          }
          checkedAt = performance.now();
        }
        const batch = await purgeBatch(order, key, floor, left, (ms) => (ms >= 1 ? { [FOREGROUND_CALLS]: ms } : {}));
        crashPoint('owner.purge.after-batch');
        operation = batch.operation;
        left -= batch.removed;
        if (batch.isDone) return answer({ isComplete: true });
        if (isStuck(batch)) return answer({ isStuck: true });
        const isHardlyAnyLeft = order.subject.afterRange !== undefined && left < limit * SHARE_WORTH_A_BATCH;
        if (isOver() || (isHardlyAnyLeft && limit > MIN_RANGE)) break;
      }
      return answer({});
    },

    async end(order, operationId, from, limits): Promise<Ended> {
      const { tenantId, subject, caller } = order;
      const key = { tenantId, operationId, subject: subject.name };
      const operation = await database.forTenant(tenantId, async (trx) => {
        const ended = await endOperation(trx, key, caller.actor);
        const isUntold = ended.isNew && !ended.operation.finishedAt && ended.operation.removed > 0;
        if (isUntold) await auditPurge(trx, order, ended.operation, 'PARTIAL');
        return ended.operation;
      });
      crashPoint('owner.end.after-fence');
      if (!operation.rule) return { operation, left: 0, next: undefined };
      const { expired, next } = await walk(order, operation.rule, from, 0, limits);
      return { operation, left: expired, next };
    },

    async expireOperations() {
      const tenants = await database.acrossTenants<{ tenant_id: string }>({
        text: 'select t as tenant_id from owner_tenants_with_old_operations($1) t',
        values: [EXPIRED_TENANTS],
      });
      let expired = 0;
      for (const { tenant_id: tenantId } of tenants) {
        expired += await database.forTenant(tenantId, async (trx) => {
          const { rowCount } = await trx.raw(
            `with old as materialized (
               select operation_id, subject from owner_operations
               where tenant_id = :tenantId and updated_at < clock_timestamp() - interval '90 days'
               order by updated_at limit :limit)
             delete from owner_operations o using old
             where o.tenant_id = :tenantId and o.operation_id = old.operation_id and o.subject = old.subject
               and o.updated_at < clock_timestamp() - interval '90 days'`,
            { tenantId, limit: EXPIRED_ROWS },
          );
          return rowCount ?? 0;
        });
      }
      return expired;
    },
  };
}

/** Where the floor is: behind the cutoff or nowhere, before all rows, or here, so that only rows before this one go. */
type Floor = 'none' | 'all' | Position;

const positionOf = (floor: Floor): Position | undefined => (typeof floor === 'string' ? undefined : floor);

const run = <Row>(trx: TenantTransaction, { text, bindings }: Named): Promise<{ rows: Row[] }> =>
  trx.raw(text, bindings as Record<string, string | number>);

function one<Row>(result: { readonly rows: readonly Row[] }): Row {
  const row = firstOf(result);
  if (!row) throw new Error('the statement gave no row');
  return row;
}

const rangeOf = ({ cutoff, staleAfterDays }: Pick<OperationRule, 'cutoff' | 'staleAfterDays'>) => ({
  cutoff,
  stale: staleAfterDays === undefined ? undefined : cutoff.subtract({ hours: 24 * staleAfterDays }),
});

/** The part after this one; the dated rows follow the expired ones where those end. */
function nextPart(part: Cursor['part'], after: Position | undefined): Cursor | undefined {
  if (part === 'expired') return { part: 'dated', after };
  if (part === 'dated') return { part: 'undated', after: undefined };
  return undefined;
}

const overAt = ({ budgetMs, signal }: CallLimits): (() => boolean) => {
  const startedAt = performance.now();
  return () => signal.aborted || performance.now() - startedAt >= budgetMs;
};

/** Removes one batch and says where the operation stands then; nothing is stored. */
async function removeFrom(
  trx: TenantTransaction,
  { tenantId, subject }: OwnerOrder,
  operation: StoredOperation & { readonly rule: OperationRule },
  floor: Floor,
  allowed: number,
  scan: number,
  pitch: Pitch,
): Promise<AfterBatch> {
  if (allowed <= 0 || floor === 'all') return { operation, removed: 0, isDone: true, lost: undefined };
  for (const statement of subject.lock ?? []) await trx.raw(statement, { tenantId });
  const after = operation.position;
  const range = { tenantId, ...rangeOf(operation.rule), floor: positionOf(floor), after, scan };
  if (subject.afterRange !== undefined && allowed >= scan) {
    // After the last pass there is mostly nothing: to find that out, what has died is walked once and not twice.
    const isAnother = after === undefined && operation.removed > 0;
    if (isAnother && !firstOf(await run(trx, selectFirstExpired(subject, range))))
      return afterBatch(operation, { removed: 0, dependents: {}, end: undefined, isAtEnd: true, lost: undefined });
    const { removed, end, isAtEnd } = await removeWhole(trx, subject, subject.afterRange, range, allowed, pitch);
    return afterBatch(operation, { removed, dependents: {}, end, isAtEnd, lost: undefined });
  }
  const batch = one(await run<BatchRow>(trx, removeBatch(subject, range, allowed)));
  const { seen, going, chosen, removed } = batch;
  const isCut = going > chosen;
  return afterBatch(operation, {
    removed,
    dependents: Object.fromEntries(
      (subject.dependents ?? []).map(({ type }, index) => [type, batch.dependents[index] ?? 0]),
    ),
    end: (isCut ? batch.last_chosen : batch.last) ?? undefined,
    isAtEnd: seen < scan && !isCut,
    lost: removed < chosen ? (batch.last_chosen ?? undefined) : undefined,
  });
}

/** What one batch came to. */
interface Batch {
  readonly removed: number;
  readonly dependents: Readonly<Record<string, number>>;
  /** The last row that it looked at; undefined where there was none. */
  readonly end: Position | undefined;
  /** Whether no expired row was there after it. */
  readonly isAtEnd: boolean;
  /**
   * The last row that was chosen, where not all of them were removed: another transaction changed or removed some at the
   * same time, or something keeps them. Undefined: all were removed.
   */
  readonly lost: Position | undefined;
}

/** What one batch did, and where the operation stands after it. */
interface AfterBatch extends Pick<Batch, 'removed' | 'lost'> {
  readonly operation: StoredOperation;
  readonly isDone: boolean;
}

/**
 * Told of each batch of a call, it answers whether nothing that is left can be removed: two passes in a row removed
 * nothing, and the second one chose a row again that the first one had chosen. One that another transaction had removed
 * could not be chosen again. `isAtOldest`: the first batch begins a pass.
 */
function watchPasses(isAtOldest: boolean): (batch: AfterBatch) => boolean {
  let pass: { isWhole: boolean; removed: number; lost?: string } = { isWhole: isAtOldest, removed: 0 };
  let lostBefore: string | undefined;
  return ({ operation, removed, lost }) => {
    pass = { ...pass, removed: pass.removed + removed, ...(lost ? { lost: lost.join(' ') } : {}) };
    if (operation.position !== undefined) return false;
    const lostNow = pass.isWhole && pass.removed === 0 ? pass.lost : undefined;
    const isStuck = lostNow !== undefined && lostNow === lostBefore;
    lostBefore = lostNow;
    pass = { isWhole: true, removed: 0 };
    return isStuck;
  };
}

/** Where the operation stands after a batch. */
function afterBatch(
  operation: StoredOperation & { readonly rule: OperationRule },
  { removed, dependents, end, isAtEnd, lost }: Batch,
): AfterBatch {
  const { position, isPassDirty, rule } = operation;
  const isLost = lost !== undefined;
  const isClean = !isLost && !isPassDirty && (removed === 0 || position === undefined);
  const total = operation.removed + removed;
  const isSpent = rule.maxRows !== undefined && total >= rule.maxRows;
  return {
    removed,
    lost,
    isDone: isSpent || (isAtEnd && isClean),
    operation: {
      ...operation,
      removed: total,
      dependents: sumOf(operation.dependents, dependents),
      // At the end the oldest row is next: something may have come in behind the batches.
      position: isAtEnd ? undefined : (end ?? position),
      isPassDirty: !isAtEnd && (isPassDirty || removed > 0 || isLost),
    },
  };
}

/**
 * Removes what goes of a range of expired rows, which are about `scan` and, together with what stays of them, at most
 * `allowed`. CONCURRENT_UPDATE where there were more, and then it is to be tried again.
 */
async function removeWhole(
  trx: TenantTransaction,
  subject: OwnedSubject,
  afterwards: string,
  range: ExpiredRange,
  allowed: number,
  pitch: Pitch,
): Promise<Pick<Batch, 'removed' | 'end' | 'isAtEnd'>> {
  const { tenantId, scan, after } = range;
  const guess = after && pitch.spanOf(Math.min(scan, Math.floor(allowed * GUESSED_SHARE)));
  const statement =
    guess === undefined ? selectRangeEnd(subject, range) : selectSpanEnd(subject, range, after ?? [], guess);
  const found = firstOf<RangeEnd>(await run(trx, statement));
  const end =
    found?.position ?? firstOf<{ position: Position }>(await run(trx, selectLastExpired(subject, range)))?.position;
  if (!end) return { removed: 0, end, isAtEnd: true };
  const { text, bindings } = removeRange(subject, range, end);
  // Forgotten until it has proved right: a range that takes too long is cut off here.
  pitch.note(undefined, 0);
  const { rowCount } = await trx.raw(text, bindings as Record<string, string | number>);
  const removed = rowCount ?? 0;
  if (removed > allowed) throw overfull();
  pitch.note(found?.span, removed);
  if (removed > 0) await run(trx, noteRange(afterwards, tenantId, end));
  return { removed, end, isAtEnd: found === undefined };
}

/** What a process remembers of an operation; nothing depends on it but how long a call takes. */
interface Memory {
  readonly pitch: Pitch;
  floor: Position | undefined;
}

/** The range held more rows than was guessed, or rows came into it after it was looked at. */
const overfull = (): DomainError =>
  new DomainError('aborted', 'CONCURRENT_UPDATE', 'The range that was to be removed holds too many rows.', {});

/**
 * How close to each other an operation's rows lie, by its last range. To count so many rows in the index costs half as
 * much as to remove them; where they lie as close as those before them, an instant tells as well where a range ends.
 */
interface Pitch {
  /** Microseconds of age that about so many rows take; undefined where that is to be counted. */
  spanOf(rows: number): number | undefined;
  note(span: number | null | undefined, removed: number): void;
}

function makePitch(): Pitch {
  let perRow: number | undefined;
  return {
    spanOf: (rows) => (perRow === undefined || rows < MIN_RANGE ? undefined : Math.max(1, Math.round(perRow * rows))),
    note(span, removed) {
      const next = typeof span === 'number' && removed >= MIN_RANGE ? span / removed : undefined;
      perRow = next !== undefined && Number.isFinite(next) && next > 0 ? next : undefined;
    },
  };
}

/** How many rows a batch may look at. A range removes what it looks at, so that is bounded by what may go. */
const mostLookedAt = ({ afterRange }: OwnedSubject, most: number): number =>
  afterRange === undefined ? Number.POSITIVE_INFINITY : Math.max(MIN_RANGE, most);

/** For how long the operation has stood still since it was last noted. */
function pausedMs({ pausedAt, now }: StoredOperation): Record<string, number> {
  if (!pausedAt) return {};
  const ms = (now.epochMilliseconds - pausedAt.epochMilliseconds) as number;
  return { [OLD_SNAPSHOT]: Math.min(MAX_COUNTED_PAUSE_MS, Math.max(0, ms)) };
}

function sumOf(...parts: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const sums: Record<string, number> = {};
  for (const part of parts) for (const [name, n] of Object.entries(part)) sums[name] = (sums[name] ?? 0) + n;
  return sums;
}

const auditPurge = (
  trx: TenantTransaction,
  { tenantId, subject, caller }: OwnerOrder,
  { operationId, removed, dependents }: Operation,
  outcome: string,
): Promise<void> =>
  audit(trx, {
    tenantId,
    actor: caller.actor,
    subject: caller.subject,
    action: `purge-${subject.name.replaceAll('_', '-')}`,
    targetType: 'retention_purge',
    targetId: operationId,
    outcome,
    counts: { [subject.resourceType]: removed, ...dependents },
  });

/** How many rows a piece of work takes on, so that it lasts about as long as it should. */
interface Pace {
  /**
   * Does one piece, in its turn, of at most `most` rows; with fewer where it was cut off, and again where it lost its
   * locks. `work` is told for how long it waited for its turn.
   */
  run<T>(turns: Turns, most: number, work: (rows: number, waitedMs: number) => Promise<T>): Promise<T>;
}

function makePace({ first, min, max }: { first: number; min: number; max: number }): Pace {
  let rows = first;
  return {
    async run(turns, most, work) {
      for (let tries = 1; ; tries += 1) {
        const askedAt = performance.now();
        try {
          return await turns.take(async (share) => {
            const startedAt = performance.now();
            const taken = Math.max(1, Math.min(most, Math.max(MIN_PIECE, Math.ceil(rows * share))));
            const result = await work(taken, startedAt - askedAt);
            const ms = performance.now() - startedAt;
            // A smaller piece than usual says little about how many rows there could be.
            if (share === 1 && (taken >= rows || ms > TARGET_MS)) {
              const factor = Math.min(2, Math.max(0.5, TARGET_MS / Math.max(1, ms)));
              rows = Math.round(Math.min(max, Math.max(min, taken * factor)));
            }
            return result;
          });
        } catch (error) {
          const isCutOff = error instanceof DomainError && codeOf(error.cause) === STATEMENT_CUT_OFF;
          const hasLostLocks = error instanceof DomainError && error.reason === 'CONCURRENT_UPDATE';
          if (!(isCutOff && rows > MIN_PIECE) && !(hasLostLocks && tries < LOCK_TRIES)) throw error;
          if (isCutOff) rows = Math.max(MIN_PIECE, Math.floor(rows / 4));
        }
      }
    },
  };
}
