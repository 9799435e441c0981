import { Model } from 'objection';
import { audit } from '#libs/audit/write-audit.ts';
import { DomainError, requestIdReused } from '#libs/kernel/domain-error.ts';
import { pageOf } from '#libs/kernel/page.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf, rowsOf } from '#libs/postgres/rows.ts';
import { planNotFound, type TenantPlan } from '../../domain/windows.ts';
import type { NewTenantPlan, PlanRepository } from '../../use-cases/ports.ts';
import { type PlanWindowRow, toPlanWindow } from './plan-window-repository.ts';

class TenantPlanRow extends Model {
  static override readonly tableName = 'tenant_plans';
  static override readonly idColumn = ['tenant_id', 'version'];
  declare tenant_id: string;
  declare version: number;
  declare plan: string | null;
  declare effective_at: Temporal.Instant;
  declare created_at: Temporal.Instant;
  declare actor: string;
  declare reason: string | null;
}

type Columns = Omit<TenantPlanRow, keyof Model>;

const MAX_INT = 2_147_483_647;

/** The text that changes with every entry. */
export const etagOfPlan = ({ version }: Pick<TenantPlan, 'version'>): string => `"${version}"`;

/** Tenants' plans in Postgres. */
export const makePlanRepository = (database: Database): PlanRepository => ({
  async set(entry) {
    for (;;) {
      try {
        return toTenantPlan(await database.forTenant(entry.tenantId, (trx) => setOnce(trx, entry)));
      } catch (error) {
        if (!(error instanceof Outrun)) throw error;
      }
    }
  },

  preview: (entry) =>
    database.forTenant(entry.tenantId, async (trx) => {
      const { newest, now, isSame } = await compare(trx, entry);
      if (newest && isSame) return toTenantPlan(newest);
      const { tenantId, plan, actor, reason } = entry;
      const effectiveAt = laterOf(entry.effectiveAt, now);
      return { tenantId, version: (newest?.version ?? 0) + 1, plan, effectiveAt, createdAt: now, actor, reason };
    }),

  history: (tenantId, plan) =>
    database.forTenant(tenantId, async (trx) => {
      const now = await databaseNow(trx);
      const rows = await TenantPlanRow.query(trx).where({ tenant_id: tenantId }).orderBy('version');
      const windows = rowsOf<PlanWindowRow>(
        await trx.raw(
          // An array is looked up in the index; by a join, all windows of all plans would be read.
          `select * from plan_windows
           where plan = any(array(select cast(:plan as text) union select plan from tenant_plans where tenant_id = :tenantId))`,
          { tenantId, plan: plan ?? null },
        ),
      );
      return { entries: rows.map(toTenantPlan), planWindows: windows.map(toPlanWindow), now };
    }),

  async listHistory(tenantId, { limit, after }) {
    const rows = await database.readForTenant<Columns>(tenantId, {
      text: `select * from tenant_plans where tenant_id = $1 and ($2::bigint is null or version < $2)
             order by version desc limit $3`,
      values: [tenantId, after?.[0] ?? null, limit + 1],
    });
    return pageOf(rows, limit, toTenantPlan, (row) => [String(row.version)]);
  },

  async listInForce(plan, { limit, after }) {
    const found = await database.acrossTenants<{ tenant_id: string; version: number }>({
      text: 'select tenant_id, version from plans_in_force($1, $2, $3)',
      values: [after?.[0] ?? null, plan ?? null, limit + 1],
    });
    const page = pageOf(
      found,
      limit,
      (row) => row,
      (row) => [row.tenant_id],
    );
    // The function returns keys only; the entries are read under each tenant's row-level security.
    const entries = await Promise.all(
      page.items.map(async ({ tenant_id, version }) => {
        const [row] = await database.readForTenant<Columns>(tenant_id, {
          text: 'select * from tenant_plans where tenant_id = $1 and version = $2',
          values: [tenant_id, version],
        });
        return row && toTenantPlan(row);
      }),
    );
    return { items: entries.filter((entry) => entry !== undefined), next: page.next };
  },

  async expire(days, limit) {
    await database.acrossTenants({
      text: `select forget_plan_history(clock_timestamp() - $1 * interval '24 hours', $2)`,
      values: [days, limit],
    });
  },

  async tenantsOn(plan) {
    const rows = await database.acrossTenants<{ tenant_id: string }>({
      text: 'select tenant_id from plans_in_force(null, $1, $2)',
      values: [plan, MAX_INT],
    });
    return rows.map((row) => row.tenant_id);
  },

  async findTenants() {
    const rows = await database.acrossTenants<{ tenant_id: string }>({
      text: 'select tenants_to_purge() as tenant_id',
      values: [],
    });
    return rows.map((row) => row.tenant_id);
  },
});

/** Another request changed the same tenant first and has committed; start over. */
class Outrun extends Error {}

