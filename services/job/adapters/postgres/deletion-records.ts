import { audit } from '#libs/audit/write-audit.ts';
import { reopenItem } from '#libs/bulk-deletion/item-rows.ts';
import { pageOf } from '#libs/kernel/page.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { readFigure } from '#libs/postgres/read-figure.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { DeletionRecords } from '../../use-cases/ports.ts';
import { type DeletionRow, toDeletion } from './rows.ts';

/** The removals of jobs, ordered and done, in Postgres. */
export const makeDeletionRecords = (database: Database): DeletionRecords => {
  const get: DeletionRecords['get'] = async (tenantId, deletionId) => {
    const [row] = await database.readForTenant<DeletionRow>(tenantId, {
      text: 'select * from job_deletions where tenant_id = $1 and id = $2',
      values: [tenantId, deletionId],
    });
    return row && toDeletion(row);
  };
  return {
    get,

    async list(tenantId, { state, jobId, limit, after }) {
      const rows = await database.readForTenant<DeletionRow>(tenantId, {
        text: `select * from job_deletions
               where tenant_id = $1 and ($2::text is null or state = $2) and ($3::uuid is null or job_id = $3)
                 and ($4::timestamptz is null or (created_at, id) < ($4, $5::uuid))
               order by created_at desc, id desc limit $6`,
        values: [tenantId, state ?? null, jobId ?? null, after?.[0] ?? null, after?.[1] ?? null, limit + 1],
      });
      return pageOf(rows, limit, toDeletion, (row) => [row.created_at.toString(), row.id]);
    },

    async redrive(tenantId, deletionId, { caller, reason, isByPerson }) {
      const driven = await database.forTenant(tenantId, async (trx) => {
        const lock = 'select 1 from job_deletions where tenant_id = :tenantId and id = :deletionId for update';
        // Who is parking it now is waited for: what comes next would not see that.
        await trx.raw(lock, { tenantId, deletionId });
        const row = firstOf<DeletionRow>(
          await trx.raw(
            `update job_deletions
             set state = 'PENDING', attempts = 0, next_attempt_at = clock_timestamp(), updated_at = clock_timestamp(),
                 accept_missing = accept_missing or (:isByPerson and last_error like 'OBJECTS_MISSING:%')
             where tenant_id = :tenantId and id = :deletionId and state = 'STUCK' returning *`,
            { tenantId, deletionId, isByPerson },
          ),
        );
        if (!row) return undefined;
        await reopenItem(trx, tenantId, row.bulk_deletion_id, deletionId);
        const { actor, subject, trustEntry } = caller;
        const target = { targetType: 'job', targetId: row.job_id, requestId: row.request_id };
        const deed = { action: 'redrive', outcome: 'PENDING', counts: {}, reason, ...target };
        await audit(trx, { tenantId, actor, subject, trustEntry, ...deed });
        return toDeletion(row);
      });
      return driven ?? get(tenantId, deletionId);
    },

    oldestUnfinishedSeconds: () => readFigure(database, 'oldest_unfinished_deletion_seconds'),

    stuckCount: () => readFigure(database, 'stuck_deletions'),
  };
};
