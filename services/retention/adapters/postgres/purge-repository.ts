import type { Knex } from 'knex';
import { DomainError, requestIdReused } from '#libs/kernel/domain-error.ts';
import { isTenantId, newId } from '#libs/kernel/id.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf, pageOf } from '#libs/postgres/rows.ts';
import {
  ITEM_STATES,
  type ItemState,
  isFinished,
  purgeStateOf,
  type ResourceCount,
  type RetentionPurge,
  type RetentionPurgeItem,
} from '../../domain/purge.ts';
import type { ItemClaim, PurgeRepository } from '../../use-cases/ports.ts';

interface PurgeRow {
  readonly id: string;
  readonly trigger: 'PURGE' | 'PURGE_NOW';
  readonly validate_only: boolean;
  readonly actor: string;
  readonly reason: string | null;
  readonly request_id: string | null;
  readonly fingerprint: string;
  readonly created_at: Temporal.Instant;
  readonly states: Partial<Record<ItemState, number>>;
  readonly counts: readonly ResourceCount[];
  readonly started_at: Temporal.Instant | null;
  readonly finished_at: Temporal.Instant | null;
}

interface ItemRow {
  readonly tenant_id: string;
  readonly purge_id: string;
  readonly state: ItemState;
  readonly validate_only: boolean;
  readonly actor: string;
  readonly plan: string | null;
  readonly plan_version: number | null;
  readonly cutoffs: RetentionPurgeItem['cutoffs'];
  readonly counts: readonly ResourceCount[];
  readonly error: string | null;
  readonly running_purge_id: string | null;
  readonly attempts: number;
  readonly lease_token: number;
  readonly started_at: Temporal.Instant | null;
  readonly updated_at: Temporal.Instant;
  readonly finished_at: Temporal.Instant | null;
}

const WITH_SUMS = 'select p.*, s.* from retention_purges p cross join lateral purge_sums(p.id) s';

/** Retention purges in Postgres. */
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
        fingerprint,
      };
      const inserted = await trx.raw(
        `insert into retention_purges (id, trigger, validate_only, actor, subject, reason, request_id, fingerprint)
         values (:id, :trigger, :validateOnly, :actor, :subject, :reason, :requestId, :fingerprint)
         on conflict (request_id) do nothing`,
        bindings,
      );
      if (inserted.rowCount === 0) {
        const known = firstOf<{ id: string; fingerprint: string }>(
          await trx.raw('select id, fingerprint from retention_purges where request_id = :requestId', bindings),
        );
        if (known?.fingerprint !== fingerprint) throw requestIdReused(requestId ?? '');
        return known.id;
      }
      for (const tenantId of tenantIds) await insertItem(trx, tenantId, id, validateOnly, actor);
      return id;
    });
  },

  async get(purgeId) {
    const [row] = await database.acrossTenants<PurgeRow>({ text: `${WITH_SUMS} where p.id = $1`, values: [purgeId] });
    return row && toPurge(row);
  },

  async list(tenantId, { limit, after }) {
    const key = [after?.[0] ?? null, after?.[1] ?? null];
    const page = '($1::timestamptz is null or (p.created_at, p.id) < ($1, $2::uuid))';
    const order = 'order by p.created_at desc, p.id desc limit $3';
    const rows =
      tenantId === undefined
        ? await database.acrossTenants<PurgeRow>({
            text: `${WITH_SUMS} where ${page} ${order}`,
            values: [...key, limit + 1],
          })
        : await database.readForTenant<PurgeRow>(tenantId, {
            text: `${WITH_SUMS} where ${page} and exists (
                     select from retention_purge_items i where i.tenant_id = $4 and i.purge_id = p.id) ${order}`,
            values: [...key, limit + 1, tenantId],
          });
    return pageOf(rows, limit, toPurge, (row) => [row.created_at.toString(), row.id]);
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

  async findRunning(tenantId) {
    const [row] = await database.readForTenant<{ purge_id: string }>(tenantId, {
      text: `select purge_id from retention_purge_items
             where tenant_id = $1 and state in ('PENDING', 'RUNNING') and not validate_only`,
      values: [tenantId],
    });
    return row?.purge_id;
  },

  async findDue(limit) {
    const rows = await database.acrossTenants<{ tenant_id: string; purge_id: string }>({
      text: 'select tenant_id, purge_id from due_purge_items($1)',
      values: [limit],
    });
    return rows.map((row) => ({ tenantId: row.tenant_id, purgeId: row.purge_id }));
  },

  claim: (tenantId, purgeId, owner, leaseMs) =>
    database.forTenant(tenantId, async (trx) => {
      const row = firstOf<ItemRow>(
        await trx.raw(
          `update retention_purge_items i
           set state = 'RUNNING', lease_owner = :owner, lease_token = i.lease_token + 1, attempts = i.attempts + 1,
               lease_expires_at = clock_timestamp() + :leaseMs * interval '1 ms',
               started_at = coalesce(i.started_at, clock_timestamp()), updated_at = clock_timestamp()
           from (select tenant_id, purge_id from retention_purge_items
                 where tenant_id = :tenantId and purge_id = :purgeId and state in ('PENDING', 'RUNNING')
                   and next_attempt_at <= clock_timestamp()
                   and (lease_expires_at is null or lease_expires_at <= clock_timestamp())
                 for update skip locked) due
           where i.tenant_id = due.tenant_id and i.purge_id = due.purge_id returning i.*`,
          { tenantId, purgeId, owner, leaseMs },
        ),
      );
      return row && { item: toItem(row), token: BigInt(row.lease_token) };
    }),

  save: (claim, progress, leaseMs) =>
    database.forTenant(claim.item.tenantId, (trx) => {
      const isFinal = isFinished(progress.state);
      return updateClaimed(
        trx,
        claim,
        `state = :state, plan = :plan, plan_version = :planVersion, cutoffs = cast(:cutoffs as jsonb),
         counts = cast(:counts as jsonb), error = :error, updated_at = clock_timestamp(),
         lease_owner = case when :isFinal then null else lease_owner end,
         lease_expires_at = case when :isFinal then null else clock_timestamp() + :leaseMs * interval '1 ms' end,
         finished_at = case when :isFinal then clock_timestamp() end`,
        {
          state: progress.state,
          plan: progress.plan ?? null,
          planVersion: progress.planVersion ?? null,
          cutoffs: JSON.stringify(progress.cutoffs),
          counts: JSON.stringify(progress.counts),
          error: progress.error ?? null,
          isFinal,
          leaseMs,
        },
      );
    }),

  postpone: (claim, error, retryMs) =>
    database.forTenant(claim.item.tenantId, (trx) =>
      updateClaimed(
        trx,
        claim,
        `error = :error, lease_owner = null, lease_expires_at = null, updated_at = clock_timestamp(),
         next_attempt_at = clock_timestamp() + :retryMs * interval '1 ms'`,
        { error, retryMs },
      ),
    ),
});

