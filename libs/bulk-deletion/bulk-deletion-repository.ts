import { audit } from '#libs/audit/write-audit.ts';
import { type OperationRow, toOperation } from '#libs/durable/operation-row.ts';
import type { Caller } from '#libs/kernel/caller.ts';
import { DomainError, requestIdReused } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import { pageOf } from '#libs/kernel/page.ts';
import { deleteBatch } from '#libs/postgres/delete-batch.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { readFigure } from '#libs/postgres/read-figure.ts';
import { firstOf, rowsOf } from '#libs/postgres/rows.ts';
import {
  type BulkDeletion,
  type BulkDeletionItem,
  type BulkMode,
  type BulkState,
  bulkLeaseLost,
  endOf,
  type ItemEnd,
  type ItemGroup,
  type ItemState,
  MAX_MATCHES,
  type Matches,
  toCounts,
  toSkips,
} from './bulk-deletion.ts';
import type { BulkClaim, BulkDeletionRepository, Selection } from './ports.ts';

/** Named bindings of a statement. */
export type Bindings = Readonly<Record<string, string | number | boolean | readonly string[] | null>>;

/** The rows that a service deletes in bulk, and the deletions of single ones. */
export interface BulkTargets<Filter> {
  /** What they are called in the audit: `run`, `job`. */
  readonly targetType: string;
  /** The table, with tenant_id, id and created_at, and an index on these three. */
  readonly table: string;
  /** The etag of a row `t`, as SQL. */
  readonly etag: string;
  /** The table of the deletions of single ones, with tenant_id, id, state and last_error. */
  readonly deletions: string;
  /** Which rows `t` a filter matches, as a condition with named bindings. */
  where(selection: Selection<Filter>): { readonly sql: string; readonly bindings: Bindings };
  /** Why a row `t` cannot be deleted now, as SQL: a reason, or null where it can. */
  skipReason(selection: Selection<Filter>): { readonly sql: string; readonly bindings: Bindings };
}

interface BulkRow extends OperationRow {
  readonly mode: BulkMode;
  readonly state: BulkState;
  readonly reason: string;
  readonly fingerprint: string;
  readonly force: boolean;
  readonly filter: unknown;
  readonly expected_count: number | null;
  readonly selected: number;
  readonly selected_at: Temporal.Instant | null;
  readonly selected_id: string | null;
  readonly cancelled_by: string | null;
}

type CountedRow = BulkRow & { readonly groups: readonly ItemGroup[] };

interface ItemRow {
  readonly position: number;
  readonly target_id: string;
  readonly deletion_id: string | null;
  readonly state: ItemState;
  readonly skip_reason: string | null;
  readonly last_error: string | null;
  readonly updated_at: Temporal.Instant;
}

const ITEM_GROUPS = `
  select coalesce(jsonb_agg(jsonb_build_object('state', g.state, 'reason', g.skip_reason, 'count', g.count)), '[]') as groups
  from (select i.state, i.skip_reason, count(*) from bulk_deletion_items i
        where i.tenant_id = b.tenant_id and i.bulk_deletion_id = b.id group by i.state, i.skip_reason) g`;

// The items of one that has ended are counted for good.
const COUNTED = `
  select b.*, coalesce(b.counts, c.groups) as groups
  from bulk_deletions b left join lateral (${ITEM_GROUPS} where b.counts is null) c on true`;

const HAS_EXPIRED = `b.state in ('COMPLETE', 'CANCELLED') and b.finished_at < clock_timestamp() - :days * interval '1 day'`;
const EXPIRED_BULKS = 16;
const EXPIRED_ROWS = 1_000;

