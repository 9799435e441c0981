import { type AuditEntry, audit } from '#libs/audit/write-audit.ts';
import { operationInProgress } from '#libs/kernel/domain-error.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import { addCounts, sumDeleted } from './counts.ts';
import type { RunOperation, RunScope } from './participant.ts';
import type { HoldRun } from './run-lock.ts';

/** What an operation has come to, over all calls with its key. */
export interface Touched {
  readonly counts: readonly ResourceCount[];
  /** Whether this call did anything: a repetition does not. */
  readonly isNew: boolean;
}

/** What one batch has removed, counted as `deleted` and `passedOn`. */
export interface Batch {
  readonly counts: readonly ResourceCount[];
  /** Rows, as the call's limit counts them. */
  readonly removed: number;
  /** Whether nothing is left. */
  readonly isDone: boolean;
}

/** What the audit is told of. */
export type Deed = 'soft-delete' | 'undelete' | 'purge' | 'compensate';

/** How a service hides a run, each under the run's lock and once for each operation. */
export interface HiddenRows {
  /** Must hide what is visible, and count as `deleted` all that is hidden by this operation. */
  hide(trx: TenantTransaction, scope: RunScope, operation: RunOperation): Promise<readonly ResourceCount[]>;
  /** Must show exactly what this soft delete hid, and count it as `deleted`. */
  show(trx: TenantTransaction, scope: RunScope, softDeleteId: string): Promise<readonly ResourceCount[]>;
  /** OPERATION_IN_PROGRESS for a purge that has left no tombstone yet. Absent: each begins with its tombstone. */
  assertNoPurge?(trx: TenantTransaction, scope: RunScope): Promise<void>;
}

/** How a service keeps a run. */
export interface KeptRows extends HiddenRows {
  /** The table in which the service remembers its operations. */
  readonly tombstones: 'step_tombstones' | 'participant_operations';
  readonly hold: HoldRun;
  /** Whether steps act here, so that their keys are in `step_actions`. */
  readonly hasActions: boolean;
  /** The step that a tombstone of the whole run has; empty by default. */
  partOf?(operation: RunOperation): string;
  /** The entry of the audit; undefined: none. */
  toEntry(
    deed: Deed,
    scope: RunScope,
    operation: RunOperation,
    counts: readonly ResourceCount[],
  ): AuditEntry | undefined;
}

/** Throws what forbids it that the run is hidden or purged, such as JOB_NOT_TERMINAL. */
export type CheckRun = (trx: TenantTransaction) => Promise<void>;

/**
 * What a service remembers of a run, in the order in which cascades may be repeated, be late or meet. Each method is one
 * transaction under the run's lock.
 */
export interface RunGate {
  /**
   * Hides the run; counts what this operation hid, none where it was taken back before. OPERATION_IN_PROGRESS once a
   * purge has begun.
   */
  hide(scope: RunScope, operation: RunOperation, check?: CheckRun): Promise<Touched>;
  /**
   * Brings back what the soft delete hid, and leaves a tombstone against its coming late; counts the same for ever
   * after. OPERATION_IN_PROGRESS once a purge has begun.
   */
  restore(scope: RunScope, operation: RunOperation, softDeleteId: string): Promise<Touched>;
  /**
   * Commits that nothing of this run and step can be made any more, what is being made included: it is either refused or
   * seen by what follows.
   */
  forbid(scope: RunScope, operation: RunOperation, check?: CheckRun): Promise<void>;
  /** Removes a batch and adds it to the operation's counts. */
  remove(
    scope: RunScope,
    operation: RunOperation,
    removeBatch: (trx: TenantTransaction) => Promise<Batch>,
  ): Promise<Touched & Batch>;
  /** As `hide`, in a transaction that holds the run already and knows that nothing forbids it. */
  hideNow(trx: TenantTransaction, scope: RunScope, operation: RunOperation): Promise<Touched>;
  /** As `restore`, in a transaction that holds the run already and knows that no purge has begun. */
  restoreNow(trx: TenantTransaction, scope: RunScope, operation: RunOperation, softDeleteId: string): Promise<Touched>;
}

/**
 * What an operation has done to a run, and what it forbids since. SOFT_DELETE, PURGE and COMPENSATE refuse new effects;
 * RESTORED refuses the soft delete that was taken back; RESTORE only remembers what the undelete brought back.
 */
