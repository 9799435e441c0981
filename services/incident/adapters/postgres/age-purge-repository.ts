import type { Knex } from 'knex';
import { requestIdReused } from '#libs/kernel/domain-error.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { AgePurge, AgePurgeRepository } from '../../use-cases/ports.ts';

interface AgePurgeRow {
  readonly retention_days: number;
  readonly cutoff: Temporal.Instant;
  readonly deleted_checks: number;
  readonly deleted_workflows: number;
}

// One predicate for counting and removing. A null instant is not smaller than anything: absent means keep.
const EXPIRED = 'c.tenant_id = :tenantId and c.checked_at < :cutoff';

/** Purges of drift checks by age in Postgres. */
export const makeAgePurgeRepository = (database: Database): AgePurgeRepository => ({
  begin: (tenantId, operationId, retentionDays) =>
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

  purgeBatch: (tenantId, operationId, limit) =>
    database.forTenant(tenantId, async (trx) => {
      // The operation's row is locked first: two at once on one operation take turns, and its sums are exact.
      const row = await find(trx, tenantId, operationId, 'for update');
      if (!row) throw requestIdReused(operationId);
      const outcome = firstOf<{ checks: number; workflows: number }>(
        await trx.raw(
          `with expired as materialized (
             select c.tenant_id, c.id from drift_checks c where ${EXPIRED}
             order by c.checked_at, c.id limit :limit for update skip locked),
           workflows as (
             delete from drift_check_workflows w using expired e
             where w.tenant_id = e.tenant_id and w.check_id = e.id and w.tenant_id = :tenantId returning 1)
           select (select count(*) from expired) as checks, (select count(*) from workflows) as workflows,
                  (select array_agg(id) from expired) as ids`,
          { tenantId, cutoff: row.cutoff.toString(), limit },
        ),
      ) as { checks: number; workflows: number; ids: string[] | null } | undefined;
      const ids = outcome?.ids ?? [];
      if (ids.length > 0) {
        await trx.raw(`delete from drift_checks c where ${EXPIRED} and c.id = any(cast(:ids as uuid[]))`, {
          tenantId,
          cutoff: row.cutoff.toString(),
          ids,
        });
      }
      const sums = firstOf<AgePurgeRow>(
        await trx.raw(
          `update age_purges set deleted_checks = deleted_checks + :checks,
                  deleted_workflows = deleted_workflows + :workflows, updated_at = clock_timestamp()
           where tenant_id = :tenantId and operation_id = :operationId and subject = 'drift_checks' returning *`,
          { tenantId, operationId, checks: outcome?.checks ?? 0, workflows: outcome?.workflows ?? 0 },
        ),
      );
      return { purge: toAgePurge(sums ?? row), deleted: ids.length };
    }),

  countExpired: (tenantId, operationId, retentionDays) =>
    database.forTenant(tenantId, async (trx) => {
      const begun = operationId === undefined ? undefined : await find(trx, tenantId, operationId);
      const now = firstOf<{ cutoff: Temporal.Instant }>(
        await trx.raw("select clock_timestamp() - ? * interval '24 hours' as cutoff", [retentionDays]),
      );
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
      return {
        cutoff,
        expiredChecks: counted?.checks ?? 0,
        expiredWorkflows: counted?.workflows ?? 0,
        population: counted?.population ?? 0,
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

const toAgePurge = (row: AgePurgeRow): AgePurge => ({
  cutoff: row.cutoff,
  deletedChecks: row.deleted_checks,
  deletedWorkflows: row.deleted_workflows,
});
