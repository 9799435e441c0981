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
import { firstOf, rowsOf } from '#libs/postgres/rows.ts';
import { runNotTerminal } from '../../domain/errors.ts';
import { assertTerminal, isTerminal } from '../../domain/run.ts';
import { HIDDEN_RUNS } from './hidden-runs.ts';
import { lockRun, toRun } from './run-repository.ts';

/** A table of effects: its rows carry `tenant_id`, `run_id` and `step`, their provenance. */
export interface EffectTable {
  readonly table: string;
  /** What its rows are called in counts. */
  readonly resourceType: string;
  /**
   * Whose rows hang on these, by which column; those of other runs may. A row of these that another run's row hangs on is
   * passed on to that run instead of being removed. Absent: nobody shares them.
   */
  readonly sharedThrough?: readonly { readonly table: string; readonly column: string }[];
}

const MAX_SAMPLES = 100;

/** The gate of RunService's own rows, whose lock is the run's row. */
export const makeOwnGate = (database: Database): RunGate => makeRunGate(database, KEPT);

/** RunService's own rows in Postgres. `effects` are in the order of their removal, children before parents. */
export function makeOwnRows(database: Database, effects: readonly EffectTable[]): RunRows {
  const gate = makeOwnGate(database);
  // The order of removal: what a row points to goes after it.
  const children: readonly EffectTable[] = [...effects, { table: 'workflow_run_steps', resourceType: 'run_step' }];
  const countQuery = [
    ...children.map((child) => countOf(child.table, 'run_id', child.resourceType, child.sharedThrough)),
    countOf('workflow_runs', 'id', 'run'),
  ].join(' union all ');
  const countOfStep = effects.map(
    ({ table, resourceType }) => `${countOf(table, 'run_id', resourceType)} and step = :step`,
  );

  const countRows = async (trx: TenantTransaction, { tenantId, runId }: RunScope): Promise<ResourceCount[]> =>
    toFound(rowsOf<CountRow>(await trx.raw(countQuery, { tenantId, runId })));

  const removeRun = async (trx: TenantTransaction, scope: RunScope, limit: number): Promise<Batch> => {
    const { tenantId, runId } = scope;
    const holds = new Set((await countRows(trx, scope)).map(({ resourceType }) => resourceType));
    const counts: ResourceCount[] = [];
    let removed = 0;
    for (const { table, resourceType, sharedThrough } of children) {
      if (removed >= limit) break;
      if (!holds.has(resourceType)) continue;
      const batch = { table, tenantId, where: 'run_id = :runId', bindings: { runId }, limit: limit - removed };
      const { chosen, deleted } = await deleteOneBatch(trx, batch);
      // The run's lock is held, so only the trigger that passes a row on keeps one that was chosen.
      const passedOn = sharedThrough ? chosen - deleted : 0;
      counts.push({ ...goneCount(resourceType, deleted), passedOn });
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

  const removeStep = async (
    trx: TenantTransaction,
    { tenantId, runId, step = '' }: RunScope,
    limit: number,
  ): Promise<Batch> => {
    const counts: ResourceCount[] = [];
    let removed = 0;
    for (const { table, resourceType } of effects) {
      if (removed >= limit) break;
      const where = 'run_id = :runId and step = :step';
      const batch = { table, tenantId, where, bindings: { runId, step }, limit: limit - removed };
      const { deleted } = await deleteOneBatch(trx, batch);
      counts.push(goneCount(resourceType, deleted));
      removed += deleted;
    }
    // What the step resulted in tells of the effects that have just gone.
    await trx.raw(
      `update workflow_run_steps set output = null
       where tenant_id = :tenantId and run_id = :runId and name = :step and output is not null`,
      { tenantId, runId, step },
    );
    return { counts, removed, isDone: removed < limit };
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
      gate.remove(scope, operation, (trx) => (scope.step === undefined ? removeRun : removeStep)(trx, scope, limit)),

    preview: (scope) =>
      database.forTenant(scope.tenantId, async (trx) => {
        const { tenantId, runId } = scope;
        const found = firstOf<Parameters<typeof toRun>[0]>(
          await trx.raw('select * from workflow_runs where tenant_id = :tenantId and id = :runId', { tenantId, runId }),
        );
        if (!found) return { counts: [], samples: [] };
        const { state } = toRun(found);
        const { reason, message } = runNotTerminal(state);
        const counts = await countRows(trx, scope);
        const steps = await trx.raw(
          `select name from workflow_run_steps where tenant_id = :tenantId and run_id = :runId
           order by position limit ${MAX_SAMPLES}`,
          { tenantId, runId },
        );
        return {
          counts,
          blockers: isTerminal(state) ? [] : [{ reason, resourceType: 'run', resourceId: runId, message }],
          samples: [
            { resourceType: 'run', resourceId: runId },
            ...rowsOf<{ name: string }>(steps).map(({ name }) => ({ resourceType: 'run_step', resourceId: name })),
          ],
        };
      }),

    left: (scope) =>
      database.forTenant(scope.tenantId, async (trx) => {
        const { tenantId, runId, step } = scope;
        // Who inherits is decided when a row goes, so all of it is left until then.
        if (step === undefined) return { counts: asLeft(await countRows(trx, scope)), samples: [] };
        if (effects.length === 0) return { counts: [], samples: [] };
        const counted = await trx.raw(countOfStep.join(' union all '), { tenantId, runId, step });
        return { counts: toFound(rowsOf<CountRow>(counted)), samples: [] };
      }),
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

interface CountRow {
  readonly type: string;
  readonly found: number;
  readonly passed_on: number;
}

/** Counts a run's rows, and how many of them a removal would pass on to other runs. */
function countOf(
  table: string,
  column: string,
  resourceType: string,
  sharedThrough: EffectTable['sharedThrough'] = [],
): string {
  const isShared = sharedThrough.map(
    (child) => `exists (select from ${child.table} c
      where c.tenant_id = t.tenant_id and c.${child.column} = t.id and c.run_id is distinct from t.run_id)`,
  );
  const passedOn = isShared.length > 0 ? `count(*) filter (where ${isShared.join(' or ')})` : '0::bigint';
  return `select '${resourceType}' as type, count(*) as found, ${passedOn} as passed_on
    from ${table} t where t.tenant_id = :tenantId and t.${column} = :runId`;
}

const toFound = (rows: readonly CountRow[]): ResourceCount[] =>
  rows
    .filter(({ found }) => found > 0)
    .map(({ type, found, passed_on: passedOn }) => ({
      resourceType: type,
      found,
      deleted: 0,
      left: found - passedOn,
      bytes: 0,
      ...(passedOn > 0 ? { passedOn } : {}),
    }));

/** Counts before anything is passed on: all of it is left. */
const asLeft = (counts: readonly ResourceCount[]): ResourceCount[] =>
  counts.map(({ passedOn: _, ...count }) => ({ ...count, left: count.found }));
