import type { Knex } from 'knex';
import type { Database } from './open-database.ts';

/** Which rows of one tenant go, and how many in one transaction. */
export interface BatchDelete {
  readonly table: string;
  readonly tenantId: string;
  /** A predicate with named bindings. The table must have an index that leads with tenant_id and serves it. */
  readonly where: string;
  readonly bindings: Readonly<Record<string, string | number>>;
  /** Rows a transaction, so that none lasts longer than a second or two. */
  readonly limit: number;
  /** Runs in the transaction of each batch, with how many rows it removed. */
  readonly inBatch?: (trx: Knex.Transaction, deleted: number) => Promise<void>;
  readonly signal?: AbortSignal;
}

/**
 * Deletes a tenant's rows in committed batches until none is left or the signal is aborted, and yields how many each
 * batch removed. Two at once on the same rows are safe: a row goes once and is counted once.
 */
export async function* deleteBatch(database: Database, batch: BatchDelete): AsyncGenerator<number, void> {
  while (!batch.signal?.aborted) {
    const deleted = await database.forTenant(batch.tenantId, async (trx) => {
      const count = await deleteOneBatch(trx, batch);
      await batch.inBatch?.(trx, count);
      return count;
    });
    if (deleted > 0) yield deleted;
    if (deleted < batch.limit) return;
  }
}

/** One batch, inside a transaction that the caller has for this tenant; answers how many rows went. */
export async function deleteOneBatch(
  trx: Knex.Transaction,
  { table, tenantId, where, bindings, limit }: Omit<BatchDelete, 'inBatch' | 'signal'>,
): Promise<number> {
  // The predicate stands twice: a row that changed between the choice and its lock is judged again. By ctid this is
  // some four times as fast as by key (facts of the toolchain: 99 ms against 336 ms for 48,160 of 1 M rows).
  const { rowCount } = await trx.raw(
    `delete from :table: where tenant_id = :tenantId and (${where})
       and ctid = any(array(select ctid from :table: where tenant_id = :tenantId and (${where}) limit :limit))`,
    { ...bindings, table, tenantId, limit },
  );
  return rowCount ?? 0;
}
