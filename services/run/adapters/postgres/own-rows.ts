import { operationInProgress } from '#libs/kernel/domain-error.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import { deleteOneBatch } from '#libs/postgres/delete-batch.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf, rowsOf } from '#libs/postgres/rows.ts';
import { assertTerminal } from '../../domain/run.ts';
import type { OwnRows, ParticipantCall } from '../../use-cases/ports.ts';
import { audit } from './audit.ts';
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

/** RunService's own rows in Postgres. `effects` are in the order of their removal, children before parents. */
export function makeOwnRows(database: Database, effects: readonly EffectTable[]): OwnRows {
  // The order of removal: what a row points to goes after it.
  const children: readonly EffectTable[] = [...effects, { table: 'workflow_run_steps', resourceType: 'run_step' }];
  const countQuery = [
    ...children.map((child) => countOf(child.table, 'run_id', child.resourceType, child.sharedThrough)),
    countOf('workflow_runs', 'id', 'run'),
  ].join(' union all ');

  const countRows = async (trx: TenantTransaction, { tenantId, runId }: RunOf): Promise<ResourceCount[]> =>
    toFound(rowsOf<CountRow>(await trx.raw(countQuery, { tenantId, runId })));

  return {
    inspect: (tenantId, runId) =>
      database.forTenant(tenantId, async (trx) => {
        const found = firstOf<Parameters<typeof toRun>[0]>(
          await trx.raw('select * from workflow_runs where tenant_id = :tenantId and id = :runId', { tenantId, runId }),
        );
        const counts = await countRows(trx, { tenantId, runId });
        const steps = await trx.raw(
          `select name from workflow_run_steps where tenant_id = :tenantId and run_id = :runId
           order by position limit ${MAX_SAMPLES}`,
          { tenantId, runId },
        );
        const sampleSteps = rowsOf<{ name: string }>(steps).map(({ name }) => name);
        return { run: found && toRun(found), counts, left: asLeft(counts), sampleSteps };
      }),

    hide: (call) =>
      database.forTenant(call.tenantId, async (trx) => {
        const run = await lockRun(trx, call.tenantId, call.runId);
        if (await isKnown(trx, call.operationId, '', 'RESTORED', call.tenantId)) return [];
        const known = await findCounts(trx, call, 'SOFT_DELETE');
        if (known) return known;
        await assertNoPurge(trx, call);
        if (run) assertTerminal(toRun(run.row));
        return hideRows(trx, call);
      }),

    restore: (call, softDeleteId) =>
      database.forTenant(call.tenantId, async (trx) => {
        await lockRun(trx, call.tenantId, call.runId);
        const known = await findCounts(trx, call, 'RESTORE');
        if (known) return known;
        await assertNoPurge(trx, call);
        return showRows(trx, call, softDeleteId);
      }),

    removeBatch: (call, limit) =>
      database.forTenant(call.tenantId, async (trx) => {
        const { tenantId, runId } = call;
        const run = await lockRun(trx, tenantId, runId);
        let counts = await findCounts(trx, call, 'PURGE');
        const present = await countRows(trx, call);
        if (!counts) {
          if (run) assertTerminal(toRun(run.row));
          // Who inherits is decided when a row goes, so all of it is left until then.
          counts = asLeft(present);
          await remember(trx, call, 'PURGE', counts);
        }
        const holds = new Set(present.map(({ resourceType }) => resourceType));
        let removed = 0;
        const took = (resourceType: string, deleted: number, passedOn = 0): void => {
          removed += deleted + passedOn;
          counts = addDeleted(counts ?? [], resourceType, deleted, passedOn);
        };
        for (const { table, resourceType, sharedThrough } of children) {
          if (removed >= limit) break;
          if (!holds.has(resourceType)) continue;
          const batch = { table, tenantId, where: 'run_id = :runId', bindings: { runId }, limit: limit - removed };
          const { chosen, deleted } = await deleteOneBatch(trx, batch);
          // The run's lock is held, so only the trigger that passes a row on keeps one that was chosen.
          took(resourceType, deleted, sharedThrough ? chosen - deleted : 0);
        }
        const isEmpty = removed < limit;
        if (isEmpty) {
          const gone = await trx.raw('delete from workflow_runs where tenant_id = :tenantId and id = :runId', {
            tenantId,
            runId,
          });
          took('run', gone.rowCount ?? 0);
        }
        if (removed > 0) await updateCounts(trx, call, 'PURGE', counts);
        if (isEmpty && run) await auditCall(trx, call, 'purge-rows', counts);
        return { counts, removed, isEmpty };
      }),

    removeStep: (call, limit) =>
      database.forTenant(call.tenantId, async (trx) => {
        const { tenantId, runId, step } = call;
        await lockRun(trx, tenantId, runId);
        const known = await findCounts(trx, call, 'COMPENSATE');
        if (!known) await remember(trx, call, 'COMPENSATE', []);
        let counts = known ?? [];
        let removed = 0;
        for (const { table, resourceType } of effects) {
          if (removed >= limit) break;
          const where = 'run_id = :runId and step = :step';
          const batch = { table, tenantId, where, bindings: { runId, step }, limit: limit - removed };
          const { deleted } = await deleteOneBatch(trx, batch);
          removed += deleted;
          if (deleted > 0) counts = addDeleted(counts, resourceType, deleted);
        }
        if (removed > 0) await updateCounts(trx, call, 'COMPENSATE', counts);
        // What the step resulted in tells of the effects that have just gone.
        await trx.raw(
          `update workflow_run_steps set output = null
           where tenant_id = :tenantId and run_id = :runId and name = :step and output is not null`,
          { tenantId, runId, step },
        );
        return { counts, removed, isEmpty: removed < limit };
      }),

    countStep: (tenantId, runId, step) =>
      database.forTenant(tenantId, async (trx) => {
        if (effects.length === 0) return [];
        const query = effects.map(
          ({ table, resourceType }) => `${countOf(table, 'run_id', resourceType)} and step = :step`,
        );
        return toFound(rowsOf<CountRow>(await trx.raw(query.join(' union all '), { tenantId, runId, step })));
      }),
  };
}

