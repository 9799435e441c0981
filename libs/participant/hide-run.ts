import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import type { RunOperation, RunScope } from './participant.ts';
import type { HoldRun } from './run-lock.ts';
import type { TombstoneKey, Tombstones } from './tombstones.ts';

/** What an operation has come to, over all calls with its key. */
export interface Touched {
  readonly counts: readonly ResourceCount[];
  /** Whether this call did anything: a repetition does not. */
  readonly isNew: boolean;
}

/** How a service hides a run, each under the run's lock and once for each operation. */
export interface HiddenRows {
  /** Must hide what is visible, and count as `deleted` all that is hidden by this operation. */
  hide(trx: TenantTransaction, scope: RunScope, operation: RunOperation): Promise<readonly ResourceCount[]>;
  /** Must show exactly what this soft delete hid, and count it as `deleted`. */
  show(trx: TenantTransaction, scope: RunScope, softDeleteId: string): Promise<readonly ResourceCount[]>;
  /** OPERATION_IN_PROGRESS for a purge that has left no tombstone yet. Absent: each begins with its tombstone. */
  assertNoPurge?(trx: TenantTransaction, scope: RunScope): Promise<void>;
}

/** Throws what forbids it that the run is hidden or purged, such as JOB_NOT_TERMINAL. */
export type CheckRun = (trx: TenantTransaction) => Promise<void>;

/** What hides a run and brings it back, each method in one transaction under the run's lock. */
export interface RunHiding {
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
  /** As `hide`, in a transaction that holds the run already and knows that nothing forbids it. */
  hideNow(trx: TenantTransaction, scope: RunScope, operation: RunOperation): Promise<Touched>;
  /** As `restore`, in a transaction that holds the run already and knows that no purge has begun. */
  restoreNow(trx: TenantTransaction, scope: RunScope, operation: RunOperation, softDeleteId: string): Promise<Touched>;
}

/** What the hiding of a run stands on. */
export interface HidingParts {
  readonly database: Database;
  readonly hold: HoldRun;
  readonly rows: HiddenRows;
  readonly tombstones: Tombstones;
  readonly keyOf: (scope: RunScope, kind: 'SOFT_DELETE' | 'RESTORE', operation: RunOperation) => TombstoneKey;
  /** Tells the audit, where anything was done. */
  readonly tell: (
    trx: TenantTransaction,
    deed: 'soft-delete' | 'undelete',
    scope: RunScope,
    operation: RunOperation,
    counts: readonly ResourceCount[],
  ) => Promise<Touched>;
}

/** Makes RunHiding. */
export function makeRunHiding({ database, hold, rows, tombstones, keyOf, tell }: HidingParts): RunHiding {
  const assertNoPurge = async (trx: TenantTransaction, scope: RunScope): Promise<void> => {
    await tombstones.assertNoPurge(trx, scope);
    await rows.assertNoPurge?.(trx, scope);
  };

  const hideNow: RunHiding['hideNow'] = async (trx, scope, operation) => {
    const counts = await rows.hide(trx, scope, operation);
    // Until it is restored, nothing that is visible can be made for the run.
    await tombstones.leave(trx, keyOf(scope, 'SOFT_DELETE', operation), counts);
    return tell(trx, 'soft-delete', scope, operation, counts);
  };

  const restoreNow: RunHiding['restoreNow'] = async (trx, scope, operation, softDeleteId) => {
    const counts = await rows.show(trx, scope, softDeleteId);
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
        await hold(trx, scope);
        if (await tombstones.find(trx, takenBackKey(scope, operation.operationId))) return known([]);
        const before = await tombstones.find(trx, keyOf(scope, 'SOFT_DELETE', operation));
        if (before?.counts) return known(before.counts);
        await assertNoPurge(trx, scope);
        await check?.(trx);
        return hideNow(trx, scope, operation);
      }),

    restore: (scope, operation, softDeleteId) =>
      database.forTenant(scope.tenantId, async (trx) => {
        await hold(trx, scope);
        const before =
          (await tombstones.find(trx, keyOf(scope, 'RESTORE', operation))) ??
          (await tombstones.find(trx, takenBackKey(scope, softDeleteId)));
        if (before?.counts) return known(before.counts);
        await assertNoPurge(trx, scope);
        return restoreNow(trx, scope, operation, softDeleteId);
      }),
  };
}

const takenBackKey = ({ tenantId, runId }: RunScope, operationId: string): TombstoneKey => ({
  tenantId,
  runId,
  step: '',
  kind: 'RESTORED',
  operationId,
});
