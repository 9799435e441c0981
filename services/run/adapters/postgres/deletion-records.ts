import { reopenItem } from '#libs/bulk-deletion/item-rows.ts';
import { pageOf } from '#libs/kernel/page.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { readFigure } from '#libs/postgres/read-figure.ts';
import type { DeletionRecords } from '../../use-cases/ports.ts';
import { audit } from './audit.ts';
import { type DeletionRow, findDeletion, RUN_DELETION_COLUMNS, toDeletion } from './deletion-rows.ts';

/** The deletions of runs, ordered and done, in Postgres. */
export const makeDeletionRecords = (database: Database): DeletionRecords => ({
  async get(tenantId, deletionId) {
    const [row] = await database.readForTenant<DeletionRow>(tenantId, {
      name: 'get-deletion',
      text: `select ${RUN_DELETION_COLUMNS} from deletions d where d.tenant_id = $1 and d.id = $2`,
      values: [tenantId, deletionId],
    });
    return row && toDeletion(row);
  },

  async list(tenantId, { state, mode, runId, limit, after }) {
    const rows = await database.readForTenant<DeletionRow>(tenantId, {
      text: `select ${RUN_DELETION_COLUMNS} from deletions d
             where d.tenant_id = $1 and ($2::text is null or d.state = $2) and ($3::text is null or d.mode = $3)
               and ($4::uuid is null or d.run_id = $4)
               and ($5::timestamptz is null or (d.created_at, d.id) < ($5, $6::uuid))
             order by d.created_at desc, d.id desc limit $7`,
      values: [tenantId, state ?? null, mode ?? null, runId ?? null, after?.[0] ?? null, after?.[1] ?? null, limit + 1],
    });
    return pageOf(rows, limit, toDeletion, (row) => [row.created_at.toString(), row.id]);
  },

  redrive: (tenantId, deletionId, caller, reason) =>
    database.forTenant(tenantId, async (trx) => {
      const bindings = { tenantId, deletionId };
      // Who is parking it now is waited for: what comes next would not see that.
      await trx.raw('select 1 from deletions where tenant_id = :tenantId and id = :deletionId for update', bindings);
      const { rowCount } = await trx.raw(
        `with redriven as (
           update deletions
           set state = 'CASCADING', attempts = 0, last_error = null, next_attempt_at = clock_timestamp(),
               updated_at = clock_timestamp()
           where tenant_id = :tenantId and id = :deletionId and state = 'STUCK' returning tenant_id, id),
         steps as (
           update deletion_steps s
           set state = case s.state when 'STUCK' then 'CASCADING' else s.state end, attempts = 0, last_error = null,
               next_attempt_at = null
           from redriven r
           where s.tenant_id = r.tenant_id and s.deletion_id = r.id and s.state not in ('COMPLETE', 'CANCELLED')
           returning 1)
         select 1 from redriven`,
        bindings,
      );
      const row = await findDeletion(trx, tenantId, deletionId);
      if (!row) return undefined;
      if (rowCount) {
        await reopenItem(trx, tenantId, row.bulk_deletion_id, deletionId);
        const { actor, subject } = caller;
        await audit(trx, {
          tenantId,
          runId: row.run_id,
          actor,
          subject,
          action: 'REDRIVE',
          reason,
          outcome: 'PENDING',
        });
      }
      return toDeletion(row);
    }),

  oldestUnfinishedSeconds: () => readFigure(database, 'oldest_unfinished_deletion_seconds'),

  stuckCount: () => readFigure(database, 'stuck_deletions'),
});