interface CountRow {
  readonly type: string;
  readonly found: number;
  readonly passed_on: number;
}

type RunOf = Pick<ParticipantCall, 'tenantId' | 'runId'>;
type Kind = 'SOFT_DELETE' | 'RESTORE' | 'PURGE' | 'COMPENSATE';

/** Hides a run and its steps, both at once, and remembers it under the call's key. The caller holds the run's lock. */
export async function hideRows(trx: TenantTransaction, call: ParticipantCall): Promise<readonly ResourceCount[]> {
  const { tenantId, runId, operationId, actor, reason } = call;
  const row = firstOf<{ runs: number; steps: number }>(
    await trx.raw(
      `with hidden as (
         update workflow_runs
         set deleted_at = now(), deleted_by = :actor, deleted_reason = :reason, deletion_id = :operationId
         where tenant_id = :tenantId and id = :runId and deleted_at is null returning 1),
       steps as (
         update workflow_run_steps
         set deleted_at = now(), deleted_by = :actor, deleted_reason = :reason, deletion_id = :operationId
         where tenant_id = :tenantId and run_id = :runId and deleted_at is null and exists (select from hidden)
         returning 1)
       select (select count(*) from hidden) as runs, (select count(*) from steps) as steps`,
      { tenantId, runId, operationId, actor, reason: reason ?? null },
    ),
  );
  const counts = toChanged(row);
  await remember(trx, call, 'SOFT_DELETE', counts);
  if (counts.length > 0) await auditCall(trx, call, 'hide-rows', counts);
  return counts;
}

/**
 * Shows exactly what that soft delete hid, remembers it under the call's key, and leaves the tombstone that refuses
 * the soft delete from now on. The caller holds the run's lock.
 */