export type TombstoneKind = 'SOFT_DELETE' | 'RESTORE' | 'RESTORED' | 'PURGE' | 'COMPENSATE';

/** Which tombstone. */
interface TombstoneKey {
  readonly tenantId: string;
  readonly runId: string;
  /** Empty: of the whole run. */
  readonly step: string;
  readonly kind: TombstoneKind;
  /** The operation; for RESTORED the soft delete that was taken back, for COMPENSATE the run. */
  readonly operationId: string;
}

/** Makes the gate of a service's rows. */
export function makeRunGate(database: Database, kept: KeptRows): RunGate {
  const tombstones = makeTombstones(kept.tombstones);

  const keyOf = (
    { tenantId, runId, step }: RunScope,
    kind: TombstoneKind,
    operation: RunOperation,
    operationId = operation.operationId,
  ): TombstoneKey => ({ tenantId, runId, step: step ?? kept.partOf?.(operation) ?? '', kind, operationId });

  const takenBackKey = ({ tenantId, runId }: RunScope, operationId: string): TombstoneKey => ({
    tenantId,
    runId,
    step: '',
    kind: 'RESTORED',
    operationId,
  });

  const endKey = (scope: RunScope, operation: RunOperation): TombstoneKey =>
    scope.step === undefined ? keyOf(scope, 'PURGE', operation) : keyOf(scope, 'COMPENSATE', operation, scope.runId);

  const assertNoPurge = async (trx: TenantTransaction, scope: RunScope): Promise<void> => {
    await tombstones.assertNoPurge(trx, scope);
    await kept.assertNoPurge?.(trx, scope);
  };

  const tell = async (
    trx: TenantTransaction,
    deed: Deed,
    scope: RunScope,
    operation: RunOperation,
    counts: readonly ResourceCount[],
  ): Promise<Touched> => {
    const isNew = sumDeleted(counts) > 0;
    const entry = isNew ? kept.toEntry(deed, scope, operation, counts) : undefined;
    if (entry) await audit(trx, entry);
    return { counts, isNew };
  };

  const hideNow: RunGate['hideNow'] = async (trx, scope, operation) => {
    const counts = await kept.hide(trx, scope, operation);
    // Until it is restored, nothing that is visible can be made for the run.
    await tombstones.leave(trx, keyOf(scope, 'SOFT_DELETE', operation), counts);
    return tell(trx, 'soft-delete', scope, operation, counts);
  };

  const restoreNow: RunGate['restoreNow'] = async (trx, scope, operation, softDeleteId) => {
    const counts = await kept.show(trx, scope, softDeleteId);
    const { tenantId, runId } = scope;
    await tombstones.remove(trx, { tenantId, runId, kind: 'SOFT_DELETE', operationId: softDeleteId });
    await tombstones.leave(trx, takenBackKey(scope, softDeleteId), counts);
    await tombstones.leave(trx, keyOf(scope, 'RESTORE', operation), counts);
    return tell(trx, 'undelete', scope, operation, counts);
  };

  const known = (counts: readonly ResourceCount[]): Touched => ({ counts, isNew: false });

  return {
    hideNow,
    restoreNow,

    hide: (scope, operation, check) =>
      database.forTenant(scope.tenantId, async (trx) => {
        await kept.hold(trx, scope);
        if (await tombstones.find(trx, takenBackKey(scope, operation.operationId))) return known([]);
        const before = await tombstones.find(trx, keyOf(scope, 'SOFT_DELETE', operation));
        if (before?.counts) return known(before.counts);
        await assertNoPurge(trx, scope);
        await check?.(trx);
        return hideNow(trx, scope, operation);
      }),

    restore: (scope, operation, softDeleteId) =>
      database.forTenant(scope.tenantId, async (trx) => {
        await kept.hold(trx, scope);
        const before =
          (await tombstones.find(trx, keyOf(scope, 'RESTORE', operation))) ??
          (await tombstones.find(trx, takenBackKey(scope, softDeleteId)));
        if (before?.counts) return known(before.counts);
        await assertNoPurge(trx, scope);
        return restoreNow(trx, scope, operation, softDeleteId);
      }),

    forbid: (scope, operation, check) =>
      database.forTenant(scope.tenantId, async (trx) => {
        const { tenantId, runId, step = null } = scope;
        await kept.hold(trx, scope);
        await check?.(trx);
        await tombstones.leave(trx, endKey(scope, operation), []);
        if (!kept.hasActions) return;
        // The tombstone answers for them from here on.
        await trx.raw(
          `delete from step_actions
           where tenant_id = :tenantId and run_id = :runId and (cast(:step as text) is null or step = :step)`,
          { tenantId, runId, step },
        );
      }),

    remove: (scope, operation, removeBatch) =>
      database.forTenant(scope.tenantId, async (trx) => {
        await kept.hold(trx, scope);
        const key = endKey(scope, operation);
        const before = await tombstones.find(trx, key);
        const batch = await removeBatch(trx);
        const counts = addCounts(before?.counts ?? [], batch.counts);
        const { wasDone } = await tombstones.save(trx, key, counts, batch.isDone);
        if (!batch.isDone || wasDone) return { ...batch, ...known(counts) };
        const deed = scope.step === undefined ? 'purge' : 'compensate';
        return { ...batch, ...(await tell(trx, deed, scope, operation, counts)) };
      }),
  };
}

