import { Model } from 'objection';
import { DomainError, fieldInvalid, requestIdReused } from '#libs/kernel/domain-error.ts';
import { audit } from '#libs/postgres/audit.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf, pageOf } from '#libs/postgres/rows.ts';
import type { PlanWindow, TenantPlan } from '../../domain/windows.ts';
import type { NewTenantPlan, PlanRepository } from '../../use-cases/ports.ts';

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

/** The text that changes with every entry. */
export const etagOfPlan = ({ version }: Pick<TenantPlan, 'version'>): string => `"${version}"`;

/** Plans in Postgres. */
export const makePlanRepository = (database: Database): PlanRepository => ({
  set: (entry) =>
    database.forTenant(entry.tenantId, async (trx) => {
      const { tenantId, requestId } = entry;
      // Two at once on one tenant take turns; a first entry has no row that could be locked.
      await trx.raw('select pg_advisory_xact_lock(hashtextextended(?, 0))', [tenantId]);
      const answered = requestId === undefined ? undefined : await findAnswer(trx, tenantId, requestId);
      if (answered && answered.fingerprint !== entry.fingerprint) throw requestIdReused(requestId ?? '');
      const plan = answered
        ? await TenantPlanRow.query(trx).findById([tenantId, answered.plan_version]).throwIfNotFound()
        : await addEntry(trx, entry);
      if (!answered && requestId !== undefined) {
        await trx('retention_requests').insert({
          tenant_id: tenantId,
          method: 'SetTenantPlan',
          request_id: requestId,
          fingerprint: entry.fingerprint,
          plan_version: plan.version,
        });
      }
      return toTenantPlan(plan);
    }),

  history: (tenantId) =>
    database.forTenant(tenantId, async (trx) => {
      const now = await databaseNow(trx);
      const rows = await TenantPlanRow.query(trx).where({ tenant_id: tenantId }).orderBy('version');
      return { entries: rows.map(toTenantPlan), planWindows: SEEDED_WINDOWS, now };
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
    // The function tells which entries; the entries themselves are read under each tenant's row-level security.
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

  async findTenants() {
    const rows = await database.acrossTenants<{ tenant_id: string }>({
      text: 'select tenants_to_purge() as tenant_id',
      values: [],
    });
    return rows.map((row) => row.tenant_id);
  },
});

/** The entry added, or the newest one when it says the same; the tenant is locked. */
async function addEntry(trx: TenantTransaction, entry: NewTenantPlan): Promise<Columns> {
  const { tenantId, plan, actor, subject, reason, requestId, etag } = entry;
  const newest = await TenantPlanRow.query(trx).where({ tenant_id: tenantId }).orderBy('version', 'desc').first();
  const version = newest?.version ?? 0;
  if (etag !== '' && etag !== etagOfPlan({ version })) {
    throw new DomainError('aborted', 'ETAG_MISMATCH', 'The plan has changed since; read it again.', { etag });
  }
  const now = await databaseNow(trx);
  const effectiveAt = entry.effectiveAt ?? now;
  if (newest) {
    const isBefore = Temporal.Instant.compare(effectiveAt, newest.effective_at) < 0;
    const isSame = entry.effectiveAt ? newest.effective_at.equals(entry.effectiveAt) : !isBefore;
    if ((newest.plan ?? undefined) === plan && isSame) return newest;
    if (isBefore) {
      throw fieldInvalid(
        'effective_time',
        `must not be before ${newest.effective_at}, when the newest entry takes effect`,
      );
    }
  }
  const row = firstOf<Columns>(
    await trx.raw(
      `insert into tenant_plans (tenant_id, version, plan, effective_at, actor, reason)
       values (:tenantId, :version, :plan, cast(:effectiveAt as timestamptz), :actor, :reason) returning *`,
      {
        tenantId,
        version: version + 1,
        plan: plan ?? null,
        effectiveAt: effectiveAt.toString(),
        actor,
        reason: reason ?? null,
      },
    ),
  );
  if (!row) throw new Error('the plan was not inserted');
  await audit(trx, {
    tenantId,
    actor,
    subject,
    action: 'set-plan',
    targetType: 'tenant_plan',
    targetId: String(row.version),
    reason,
    requestId,
    outcome: plan ?? 'NONE',
  });
  return row;
}

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
  if (!row) throw new Error('the database told no time');
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

const SEEDED = {
  FREE: { drift_checks: 7, incident_payloads: undefined, approvals: undefined },
  PRO: { drift_checks: 30, incident_payloads: 180, approvals: 180 },
  AGENCY: { drift_checks: 90, incident_payloads: 365, approvals: 365 },
  ENTERPRISE: { drift_checks: 180, incident_payloads: 2_555, approvals: 2_555 },
};

const SEEDED_WINDOWS: readonly PlanWindow[] = Object.entries(SEEDED).flatMap(([plan, windows]) =>
  Object.entries(windows).map(([subject, days]) => ({
    plan,
    subject,
    version: 1,
    kind: days === undefined ? 'NOT_APPLICABLE' : 'DAYS',
    days,
    minToKeep: 0,
    recordedAt: Temporal.Instant.fromEpochMilliseconds(0),
    actor: 'system:seed',
    reason: undefined,
  })),
);
