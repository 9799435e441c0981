import { DomainError, operationInProgress, requestIdReused } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import { audit } from '#libs/postgres/audit.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf, pageOf } from '#libs/postgres/rows.ts';
import { isUniqueViolation } from '#libs/postgres/sql-errors.ts';
import {
  ITEM_STATES,
  type ItemHold,
  type ItemState,
  isFinished,
  type PurgeOperation,
  type PurgeState,
  type PurgeTrigger,
  purgeNotFound,
  purgeNotHeld,
  type ResourceCount,
  type RetentionPurge,
  type RetentionPurgeItem,
  sumCounts,
} from '../../domain/purge.ts';
import type { ResolvedWindow, Window } from '../../domain/windows.ts';
import type { HoldApproval, ItemClaim, ItemProgress, PurgeRepository } from '../../use-cases/ports.ts';

interface PurgeRow {
  readonly id: string;
  readonly trigger: PurgeTrigger;
  readonly validate_only: boolean;
  readonly actor: string;
  readonly reason: string | null;
  readonly request_id: string | null;
  readonly fingerprint: string;
  readonly created_at: Temporal.Instant;
  readonly state: PurgeState;
  readonly states: Partial<Record<ItemState, number>>;
  readonly counts: readonly ResourceCount[];
  readonly started_at: Temporal.Instant | null;
  readonly finished_at: Temporal.Instant | null;
}

// In jsonb instants are text and what is absent is not there.
interface StoredWindow extends Omit<ResolvedWindow, 'change'> {
  readonly change?: { readonly at: string; readonly to: Window };
}

interface StoredHold extends Omit<ItemHold, 'heldAt' | 'approval'> {
  readonly heldAt: string;
  readonly approval?: { readonly at: string; readonly actor: string; readonly reason: string };
}

interface ItemRow {
  readonly tenant_id: string;
  readonly purge_id: string;
  readonly state: ItemState;
  readonly validate_only: boolean;
  readonly actor: string;
  readonly plan: string | null;
  readonly plan_version: number | null;
  readonly windows: readonly StoredWindow[];
  readonly operations: readonly PurgeOperation[];
  readonly subject: string | null;
  readonly error: string | null;
  readonly hold: StoredHold | null;
  readonly running_purge_id: string | null;
  readonly attempts: number;
  readonly failures: number;
  readonly lease_token: number;
  readonly lease_expires_at: Temporal.Instant | null;
  readonly next_attempt_at: Temporal.Instant;
  readonly started_at: Temporal.Instant | null;
  readonly updated_at: Temporal.Instant;
  readonly finished_at: Temporal.Instant | null;
}

const WITH_SUMS = 'select p.*, s.* from retention_purges p cross join lateral purge_sums(p.id) s';

// One tenant's part of a purge as if it were all of it; a tenant left to another purge stands as that one's item does.
const PART = `
  select p.*, i.counts, jsonb_build_object(i.state, 1) as states, i.started_at,
         case i.state when 'SKIPPED' then o.finished_at else i.finished_at end as finished_at,
         case when e.state in ('PENDING', 'RUNNING', 'COMPLETE') then e.state else 'PARTIAL' end as state
  from retention_purge_items i
  join retention_purges p on p.id = i.purge_id
  left join retention_purge_items o on o.tenant_id = i.tenant_id and o.purge_id = i.running_purge_id
  cross join lateral (select case i.state when 'SKIPPED' then coalesce(o.state, 'FAILED') else i.state end as state) e`;

