import { runDeleted } from '#libs/kernel/domain-error.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import { stepCompensated, stepKeyReused } from './errors.ts';
import type { RunLock } from './run-lock.ts';
import type { TombstoneKind } from './tombstones.ts';

/** The action of one step of a run, keyed by both. */
export interface KeyedAction {
  readonly tenantId: string;
  readonly runId: string;
  readonly step: string;
  /** Of the action and its whole input. */
  readonly fingerprint: string;
}

/**
 * Shares a run with others who make something of it, until the transaction ends; STEP_COMPENSATED, or RUN_DELETED while
 * it is hidden. Without a step, for what is made for the run alone.
 */
export async function enterRun(
  trx: TenantTransaction,
  lock: RunLock,
  effect: { readonly tenantId: string; readonly runId: string; readonly step?: string | undefined },
): Promise<void> {
  await lock.share(trx, effect);
  await assertTakesEffects(trx, effect);
}

/** The columns of `step_actions` in which services keep what an action has made. */
export type EffectColumn = 'job_id' | 'incident_id' | 'effect_id';

/**
 * Has an action done once, in one transaction: the id of its effect, which is the one that `make` was given when the key was
 * used for the first time. STEP_COMPENSATED, RUN_DELETED, REQUEST_ID_REUSED.
 */
export const actOnce = <T>(
  database: Database,
  lock: RunLock,
  column: EffectColumn,
  action: KeyedAction & { readonly id: string },
  make: (trx: TenantTransaction) => Promise<unknown>,
  read: (trx: TenantTransaction, effectId: string) => Promise<T>,
): Promise<T> =>
  database.forTenant(action.tenantId, async (trx) => {
    await enterRun(trx, lock, action);
    const { tenantId, runId, step, fingerprint, id } = action;
    // The second of two at once waits here for the first, and then sees what it did.
    const { rowCount } = await trx.raw(
      `insert into step_actions (tenant_id, run_id, step, fingerprint, ${column})
       values (:tenantId, :runId, :step, :fingerprint, :id) on conflict do nothing`,
      { tenantId, runId, step, fingerprint, id },
    );
    if (rowCount === 1) await make(trx);
    return read(trx, (await readAction(trx, action, column)).effect_id);
  });

/** What the action's key has come to, under the run's lock; REQUEST_ID_REUSED for another fingerprint. */
export async function readAction<More extends object = object>(
  trx: TenantTransaction,
  { tenantId, runId, step, fingerprint }: KeyedAction,
  column: EffectColumn,
  more: readonly (keyof More & string)[] = [],
): Promise<{ readonly effect_id: string } & More> {
  const row = firstOf<{ readonly effect_id: string; readonly fingerprint: string } & More>(
    await trx.raw(
      `select ${[`${column} as effect_id`, 'fingerprint', ...more].join(', ')} from step_actions
       where tenant_id = :tenantId and run_id = :runId and step = :step`,
      { tenantId, runId, step },
    ),
  );
  // Whoever removes it leaves a tombstone under the run's lock, which was looked for under that lock.
  if (!row) throw new Error('the action is not there, and neither is a tombstone');
  if (row.fingerprint !== fingerprint) throw stepKeyReused(runId, step);
  return row;
}

const FORBIDS = `kind in ('COMPENSATE', 'PURGE', 'SOFT_DELETE')`;

/** The tombstones that forbid new effects of the step $3 of the run $2 of the tenant $1. */
export const TOMBSTONES_OF_STEP = `select from step_tombstones
  where tenant_id = $1 and run_id = $2 and step in ($3, '') and ${FORBIDS}`;

/**
 * Passes unless the run was purged or its step compensated; STEP_COMPENSATED otherwise, or RUN_DELETED while the run is
 * hidden. Needs the run's lock, shared at least.
 */
async function assertTakesEffects(
  trx: TenantTransaction,
  {
    tenantId,
    runId,
    step = '',
  }: { readonly tenantId: string; readonly runId: string; readonly step?: string | undefined },
): Promise<void> {
  const tombstone = firstOf<{ kind: TombstoneKind }>(
    await trx.raw(
      `select kind from step_tombstones
       where tenant_id = :tenantId and run_id = :runId and step in (:step, '') and ${FORBIDS}
       order by kind = 'SOFT_DELETE' limit 1`,
      { tenantId, runId, step },
    ),
  );
  if (tombstone) throw tombstone.kind === 'SOFT_DELETE' ? runDeleted(runId) : stepCompensated(runId, step);
}
