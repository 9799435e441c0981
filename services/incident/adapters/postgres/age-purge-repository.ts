import type { Knex } from 'knex';
import { requestIdReused } from '#libs/kernel/domain-error.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { AgePurge, AgePurgeOrder, AgePurgeRepository } from '../../use-cases/ports.ts';

interface AgePurgeRow {
  readonly retention_days: number;
  readonly cutoff: Temporal.Instant;
  readonly deleted_checks: number;
  readonly deleted_workflows: number;
  readonly finished_at: Temporal.Instant | null;
}

// One predicate for counting and removing. A null instant is not smaller than anything: absent means keep.
const EXPIRED = 'c.tenant_id = :tenantId and c.checked_at < :cutoff';

/** Purges of drift checks by age in Postgres. */
export const makeAgePurgeRepository = (database: Database): AgePurgeRepository => ({
  begin: ({ tenantId, operationId, retentionDays }) =>
    database.forTenant(tenantId, async (trx) => {
      await trx.raw(
        `insert into age_purges (tenant_id, operation_id, subject, retention_days, cutoff)
         values (:tenantId, :operationId, 'drift_checks', :retentionDays,
                 clock_timestamp() - :retentionDays * interval '24 hours')
         on conflict do nothing`,
        { tenantId, operationId, retentionDays },
      );
      const row = await find(trx, tenantId, operationId);
      if (row?.retention_days !== retentionDays) throw requestIdReused(operationId);
      return toAgePurge(row);
    }),

  purgeBatch: (order, limit) =>
    database.forTenant(order.tenantId, async (trx) => {
      const { tenantId, operationId } = order;
      // The operation's row is locked first: two at once on one operation take turns, and its sums are exact.
      const row = await find(trx, tenantId, operationId, 'for update');
      if (!row) throw requestIdReused(operationId);
      const cutoff = row.cutoff.toString();
      // Not `skip locked`: a row that another operation is about to remove is waited for, not taken for gone.
      const removed = firstOf<{ ids: string[] | null; workflows: number }>(
        await trx.raw(
          `with expired as materialized (
             select c.tenant_id, c.id from drift_checks c where ${EXPIRED}
             order by c.checked_at nulls first, c.id limit :limit for update),
           workflows as (
             delete from drift_check_workflows w using expired e
             where w.tenant_id = e.tenant_id and w.check_id = e.id and w.tenant_id = :tenantId returning 1)
           select (select array_agg(id) from expired) as ids, (select count(*) from workflows) as workflows`,
          { tenantId, cutoff, limit },
        ),
      );
      const ids = removed?.ids ?? [];
      if (ids.length > 0) {
        await trx.raw(`delete from drift_checks c where ${EXPIRED} and c.id = any(cast(:ids as uuid[]))`, {
          tenantId,
          cutoff,
          ids,
        });
      }
      const after = firstOf<AgePurgeRow & { is_done: boolean }>(
        await trx.raw(
          `update age_purges p
           set deleted_checks = p.deleted_checks + :checks, deleted_workflows = p.deleted_workflows + :workflows,
               updated_at = clock_timestamp(),
               finished_at = case when d.is_done then coalesce(p.finished_at, clock_timestamp()) else p.finished_at end
           from (select not exists (select from drift_checks c where ${EXPIRED}) as is_done) d
           where p.tenant_id = :tenantId and p.operation_id = :operationId and p.subject = 'drift_checks'
           returning p.*, d.is_done`,
          { tenantId, operationId, cutoff, checks: ids.length, workflows: removed?.workflows ?? 0 },
        ),
      );
      if (!after) throw new Error('the operation’s row was locked and is gone');
      const purge = toAgePurge(after);
      // A repetition that removed nothing more has its row already.
      if (after.is_done && (row.finished_at === null || ids.length > 0)) await audit(trx, order, purge);
      return { purge, deleted: ids.length, isDone: after.is_done };
    }),

  countExpired: ({ tenantId, operationId, retentionDays }) =>
    database.forTenant(tenantId, async (trx) => {
      const begun = await find(trx, tenantId, operationId);
      const now = firstOf<{ cutoff: Temporal.Instant }>(
        await trx.raw("select clock_timestamp() - ? * interval '24 hours' as cutoff", [retentionDays]),
      );
      if (begun && begun.retention_days !== retentionDays) throw requestIdReused(operationId);
      const cutoff = begun?.cutoff ?? now?.cutoff;
      if (!cutoff) throw new Error('the database told no time');
      const counted = firstOf<{ checks: number; workflows: number; population: number }>(
        await trx.raw(
          `select (select count(*) from drift_checks c where ${EXPIRED}) as checks,
                  (select count(*) from drift_check_workflows w join drift_checks c
                     on c.tenant_id = w.tenant_id and c.id = w.check_id where ${EXPIRED}) as workflows,
                  (select count(*) from drift_checks where tenant_id = :tenantId) as population`,
          { tenantId, cutoff: cutoff.toString() },
        ),
      );
      if (!counted) throw new Error('the count gave no row');
      return {
        cutoff,
        expiredChecks: counted.checks,
        expiredWorkflows: counted.workflows,
        population: counted.population,
      };
    }),
});

const find = async (
  trx: Knex.Transaction,
  tenantId: string,
  operationId: string,
  lock = '',
): Promise<AgePurgeRow | undefined> =>
  firstOf(
    await trx.raw(
      `select * from age_purges
       where tenant_id = :tenantId and operation_id = :operationId and subject = 'drift_checks' ${lock}`,
      { tenantId, operationId },
    ),
  );

const audit = async (
  trx: Knex.Transaction,
  { tenantId, operationId, actor, subject }: AgePurgeOrder,
  { deletedChecks, deletedWorkflows }: AgePurge,
): Promise<void> => {
  await trx.raw(
    `insert into audit_entries (tenant_id, actor, subject, action, target_type, target_id, outcome, counts)
     values (:tenantId, :actor, :subject, 'purge-drift-checks', 'retention_purge', :operationId, 'COMPLETE',
             cast(:counts as jsonb))`,
    {
      tenantId,
      actor,
      subject,
      operationId,
      counts: JSON.stringify({ drift_checks: deletedChecks, drift_check_workflows: deletedWorkflows }),
    },
  );
};

const toAgePurge = (row: AgePurgeRow): AgePurge => ({
  cutoff: row.cutoff,
  deletedChecks: row.deleted_checks,
  deletedWorkflows: row.deleted_workflows,
});