/** Retention purges in Postgres; what is to be done is a job of the queue in the same database. */
export const makePurgeRepository = (database: Database): PurgeRepository => ({
  async create(purge) {
    const { tenantIds, trigger, validateOnly, actor, subject, reason, requestId, fingerprint } = purge;
    const id = newId();
    const [first = 'nobody'] = tenantIds;
    return database.forTenant(first, async (trx) => {
      const bindings = {
        id,
        trigger,
        validateOnly,
        actor,
        subject,
        reason: reason ?? null,
        requestId: requestId ?? null,
        scope: purge.requestScope ?? '',
        fingerprint,
      };
      const inserted = await trx.raw(
        `insert into retention_purges
           (id, trigger, validate_only, actor, subject, reason, request_id, request_scope, fingerprint)
         values (:id, :trigger, :validateOnly, :actor, :subject, :reason, :requestId, :scope, :fingerprint)
         on conflict (request_scope, trigger, request_id) do nothing`,
        bindings,
      );
      if (inserted.rowCount === 0) {
        const known = firstOf<{ id: string; fingerprint: string }>(
          await trx.raw(
            `select id, fingerprint from retention_purges
             where request_scope = :scope and trigger = :trigger and request_id = :requestId`,
            bindings,
          ),
        );
        if (known?.fingerprint !== fingerprint) throw requestIdReused(requestId ?? '');
        return known.id;
      }
      await trx.raw('select add_purge_items(:id, cast(:tenantIds as text[]), :validateOnly, :actor)', {
        ...bindings,
        tenantIds: [...tenantIds],
      });
      if (trigger === 'PURGE_NOW') {
        const item = await findItem(trx, first, id);
        if (item?.state === 'SKIPPED') throw operationInProgress(item.running_purge_id ?? '');
      }
      return id;
    });
  },

  async get(purgeId) {
    const [row] = await database.acrossTenants<PurgeRow>({ text: `${WITH_SUMS} where p.id = $1`, values: [purgeId] });
    return row && toPurge(row);
  },

  async list({ tenantId, state }, { limit, after }) {
    const rows = await database.acrossTenants<PurgeRow>({
      text: `${WITH_SUMS} where ($1::timestamptz is null or (p.created_at, p.id) < ($1, $2::uuid))
               and ($3::text is null or purge_has_tenant(p.id, $3)) and ($4::text is null or s.state = $4)
             order by p.created_at desc, p.id desc limit $5`,
      values: [after?.[0] ?? null, after?.[1] ?? null, tenantId ?? null, state ?? null, limit + 1],
    });
    return pageOf(rows, limit, toPurge, keyOf);
  },

  async getPart(tenantId, purgeId) {
    const [row] = await database.readForTenant<PurgeRow>(tenantId, {
      text: `${PART} where i.tenant_id = $1 and i.purge_id = $2`,
      values: [tenantId, purgeId],
    });
    return row && toPurge(row);
  },

  async listParts(tenantId, state, { limit, after }) {
    const rows = await database.readForTenant<PurgeRow>(tenantId, {
      text: `select * from (${PART} where i.tenant_id = $1) p
             where ($2::timestamptz is null or (p.created_at, p.id) < ($2, $3::uuid))
               and ($4::text is null or p.state = $4)
             order by p.created_at desc, p.id desc limit $5`,
      values: [tenantId, after?.[0] ?? null, after?.[1] ?? null, state ?? null, limit + 1],
    });
    return pageOf(rows, limit, toPurge, keyOf);
  },

  async getItem(tenantId, purgeId) {
    const [row] = await database.readForTenant<ItemRow>(tenantId, {
      text: 'select * from retention_purge_items where tenant_id = $1 and purge_id = $2',
      values: [tenantId, purgeId],
    });
    return row && toItem(row);
  },

  async findItems(purgeId, { limit, after }) {
    const rows = await database.acrossTenants<Pick<ItemRow, 'tenant_id' | 'state' | 'updated_at'>>({
      text: 'select * from items_of_purge($1, $2, $3)',
      values: [purgeId, after?.[0] ?? null, limit + 1],
    });
    const toState = (row: (typeof rows)[number]) => ({
      tenantId: row.tenant_id,
      state: row.state,
      updatedAt: row.updated_at,
    });
    return pageOf(rows, limit, toState, (row) => [row.tenant_id]);
  },

  claim: (tenantId, purgeId, owner, leaseMs) =>
    database.forTenant(tenantId, async (trx) => {
      const row = firstOf<ItemRow>(
        await trx.raw(
          `update retention_purge_items i
           set state = 'RUNNING', lease_owner = :owner, lease_token = i.lease_token + 1, attempts = i.attempts + 1,
               lease_expires_at = clock_timestamp() + :leaseMs * interval '1 ms',
               started_at = coalesce(i.started_at, clock_timestamp()), updated_at = clock_timestamp()
           where i.tenant_id = :tenantId and i.ctid = (
                 select ctid from retention_purge_items
                 where tenant_id = :tenantId and purge_id = :purgeId and state in ('PENDING', 'RUNNING')
                   and next_attempt_at <= clock_timestamp()
                   and (lease_expires_at is null or lease_expires_at <= clock_timestamp())
                 for update skip locked)
           returning i.*`,
          { tenantId, purgeId, owner, leaseMs },
        ),
      );
      if (!row) return undefined;
      // If this worker dies, the queue gives the item to another one when the lease ends.
      await enqueue(trx, row, row.lease_expires_at);
      return { item: toItem(row), token: BigInt(row.lease_token) };
    }),

  save: (claim, progress, leaseMs) =>
    database.forTenant(claim.item.tenantId, async (trx) => {
      const isFinal = isFinished(progress.state);
      const row = await updateClaimed(
        trx,
        claim,
        `${PROGRESS}, lease_owner = case when :isFinal then null else lease_owner end,
         lease_expires_at = case when :isFinal then null else clock_timestamp() + :leaseMs * interval '1 ms' end,
         -- What is held has not ended.
         finished_at = case when :isFinal and :state <> 'HELD' then clock_timestamp() end`,
        { ...bindingsOf(progress), isFinal, leaseMs },
      );
      if (!isFinal) return enqueue(trx, row, row.lease_expires_at);
      await trx.raw('select graphile_worker.remove_job(:key)', { key: jobKeyOf(row) });
      if (row.validate_only) return;
      await auditItem(trx, row, 'retention-purge');
      // A call that was cut off is over by then.
      if (row.failures > 0 && progress.state !== 'HELD') await enqueueSettling(trx, row, leaseMs);
    }),

  postpone: (claim, progress, retryMs) =>
    database.forTenant(claim.item.tenantId, async (trx) => {
      const row = await updateClaimed(
        trx,
        claim,
        `${PROGRESS}, lease_owner = null, lease_expires_at = null,
         next_attempt_at = clock_timestamp() + :retryMs * interval '1 ms'`,
        { ...bindingsOf(progress), retryMs },
      );
      await enqueue(trx, row, row.next_attempt_at);
    }),

  release: (claim) =>
    database.forTenant(claim.item.tenantId, async (trx) => {
      const row = await updateClaimed(
        trx,
        claim,
        `attempts = attempts - 1, lease_owner = null, lease_expires_at = null, next_attempt_at = clock_timestamp(),
         updated_at = clock_timestamp()`,
        {},
      );
      await enqueue(trx, row, row.next_attempt_at);
    }),

  async approve(approval) {
    const { tenantId, purgeId } = approval;
    try {
      return await database.forTenant(tenantId, (trx) => approveHeld(trx, approval));
    } catch (error) {
      if (!isUniqueViolation(error, 'retention_purge_items_running')) throw error;
      const [running] = await database.readForTenant<{ purge_id: string }>(tenantId, {
        text: `select purge_id from retention_purge_items
               where tenant_id = $1 and state in ('PENDING', 'RUNNING') and not validate_only and purge_id <> $2`,
        values: [tenantId, purgeId],
      });
      // It may have ended since; then the next try gets through.
      throw operationInProgress(running?.purge_id ?? purgeId);
    }
  },

  settle: (tenantId, purgeId, operations) =>
    database.forTenant(tenantId, async (trx) => {
      const item = await findItem(trx, tenantId, purgeId, 'for update');
      if (!item || item.finished_at === null) return;
      const row = firstOf<ItemRow>(
        await trx.raw(
          `update retention_purge_items
           set operations = cast(:operations as jsonb), counts = cast(:counts as jsonb), updated_at = clock_timestamp()
           where tenant_id = :tenantId and purge_id = :purgeId and counts <> cast(:counts as jsonb) returning *`,
          {
            tenantId,
            purgeId,
            operations: JSON.stringify(operations),
            counts: JSON.stringify(sumCounts(operations)),
          },
        ),
      );
      if (row) await auditItem(trx, row, 'settle-retention-purge');
    }),

  recordRefusal: (tenantId, { actor, subject, reason, requestId, trigger }, outcome) =>
    database.forTenant(tenantId, (trx) =>
      audit(trx, {
        tenantId,
        actor,
        subject,
        action: 'retention-purge',
        targetType: 'retention_purge',
        targetId: trigger,
        reason,
        requestId,
        outcome,
      }),
    ),
});