/** The durable bulk deletions in Postgres, for the targets of one service. */
export function makeBulkDeletionRepository<Filter extends object>(
  database: Database,
  targets: BulkTargets<Filter>,
): BulkDeletionRepository<Filter> {
  const { targetType, table, etag, deletions } = targets;

  /** What a filter matches: the one condition by which matches are counted, shown and selected. */
  const matching = (selection: Selection<Filter>) => {
    const where = targets.where(selection);
    const skip = targets.skipReason(selection);
    return {
      where: `t.tenant_id = :tenantId and (${where.sql})`,
      skip: skip.sql,
      bindings: { ...where.bindings, ...skip.bindings, tenantId: selection.tenantId },
    };
  };

  const countMatches = async (trx: TenantTransaction, selection: Selection<Filter>): Promise<Matches> => {
    const { where, skip, bindings } = matching(selection);
    const rows = rowsOf<{ reason: string | null; count: number }>(
      await trx.raw(
        `select reason, count(*) as count
         from (select ${skip} as reason from ${table} t where ${where} limit :most) m group by reason`,
        { ...bindings, most: MAX_MATCHES + 1 } as never,
      ),
    );
    const found = rows.reduce((sum, { count }) => sum + count, 0);
    const exceedsCeiling = found > MAX_MATCHES;
    const skipped = rows.filter(({ reason }) => reason !== null).map((row) => ({ ...row, state: 'SKIPPED' as const }));
    return { matched: Math.min(found, MAX_MATCHES), exceedsCeiling, skips: exceedsCeiling ? [] : toSkips(skipped) };
  };

  const auditBulk = (
    trx: TenantTransaction,
    bulk: { readonly tenantId: string; readonly mode: BulkMode; readonly reason: string | undefined },
    { actor, subject, trustEntry }: Pick<Caller, 'actor' | 'subject' | 'trustEntry'>,
    entry: { readonly action?: string; readonly id: string; readonly outcome: string; readonly counts?: object },
    requestId?: string | undefined,
  ): Promise<void> =>
    audit(trx, {
      tenantId: bulk.tenantId,
      actor,
      subject,
      trustEntry,
      action: entry.action ?? actionOf(targetType, bulk.mode),
      targetType: 'bulk_deletion',
      targetId: entry.id,
      reason: bulk.reason,
      requestId,
      outcome: entry.outcome,
      ...(entry.counts ? { counts: entry.counts } : {}),
    });

  return {
    count: (selection) => database.forTenant(selection.tenantId, (trx) => countMatches(trx, selection)),

    sample: (selection, limit) =>
      database.forTenant(selection.tenantId, async (trx) => {
        const { where, bindings } = matching(selection);
        const rows = rowsOf<{ id: string }>(
          await trx.raw(
            `select t.id from ${table} t where ${where} order by t.created_at desc, t.id desc limit :limit`,
            { ...bindings, limit } as never,
          ),
        );
        return rows.map(({ id }) => id);
      }),

    begin: (order, check) =>
      database.forTenant(order.tenantId, async (trx) => {
        const { tenantId, mode, filter, force, caller, reason, requestId, fingerprint, expectedCount } = order;
        const find = async () => {
          if (requestId === undefined) return undefined;
          const known = firstOf<{ id: string; fingerprint: string }>(
            await trx.raw(
              'select id, fingerprint from bulk_deletions where tenant_id = :tenantId and request_id = :requestId',
              { tenantId, requestId },
            ),
          );
          if (known && known.fingerprint !== fingerprint) throw requestIdReused(requestId);
          return known && { bulkDeletionId: known.id, isNew: false };
        };
        const known = await find();
        if (known) return known;
        const matches = await countMatches(trx, order);
        check(matches);
        const id = newId();
        const { rowCount } = await trx.raw(
          `insert into bulk_deletions
             (tenant_id, id, mode, state, actor, subject, reason, request_id, fingerprint, force, filter, expected_count,
              trust_entry)
           values (:tenantId, :id, :mode, 'SELECTING', :actor, :subject, :reason, :requestId, :fingerprint, :force,
                   cast(:filter as jsonb), :expectedCount, :trustEntry)
           on conflict (tenant_id, request_id) where request_id is not null do nothing`,
          {
            tenantId,
            id,
            mode,
            actor: caller.actor,
            subject: caller.subject,
            trustEntry: caller.trustEntry ?? null,
            reason,
            requestId: requestId ?? null,
            fingerprint,
            force,
            filter: JSON.stringify(filter),
            expectedCount: expectedCount ?? null,
          },
        );
        // The same request twice at once: the first one has just been committed.
        const first = rowCount === 0 ? await find() : undefined;
        if (first) return first;
        await auditBulk(
          trx,
          order,
          caller,
          { id, outcome: 'PENDING', counts: { matched: matches.matched, filter } },
          requestId,
        );
        return { bulkDeletionId: id, isNew: true };
      }),

    async get(tenantId, bulkDeletionId) {
      const [row] = await database.readForTenant<CountedRow>(tenantId, {
        text: `${COUNTED} where b.tenant_id = $1 and b.id = $2`,
        values: [tenantId, bulkDeletionId],
      });
      return row && toBulk<Filter>(row);
    },

    async list(tenantId, { state, limit, after }) {
      const rows = await database.readForTenant<CountedRow>(tenantId, {
        text: `${COUNTED}
               where b.tenant_id = $1 and ($2::text is null or b.state = $2)
                 and ($3::timestamptz is null or (b.created_at, b.id) < ($3, $4::uuid))
               order by b.created_at desc, b.id desc limit $5`,
        values: [tenantId, state ?? null, after?.[0] ?? null, after?.[1] ?? null, limit + 1],
      });
      return pageOf(rows, limit, toBulk<Filter>, (row) => [row.created_at.toString(), row.id]);
    },

    listItems: (tenantId, bulkDeletionId, { state, limit, after }) =>
      database.forTenant(tenantId, async (trx) => {
        await readInOrder(trx);
        const of = { tenantId, bulkDeletionId };
        const found = await trx.raw(
          'select from bulk_deletions where tenant_id = :tenantId and id = :bulkDeletionId',
          of,
        );
        if (found.rowCount === 0) return undefined;
        const rows = rowsOf<ItemRow>(
          await trx.raw(
            `select position, target_id, deletion_id, state, skip_reason, last_error, updated_at
             from bulk_deletion_items
             where tenant_id = :tenantId and bulk_deletion_id = :bulkDeletionId and position > :after
               and (cast(:state as text) is null or state = :state)
             order by position limit :limit`,
            { ...of, after: Number(after?.[0] ?? 0), state: state ?? null, limit: limit + 1 },
          ),
        );
        return pageOf(rows, limit, toItem, (row) => [String(row.position)]);
      }),

    cancel: (tenantId, bulkDeletionId, caller, reason) =>
      database.forTenant(tenantId, async (trx) => {
        const row = firstOf<BulkRow>(
          await trx.raw(
            'select * from bulk_deletions where tenant_id = :tenantId and id = :bulkDeletionId for update',
            { tenantId, bulkDeletionId },
          ),
        );
        if (row?.state !== 'SELECTING' && row?.state !== 'RUNNING') return row?.state;
        await trx.raw(
          `update bulk_deletions
           set state = 'CANCELLING', cancelled_by = :actor, next_attempt_at = clock_timestamp(),
               updated_at = clock_timestamp()
           where tenant_id = :tenantId and id = :bulkDeletionId`,
          { tenantId, bulkDeletionId, actor: caller.actor },
        );
        const action = `cancel-${actionOf(targetType, row.mode)}`;
        await auditBulk(trx, { tenantId, mode: row.mode, reason }, caller, {
          action,
          id: bulkDeletionId,
          outcome: 'CANCELLING',
        });
        return row.state;
      }),

    recordRefusal: (order, refusal) =>
      database.forTenant(order.tenantId, (trx) =>
        auditBulk(
          trx,
          order,
          order.caller,
          { id: '', outcome: refusal, counts: { filter: order.filter } },
          order.requestId,
        ),
      ),

    async findDue(limit) {
      const rows = await database.acrossTenants<{ tenant_id: string; id: string }>({
        text: 'select tenant_id, id from due_bulk_deletions($1)',
        values: [limit],
      });
      return rows.map((row) => ({ tenantId: row.tenant_id, bulkDeletionId: row.id }));
    },

    claim: (tenantId, bulkDeletionId, owner, leaseMs) =>
      database.forTenant(tenantId, async (trx) => {
        const row = firstOf<BulkRow>(
          await trx.raw(
            `update bulk_deletions b
             set lease_owner = :owner, lease_token = b.lease_token + 1,
                 lease_expires_at = clock_timestamp() + :leaseMs * interval '1 ms'
             where b.tenant_id = :tenantId and b.ctid = (
                   select ctid from bulk_deletions
                   where tenant_id = :tenantId and id = :bulkDeletionId
                     and state in ('SELECTING', 'RUNNING', 'CANCELLING') and next_attempt_at <= clock_timestamp()
                     and (lease_expires_at is null or lease_expires_at <= clock_timestamp())
                   for update skip locked)
             returning b.*`,
            { tenantId, bulkDeletionId, owner, leaseMs },
          ),
        );
        return (
          row && {
            bulk: toBare<Filter>(row),
            token: BigInt(row.lease_token),
            expectedCount: row.expected_count ?? undefined,
            attempts: row.attempts,
          }
        );
      }),

    renew: (claim, leaseMs) =>
      asHolder(database, claim, (trx, held) =>
        updateHeld(trx, held, "lease_expires_at = clock_timestamp() + :leaseMs * interval '1 ms'", { leaseMs }),
      ),

    selectItems: (claim, limit, check) =>
      asHolder(database, claim, async (trx, row) => {
        if (row.state !== 'SELECTING') return { state: row.state, skipped: 0 };
        await readInOrder(trx);
        const { id: bulkDeletionId, createdAt } = claim.bulk;
        const { where, skip, bindings } = matching(claim.bulk);
        const added = firstOf<{ count: number; skipped: number; at: Temporal.Instant | null; id: string | null }>(
          await trx.raw(
            `with chosen as materialized (
               select t.id, t.created_at, ${etag} as etag, ${skip} as skip_reason
               from ${table} t
               where ${where} and t.created_at < cast(:orderedAt as timestamptz)
                 and (cast(:selectedAt as timestamptz) is null
                      or (t.created_at, t.id) > (cast(:selectedAt as timestamptz), cast(:selectedId as uuid)))
               order by t.created_at, t.id limit :limit),
             added as (
               insert into bulk_deletion_items
                 (tenant_id, bulk_deletion_id, position, target_id, etag, state, skip_reason)
               select :tenantId, :bulkDeletionId, :selected + row_number() over (order by c.created_at, c.id), c.id, c.etag,
                      case when c.skip_reason is null then 'PENDING' else 'SKIPPED' end, c.skip_reason
               from chosen c returning state)
             select n.count, n.skipped, l.created_at as at, l.id
             from (select count(*), count(*) filter (where state = 'SKIPPED') as skipped from added) n left join lateral (
               select created_at, id from chosen order by created_at desc, id desc limit 1) l on true`,
            {
              ...bindings,
              bulkDeletionId,
              orderedAt: createdAt.toString(),
              selectedAt: row.selected_at?.toString() ?? null,
              selectedId: row.selected_id,
              selected: row.selected,
              limit,
            } as never,
          ),
        );
        if (!added) throw new Error('a query without a predicate answered with no row');
        const selected = row.selected + added.count;
        let state: BulkState = added.count < limit ? 'RUNNING' : 'SELECTING';
        let error: string | null = null;
        try {
          check({ matched: selected, exceedsCeiling: selected > MAX_MATCHES });
        } catch (refusal) {
          if (!(refusal instanceof DomainError)) throw refusal;
          state = 'CANCELLING';
          error = `${refusal.reason}: ${refusal.message}`;
        }
        await updateHeld(
          trx,
          row,
          `state = :state, selected = :selected, selected_at = coalesce(cast(:at as timestamptz), selected_at),
           selected_id = coalesce(cast(:id as uuid), selected_id), last_error = coalesce(:error, last_error),
           ${state === 'RUNNING' ? 'started_at = clock_timestamp(),' : ''} updated_at = clock_timestamp()`,
          { state, selected, at: added.at?.toString() ?? null, id: added.id, error },
        );
        return { state, skipped: added.skipped };
      }),

    settleItems: (claim) =>
      asHolder(database, claim, async (trx, { state }) => {
        const of = keyOf(claim);
        // The lock keeps a redrive of the deletion from passing by: whoever comes second sees what the first has done.
        // By arrays of the few that are under way: a join is planned badly while the tables fill up.
        const settled = await trx.raw(
          `with ended as materialized (
             select d.id, d.state, d.last_error from ${deletions} d
             where d.tenant_id = :tenantId and d.state in ('COMPLETE', 'STUCK', 'CANCELLED') and d.id = any(array(
               select deletion_id from bulk_deletion_items
               where tenant_id = :tenantId and bulk_deletion_id = :bulkDeletionId and state = 'RUNNING'))
             for share of d skip locked)
           update bulk_deletion_items i
           set state = case e.state when 'CANCELLED' then 'SKIPPED' else e.state end,
               skip_reason = case e.state when 'CANCELLED' then 'UNDELETED' end,
               last_error = case e.state when 'STUCK' then e.last_error end, updated_at = clock_timestamp()
           from ended e
           where i.tenant_id = :tenantId and i.bulk_deletion_id = :bulkDeletionId and i.deletion_id = e.id
             and i.deletion_id = any(array(select id from ended))
           returning i.state`,
          of,
        );
        const ended = new Map<ItemEnd, number>();
        for (const { state: end } of rowsOf<{ state: ItemEnd }>(settled)) ended.set(end, (ended.get(end) ?? 0) + 1);
        const left = firstOf<{ count: number }>(
          await trx.raw(
            `select count(*) as count from bulk_deletion_items
             where tenant_id = :tenantId and bulk_deletion_id = :bulkDeletionId and state = 'RUNNING'`,
            of,
          ),
        );
        return { state, underWay: left?.count ?? 0, ended };
      }),

    async dueItems(claim, limit) {
      if (limit <= 0) return [];
      const rows = await database.forTenant(claim.bulk.tenantId, async (trx) => {
        await readInOrder(trx);
        return rowsOf<ItemRow & { etag: string; attempts: number }>(
          await trx.raw(
            `select position, target_id, etag, attempts from bulk_deletion_items
             where tenant_id = :tenantId and bulk_deletion_id = :bulkDeletionId and state = 'PENDING'
               and (next_attempt_at is null or next_attempt_at <= clock_timestamp())
             order by position limit :limit`,
            { ...keyOf(claim), limit },
          ),
        );
      });
      return rows.map((row) => ({
        position: row.position,
        targetId: row.target_id,
        etag: row.etag,
        attempts: row.attempts,
      }));
    },

    skipItem: (claim, { position }, reason, error) =>
      asHolder(database, claim, (trx) =>
        updatePending(
          trx,
          claim,
          position,
          `state = 'SKIPPED', skip_reason = :reason, last_error = :error, next_attempt_at = null`,
          { reason, error },
        ),
      ),

    deferItem: (claim, { position }, error, retryMs) =>
      asHolder(database, claim, (trx) =>
        updatePending(
          trx,
          claim,
          position,
          `attempts = attempts + 1, last_error = :error,
           next_attempt_at = clock_timestamp() + :retryMs * interval '1 ms'`,
          { error, retryMs },
        ),
      ),

    cancelItems: (claim, limit) =>
      asHolder(database, claim, async (trx, { state }) => {
        if (state !== 'CANCELLING') return 0;
        await readInOrder(trx);
        const { rowCount } = await trx.raw(
          `update bulk_deletion_items set state = 'CANCELLED', next_attempt_at = null, updated_at = clock_timestamp()
           where tenant_id = :tenantId and bulk_deletion_id = :bulkDeletionId and position in (
             select position from bulk_deletion_items
             where tenant_id = :tenantId and bulk_deletion_id = :bulkDeletionId and state = 'PENDING'
             order by position limit :limit)`,
          { ...keyOf(claim), limit },
        );
        return rowCount;
      }),

    finish: (claim) =>
      asHolder(database, claim, async (trx, row) => {
        if (row.state !== 'RUNNING' && row.state !== 'CANCELLING') return undefined;
        const of = keyOf(claim);
        const counted = firstOf<{ groups: readonly ItemGroup[] }>(
          await trx.raw(
            `select g.groups from bulk_deletions b cross join lateral (${ITEM_GROUPS}) g
             where b.tenant_id = :tenantId and b.id = :bulkDeletionId`,
            of,
          ),
        );
        const groups = counted?.groups ?? [];
        const counts = toCounts(groups);
        if (counts.pending > 0) return undefined;
        const state = endOf(row.state, counts);
        await updateHeld(
          trx,
          row,
          `state = :state, counts = cast(:groups as jsonb), attempts = 0, next_attempt_at = null, lease_owner = null,
           lease_expires_at = null, updated_at = clock_timestamp(), finished_at = clock_timestamp()`,
          { state, groups: JSON.stringify(groups) },
        );
        const ended = firstOf<BulkRow>(
          await trx.raw('select * from bulk_deletions where tenant_id = :tenantId and id = :bulkDeletionId', of),
        );
        if (!ended) throw bulkLeaseLost();
        const { matched, completed, skipped, stuck, cancelled } = counts;
        await auditBulk(
          trx,
          claim.bulk,
          claim.bulk,
          { id: claim.bulk.id, outcome: state, counts: { matched, completed, skipped, stuck, cancelled } },
          claim.bulk.requestId,
        );
        return toBulk<Filter>({ ...ended, groups });
      }),

    release: (claim, pauseMs, error) =>
      asHolder(database, claim, (trx, held) =>
        updateHeld(
          trx,
          held,
          `lease_owner = null, lease_expires_at = null,
           attempts = case when cast(:error as text) is null then 0 else attempts + 1 end,
           last_error = coalesce(:error, case when state = 'RUNNING' then null else last_error end),
           next_attempt_at = clock_timestamp() + :pauseMs * interval '1 ms'`,
          { pauseMs, error: error ?? null },
        ),
      ),

    oldestUnfinishedSeconds: () => readFigure(database, 'oldest_unfinished_bulk_deletion_seconds'),

    itemsLeft: () => readFigure(database, 'bulk_deletion_items_left'),

    async expire(days) {
      const expired = await database.acrossTenants<{ tenant_id: string; id: string }>({
        text: 'select tenant_id, id from expired_bulk_deletions($1, $2)',
        values: [days, EXPIRED_BULKS],
      });
      let removed = 0;
      for (const { tenant_id: tenantId, id } of expired) {
        // A redrive may have reopened it since, or be about to: the lock keeps it out until the batch is committed.
        const where = `bulk_deletion_id = :id and exists (
          select from bulk_deletions b where b.tenant_id = :tenantId and b.id = :id and ${HAS_EXPIRED} for share)`;
        const batch = { table: 'bulk_deletion_items', tenantId, where, bindings: { id, days }, limit: EXPIRED_ROWS };
        for await (const items of deleteBatch(database, batch)) removed += items;
        removed += await database.forTenant(tenantId, async (trx) => {
          const { rowCount } = await trx.raw(
            `delete from bulk_deletions b where b.tenant_id = :tenantId and b.id = :id and ${HAS_EXPIRED}`,
            { tenantId, id, days },
          );
          return rowCount;
        });
      }
      return removed;
    },
  };
}

