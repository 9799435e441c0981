import { operationInProgress } from '#libs/kernel/domain-error.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import type { TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { RunScope } from './participant.ts';

/** The table in which a service remembers its operations. */
export type TombstoneTable = 'step_tombstones' | 'participant_operations';

/**
 * What an operation has done to a run, and what it forbids since. SOFT_DELETE, PURGE and COMPENSATE refuse new effects;
 * RESTORED refuses the soft delete that was taken back; RESTORE only remembers what the undelete brought back.
 */
export type TombstoneKind = 'SOFT_DELETE' | 'RESTORE' | 'RESTORED' | 'PURGE' | 'COMPENSATE';

/** Which tombstone. */
export interface TombstoneKey {
  readonly tenantId: string;
  readonly runId: string;
  /** Empty: of the whole run. */
  readonly step: string;
  readonly kind: TombstoneKind;
  /** The operation; for RESTORED the soft delete that was taken back, for COMPENSATE the run. */
  readonly operationId: string;
}

const KEY = `tenant_id = :tenantId and run_id = :runId and step = :step and kind = :kind and operation_id = :operationId`;

/**
 * The tombstones of a service, in a table that has the columns of a TombstoneKey, `counts` and `finished_at`. All of them
 * are read and written under the run's lock.
 */
export const makeTombstones = (table: TombstoneTable) => ({
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

/** The tombstones of a service. */
export type Tombstones = ReturnType<typeof makeTombstones>;