const PROGRESS = `state = :state, plan = :plan, plan_version = :planVersion, windows = cast(:windows as jsonb),
  operations = cast(:operations as jsonb), counts = cast(:counts as jsonb), cutoffs = cast(:cutoffs as jsonb),
  subject = :subject, error = :error, failures = :failures, updated_at = clock_timestamp(),
  hold = case when cast(:hold as jsonb) is null then hold
              else cast(:hold as jsonb) || jsonb_build_object('heldAt', clock_timestamp()) end`;

const bindingsOf = (progress: ItemProgress) => ({
  state: progress.state,
  plan: progress.plan ?? null,
  planVersion: progress.planVersion ?? null,
  windows: JSON.stringify(progress.windows),
  operations: JSON.stringify(progress.operations),
  counts: JSON.stringify(sumCounts(progress.operations)),
  cutoffs: JSON.stringify(progress.operations.map(({ subject, cutoff }) => ({ subject, cutoff }))),
  subject: progress.subject ?? null,
  error: progress.error ?? null,
  failures: progress.failures,
  hold: progress.hold ? JSON.stringify(progress.hold) : null,
});

type ItemKey = Pick<ItemRow, 'tenant_id' | 'purge_id'>;

const jobKeyOf = ({ tenant_id, purge_id }: ItemKey): string => `purge:${purge_id}:${tenant_id}`;

