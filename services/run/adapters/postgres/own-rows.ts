import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import { goneCount } from '#libs/participant/counts.ts';
import type { RunRows } from '#libs/participant/make-participant.ts';
import type { RunScope } from '#libs/participant/participant.ts';
import {
  type Batch,
  type Deed,
  type KeptRows,
  makeRunGate,
  type RunGate,
  toRunEntry,
} from '#libs/participant/run-gate.ts';
import { deleteOneBatch } from '#libs/postgres/delete-batch.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { assertTerminal } from '../../domain/run.ts';
import { HIDDEN_RUNS } from './hidden-runs.ts';
import { type EffectTable, makeOwnInventory } from './own-inventory.ts';
import { lockRun, toRun } from './run-repository.ts';
import { removeStepEffects } from './step-effects.ts';

/** The gate of RunService's own rows, whose lock is the run's row. */
export const makeOwnGate = (database: Database): RunGate => makeRunGate(database, KEPT);

/** RunService's own rows in Postgres. `effects` are in the order of their removal, children before parents. */
export function makeOwnRows(database: Database, effects: readonly EffectTable[]): RunRows {
  const gate = makeOwnGate(database);
  // The order of removal: what a row points to goes after it.
  const children: readonly EffectTable[] = [...effects, { table: 'workflow_run_steps', resourceType: 'run_step' }];
  const inventory = makeOwnInventory(effects, children);

  const removeRun = async (trx: TenantTransaction, scope: RunScope, limit: number): Promise<Batch> => {
    const { tenantId, runId } = scope;
    const holds = new Set((await inventory.countRun(trx, scope)).map(({ resourceType }) => resourceType));
    const counts: ResourceCount[] = [];
    let removed = 0;
    for (const { table, resourceType, sharedThrough } of children) {
      if (removed >= limit) break;
      if (!holds.has(resourceType)) continue;
      const batch = { table, tenantId, where: 'run_id = :runId', bindings: { runId }, limit: limit - removed };
      const { chosen, deleted } = await deleteOneBatch(trx, batch);
      // The run's lock is held, so only the trigger that passes a row on keeps one that was chosen.
      const passedOn = sharedThrough ? chosen - deleted : 0;
      counts.push(goneCount(resourceType, deleted, 0, passedOn));
      removed += deleted + passedOn;
    }
    const isDone = removed < limit;
    if (isDone) {
      const { rowCount } = await trx.raw('delete from workflow_runs where tenant_id = :tenantId and id = :runId', {
        tenantId,
        runId,
      });
      counts.push(goneCount('run', rowCount ?? 0));
    }
    return { counts, removed, isDone };
  };

  const checkTerminal = async (trx: TenantTransaction, { tenantId, runId }: RunScope): Promise<void> => {
    const run = await lockRun(trx, tenantId, runId);
    if (run) assertTerminal(toRun(run.row));
  };

  return {
    hide: (scope, operation) => gate.hide(scope, operation, (trx) => checkTerminal(trx, scope)),
    restore: gate.restore,

    // The effects of a step are removed whatever state its run is in.
    forbid: (scope, operation) =>
      gate.forbid(scope, operation, scope.step === undefined ? (trx) => checkTerminal(trx, scope) : undefined),

    removeBatch: (scope, operation, limit) =>
      gate.remove(scope, operation, (trx) =>
        scope.step === undefined ? removeRun(trx, scope, limit) : removeStepEffects(trx, effects, scope, limit),
      ),

    preview: (scope) => database.forTenant(scope.tenantId, (trx) => inventory.preview(trx, scope)),

    left: (scope) => database.forTenant(scope.tenantId, (trx) => inventory.left(trx, scope)),
  };
}

/** How RunService keeps a run. */
const KEPT: KeptRows = {
  tombstones: 'participant_operations',
  hold: async (trx, { tenantId, runId }) => void (await lockRun(trx, tenantId, runId)),
  hasActions: false,
  partOf: ({ part }) => part,

  ...HIDDEN_RUNS,

  toEntry(deed, scope, operation, counts) {
    const action = ACTIONS[deed];
    const sums = counts.map(({ resourceType, deleted }) => [resourceType, deleted]);
    return action === undefined ? undefined : toRunEntry(action, scope, operation, Object.fromEntries(sums));
  },
};

// The deletion itself is in the audit under its own name, and a compensation with its step.
const ACTIONS: Readonly<Record<Deed, string | undefined>> = {
  'soft-delete': 'hide-rows',
  undelete: 'show-rows',
  purge: 'purge-rows',
  compensate: undefined,
};