const actionOf = (targetType: string, mode: BulkMode): string =>
  mode === 'SOFT_DELETE' ? `bulk-soft-delete-${targetType}s` : `bulk-purge-${targetType}s`;

const keyOf = ({ bulk }: BulkClaim<unknown>) => ({ tenantId: bulk.tenantId, bulkDeletionId: bulk.id });

/**
 * Lets the rest of the transaction read pages in the order of an index. The planner takes the columns of a predicate for
 * independent, hence one bulk deletion for a few rows, and would read all of it in order to sort it.
 */
const readInOrder = (trx: TenantTransaction): Promise<unknown> => trx.raw('set local enable_sort = off');

/** Runs work in a transaction that holds the row of a bulk deletion under the claim's token; LEASE_LOST. */
const asHolder = <T>(
  database: Database,
  claim: BulkClaim<unknown>,
  work: (trx: TenantTransaction, held: BulkRow) => Promise<T>,
): Promise<T> =>
  database.forTenant(claim.bulk.tenantId, async (trx) => {
    const held = firstOf<BulkRow>(
      await trx.raw(
        `select * from bulk_deletions
         where tenant_id = :tenantId and id = :bulkDeletionId and lease_token = :token and lease_owner is not null
         for update`,
        { ...keyOf(claim), token: String(claim.token) },
      ),
    );
    if (!held) throw bulkLeaseLost();
    return work(trx, held);
  });

