import { audit, auditInstallation } from '#libs/audit/write-audit.ts';
import { currentTrustEntry } from '#libs/grpc/current-caller.ts';
import { DomainError, operationInProgress, requestIdReused } from '#libs/kernel/domain-error.ts';
import { newId } from '#libs/kernel/id.ts';
import { type Page, type PageQuery, pageOf } from '#libs/kernel/page.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf, rowsOf } from '#libs/postgres/rows.ts';
import { isUniqueViolation } from '#libs/postgres/sql-errors.ts';
import type { ResourceCount } from '../../domain/counts.ts';
import { sumCounts } from '../../domain/counts.ts';
import {
  type FleetHold,
  ITEM_STATES,
  type ItemState,
  isFinished,
  type PurgeState,
  type PurgeTrigger,
  purgeNotFound,
  purgeNotHeld,
  purgeStateOf,
  type RetentionPurge,
  type RetentionPurgeItem,
  wholePurgeNotHeld,
} from '../../domain/purge.ts';
import { countsOf, type PurgeSubject } from '../../domain/purge-subject.ts';
import type {
  HoldApproval,
  ItemClaim,
  ItemProgress,
  NewFleetHold,
  NewPurge,
  PurgeRepository,
} from '../../use-cases/purge-ports.ts';
import { type SubjectRow, toSubject, toSubjectColumns } from './purge-subject-row.ts';

type StateCounts = Partial<Record<ItemState, number>>;

interface PurgeRow {
  readonly id: string;
  readonly trigger: PurgeTrigger;
  readonly validate_only: boolean;
  readonly actor: string;
  readonly reason: string | null;
  readonly request_id: string | null;
  readonly fingerprint: string;
  readonly created_at: Temporal.Instant;
  readonly subjects: readonly string[];
  readonly all_tenants: boolean;
  readonly fleet_narrowed: number | null;
  readonly fleet_held_at: Temporal.Instant | null;
  readonly fleet_approved_at: Temporal.Instant | null;
  readonly fleet_approved_by: string | null;
  readonly fleet_approve_reason: string | null;
}

interface PurgeSumsRow extends PurgeRow {
  /** How many items stand how. */
  readonly own_states: StateCounts;
  /** The same, those left to another purge as they stand there. */
  readonly states: StateCounts;
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
  readonly working_on: string | null;
  readonly error: string | null;
  readonly running_purge_id: string | null;
  readonly attempts: number;
  readonly failures: number;
  readonly waiting_since: Temporal.Instant | null;
  readonly lease_token: number;
  readonly started_at: Temporal.Instant | null;
  readonly updated_at: Temporal.Instant;
  readonly finished_at: Temporal.Instant | null;
}

const WITH_SUMS = 'select p.*, s.* from retention_purges p cross join lateral purge_sums(p.id) s';

// One tenant's part of a purge as if it were all of it; a tenant left to another purge stands as that one's item does.
const PART = `
  select p.*, jsonb_build_object(i.state, 1) as own_states,
         jsonb_build_object(case i.state when 'SKIPPED' then coalesce(o.state, 'FAILED') else i.state end, 1) as states,
         coalesce((select jsonb_agg(c.count) from retention_purge_subjects s, jsonb_array_elements(s.counts) c(count)
                   where s.tenant_id = i.tenant_id and s.purge_id = i.purge_id), '[]') as counts,
         i.started_at,
         case i.state when 'SKIPPED' then o.finished_at else i.finished_at end as finished_at
  from retention_purge_items i
  join retention_purges p on p.id = i.purge_id
  left join retention_purge_items o on o.tenant_id = i.tenant_id and o.purge_id = i.running_purge_id`;

// A list by state reads so many purges for each page at most, however few are in that state.
const MOST_SCANNED = 2_000;
const INSTALLATION = 'nobody';

const UNFINISHED = "state in ('PENDING', 'RUNNING')";
const IS_STOPPED = 'coalesce((select is_stopped from purge_stops order by version desc limit 1), false)';

