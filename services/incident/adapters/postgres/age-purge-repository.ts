import type { Knex } from 'knex';
import { requestIdReused } from '#libs/kernel/domain-error.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import { AGE_DECISIONS, INCIDENT_STATES } from '../../domain/incident.ts';
import type { AgePurge, AgePurgeOrder, AgePurgeRepository, PurgeSubject } from '../../use-cases/ports.ts';
import { audit } from './audit.ts';

interface AgePurgeRow {
  readonly retention_days: number;
  readonly cutoff: Temporal.Instant;
  readonly deleted: number;
  readonly deleted_dependents: number;
  readonly finished_at: Temporal.Instant | null;
}

interface Removed {
  readonly deleted: number;
  readonly dependents: number;
}

interface BatchBindings {
  readonly tenantId: string;
  readonly operationId: string;
  readonly cutoff: string;
  readonly limit: number;
}

/** How the rows of one subject are found and removed. */
interface Expiry {
  /** The one predicate for counting, removing and reading back. A null instant is not smaller than anything. */
  readonly expired: string;
  /** Counts what goes with the expired rows, where something does. */
  readonly dependents?: string;
  /** Must remove up to `limit` expired rows, those first that have been expired longest. */
  remove(trx: Knex.Transaction, bindings: BatchBindings): Promise<Removed>;
  /** What the audit calls the sums. */
  toCounts(purge: AgePurge): Readonly<Record<string, number>>;
}

const EXPIRING_STATES = INCIDENT_STATES.filter((state) => AGE_DECISIONS[state] === 'EXPIRE')
  .map((state) => `'${state}'`)
  .join(', ');
const CHECKS = 'from drift_checks c where c.tenant_id = :tenantId and c.checked_at < :cutoff';
// The two marks on the shell are what the index is made of; the payload itself is what counts.
const PAYLOADS = `from incidents i where i.tenant_id = :tenantId and i.state in (${EXPIRING_STATES})
  and i.closed_at < :cutoff and i.opened_with_payload and i.payload_purged_at is null
  and exists (select from incident_payloads p where p.tenant_id = i.tenant_id and p.incident_id = i.id)`;
const APPROVALS = `from approvals a where a.tenant_id = :tenantId and a.state <> 'PENDING' and a.decided_at < :cutoff
  and exists (select from incidents i where i.tenant_id = a.tenant_id and i.id = a.incident_id
                and i.state in (${EXPIRING_STATES}))`;

// Nowhere `skip locked`: a row that another operation is about to remove is waited for, not taken for gone.
const EXPIRIES: Readonly<Record<PurgeSubject, Expiry>> = {
  drift_checks: {
    expired: CHECKS,
    dependents: `from drift_check_workflows w join drift_checks d on d.tenant_id = w.tenant_id and d.id = w.check_id
      where w.tenant_id = :tenantId and d.id in (select c.id ${CHECKS})`,
    async remove(trx, bindings) {
      const removed = firstOf<{ ids: string[] | null; workflows: number }>(
        await trx.raw(
          `with expired as materialized (
             select c.tenant_id, c.id ${CHECKS} order by c.checked_at nulls first, c.id limit :limit for update),
           workflows as (
             delete from drift_check_workflows w using expired e
             where w.tenant_id = e.tenant_id and w.check_id = e.id and w.tenant_id = :tenantId returning 1)
           select (select array_agg(id) from expired) as ids, (select count(*) from workflows) as workflows`,
          { ...bindings },
        ),
      );
      const ids = removed?.ids ?? [];
      if (ids.length > 0) await trx.raw(`delete ${CHECKS} and c.id = any(cast(:ids as uuid[]))`, { ...bindings, ids });
      return { deleted: ids.length, dependents: removed?.workflows ?? 0 };
    },
    toCounts: ({ deleted, dependents }) => ({ drift_checks: deleted, drift_check_workflows: dependents }),
  },
  incident_payloads: {
    expired: PAYLOADS,
    remove: async (trx, bindings) =>
      sumOf(
        await trx.raw(
          `with expired as materialized (
             select i.tenant_id, i.id ${PAYLOADS} order by i.closed_at, i.id limit :limit for update of i),
           payloads as (
             delete from incident_payloads p using expired e
             where p.tenant_id = e.tenant_id and p.incident_id = e.id and p.tenant_id = :tenantId
             returning p.incident_id),
           shells as (
             update incidents i
             set payload_purged_at = clock_timestamp(), updated_at = clock_timestamp(), version = i.version + 1
             from payloads p where i.tenant_id = :tenantId and i.id = p.incident_id)
           select count(*) as deleted from payloads`,
          { ...bindings },
        ),
      ),
    toCounts: ({ deleted }) => ({ incident_payloads: deleted }),
  },
  approvals: {
    expired: APPROVALS,
    remove: async (trx, bindings) =>
      sumOf(
        await trx.raw(
          `with expired as materialized (
             select a.id ${APPROVALS} order by a.decided_at, a.id limit :limit for update of a),
           gone as (
             delete from approvals a using expired e where a.tenant_id = :tenantId and a.id = e.id returning 1)
           select count(*) as deleted from gone`,
          { ...bindings },
        ),
      ),
    toCounts: ({ deleted }) => ({ approvals: deleted }),
  },
};