/** The entry that this request is answered with. */
async function setOnce(trx: TenantTransaction, entry: NewTenantPlan): Promise<Columns> {
  const { tenantId, requestId, fingerprint } = entry;
  if (requestId === undefined) return addEntry(trx, entry);
  const answered = await findAnswer(trx, tenantId, requestId);
  if (answered) {
    if (answered.fingerprint !== fingerprint) throw requestIdReused(requestId);
    return TenantPlanRow.query(trx).findById([tenantId, answered.plan_version]).throwIfNotFound();
  }
  const row = await addEntry(trx, entry);
  const { rowCount } = await trx.raw(
    `insert into retention_requests (tenant_id, method, request_id, fingerprint, plan_version)
     values (:tenantId, 'SetTenantPlan', :requestId, :fingerprint, :version) on conflict do nothing`,
    { tenantId, requestId, fingerprint, version: row.version },
  );
  if (rowCount === 0) throw new Outrun();
  return row;
}

/** The entry added, or the newest one when it says the same. */
async function addEntry(trx: TenantTransaction, entry: NewTenantPlan): Promise<Columns> {
  const { tenantId, plan, actor, subject, reason, requestId } = entry;
  const { newest, now, isSame } = await compare(trx, entry);
  if (newest && isSame) return newest;
  const row = firstOf<Columns>(
    await trx.raw(
      `insert into tenant_plans (tenant_id, version, plan, effective_at, created_at, actor, reason)
       values (:tenantId, :version, :plan, cast(:effectiveAt as timestamptz), cast(:now as timestamptz), :actor, :reason)
       on conflict (tenant_id, version) do nothing returning *`,
      {
        tenantId,
        version: (newest?.version ?? 0) + 1,
        plan: plan ?? null,
        effectiveAt: laterOf(entry.effectiveAt, now).toString(),
        now: now.toString(),
        actor,
        reason: reason ?? null,
      },
    ),
  );
  if (!row) throw new Outrun();
  await audit(trx, {
    tenantId,
    actor,
    subject,
    action: 'set-plan',
    targetType: 'tenant_plan',
    targetId: String(row.version),
    reason,
    requestId,
    outcome: plan ?? 'NO_PLAN',
  });
  return row;
}

/** The newest entry, and whether it already says what the new one would; PLAN_NOT_FOUND, ETAG_MISMATCH. */
async function compare(
  trx: TenantTransaction,
  { tenantId, plan, effectiveAt, etag }: NewTenantPlan,
): Promise<{ newest: Columns | undefined; now: Temporal.Instant; isSame: boolean }> {
  if (plan !== undefined) {
    const known = firstOf(await trx.raw('select from plans where name = ?', [plan]));
    if (!known) throw planNotFound(plan);
  }
  const newest = await TenantPlanRow.query(trx).where({ tenant_id: tenantId }).orderBy('version', 'desc').first();
  if (etag !== '' && etag !== etagOfPlan({ version: newest?.version ?? 0 })) {
    throw new DomainError('aborted', 'ETAG_MISMATCH', 'The plan has changed since; read it again.', { etag });
  }
  const now = await databaseNow(trx);
  const isSameTime =
    newest !== undefined &&
    (isFuture(effectiveAt, now) ? newest.effective_at.equals(effectiveAt) : !isFuture(newest.effective_at, now));
  return { newest, now, isSame: isSameTime && (newest.plan ?? undefined) === plan };
}

const isFuture = (at: Temporal.Instant | undefined, now: Temporal.Instant): at is Temporal.Instant =>
  at !== undefined && Temporal.Instant.compare(at, now) > 0;

/** A past instant counts as now: a backdated plan must not cut grace short. */
const laterOf = (at: Temporal.Instant | undefined, now: Temporal.Instant): Temporal.Instant =>
  isFuture(at, now) ? at : now;

const findAnswer = async (
  trx: TenantTransaction,
  tenantId: string,
  requestId: string,
): Promise<{ fingerprint: string; plan_version: number } | undefined> =>
  firstOf(
    await trx.raw(
      `select fingerprint, plan_version from retention_requests
       where tenant_id = :tenantId and method = 'SetTenantPlan' and request_id = :requestId`,
      { tenantId, requestId },
    ),
  );

const databaseNow = async (trx: TenantTransaction): Promise<Temporal.Instant> => {
  const row = firstOf<{ now: Temporal.Instant }>(await trx.raw('select clock_timestamp() as now'));
  if (!row) throw new Error('the database returned no time');
  return row.now;
};

const toTenantPlan = (row: Columns): TenantPlan => ({
  tenantId: row.tenant_id,
  version: row.version,
  plan: row.plan ?? undefined,
  effectiveAt: row.effective_at,
  createdAt: row.created_at,
  actor: row.actor,
  reason: row.reason ?? undefined,
});
