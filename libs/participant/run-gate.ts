import { type AuditEntry, audit } from '#libs/audit/write-audit.ts';
import { addCounts, type ResourceCount } from '#libs/kernel/resource-count.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { sumDeleted } from './counts.ts';
import { type CheckRun, type HiddenRows, makeRunHiding, type RunHiding, type Touched } from './hide-run.ts';
import type { RunOperation, RunScope } from './participant.ts';
import type { HoldRun } from './run-lock.ts';
import { makeTombstones, type TombstoneKey, type TombstoneKind, type TombstoneTable } from './tombstones.ts';

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

/** How a service keeps a run. */
export interface KeptRows extends HiddenRows {
  readonly tombstones: TombstoneTable;
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

/**
 * What a service remembers of a run, in the order in which cascades may be repeated, be late or meet. Each method is one
 * transaction under the run's lock.
 */
export interface RunGate extends RunHiding {
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

  const endKey = (scope: RunScope, operation: RunOperation): TombstoneKey =>
    scope.step === undefined ? keyOf(scope, 'PURGE', operation) : keyOf(scope, 'COMPENSATE', operation, scope.runId);

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

  return {
    ...makeRunHiding({ database, hold: kept.hold, rows: kept, tombstones, keyOf, tell }),

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
        if (!batch.isDone || wasDone) return { ...batch, counts, isNew: false };
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