/** Makes the item's job due at an instant, and no other; committed with what it follows from. */
const enqueue = async (trx: TenantTransaction, row: ItemKey, at: Temporal.Instant | null): Promise<void> => {
  await trx.raw(
    `select graphile_worker.add_job('purge-tenant', payload => cast(:payload as json),
                                    run_at => cast(:at as timestamptz), job_key => :key)`,
    {
      payload: JSON.stringify({ tenantId: row.tenant_id, purgeId: row.purge_id }),
      at: at?.toString() ?? null,
      key: jobKeyOf(row),
    },
  );
};

const enqueueSettling = async (trx: TenantTransaction, row: ItemKey, afterMs: number): Promise<void> => {
  await trx.raw(
    `select graphile_worker.add_job('settle-purge', payload => cast(:payload as json), job_key => :key,
                                    run_at => clock_timestamp() + :afterMs * interval '1 ms')`,
    {
      payload: JSON.stringify({ tenantId: row.tenant_id, purgeId: row.purge_id }),
      key: `settle:${row.purge_id}:${row.tenant_id}`,
      afterMs,
    },
  );
};

const findItem = async (
  trx: TenantTransaction,
  tenantId: string,
  purgeId: string,
  lock = '',
): Promise<ItemRow | undefined> =>
  firstOf(
    await trx.raw(`select * from retention_purge_items where tenant_id = :tenantId and purge_id = :purgeId ${lock}`, {
      tenantId,
      purgeId,
    }),
  );

async function updateClaimed(
  trx: TenantTransaction,
  { item, token }: ItemClaim,
  set: string,
  bindings: Record<string, string | number | boolean | null>,
): Promise<ItemRow> {
  const row = firstOf<ItemRow>(
    await trx.raw(
      `update retention_purge_items set ${set}
       where tenant_id = :tenantId and purge_id = :purgeId and lease_token = :token and lease_owner is not null
       returning *`,
      { ...bindings, tenantId: item.tenantId, purgeId: item.purgeId, token: String(token) },
    ),
  );
  if (!row) throw new DomainError('aborted', 'LEASE_LOST', 'The lease on this tenant’s purge is another worker’s.');
  return row;
}