export async function showRows(
  trx: TenantTransaction,
  call: ParticipantCall,
  softDeleteId: string,
): Promise<readonly ResourceCount[]> {
  const { tenantId, runId } = call;
  const row = firstOf<{ runs: number; steps: number }>(
    await trx.raw(
      `with tombstone as (
         insert into participant_operations (tenant_id, operation_id, step, kind, run_id)
         values (:tenantId, :softDeleteId, '', 'RESTORED', :runId) on conflict do nothing returning 1),
       shown as (
         update workflow_runs set deleted_at = null, deleted_by = null, deleted_reason = null, deletion_id = null
         where tenant_id = :tenantId and id = :runId and deletion_id = :softDeleteId returning 1),
       steps as (
         update workflow_run_steps set deleted_at = null, deleted_by = null, deleted_reason = null, deletion_id = null
         where tenant_id = :tenantId and run_id = :runId and deletion_id = :softDeleteId returning 1)
       select (select count(*) from shown) as runs, (select count(*) from steps) as steps`,
      { tenantId, runId, softDeleteId },
    ),
  );
  const counts = toChanged(row);
  await remember(trx, call, 'RESTORE', counts);
  if (counts.length > 0) await auditCall(trx, call, 'show-rows', counts);
  return counts;
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

const toChanged = (row: { readonly runs: number; readonly steps: number } | undefined): ResourceCount[] =>
  [
    { resourceType: 'run_step', found: row?.steps ?? 0 },
    { resourceType: 'run', found: row?.runs ?? 0 },
  ]
    .filter(({ found }) => found > 0)
    .map((count) => ({ ...count, deleted: count.found, left: 0, bytes: 0 }));

/** Counts before anything is passed on: all of it is left. */
const asLeft = (counts: readonly ResourceCount[]): ResourceCount[] =>
  counts.map(({ passedOn: _, ...count }) => ({ ...count, left: count.found }));

/** Adds what went and what was passed on, also of what was not there when the operation first looked. */
function addDeleted(
  counts: readonly ResourceCount[],
  resourceType: string,
  deletedNow: number,
  passedOnNow = 0,
): ResourceCount[] {
  const none: ResourceCount = { resourceType, found: 0, deleted: 0, left: 0, bytes: 0 };
  const before = counts.find((count) => count.resourceType === resourceType) ?? none;
  const deleted = before.deleted + deletedNow;
  const passedOn = (before.passedOn ?? 0) + passedOnNow;
  const found = Math.max(before.found, deleted + passedOn);
  const after = { ...before, found, deleted, left: found - deleted - passedOn, ...(passedOn > 0 ? { passedOn } : {}) };
  const others = counts.map((count) => (count === before ? after : count));
  return before === none && found > 0 ? [...others, after] : others;
}

async function findCounts(
  trx: TenantTransaction,
  { tenantId, operationId, step }: ParticipantCall,
  kind: Kind,
): Promise<readonly ResourceCount[] | undefined> {
  const row = firstOf<{ counts: readonly ResourceCount[] }>(
    await trx.raw(
      `select counts from participant_operations
       where tenant_id = :tenantId and operation_id = :operationId and step = :step and kind = :kind for update`,
      { tenantId, operationId, step, kind },
    ),
  );
  return row?.counts;
}

const isKnown = async (
  trx: TenantTransaction,
  operationId: string,
  step: string,
  kind: Kind | 'RESTORED',
  tenantId: string,
): Promise<boolean> => {
  const { rowCount } = await trx.raw(
    `select 1 from participant_operations
     where tenant_id = :tenantId and operation_id = :operationId and step = :step and kind = :kind`,
    { tenantId, operationId, step, kind },
  );
  return rowCount > 0;
};

/** OPERATION_IN_PROGRESS when a purge of the run has begun, here or as a deletion. */
async function assertNoPurge(trx: TenantTransaction, { tenantId, runId }: ParticipantCall): Promise<void> {
  const purge = firstOf<{ id: string }>(
    await trx.raw(
      `select operation_id as id from participant_operations
       where tenant_id = :tenantId and run_id = :runId and kind = 'PURGE'
       union all
       select id from deletions
       where tenant_id = :tenantId and run_id = :runId and mode = 'PURGE' and state not in ('COMPLETE', 'CANCELLED')
       limit 1`,
      { tenantId, runId },
    ),
  );
  if (purge) throw operationInProgress(purge.id);
}

async function remember(
  trx: TenantTransaction,
  { tenantId, operationId, step, runId }: ParticipantCall,
  kind: Kind,
  counts: readonly ResourceCount[],
): Promise<void> {
  await trx.raw(
    `insert into participant_operations (tenant_id, operation_id, step, kind, run_id, counts)
     values (:tenantId, :operationId, :step, :kind, :runId, cast(:counts as jsonb))`,
    { tenantId, operationId, step, kind, runId, counts: JSON.stringify(counts) },
  );
}

async function updateCounts(
  trx: TenantTransaction,
  { tenantId, operationId, step }: ParticipantCall,
  kind: Kind,
  counts: readonly ResourceCount[],
): Promise<void> {
  await trx.raw(
    `update participant_operations set counts = cast(:counts as jsonb)
     where tenant_id = :tenantId and operation_id = :operationId and step = :step and kind = :kind`,
    { tenantId, operationId, step, kind, counts: JSON.stringify(counts) },
  );
}

const auditCall = (
  trx: TenantTransaction,
  { tenantId, runId, actor, reason }: ParticipantCall,
  action: string,
  counts: readonly ResourceCount[],
): Promise<void> =>
  audit(trx, {
    tenantId,
    runId,
    actor,
    subject: 'service:run',
    action,
    reason,
    outcome: 'COMPLETE',
    counts: Object.fromEntries(counts.map(({ resourceType, deleted }) => [resourceType, deleted])),
  });