/** Retention purges in Postgres. Their items are leased rows. */
export const makePurgeRepository = (database: Database): PurgeRepository => ({
  async create(purge) {
    const { tenantIds, trigger, validateOnly, actor, subject, reason, requestId, fingerprint, fleetHold } = purge;
    const id = newId();
    const [first = INSTALLATION] = tenantIds;
    return database.forTenant(first, async (trx) => {
      const bindings = {
        id,
        trigger,
        validateOnly,
        actor,
        subject,
        trustEntry: currentTrustEntry(subject) ?? null,
        reason: reason ?? null,
        requestId: requestId ?? null,
        scope: purge.requestScope ?? '',
        fingerprint,
        subjects: [...purge.subjects],
        isOfAll: purge.isOfAll,
        narrowed: fleetHold?.narrowed ?? null,
        readMsAgo: purge.readMsAgo,
      };
      const inserted = await trx.raw(
        `insert into retention_purges
           (id, trigger, validate_only, actor, subject, reason, request_id, request_scope, fingerprint, subjects,
            all_tenants, fleet_narrowed, fleet_held_at, trust_entry, created_at)
         values (:id, :trigger, :validateOnly, :actor, :subject, :reason, :requestId, :scope, :fingerprint,
                 cast(:subjects as text[]), :isOfAll, :narrowed,
                 ${fleetHold ? 'clock_timestamp()' : 'null'}, :trustEntry,
                 clock_timestamp() - :readMsAgo * interval '1 ms')
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
      if (fleetHold) {
        await holdFleet(trx, id, purge, fleetHold);
        return id;
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

  async findByRequest({ requestId, requestScope, trigger, fingerprint }) {
    const [known] = await database.acrossTenants<Pick<PurgeRow, 'id' | 'fingerprint'>>({
      text: `select id, fingerprint from retention_purges
             where request_scope = $1 and trigger = $2 and request_id = $3`,
      values: [requestScope ?? '', trigger, requestId ?? null],
    });
    if (known && known.fingerprint !== fingerprint) throw requestIdReused(requestId ?? '');
    return known?.id;
  },

  async get(purgeId) {
    const [row] = await database.acrossTenants<PurgeSumsRow>({
      text: `${WITH_SUMS} where p.id = $1`,
      values: [purgeId],
    });
    return row && toPurge(row);
  },

  list: ({ tenantId, state }, page) =>
    listByState(state, page, async ({ limit, after }) => {
      const rows = await database.acrossTenants<PurgeSumsRow>({
        text: `${WITH_SUMS} where ($1::timestamptz is null or (p.created_at, p.id) < ($1, $2::uuid))
                 and ($3::text is null or purge_has_tenant(p.id, $3))
               order by p.created_at desc, p.id desc limit $4`,
        values: [after?.[0] ?? null, after?.[1] ?? null, tenantId ?? null, limit + 1],
      });
      return pageOf(rows, limit, toPurge, keyOf);
    }),

  async getPart(tenantId, purgeId) {
    const [row] = await database.readForTenant<PurgeSumsRow>(tenantId, {
      text: `${PART} where i.tenant_id = $1 and i.purge_id = $2`,
      values: [tenantId, purgeId],
    });
    return row && toPurge(row);
  },

  listParts: (tenantId, state, page) =>
    listByState(state, page, async ({ limit, after }) => {
      const rows = await database.readForTenant<PurgeSumsRow>(tenantId, {
        text: `select * from (${PART} where i.tenant_id = $1) p
               where $2::timestamptz is null or (p.created_at, p.id) < ($2, $3::uuid)
               order by p.created_at desc, p.id desc limit $4`,
        values: [tenantId, after?.[0] ?? null, after?.[1] ?? null, limit + 1],
      });
      return pageOf(rows, limit, toPurge, keyOf);
    }),

  async getItem(tenantId, purgeId) {
    // One after the other: an item ends together with its subjects, and none of one that has ended may look unfinished.
    const [row] = await database.readForTenant<ItemRow>(tenantId, {
      text: 'select * from retention_purge_items where tenant_id = $1 and purge_id = $2',
      values: [tenantId, purgeId],
    });
    if (!row) return undefined;
    const subjects = await database.readForTenant<SubjectRow>(tenantId, {
      text: 'select * from retention_purge_subjects where tenant_id = $1 and purge_id = $2 order by subject',
      values: [tenantId, purgeId],
    });
    return toItem(row, subjects);
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

  async findDue(limit) {
    const rows = await database.acrossTenants<ItemKey>({
      text: 'select tenant_id, purge_id from due_purge_items($1)',
      values: [limit],
    });
    return rows.map((row) => ({ tenantId: row.tenant_id, purgeId: row.purge_id }));
  },

  claim: ({ tenantId, purgeId }, owner, leaseMs) =>
    database.forTenant(tenantId, async (trx) => {
      // By ctid: a join of the table with itself is planned badly behind row-level security.
      const row = firstOf<ItemRow>(
        await trx.raw(
          `update retention_purge_items i
           set lease_owner = :owner, lease_token = i.lease_token + 1,
               due_at = now.at + :leaseMs * interval '1 ms',
               state = case when i.${UNFINISHED} then 'RUNNING' else i.state end,
               attempts = i.attempts + case when i.${UNFINISHED} then 1 else 0 end,
               started_at = coalesce(i.started_at, now.at),
               -- Nobody knows what the owner did while a worker had it that vanished.
               waiting_since = case when i.lease_owner is null then i.waiting_since end,
               updated_at = case when i.${UNFINISHED} then now.at else i.updated_at end
           from (select clock_timestamp() as at) now
           where i.tenant_id = :tenantId and i.ctid = (
                 select ctid from retention_purge_items
                 where tenant_id = :tenantId and purge_id = :purgeId and due_at <= clock_timestamp()
                   and (not ${UNFINISHED} or not ${IS_STOPPED})
                 for update skip locked)
           returning i.*`,
          { tenantId, purgeId, owner, leaseMs },
        ),
      );
      if (!row) return undefined;
      const order = firstOf<PurgeRow>(await trx.raw('select * from retention_purges where id = ?', [purgeId]));
      const last = rowsOf<{ subject: string; days: number }>(
        await trx.raw('select subject, days from last_purges where tenant_id = ? and days is not null', [tenantId]),
      );
      return {
        item: toItem(row, await findSubjects(trx, row)),
        token: BigInt(row.lease_token),
        subjects: order?.subjects ?? [],
        isOfAll: order?.all_tenants ?? false,
        fleetHold: order && toFleetHold(order),
        lastDays: new Map(last.map(({ subject, days }) => [subject, days])),
      };
    }),

  save: (claim, progress, leaseMs) =>
    database.forTenant(claim.item.tenantId, async (trx) => {
      const isFinal = isFinished(progress.state);
      // A call that was cut off is over when the lease is.
      const isDue = !isFinal || (!claim.item.validateOnly && progress.subjects.some(isOpen));
      // What is held has not ended.
      const hasEnded = isFinal && progress.state !== 'HELD';
      const row = await updateClaimed(
        trx,
        claim,
        `${PROGRESS}, ${isFinal ? 'lease_owner = null, waiting_since = null,' : ''}
         due_at = ${isDue ? "clock_timestamp() + :leaseMs * interval '1 ms'" : 'null'},
         finished_at = ${hasEnded ? 'clock_timestamp()' : 'null'}`,
        { ...bindingsOf(isFinal ? { ...progress, failures: 0 } : progress), leaseMs },
      );
      await saveSubjects(trx, row, progress.subjects);
      if (isFinal && !row.validate_only) await auditItem(trx, row, progress.subjects, 'retention-purge');
    }),

  postpone: (claim, progress, { ms, silence, isAttempt }) =>
    database.forTenant(claim.item.tenantId, async (trx) => {
      const row = await updateClaimed(
        trx,
        claim,
        `${PROGRESS}, lease_owner = null, due_at = clock_timestamp() + :ms * interval '1 ms',
         attempts = attempts - case when :isAttempt then 0 else 1 end,
         waiting_since = case :silence when 'SAME' then coalesce(waiting_since, now.at) when 'NEW' then now.at end`,
        { ...bindingsOf(progress), ms, silence, isAttempt },
      );
      await saveSubjects(trx, row, progress.subjects);
    }),

  release: (claim) =>
    database.forTenant(claim.item.tenantId, async (trx) => {
      await updateClaimed(
        trx,
        claim,
        'attempts = attempts - 1, lease_owner = null, due_at = clock_timestamp(), updated_at = clock_timestamp()',
        {},
      );
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

  approveFleet: ({ purgeId, actor, subject, reason }) =>
    database.forTenant(INSTALLATION, async (trx) => {
      const known = firstOf<PurgeRow>(
        await trx.raw('select * from retention_purges where id = ? for update', [purgeId]),
      );
      if (!known) throw purgeNotFound();
      if (known.fleet_approved_at) return;
      if (!known.fleet_held_at) {
        const sums = firstOf<PurgeSumsRow>(await trx.raw(`${WITH_SUMS} where p.id = ?`, [purgeId]));
        throw wholePurgeNotHeld(sums ? toPurge(sums).state : 'PENDING');
      }
      await trx.raw(
        `update retention_purges
         set fleet_approved_at = clock_timestamp(), fleet_approved_by = :actor, fleet_approve_reason = :reason
         where id = :purgeId`,
        { purgeId, actor, reason },
      );
      await trx.raw('select release_purge_items(?)', [purgeId]);
      await auditInstallation(trx, {
        actor,
        subject,
        action: 'approve-held-purge',
        targetType: 'retention_purge',
        targetId: purgeId,
        reason,
        outcome: 'PENDING',
        counts: { narrowed: known.fleet_narrowed },
      });
    }),

  settle: (claim, subjects) =>
    database.forTenant(claim.item.tenantId, async (trx) => {
      const item = await updateClaimed(trx, claim, 'lease_owner = null, due_at = null, failures = 0', {});
      if (item.finished_at === null || subjects.length === 0) return;
      const before = sumCounts((await findSubjects(trx, item)).map(({ counts }) => counts));
      await saveSubjects(trx, item, subjects);
      const after = (await findSubjects(trx, item)).map(toSubject);
      if (JSON.stringify(removedOf(before)) === JSON.stringify(removedOf(countsOf(after)))) return;
      await trx.raw(
        `update retention_purge_items set updated_at = clock_timestamp()
         where tenant_id = :tenantId and purge_id = :purgeId`,
        { tenantId: item.tenant_id, purgeId: item.purge_id },
      );
      await auditItem(trx, item, after, 'settle-retention-purge');
    }),

  settleLater: (claim, ms) =>
    database.forTenant(claim.item.tenantId, async (trx) => {
      await updateClaimed(
        trx,
        claim,
        `lease_owner = null, failures = failures + 1, due_at = clock_timestamp() + :ms * interval '1 ms'`,
        { ms },
      );
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

  async findLastDays(tenantIds) {
    const rows = await database.acrossTenants<{ tenant_id: string; subject: string; days: number | null }>({
      text: 'select tenant_id, subject, days from last_windows($1)',
      values: [[...tenantIds]],
    });
    return rows.flatMap(({ tenant_id, subject, days }) =>
      days === null ? [] : [{ tenantId: tenant_id, subject, days }],
    );
  },

  async expire(days, limit) {
    const [clock] = await database.acrossTenants<{ before: Temporal.Instant }>({
      text: `select clock_timestamp() - $1 * interval '1 day' as before`,
      values: [days],
    });
    if (!clock) return 0;
    const before = clock.before.toString();
    const items = await database.acrossTenants<Pick<ItemRow, 'tenant_id' | 'purge_id'>>({
      text: 'select tenant_id, purge_id from old_purge_items($1, $2)',
      values: [before, limit],
    });
    for (const [tenantId, own] of Map.groupBy(items, ({ tenant_id }) => tenant_id)) {
      await database.forTenant(tenantId, (trx) =>
        trx.raw('delete from retention_purge_items where tenant_id = :tenantId and purge_id = any (:ids)', {
          tenantId,
          ids: own.map(({ purge_id }) => purge_id),
        }),
      );
    }
    await database.acrossTenants({ text: 'select forget_purges($1, $2)', values: [before, limit] });
    await database.acrossTenants({
      text: `delete from installation_audit where (at, id) in (
               select at, id from installation_audit where at < $1 order by at limit $2)`,
      values: [before, limit],
    });
    await database.acrossTenants({
      text: `delete from subject_nights where (subject, purge_id) in (
               select subject, purge_id from subject_nights where counted_at < $1 order by counted_at limit $2)`,
      values: [before, limit],
    });
    await database.acrossTenants({
      // The newest says where the switch stands. Only the oldest are looked at: no younger version is older.
      text: `delete from purge_stops where version in (
               select o.version from (select version, changed_at from purge_stops order by version limit $2) o
               where o.changed_at < $1 and o.version < (select max(version) from purge_stops))`,
      values: [before, limit],
    });
    return items.length;
  },
});

/** A page of purges in one state, which is known only once each is summed up. */
async function listByState(
  state: PurgeState | undefined,
  { limit, after }: PageQuery,
  read: (page: PageQuery) => Promise<Page<RetentionPurge>>,
): Promise<Page<RetentionPurge>> {
  if (state === undefined) return read({ limit, after });
  const found: RetentionPurge[] = [];
  let from = after;
  for (let scanned = 0; scanned < MOST_SCANNED; ) {
    const page = await read({ limit: Math.max(limit, 50), after: from });
    for (const purge of page.items) {
      scanned += 1;
      if (purge.state !== state) continue;
      if (found.length === limit) return { items: found, next: found.at(-1) && keyOfPurge(found.at(-1)) };
      found.push(purge);
    }
    if (!page.next) return { items: found, next: undefined };
    from = page.next;
  }
  return { items: found, next: from };
}

const keyOfPurge = (purge: RetentionPurge | undefined): readonly string[] =>
  purge ? [purge.createdAt.toString(), purge.id] : [];

const PROGRESS = `state = :state, plan = :plan, plan_version = :planVersion, working_on = :workingOn, error = :error,
  failures = :failures, updated_at = clock_timestamp()`;

const bindingsOf = (progress: ItemProgress) => ({
  state: progress.state,
  plan: progress.plan ?? null,
  planVersion: progress.planVersion ?? null,
  workingOn: progress.workingOn ?? null,
  error: progress.error ?? null,
  failures: progress.failures,
});

type ItemKey = Pick<ItemRow, 'tenant_id' | 'purge_id'>;

/** Whether the subject's operation may have removed rows that were never reported. */
const isOpen = ({ operationId, isEnded }: PurgeSubject): boolean => operationId !== undefined && !isEnded;

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

const findSubjects = async (trx: TenantTransaction, { tenant_id, purge_id }: ItemKey): Promise<readonly SubjectRow[]> =>
  rowsOf(
    await trx.raw('select * from retention_purge_subjects where tenant_id = ? and purge_id = ? order by subject', [
      tenant_id,
      purge_id,
    ]),
  );

const SUBJECT_COLUMNS = [
  'owner',
  'state',
  'kind',
  'days',
  'source',
  'plan',
  'plan_version',
  'window_version',
  'change_at',
  'next_kind',
  'next_days',
  'min_to_keep',
  'stale_after_days',
  'last_days',
  'walk',
  'cursor',
  'tallies',
  'cutoff',
  'expired',
  'seen',
  'held_at',
  'hold_expired',
  'hold_total',
  'hold_max_share',
  'hold_max_count',
  'approved_at',
  'approved_by',
  'approve_reason',
  'approved_rows',
  'approved_cutoff',
  'approved_days',
  'operation_id',
  'operation',
  'pause',
  'is_ended',
  'counts',
  'ended_counts',
  'waits',
  'ended_waits',
  'error',
];

// Of a dry run nothing is remembered, nor again of what was settled before: a later purge may have come to another end
// since. What is COMPLETE is remembered beyond the purge. What is not, with rows that have expired, waits since the purge
// that left none of them, or since they were first seen. What is kept waits no longer.
const SAVE_SUBJECTS = `
  with saved as (
    insert into retention_purge_subjects as s
      (tenant_id, purge_id, validate_only, subject, ${SUBJECT_COLUMNS.join(', ')})
    select :tenantId, :purgeId, :validateOnly, r.subject, ${SUBJECT_COLUMNS.map((column) => `r.${column}`).join(', ')}
    from jsonb_populate_recordset(cast(null as retention_purge_subjects), cast(:subjects as jsonb)) r
    on conflict (tenant_id, purge_id, subject) do update
      set updated_at = clock_timestamp(), ${SUBJECT_COLUMNS.map((column) => `${column} = excluded.${column}`).join(', ')}
    returning s.tenant_id, s.subject, s.purge_id, s.validate_only, s.days, s.expired, s.state, old.state as state_before),
  settled as (
    select clock_timestamp() as at, * from saved where not validate_only and state is distinct from state_before),
  kept as (
    update last_purges l set completed_at = s.at, overdue_since = null
    from settled s where s.state = 'KEPT' and l.tenant_id = :tenantId and l.subject = s.subject returning 1)
  insert into last_purges as l (tenant_id, subject, days, purge_id, completed_at, overdue_since)
  select tenant_id, subject, case when state = 'COMPLETE' then days end, case when state = 'COMPLETE' then purge_id end,
         case when state = 'COMPLETE' then at end, case when state <> 'COMPLETE' then at end
  from settled
  where state = 'COMPLETE' or (state in ('HELD', 'PARTIAL') and coalesce(expired, 1) > 0)
  on conflict (tenant_id, subject) do update
    set days = coalesce(excluded.days, l.days), purge_id = coalesce(excluded.purge_id, l.purge_id),
        completed_at = coalesce(excluded.completed_at, l.completed_at),
        overdue_since = case when excluded.completed_at is null
                             then coalesce(l.overdue_since, l.completed_at, excluded.overdue_since) end`;

/** Writes the subjects of an item, and remembers what has ended since it was written last. */
async function saveSubjects(trx: TenantTransaction, item: ItemRow, subjects: readonly PurgeSubject[]): Promise<void> {
  if (subjects.length === 0) return;
  await trx.raw(SAVE_SUBJECTS, {
    tenantId: item.tenant_id,
    purgeId: item.purge_id,
    validateOnly: item.validate_only,
    subjects: JSON.stringify(subjects.map(toSubjectColumns)),
  });
}

async function updateClaimed(
  trx: TenantTransaction,
  { item, token }: ItemClaim,
  set: string,
  bindings: Record<string, string | number | boolean | null>,
): Promise<ItemRow> {
  const row = firstOf<ItemRow>(
    await trx.raw(
      `update retention_purge_items i set ${set} from (select clock_timestamp() as at) now
       where i.tenant_id = :tenantId and i.purge_id = :purgeId and i.lease_token = :token and i.lease_owner is not null
       returning i.*`,
      { ...bindings, tenantId: item.tenantId, purgeId: item.purgeId, token: String(token) },
    ),
  );
  if (!row) throw new DomainError('aborted', 'LEASE_LOST', 'The lease on this tenant’s purge is another worker’s.');
  return row;
}

/** Commits why a purge is held as a whole, with the windows that it is ordered with. */
async function holdFleet(trx: TenantTransaction, id: string, purge: NewPurge, hold: NewFleetHold): Promise<void> {
  const { actor, subject, reason, tenantIds } = purge;
  const windows = hold.windows.map(({ tenantId, subject: name, days, source, minToKeep }) => ({
    tenant_id: tenantId,
    subject: name,
    kind: days === undefined ? 'KEEP_ALL' : 'DAYS',
    days,
    source,
    min_to_keep: minToKeep,
  }));
  await trx.raw('select hold_purge_items(:id, cast(:tenantIds as text[]), :actor, cast(:windows as jsonb))', {
    id,
    tenantIds: [...tenantIds],
    actor,
    windows: JSON.stringify(windows),
  });
  await auditInstallation(trx, {
    actor,
    subject,
    action: 'retention-purge',
    targetType: 'retention_purge',
    targetId: id,
    reason,
    outcome: 'HELD',
    counts: { narrowed: hold.narrowed, tenants: tenantIds.length },
  });
}

async function approveHeld(trx: TenantTransaction, approval: HoldApproval): Promise<RetentionPurgeItem> {
  const { tenantId, purgeId, subjects, actor, subject, reason } = approval;
  const held = await findItem(trx, tenantId, purgeId, 'for update');
  if (!held) throw purgeNotFound();
  const known = await findSubjects(trx, held);
  const named = subjects.length === 0 ? known : known.filter((row) => subjects.includes(row.subject));
  const released = named.filter(({ state }) => state === 'HELD').map((row) => row.subject);
  if (released.length === 0) {
    if (named.some(({ approved_at }) => approved_at !== null)) return toItem(held, known);
    throw purgeNotHeld(held.state);
  }
  // Approved is what was counted. It is counted again before it goes, since the windows may be others now.
  await trx.raw(
    `update retention_purge_subjects s
     set state = 'PENDING', approved_at = clock_timestamp(), approved_by = :actor, approve_reason = :reason,
         approved_rows = coalesce(s.expired, 0), approved_days = s.days,
         approved_cutoff = coalesce(s.cutoff, counted.cutoff),
         tallies = '{}', walk = null, cursor = null, error = null, updated_at = clock_timestamp()
     from (select subject, held_at - days * interval '1 day' as cutoff from retention_purge_subjects
           where tenant_id = :tenantId and purge_id = :purgeId) counted
     where s.tenant_id = :tenantId and s.purge_id = :purgeId and s.subject = any (:released)
       and counted.subject = s.subject`,
    { tenantId, purgeId, actor, reason, released },
  );
  const row = firstOf<ItemRow>(
    await trx.raw(
      `update retention_purge_items
       set state = 'PENDING', due_at = clock_timestamp(), lease_owner = null, updated_at = clock_timestamp(),
           failures = 0, finished_at = null, waiting_since = null
       where tenant_id = :tenantId and purge_id = :purgeId returning *`,
      { tenantId, purgeId },
    ),
  );
  if (!row) throw new Error('the item was locked and is gone');
  const counts = Object.fromEntries(
    named.filter(({ state }) => state === 'HELD').map(({ subject: name, expired }) => [name, expired]),
  );
  await audit(trx, {
    tenantId,
    actor,
    subject,
    action: 'approve-held-purge',
    targetType: 'retention_purge',
    targetId: purgeId,
    reason,
    outcome: 'PENDING',
    counts,
  });
  return toItem(row, await findSubjects(trx, row));
}

/** A row of the audit for how a tenant's part ended, in the name of who ordered the purge. */
async function auditItem(
  trx: TenantTransaction,
  row: ItemRow,
  subjects: readonly PurgeSubject[],
  action: string,
): Promise<void> {
  const order = firstOf<PurgeRow & { subject: string; trust_entry: string | null }>(
    await trx.raw('select * from retention_purges where id = ?', [row.purge_id]),
  );
  await audit(trx, {
    tenantId: row.tenant_id,
    actor: row.actor,
    subject: order?.subject ?? row.actor,
    trustEntry: order?.trust_entry,
    action,
    targetType: 'retention_purge',
    targetId: row.purge_id,
    reason: order?.reason,
    requestId: order?.request_id,
    outcome: row.state,
    counts: removedOf(countsOf(subjects)),
  });
}

const removedOf = (counts: readonly ResourceCount[]): Readonly<Record<string, number>> =>
  Object.fromEntries(counts.map(({ resourceType, deleted }) => [resourceType, deleted]));

const keyOf = (row: PurgeRow): readonly string[] => [row.created_at.toString(), row.id];

const toFleetHold = (row: PurgeRow): FleetHold | undefined =>
  row.fleet_held_at
    ? {
        narrowed: row.fleet_narrowed ?? 0,
        heldAt: row.fleet_held_at,
        approval: row.fleet_approved_at
          ? {
              at: row.fleet_approved_at,
              actor: row.fleet_approved_by ?? '',
              reason: row.fleet_approve_reason ?? '',
            }
          : undefined,
      }
    : undefined;

function toPurge(row: PurgeSumsRow): RetentionPurge {
  const count = Object.fromEntries(ITEM_STATES.map((state) => [state, row.own_states[state] ?? 0])) as Record<
    ItemState,
    number
  >;
  const fleetHold = toFleetHold(row);
  return {
    id: row.id,
    trigger: row.trigger,
    validateOnly: row.validate_only,
    actor: row.actor,
    reason: row.reason ?? undefined,
    requestId: row.request_id ?? undefined,
    state: purgeStateOf(row.own_states, row.states, fleetHold),
    tenants: {
      all: ITEM_STATES.reduce((sum, state) => sum + count[state], 0),
      complete: count.COMPLETE,
      failed: count.FAILED + count.PARTIAL,
      held: count.HELD,
      skipped: count.SKIPPED,
      // `states` has the skipped ones as they stand in the purge that was running for them.
      skippedFailed: (row.states.FAILED ?? 0) + (row.states.PARTIAL ?? 0) - count.FAILED - count.PARTIAL,
    },
    counts: sumCounts([row.counts]),
    createdAt: row.created_at,
    startedAt: row.started_at ?? undefined,
    finishedAt: row.finished_at ?? undefined,
    subjects: row.subjects,
    fleetHold,
  };
}

const toItem = (row: ItemRow, subjects: readonly SubjectRow[]): RetentionPurgeItem => ({
  purgeId: row.purge_id,
  tenantId: row.tenant_id,
  state: row.state,
  validateOnly: row.validate_only,
  actor: row.actor,
  plan: row.plan ?? undefined,
  planVersion: row.plan_version ?? undefined,
  subjects: subjects.map(toSubject),
  workingOn: row.working_on ?? undefined,
  error: row.error ?? undefined,
  runningPurgeId: row.running_purge_id ?? undefined,
  attempts: row.attempts,
  failures: row.failures,
  waitingSince: row.waiting_since ?? undefined,
  startedAt: row.started_at ?? undefined,
  finishedAt: row.finished_at ?? undefined,
  updatedAt: row.updated_at,
});