async function approveHeld(
  trx: TenantTransaction,
  { tenantId, purgeId, actor, subject, reason }: HoldApproval,
): Promise<RetentionPurgeItem> {
  const held = await findItem(trx, tenantId, purgeId, 'for update');
  if (!held) throw purgeNotFound();
  if (held.hold?.approval) return toItem(held);
  if (held.state !== 'HELD') throw purgeNotHeld(held.state);
  const row = firstOf<ItemRow>(
    await trx.raw(
      `update retention_purge_items
       set state = 'PENDING', next_attempt_at = clock_timestamp(), updated_at = clock_timestamp(), failures = 0,
           hold = hold || jsonb_build_object('approval', jsonb_build_object(
             'at', clock_timestamp(), 'actor', cast(:actor as text), 'reason', cast(:reason as text)))
       where tenant_id = :tenantId and purge_id = :purgeId returning *`,
      { tenantId, purgeId, actor, reason },
    ),
  );
  if (!row) throw new Error('the item was locked and is gone');
  await enqueue(trx, row, row.next_attempt_at);
  await audit(trx, {
    tenantId,
    actor,
    subject,
    action: 'approve-held-purge',
    targetType: 'retention_purge',
    targetId: purgeId,
    reason,
    outcome: 'PENDING',
    counts: { expired: row.hold?.expired, total: row.hold?.total },
  });
  return toItem(row);
}

/** A row of the audit for how a tenant's part ended, in the name of who ordered the purge. */
async function auditItem(trx: TenantTransaction, row: ItemRow, action: string): Promise<void> {
  const order = firstOf<PurgeRow & { subject: string }>(
    await trx.raw('select * from retention_purges where id = ?', [row.purge_id]),
  );
  await audit(trx, {
    tenantId: row.tenant_id,
    actor: row.actor,
    subject: order?.subject ?? row.actor,
    action,
    targetType: 'retention_purge',
    targetId: row.purge_id,
    reason: order?.reason,
    requestId: order?.request_id,
    outcome: row.state,
    counts: Object.fromEntries(sumCounts(row.operations).map(({ resourceType, deleted }) => [resourceType, deleted])),
  });
}

const keyOf = (row: PurgeRow): readonly string[] => [row.created_at.toString(), row.id];

function toPurge(row: PurgeRow): RetentionPurge {
  const count = Object.fromEntries(ITEM_STATES.map((state) => [state, row.states[state] ?? 0])) as Record<
    ItemState,
    number
  >;
  return {
    id: row.id,
    trigger: row.trigger,
    validateOnly: row.validate_only,
    actor: row.actor,
    reason: row.reason ?? undefined,
    requestId: row.request_id ?? undefined,
    state: row.state,
    tenants: {
      all: ITEM_STATES.reduce((sum, state) => sum + count[state], 0),
      complete: count.COMPLETE,
      failed: count.FAILED + count.PARTIAL,
      held: count.HELD,
      skipped: count.SKIPPED,
    },
    counts: row.counts,
    createdAt: row.created_at,
    startedAt: row.started_at ?? undefined,
    finishedAt: row.finished_at ?? undefined,
  };
}

const toItem = (row: ItemRow): RetentionPurgeItem => ({
  purgeId: row.purge_id,
  tenantId: row.tenant_id,
  state: row.state,
  validateOnly: row.validate_only,
  actor: row.actor,
  plan: row.plan ?? undefined,
  planVersion: row.plan_version ?? undefined,
  windows: row.windows.map(({ change, ...window }) => ({
    ...window,
    change: change && { at: Temporal.Instant.from(change.at), to: change.to },
  })),
  operations: row.operations,
  subject: row.subject ?? undefined,
  error: row.error ?? undefined,
  hold: row.hold ? toHold(row.hold) : undefined,
  runningPurgeId: row.running_purge_id ?? undefined,
  attempts: row.attempts,
  failures: row.failures,
  startedAt: row.started_at ?? undefined,
  finishedAt: row.finished_at ?? undefined,
  updatedAt: row.updated_at,
});

const toHold = ({ heldAt, approval, ...hold }: StoredHold): ItemHold => ({
  ...hold,
  heldAt: Temporal.Instant.from(heldAt),
  approval: approval && { ...approval, at: Temporal.Instant.from(approval.at) },
});
