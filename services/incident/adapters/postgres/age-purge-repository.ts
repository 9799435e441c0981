import { requestIdReused } from '#libs/kernel/domain-error.ts';
import { audit } from '#libs/postgres/audit.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import { AGE_DECISIONS, INCIDENT_STATES } from '../../domain/incident.ts';
import type { AgePurge, AgePurgeOrder, AgePurgeRepository, PurgeSubject } from '../../use-cases/ports.ts';

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

/** How the rows of one subject are found and removed. */
interface Expiry {
  /** The one predicate for counting, removing and reading back. A null instant is not smaller than anything. */
  readonly expired: string;
  /** The order of the index that leads to them; without it a plan may walk everything that a tenant has. */
  readonly oldestFirst: string;
  /** Counts what goes with the expired rows, where something does. */
  readonly dependents?: string;
  /**
   * Removes those first that have been expired longest, and tells how many and what went with them. The ids reach the
   * deletes as arrays, so that a batch costs what it removes and not what the tenant has.
   */
  readonly remove: string;
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

const OLDEST_CHECKS_FIRST = 'order by c.checked_at nulls first, c.id';
const OLDEST_PAYLOADS_FIRST = 'order by i.closed_at, i.id';
const OLDEST_APPROVALS_FIRST = 'order by a.decided_at, a.id';

// Nowhere `skip locked`: a row that another operation is about to remove is waited for, not taken for gone.
const EXPIRIES: Readonly<Record<PurgeSubject, Expiry>> = {
  drift_checks: {
    expired: CHECKS,
    oldestFirst: OLDEST_CHECKS_FIRST,
    dependents: `from drift_check_workflows w
      where w.tenant_id = :tenantId and w.check_id in (select c.id ${CHECKS})`,
    remove: `with expired as materialized (
        select c.id ${CHECKS} ${OLDEST_CHECKS_FIRST} limit :limit for update),
      workflows as (
        delete from drift_check_workflows w
        where w.tenant_id = :tenantId and w.check_id = any(array(select id from expired)) returning 1),
      checks as (
        delete from drift_checks c
        where c.tenant_id = :tenantId and c.id = any(array(select id from expired)) returning 1)
      select (select count(*) from checks) as deleted, (select count(*) from workflows) as dependents`,
    toCounts: ({ deleted, dependents }) => ({ drift_checks: deleted, drift_check_workflows: dependents }),
  },
  incident_payloads: {
    expired: PAYLOADS,
    oldestFirst: OLDEST_PAYLOADS_FIRST,
    remove: `with expired as materialized (
        select i.id ${PAYLOADS} ${OLDEST_PAYLOADS_FIRST} limit :limit for update of i),
      payloads as (
        delete from incident_payloads p
        where p.tenant_id = :tenantId and p.incident_id = any(array(select id from expired))
        returning p.incident_id),
      shells as (
        update incidents i
        set payload_purged_at = clock_timestamp(), updated_at = clock_timestamp(), version = i.version + 1
        where i.tenant_id = :tenantId and i.id = any(array(select incident_id from payloads)))
      select count(*) as deleted, 0 as dependents from payloads`,
    toCounts: ({ deleted }) => ({ incident_payloads: deleted }),
  },
  approvals: {
    expired: APPROVALS,
    oldestFirst: OLDEST_APPROVALS_FIRST,
    remove: `with expired as materialized (
        select a.id ${APPROVALS} ${OLDEST_APPROVALS_FIRST} limit :limit for update of a),
      gone as (
        delete from approvals a
        where a.tenant_id = :tenantId and a.id = any(array(select id from expired)) returning 1)
      select count(*) as deleted, 0 as dependents from gone`,
    toCounts: ({ deleted }) => ({ approvals: deleted }),
  },
};

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
      const { expired, oldestFirst, remove, toCounts } = EXPIRIES[subject];
      // The operation's row is locked first: two at once on one operation take turns, and its sums are exact.
      const row = await find(trx, order, 'for update');
      if (!row) throw requestIdReused(operationId);
      const cutoff = row.cutoff.toString();
      const removed = firstOf<Removed>(await trx.raw(remove, { tenantId, cutoff, limit }));
      if (!removed) throw new Error('the removal gave no row');
      const { deleted, dependents } = removed;
      const after = firstOf<AgePurgeRow & { is_done: boolean }>(
        await trx.raw(
          `update age_purges p
           set deleted = p.deleted + :deleted, deleted_dependents = p.deleted_dependents + :dependents,
               updated_at = clock_timestamp(),
               finished_at = case when d.is_done then coalesce(p.finished_at, clock_timestamp()) else p.finished_at end
           from (select (select true ${expired} ${oldestFirst} limit 1) is null as is_done) d
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
        const { actor, subject: by } = order.caller;
        const target = { targetType: 'retention_purge', targetId: operationId };
        const outcome = 'COMPLETE';
        await audit(trx, { tenantId, actor, subject: by, action, ...target, outcome, counts: toCounts(purge) });
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
  trx: TenantTransaction,
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