const sumOf = (result: { readonly rows: readonly { deleted: number }[] }): Removed => ({
  deleted: firstOf(result)?.deleted ?? 0,
  dependents: 0,
});

/** Purges by age in Postgres. */
export const makeAgePurgeRepository = (database: Database): AgePurgeRepository => ({
  begin: (order) =>
    database.forTenant(order.tenantId, async (trx) => {
      const { tenantId, operationId, subject, retentionDays } = order;
      await trx.raw(
        `insert into age_purges (tenant_id, operation_id, subject, retention_days, cutoff)
         values (:tenantId, :operationId, :subject, :retentionDays,
                 clock_timestamp() - :retentionDays * interval '24 hours')
         on conflict do nothing`,
        { tenantId, operationId, subject, retentionDays },
      );
      const row = await find(trx, order);
      if (row?.retention_days !== retentionDays) throw requestIdReused(operationId);
      return toAgePurge(row);
    }),

  purgeBatch: (order, limit) =>
    database.forTenant(order.tenantId, async (trx) => {
      const { tenantId, operationId, subject } = order;
      const { expired, remove, toCounts } = EXPIRIES[subject];
      // The operation's row is locked first: two at once on one operation take turns, and its sums are exact.
      const row = await find(trx, order, 'for update');
      if (!row) throw requestIdReused(operationId);
      const cutoff = row.cutoff.toString();
      const { deleted, dependents } = await remove(trx, { tenantId, operationId, cutoff, limit });
      const after = firstOf<AgePurgeRow & { is_done: boolean }>(
        await trx.raw(
          `update age_purges p
           set deleted = p.deleted + :deleted, deleted_dependents = p.deleted_dependents + :dependents,
               updated_at = clock_timestamp(),
               finished_at = case when d.is_done then coalesce(p.finished_at, clock_timestamp()) else p.finished_at end
           from (select not exists (select ${expired}) as is_done) d
           where p.tenant_id = :tenantId and p.operation_id = :operationId and p.subject = :subject
           returning p.*, d.is_done`,
          { tenantId, operationId, subject, cutoff, deleted, dependents },
        ),
      );
      if (!after) throw new Error('the operation’s row was locked and is gone');
      const purge = toAgePurge(after);
      // A repetition that removed nothing more has its row already.
      if (after.is_done && (row.finished_at === null || deleted > 0)) {
        const action = `purge-${subject.replaceAll('_', '-')}`;
        const target = { targetType: 'retention_purge', targetId: operationId };
        await audit(trx, { tenantId, caller: order.caller, action, ...target, counts: toCounts(purge) });
      }
      return { purge, deleted, isDone: after.is_done };
    }),

  countExpired: (order) =>
    database.forTenant(order.tenantId, async (trx) => {
      const { tenantId, operationId, subject, retentionDays } = order;
      const { expired, dependents } = EXPIRIES[subject];
      const begun = await find(trx, order);
      if (begun && begun.retention_days !== retentionDays) throw requestIdReused(operationId);
      const now = firstOf<{ cutoff: Temporal.Instant }>(
        await trx.raw("select clock_timestamp() - ? * interval '24 hours' as cutoff", [retentionDays]),
      );
      const cutoff = begun?.cutoff ?? now?.cutoff;
      if (!cutoff) throw new Error('the database told no time');
      const counted = firstOf<{ expired: number; dependents: number; population: number }>(
        await trx.raw(
          `select (select count(*) ${expired}) as expired,
                  ${dependents === undefined ? '0' : `(select count(*) ${dependents})`} as dependents,
                  (select count(*) from :subject: where tenant_id = :tenantId) as population`,
          { tenantId, subject, cutoff: cutoff.toString() },
        ),
      );
      if (!counted) throw new Error('the count gave no row');
      return { cutoff, ...counted, begun: begun && toAgePurge(begun) };
    }),
});

const find = async (
  trx: Knex.Transaction,
  { tenantId, operationId, subject }: AgePurgeOrder,
  lock = '',
): Promise<AgePurgeRow | undefined> =>
  firstOf(
    await trx.raw(
      `select * from age_purges
       where tenant_id = :tenantId and operation_id = :operationId and subject = :subject ${lock}`,
      { tenantId, operationId, subject },
    ),
  );

const toAgePurge = (row: AgePurgeRow): AgePurge => ({
  cutoff: row.cutoff,
  deleted: row.deleted,
  dependents: row.deleted_dependents,
});
