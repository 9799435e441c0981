import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import type { Inventory, Preview, RunScope } from '#libs/participant/participant.ts';
import type { TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf, rowsOf } from '#libs/postgres/rows.ts';
import { runNotTerminal } from '../../domain/errors.ts';
import { isTerminal } from '../../domain/run.ts';
import { toRun } from './run-repository.ts';

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

/** What there is of RunService's own rows. `children` are the effects and what else hangs on a run. */
export function makeOwnInventory(effects: readonly EffectTable[], children: readonly EffectTable[]) {
  const ofRun = [
    ...children.map((child) => countOf(child.table, 'run_id', child.resourceType, child.sharedThrough)),
    countOf('workflow_runs', 'id', 'run'),
  ].join(' union all ');
  const ofStep = effects
    .map(({ table, resourceType }) => `${countOf(table, 'run_id', resourceType)} and step = :step`)
    .join(' union all ');

  const countRun = async (trx: TenantTransaction, { tenantId, runId }: RunScope): Promise<ResourceCount[]> =>
    toFound(rowsOf<CountRow>(await trx.raw(ofRun, { tenantId, runId })));

  return {
    /** Counts a run's rows, and how many of them others would inherit. */
    countRun,

    /** What a purge of the run would take, and that it must have ended. */
    async preview(trx: TenantTransaction, scope: RunScope): Promise<Preview> {
      const { tenantId, runId } = scope;
      const found = firstOf<Parameters<typeof toRun>[0]>(
        await trx.raw('select * from workflow_runs where tenant_id = :tenantId and id = :runId', { tenantId, runId }),
      );
      if (!found) return { counts: [], samples: [] };
      const { state } = toRun(found);
      const { reason, message } = runNotTerminal(state);
      const counts = await countRun(trx, scope);
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
    },

    /** What is left of a run, or of the effects of one of its steps. */
    async left(trx: TenantTransaction, scope: RunScope): Promise<Inventory> {
      const { tenantId, runId, step } = scope;
      if (step === undefined) {
        // Who inherits is decided when a row goes, so all of it is left until then.
        const counts = (await countRun(trx, scope)).map(({ passedOn: _, ...count }) => ({
          ...count,
          left: count.found,
        }));
        return { counts, samples: [] };
      }
      if (effects.length === 0) return { counts: [], samples: [] };
      return { counts: toFound(rowsOf<CountRow>(await trx.raw(ofStep, { tenantId, runId, step }))), samples: [] };
    },
  };
}

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
