import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import { goneCount } from '#libs/participant/counts.ts';
import type { RunScope } from '#libs/participant/participant.ts';
import type { Batch } from '#libs/participant/run-gate.ts';
import { deleteOneBatch } from '#libs/postgres/delete-batch.ts';
import type { TenantTransaction } from '#libs/postgres/open-database.ts';
import type { EffectTable } from './own-inventory.ts';

/** Removes effects of a step whatever state its run is in, and what the step resulted in, which tells of them. */
export async function removeStepEffects(
  trx: TenantTransaction,
  effects: readonly EffectTable[],
  { tenantId, runId, step = '' }: RunScope,
  limit: number,
): Promise<Batch> {
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
  await trx.raw(
    `update workflow_run_steps set output = null
     where tenant_id = :tenantId and run_id = :runId and name = :step and output is not null`,
    { tenantId, runId, step },
  );
  return { counts, removed, isDone: removed < limit };
}
