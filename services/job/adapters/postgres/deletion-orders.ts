import { takeItem } from '#libs/bulk-deletion/item-rows.ts';
import { operationInProgress, requestIdReused } from '#libs/kernel/domain-error.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import { isUniqueViolation } from '#libs/postgres/sql-errors.ts';
import type { DeletionOrders } from '../../use-cases/ports.ts';
import { insertDeletions } from './deletion-work.ts';
import { lockJob } from './job-repository.ts';
import { type DeletionRow, toDeletion, toJob } from './rows.ts';

/** Where the removal of a single job begins, in Postgres. */
export const makeDeletionOrders = (database: Database): DeletionOrders => ({
  begin: async (order, check) => {
    const { tenantId, jobId, requestId } = order;
    try {
      return await database.forTenant(tenantId, async (trx) => {
        // The job's row is the lock: of two deletions at once, the second sees what the first has committed.
        const job = await lockJob(trx, tenantId, jobId, '');
        const known = firstOf<DeletionRow>(
          await trx.raw(
            `select * from job_deletions where tenant_id = :tenantId
               and (job_id = :jobId or request_id = cast(:requestId as uuid))
             order by (request_id = cast(:requestId as uuid)) desc nulls last limit 1`,
            { tenantId, jobId, requestId: requestId ?? null },
          ),
        );
        if (known && requestId !== undefined && known.request_id === requestId) {
          if (known.fingerprint !== order.fingerprint) throw requestIdReused(requestId);
          return toDeletion(known);
        }
        if (!job || job.row.deleted_at !== null) return undefined;
        if (known && job.row.deletion_id !== null) throw operationInProgress(known.id);
        check(toJob(job.row));
        const [row] = await insertDeletions(trx, { ...order, jobIds: [jobId] });
        if (!row) throw new Error('the deletion was not inserted');
        if (order.bulkItem) await takeItem(trx, tenantId, order.bulkItem, row.id);
        return toDeletion(row);
      });
    } catch (error) {
      // The same request id for two jobs at once: the row of one is no lock for the other.
      if (requestId !== undefined && isUniqueViolation(error, 'job_deletions_request'))
        throw requestIdReused(requestId);
      throw error;
    }
  },
});