/** The entry of the audit of what was done to a run, or to the effects of one of its steps. */
export const toRunEntry = (
  action: string,
  { tenantId, runId, step }: RunScope,
  { caller: { actor, subject }, reason }: RunOperation,
  counts: Readonly<Record<string, number>>,
): AuditEntry => {
  const target =
    step === undefined
      ? { targetType: 'run', targetId: runId }
      : { targetType: 'run_step', targetId: `${runId}/${step}` };
  return { tenantId, actor, subject, action, ...target, reason, outcome: 'COMPLETE', counts };
};

const KEY = `tenant_id = :tenantId and run_id = :runId and step = :step and kind = :kind and operation_id = :operationId`;

/**
 * The tombstones of a service, in a table that has the columns of a TombstoneKey, `counts` and `finished_at`. All of them
 * are read and written under the run's lock.
 */
const makeTombstones = (table: KeptRows['tombstones']) => ({
  /** What the operation has come to; `counts` are not known where a release that kept none has left the tombstone. */
  async find(trx: TenantTransaction, key: TombstoneKey) {
    const row = firstOf<{ counts: readonly ResourceCount[] | null }>(
      await trx.raw(`select counts from ${table} where ${KEY}`, { ...key }),
    );
    return row && { counts: row.counts ?? undefined };
  },

  /** Leaves it unless it is there; `counts` is what the operation has come to. */
  async leave(trx: TenantTransaction, key: TombstoneKey, counts: readonly ResourceCount[]) {
    await trx.raw(
      `insert into ${table} (tenant_id, run_id, step, kind, operation_id, counts)
       values (:tenantId, :runId, :step, :kind, :operationId, cast(:counts as jsonb)) on conflict do nothing`,
      { ...key, counts: JSON.stringify(counts) },
    );
  },

  /** Writes what the operation has come to, and with `isDone` that it has ended; whether it had ended before. */
  async save(trx: TenantTransaction, key: TombstoneKey, counts: readonly ResourceCount[], isDone: boolean) {
    const row = firstOf<{ was_done: boolean }>(
      await trx.raw(
        `with before as (
           select finished_at, clock_timestamp() as at from ${table} where ${KEY})
         update ${table} t
         set counts = cast(:counts as jsonb),
             finished_at = case when :isDone then coalesce(t.finished_at, before.at) else t.finished_at end
         from before where ${KEY.replaceAll(/(\w+) = :/g, 't.$1 = :')}
         returning before.finished_at is not null as was_done`,
        { ...key, counts: JSON.stringify(counts), isDone },
      ),
    );
    if (!row) throw new Error('the tombstone is not there');
    return { wasDone: row.was_done };
  },

  /** Takes away those of the operation, so that they forbid nothing any more. */
  async remove(trx: TenantTransaction, key: Omit<TombstoneKey, 'step'>) {
    await trx.raw(
      `delete from ${table}
       where tenant_id = :tenantId and run_id = :runId and kind = :kind and operation_id = :operationId`,
      { ...key },
    );
  },

  /** OPERATION_IN_PROGRESS once a purge of the run has begun. */
  async assertNoPurge(trx: TenantTransaction, { tenantId, runId }: RunScope) {
    const purge = firstOf<{ operation_id: string }>(
      await trx.raw(
        `select operation_id from ${table}
         where tenant_id = :tenantId and run_id = :runId and kind = 'PURGE' order by created_at limit 1`,
        { tenantId, runId },
      ),
    );
    if (purge) throw operationInProgress(purge.operation_id);
  },
});
