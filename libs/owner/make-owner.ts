import { audit } from '#libs/audit/write-audit.ts';
import { crashPoint } from '#libs/durable/crash-point.ts';
import type { Turns } from '#libs/durable/turns.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { readFigure } from '#libs/postgres/read-figure.ts';
import { firstOf } from '#libs/postgres/rows.ts';
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
  sumOf,
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
import { isCutOff, makePace, type Pace } from './pace.ts';
import {
  type AfterBatch,
  type Floor,
  type Memory,
  MIN_RANGE,
  makePitch,
  mostLookedAt,
  positionOf,
  rangeOf,
  removeFrom,
  watchPasses,
} from './remove-batch.ts';
import { boundTime, one, run, searchIn } from './run-statement.ts';
import { countDated, countExpired, countUndated, type SliceRow, selectFloor } from './statements.ts';
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

// A transaction is aimed at a fifth of a second, and cut off below two.
const MAX_TRANSACTION_MS = 1_800;
// A batch is a twentieth of that while somebody calls, which is to be felt by nobody: a row costs a range a tenth.
const BATCH_ROWS = { first: 1_000, min: 200, max: 20_000 };
const RANGE_ROWS = { ...BATCH_ROWS, max: 100_000 };
const SLICE_ROWS = { first: 5_000, min: 1_000, max: 100_000 };
const MOST_MEMORIES = 1_000;
// A call that has fewer left of its limit ends: a small batch costs nearly as much as a large one.
const SHARE_WORTH_A_BATCH = 0.2;

const SNAPSHOT_CHECK_MS = 1_000;
const PAUSE_MS = 2_000;
// A caller that stays away for longer has not been kept waiting by the snapshot.
const MAX_COUNTED_PAUSE_MS = 5 * PAUSE_MS;
const OLD_SNAPSHOT = 'OLD_SNAPSHOT';
const FOREGROUND_CALLS = 'FOREGROUND_CALLS';

const EXPIRED_TENANTS = 100;
const EXPIRED_ROWS = 1_000;

/** Makes a retention owner over a service's Postgres. Its slices and batches give way to calls that somebody waits for. */
export function makeOwner(options: OwnerOptions): Owner {
  const { database, subjects, turns, onPurged, maxPauseMs, snapshotAgeMs } = options;
  const batches = new Map(
    subjects.map(({ name, afterRange }) => [name, makePace(afterRange === undefined ? BATCH_ROWS : RANGE_ROWS)]),
  );
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

  const readSnapshotAgeMs = async (): Promise<number> => 1_000 * (await readFigure(database, 'owner_oldest_snapshot'));

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
          // A single row may take as long as any other statement.
          const isSingle = scan === 1;
          const bound = isSingle ? async () => undefined : boundTime(trx, MAX_TRANSACTION_MS, performance.now());
          const before = await lockRunning(trx, key, MAX_TRANSACTION_MS);
          if (isSingle) await trx.raw('set local statement_timeout = default');
          const allowed = Math.min(most, (before.rule.maxRows ?? Number.POSITIVE_INFINITY) - before.removed);
          const outcome = await removeFrom(trx, order, before, floor, allowed, scan, memoryOf(key).pitch, bound);
          const isFirstEnd = outcome.isDone && (!before.finishedAt || outcome.removed > 0);
          const operation: StoredOperation = {
            ...outcome.operation,
            waits: sumOf(before.waits, onWaited(waitedMs), pausedMs(before)),
            pausedAt: undefined,
            finishedAt: outcome.isDone ? (before.finishedAt ?? before.now) : before.finishedAt,
          };
          await bound();
          await saveOperation(trx, key, operation);
          if (isFirstEnd) await auditPurge(trx, order, operation, 'COMPLETE');
          // Triggers that are deferred run at the commit.
          if (order.subject.searchPath !== undefined) await searchIn(trx, order.subject.searchPath);
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
      const before = await lockRunning(trx, key, MAX_TRANSACTION_MS);
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
        isTooSlow: false,
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
        const onWaited = (ms: number) => (ms >= 1 ? { [FOREGROUND_CALLS]: ms } : {});
        const batch = await purgeBatch(order, key, floor, left, onWaited).catch((error: unknown) => {
          if (!isCutOff(error)) throw error;
        });
        if (!batch) return answer({ isTooSlow: true });
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

/** For how long the operation has stood still since it was last noted. */
function pausedMs({ pausedAt, now }: StoredOperation): Record<string, number> {
  if (!pausedAt) return {};
  const ms = (now.epochMilliseconds - pausedAt.epochMilliseconds) as number;
  return { [OLD_SNAPSHOT]: Math.min(MAX_COUNTED_PAUSE_MS, Math.max(0, ms)) };
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
