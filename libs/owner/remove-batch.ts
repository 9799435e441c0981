import { DomainError } from '#libs/kernel/domain-error.ts';
import type { TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import { type StoredOperation, sumOf } from './operations.ts';
import type { OperationRule, OwnerOrder } from './owner.ts';
import { type BoundTime, one, run, searchingAs } from './run-statement.ts';
import {
  type BatchRow,
  type ExpiredRange,
  noteRange,
  type RangeEnd,
  removeBatch,
  removeRange,
  selectFirstExpired,
  selectLastExpired,
  selectRangeEnd,
  selectSpanEnd,
} from './statements.ts';
import type { OwnedSubject, Position } from './subject.ts';

/** The rows of the smallest range: a smaller one may be all of rows that stay, and the next one again. */
export const MIN_RANGE = 1_000;
// A guess is rarely wrong by a tenth, and one that is too large costs the whole batch.
const GUESSED_SHARE = 0.9;

/** Where the floor is: behind the cutoff or nowhere, before all rows, or here, so that only rows before this one go. */
export type Floor = 'none' | 'all' | Position;

/** The position of a floor that has one. */
export const positionOf = (floor: Floor): Position | undefined => (typeof floor === 'string' ? undefined : floor);

/** The cutoffs of a rule. */
export const rangeOf = ({ cutoff, staleAfterDays }: Pick<OperationRule, 'cutoff' | 'staleAfterDays'>) => ({
  cutoff,
  stale: staleAfterDays === undefined ? undefined : cutoff.subtract({ hours: 24 * staleAfterDays }),
});

/** Removes one batch and says where the operation stands then; nothing is stored. */
export async function removeFrom(
  trx: TenantTransaction,
  { tenantId, subject }: OwnerOrder,
  operation: StoredOperation & { readonly rule: OperationRule },
  floor: Floor,
  allowed: number,
  scan: number,
  pitch: Pitch,
  bound: BoundTime,
): Promise<AfterBatch> {
  if (allowed <= 0 || floor === 'all') return { operation, removed: 0, isDone: true, lost: undefined };
  for (const statement of subject.lock ?? []) {
    await bound();
    await trx.raw(statement, { tenantId });
  }
  await bound();
  const after = operation.position;
  const range = { tenantId, ...rangeOf(operation.rule), floor: positionOf(floor), after, scan };
  if (subject.afterRange !== undefined && allowed >= scan) {
    // After the last pass there is mostly nothing: to find that out, what has died is walked once and not twice.
    const isAnother = after === undefined && operation.removed > 0;
    if (isAnother && !firstOf(await run(trx, selectFirstExpired(subject, range))))
      return afterBatch(operation, { removed: 0, dependents: {}, end: undefined, isAtEnd: true, lost: undefined });
    await bound();
    const { removed, end, isAtEnd } = await removeWhole(trx, subject, subject.afterRange, range, allowed, pitch, bound);
    return afterBatch(operation, { removed, dependents: {}, end, isAtEnd, lost: undefined });
  }
  const statement = removeBatch(subject, range, allowed);
  const batch = one(await searchingAs(trx, subject, () => run<BatchRow>(trx, statement)));
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
export interface AfterBatch extends Pick<Batch, 'removed' | 'lost'> {
  readonly operation: StoredOperation;
  readonly isDone: boolean;
}

/**
 * Told of each batch of a call, it answers whether nothing that is left can be removed: two passes in a row removed
 * nothing, and the second one chose a row again that the first one had chosen. One that another transaction had removed
 * could not be chosen again. `isAtOldest`: the first batch begins a pass.
 */
export function watchPasses(isAtOldest: boolean): (batch: AfterBatch) => boolean {
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
  bound: BoundTime,
): Promise<Pick<Batch, 'removed' | 'end' | 'isAtEnd'>> {
  const { tenantId, scan, after } = range;
  const guess = after && pitch.spanOf(Math.min(scan, Math.floor(allowed * GUESSED_SHARE)));
  const statement =
    guess === undefined ? selectRangeEnd(subject, range) : selectSpanEnd(subject, range, after ?? [], guess);
  const found = firstOf<RangeEnd>(await run(trx, statement));
  const end =
    found?.position ?? firstOf<{ position: Position }>(await run(trx, selectLastExpired(subject, range)))?.position;
  if (!end) return { removed: 0, end, isAtEnd: true };
  // Forgotten until it has proved right: a range that takes too long is cut off here.
  pitch.note(undefined, 0);
  await bound();
  const { rowCount: removed = 0 } = await run(trx, removeRange(subject, range, end));
  if (removed > allowed) throw overfull();
  pitch.note(found?.span, removed);
  await bound();
  if (removed > 0) await run(trx, noteRange(afterwards, tenantId, end));
  return { removed, end, isAtEnd: found === undefined };
}

/** What a process remembers of an operation; nothing depends on it but how long a call takes. */
export interface Memory {
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
export interface Pitch {
  /** Microseconds of age that about so many rows take; undefined where that is to be counted. */
  spanOf(rows: number): number | undefined;
  note(span: number | null | undefined, removed: number): void;
}

/** Makes a Pitch that knows nothing yet. */
export function makePitch(): Pitch {
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
export const mostLookedAt = ({ afterRange }: OwnedSubject, most: number): number =>
  afterRange === undefined ? Number.POSITIVE_INFINITY : Math.max(MIN_RANGE, most);
