import { DomainError } from '#libs/kernel/domain-error.ts';
import type { TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { Operation, OperationRule, OwnerOrder } from './owner.ts';
import type { OwnerRule, Position } from './subject.ts';

/** An operation as it is stored. */
export interface StoredOperation extends Operation {
  readonly cutoffGiven: boolean;
  /** Where the next batch begins. Undefined: at the oldest row. */
  readonly position: Position | undefined;
  /** Whether something was removed, or lost to another transaction, since the oldest row. */
  readonly isPassDirty: boolean;
  readonly pausedAt: Temporal.Instant | undefined;
  readonly finishedAt: Temporal.Instant | undefined;
  readonly endedAt: Temporal.Instant | undefined;
  /** The clock of the database when the row was read. */
  readonly now: Temporal.Instant;
}

interface OperationRow {
  readonly operation_id: string;
  readonly retention_days: number | null;
  readonly cutoff: Temporal.Instant | null;
  readonly cutoff_given: boolean;
  readonly min_to_keep: number;
  readonly max_rows: number | null;
  readonly stale_after_days: number | null;
  readonly removed: number;
  readonly dependents: Record<string, number>;
  readonly waits: Record<string, number>;
  readonly position: Position | null;
  readonly is_pass_dirty: boolean;
  readonly paused_at: Temporal.Instant | null;
  readonly finished_at: Temporal.Instant | null;
  readonly ended_at: Temporal.Instant | null;
  readonly now: Temporal.Instant;
}

const LATEST_SLACK_MS = 60_000;

/** CUTOFF_TOO_LATE: the cutoff would take rows that the window keeps. */
const cutoffTooLate = (): DomainError =>
  new DomainError(
    'failed-precondition',
    'CUTOFF_TOO_LATE',
    "The cutoff lies after this owner's clock less the window; give the cutoff that the owner answered.",
  );

/** CLOCKS_DISAGREE: this owner's clock, or the caller's, is wrong by more than a minute. */
const clocksDisagree = (cutoff: Temporal.Instant, latest: Temporal.Instant): DomainError =>
  new DomainError(
    'failed-precondition',
    'CLOCKS_DISAGREE',
    'The cutoff lies more than a minute after the latest one that the caller expects: one of two clocks is wrong.',
    { cutoff_time: cutoff.toString(), latest_cutoff_time: latest.toString() },
  );

/** OPERATION_ENDED: nothing is removed under this operation any more. */
const operationEnded = (operationId: string): DomainError =>
  new DomainError('failed-precondition', 'OPERATION_ENDED', `Operation ${operationId} has ended.`, {
    operation_id: operationId,
  });

const ruleReused = (operationId: string): DomainError =>
  new DomainError(
    'invalid-argument',
    'REQUEST_ID_REUSED',
    `Operation ${operationId} was begun with another rule.`,
    { operation_id: operationId },
    { violations: [{ field: 'operation_id', description: 'was begun with another rule' }] },
  );

/** The cutoff that a rule has at the database's `now`; CUTOFF_TOO_LATE, CLOCKS_DISAGREE. */
export function cutoffOf({ cutoff, latestCutoff, retentionDays }: OwnerRule, now: Temporal.Instant): Temporal.Instant {
  const latest = now.subtract({ hours: 24 * retentionDays });
  if (cutoff && Temporal.Instant.compare(cutoff, latest) > 0) throw cutoffTooLate();
  const chosen = cutoff ?? latest;
  assertClocksAgree(chosen, latestCutoff);
  return chosen;
}

/** What the database's clock says. */
export async function readClock(trx: TenantTransaction): Promise<Temporal.Instant> {
  const now = firstOf<{ now: Temporal.Instant }>(await trx.raw('select clock_timestamp() as now'))?.now;
  if (!now) throw new Error('the database told no time');
  return now;
}

function assertClocksAgree(cutoff: Temporal.Instant, latest: Temporal.Instant): void {
  if (Temporal.Instant.compare(cutoff, latest.add({ milliseconds: LATEST_SLACK_MS })) > 0)
    throw clocksDisagree(cutoff, latest);
}

/**
 * Stores the operation with its rule and cutoff, or finds it; its row is locked for the rest of the transaction.
 * REQUEST_ID_REUSED for another rule, OPERATION_ENDED, CUTOFF_TOO_LATE, CLOCKS_DISAGREE.
 */
export async function beginOperation(
  trx: TenantTransaction,
  { tenantId, subject, caller }: OwnerOrder,
  operationId: string,
  rule: OwnerRule,
): Promise<StoredOperation & { readonly rule: OperationRule }> {
  const key = { tenantId, operationId, subject: subject.name };
  const known = await lockOperation(trx, key);
  if (known) {
    return sameOf(known, rule);
  }
  const cutoff = cutoffOf(rule, await readClock(trx));
  await trx.raw(
    `insert into owner_operations (tenant_id, operation_id, subject, actor, retention_days, cutoff, cutoff_given,
                                   min_to_keep, max_rows, stale_after_days)
     values (:tenantId, :operationId, :subject, :actor, :retentionDays, :cutoff, :cutoffGiven, :minToKeep, :maxRows,
             :staleAfterDays)
     on conflict do nothing`,
    {
      ...key,
      actor: caller.actor,
      retentionDays: rule.retentionDays,
      cutoff: cutoff.toString(),
      cutoffGiven: rule.cutoff !== undefined,
      minToKeep: rule.minToKeep,
      maxRows: rule.maxRows ?? null,
      staleAfterDays: rule.staleAfterDays ?? null,
    },
  );
  const stored = await lockOperation(trx, key);
  if (!stored) throw new Error('the operation was stored and is gone');
  // Another call may have been faster, with another rule or with End.
  return sameOf(stored, rule);
}

function sameOf(operation: StoredOperation, rule: OwnerRule): StoredOperation & { readonly rule: OperationRule } {
  const { operationId, rule: kept, endedAt, cutoffGiven } = operation;
  if (endedAt || !kept) throw operationEnded(operationId);
  // The caller may echo the cutoff that it was answered; it may not leave out one that it gave.
  const isSameCutoff = rule.cutoff ? rule.cutoff.equals(kept.cutoff) : !cutoffGiven;
  const isSame =
    isSameCutoff &&
    rule.retentionDays === kept.retentionDays &&
    rule.minToKeep === kept.minToKeep &&
    rule.maxRows === kept.maxRows &&
    rule.staleAfterDays === kept.staleAfterDays;
  if (!isSame) throw ruleReused(operationId);
  assertClocksAgree(kept.cutoff, rule.latestCutoff);
  return { ...operation, rule: kept };
}

/** Which operation. */
export interface OperationKey {
  readonly tenantId: string;
  readonly operationId: string;
  readonly subject: string;
}

/**
 * Locks the operation's row for the rest of the transaction; undefined where there is none. No later statement of the
 * transaction may run longer than `statementMs`, nor take another way than an index where it can.
 */
export async function lockOperation(
  trx: TenantTransaction,
  key: OperationKey,
  statementMs?: number,
): Promise<StoredOperation | undefined> {
  const row = firstOf<OperationRow>(
    await trx.raw(
      `select o.*, clock_timestamp() as now
              ${statementMs === undefined ? '' : `, set_config('statement_timeout', '${statementMs}', true), ${BY_INDEX}`}
       from owner_operations o
       where o.tenant_id = :tenantId and o.operation_id = :operationId and o.subject = :subject for update`,
      { ...key },
    ),
  );
  return row && toOperation(row);
}

/** As lockOperation, for an operation that must be there and go on; OPERATION_ENDED. */
export async function lockRunning(
  trx: TenantTransaction,
  key: OperationKey,
  statementMs: number,
): Promise<StoredOperation & { readonly rule: OperationRule }> {
  const operation = await lockOperation(trx, key, statementMs);
  if (!operation?.rule || operation.endedAt) throw operationEnded(key.operationId);
  return { ...operation, rule: operation.rule };
}

/** Settings for the rest of a transaction: a table may have grown since it was last analyzed. */
export const BY_INDEX =
  "set_config('enable_seqscan', 'off', true) as seqscan, set_config('enable_bitmapscan', 'off', true) as bitmapscan";

/** Stores how far the operation has come. Its row must be locked. */
export async function saveOperation(
  trx: TenantTransaction,
  key: OperationKey,
  operation: StoredOperation,
): Promise<void> {
  const { removed, dependents, waits, position, isPassDirty, pausedAt, finishedAt } = operation;
  await trx.raw(
    `update owner_operations
     set removed = :removed, dependents = cast(:dependents as jsonb), waits = cast(:waits as jsonb),
         position = cast(:position as jsonb), is_pass_dirty = :isPassDirty, paused_at = :pausedAt,
         finished_at = :finishedAt, updated_at = clock_timestamp()
     where tenant_id = :tenantId and operation_id = :operationId and subject = :subject`,
    {
      ...key,
      removed,
      dependents: JSON.stringify(dependents),
      waits: JSON.stringify(waits),
      position: position === undefined ? null : JSON.stringify(position),
      isPassDirty,
      pausedAt: pausedAt?.toString() ?? null,
      finishedAt: finishedAt?.toString() ?? null,
    },
  );
}

/** Ends the operation, with a tombstone where it is not there; whether this call was the one. */
export async function endOperation(
  trx: TenantTransaction,
  key: OperationKey,
  actor: string,
): Promise<{ readonly operation: StoredOperation; readonly isNew: boolean }> {
  await trx.raw(
    `insert into owner_operations (tenant_id, operation_id, subject, actor)
     values (:tenantId, :operationId, :subject, :actor) on conflict do nothing`,
    { ...key, actor },
  );
  // Waits for the batch that runs; the next one finds it ended.
  const operation = await lockOperation(trx, key);
  if (!operation) throw new Error('the operation was stored and is gone');
  if (operation.endedAt) return { operation, isNew: false };
  await trx.raw(
    `update owner_operations set ended_at = clock_timestamp(), updated_at = clock_timestamp()
     where tenant_id = :tenantId and operation_id = :operationId and subject = :subject`,
    { ...key },
  );
  return { operation, isNew: true };
}

const toOperation = (row: OperationRow): StoredOperation => ({
  operationId: row.operation_id,
  rule:
    row.retention_days === null || row.cutoff === null
      ? undefined
      : {
          retentionDays: row.retention_days,
          cutoff: row.cutoff,
          minToKeep: row.min_to_keep,
          maxRows: row.max_rows ?? undefined,
          staleAfterDays: row.stale_after_days ?? undefined,
        },
  cutoffGiven: row.cutoff_given,
  removed: row.removed,
  dependents: row.dependents,
  waits: row.waits,
  position: row.position ?? undefined,
  isPassDirty: row.is_pass_dirty,
  pausedAt: row.paused_at ?? undefined,
  finishedAt: row.finished_at ?? undefined,
  endedAt: row.ended_at ?? undefined,
  now: row.now,
});

/** The sums of records of numbers, by name. */
export function sumOf(...parts: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const sums: Record<string, number> = {};
  for (const part of parts) for (const [name, n] of Object.entries(part)) sums[name] = (sums[name] ?? 0) + n;
  return sums;
}