/** The item PENDING, or SKIPPED where another purge works on the tenant. */
async function insertItem(
  trx: Knex.Transaction,
  tenantId: string,
  purgeId: string,
  validateOnly: boolean,
  actor: string,
) {
  if (!isTenantId(tenantId)) throw new TypeError('not a tenant id');
  // The purge and all of its items are one transaction, which therefore goes through its tenants one by one.
  await trx.raw("select set_config('lethe.tenant', ?, true)", [tenantId]);
  const bindings = { tenantId, purgeId, validateOnly, actor };
  const inserted = await trx.raw(
    `insert into retention_purge_items (tenant_id, purge_id, state, validate_only, actor)
     values (:tenantId, :purgeId, 'PENDING', :validateOnly, :actor)
     on conflict (tenant_id) where state in ('PENDING', 'RUNNING') and not validate_only do nothing`,
    bindings,
  );
  if (inserted.rowCount === 1) return;
  await trx.raw(
    `insert into retention_purge_items (tenant_id, purge_id, state, validate_only, actor, running_purge_id, finished_at)
     select :tenantId, :purgeId, 'SKIPPED', :validateOnly, :actor,
            (select purge_id from retention_purge_items
             where tenant_id = :tenantId and state in ('PENDING', 'RUNNING') and not validate_only limit 1),
            clock_timestamp()`,
    bindings,
  );
}

async function updateClaimed(
  trx: Knex.Transaction,
  { item, token }: ItemClaim,
  set: string,
  bindings: Record<string, string | number | boolean | null>,
): Promise<void> {
  const { rowCount } = await trx.raw(
    `update retention_purge_items set ${set}
     where tenant_id = :tenantId and purge_id = :purgeId and lease_token = :token and lease_owner is not null`,
    { ...bindings, tenantId: item.tenantId, purgeId: item.purgeId, token: String(token) },
  );
  if (rowCount !== 1) {
    throw new DomainError('aborted', 'LEASE_LOST', 'The lease on this tenant’s purge is another worker’s.');
  }
}

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
    state: purgeStateOf(count),
    tenants: {
      all: ITEM_STATES.reduce((sum, state) => sum + count[state], 0),
      complete: count.COMPLETE,
      failed: count.FAILED + count.PARTIAL,
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
  cutoffs: row.cutoffs,
  counts: row.counts,
  error: row.error ?? undefined,
  runningPurgeId: row.running_purge_id ?? undefined,
  attempts: row.attempts,
  startedAt: row.started_at ?? undefined,
  finishedAt: row.finished_at ?? undefined,
  updatedAt: row.updated_at,
});