async function updateHeld(
  trx: TenantTransaction,
  { tenant_id: tenantId, id }: BulkRow,
  set: string,
  bindings: Readonly<Record<string, string | number | null>>,
): Promise<void> {
  await trx.raw(`update bulk_deletions set ${set} where tenant_id = :tenantId and id = :bulkDeletionId`, {
    ...bindings,
    tenantId,
    bulkDeletionId: id,
  });
}

async function updatePending(
  trx: TenantTransaction,
  claim: BulkClaim<unknown>,
  position: number,
  set: string,
  bindings: Readonly<Record<string, string | number>>,
): Promise<void> {
  await trx.raw(
    `update bulk_deletion_items set ${set}, updated_at = clock_timestamp()
     where tenant_id = :tenantId and bulk_deletion_id = :bulkDeletionId and position = :position and state = 'PENDING'`,
    { ...bindings, ...keyOf(claim), position },
  );
}

const toBare = <Filter>(row: BulkRow): BulkClaim<Filter>['bulk'] => ({
  ...toOperation(row),
  mode: row.mode,
  state: row.state,
  subject: row.subject,
  ...(row.trust_entry === null ? {} : { trustEntry: row.trust_entry }),
  reason: row.reason,
  force: row.force,
  filter: row.filter as Filter,
  cancelledBy: row.cancelled_by ?? undefined,
});

const toBulk = <Filter>({ groups, ...row }: CountedRow): BulkDeletion<Filter> => ({
  ...toBare<Filter>(row),
  counts: toCounts(groups),
  skips: toSkips(groups),
});

const toItem = (row: ItemRow): BulkDeletionItem => ({
  position: row.position,
  targetId: row.target_id,
  deletionId: row.deletion_id ?? undefined,
  state: row.state,
  skipReason: row.skip_reason ?? undefined,
  lastError: row.last_error ?? undefined,
  updatedAt: row.updated_at,
});
