import { Model } from 'objection';
import { DomainError } from '#libs/kernel/domain-error.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { Plan, TenantPlan } from '../../domain/windows.ts';
import type { PlanRepository } from '../../use-cases/ports.ts';

class TenantPlanRow extends Model {
  static override readonly tableName = 'tenant_plans';
  static override readonly idColumn = ['tenant_id', 'version'];
  declare tenant_id: string;
  declare version: number;
  declare plan: Plan;
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
  set: ({ tenantId, plan, effectiveAt, actor, reason, etag }) =>
    database.forTenant(tenantId, async (trx) => {
      // Two at once on one tenant take turns; a first entry has no row that could be locked.
      await trx.raw('select pg_advisory_xact_lock(hashtextextended(?, 0))', [tenantId]);
      const newest = await TenantPlanRow.query(trx).where({ tenant_id: tenantId }).orderBy('version', 'desc').first();
      const version = newest?.version ?? 0;
      if (etag !== '' && etag !== etagOfPlan({ version })) {
        throw new DomainError('aborted', 'ETAG_MISMATCH', 'The plan has changed since; read it again.', { etag });
      }
      const isSame = newest?.plan === plan && (effectiveAt === undefined || newest.effective_at.equals(effectiveAt));
      if (newest && isSame) return toTenantPlan(newest);
      const row = firstOf<Columns>(
        await trx.raw(
          `insert into tenant_plans (tenant_id, version, plan, effective_at, actor, reason)
           values (:tenantId, :version, :plan, coalesce(cast(:effectiveAt as timestamptz), clock_timestamp()), :actor, :reason)
           returning *`,
          {
            tenantId,
            version: version + 1,
            plan,
            effectiveAt: effectiveAt?.toString() ?? null,
            actor,
            reason: reason ?? null,
          },
        ),
      );
      if (!row) throw new Error('the plan was not inserted');
      return toTenantPlan(row);
    }),

  history: (tenantId) =>
    database.forTenant(tenantId, async (trx) => {
      const now = firstOf<{ now: Temporal.Instant }>(await trx.raw('select clock_timestamp() as now'));
      if (!now) throw new Error('the database told no time');
      const rows = await TenantPlanRow.query(trx).where({ tenant_id: tenantId }).orderBy('version');
      return { entries: rows.map(toTenantPlan), now: now.now };
    }),

  async findTenants() {
    const rows = await database.acrossTenants<{ tenant_id: string }>({
      text: 'select tenants_with_plans() as tenant_id',
      values: [],
    });
    return rows.map((row) => row.tenant_id);
  },
});

const toTenantPlan = (row: Columns): TenantPlan => ({
  tenantId: row.tenant_id,
  version: row.version,
  plan: row.plan,
  effectiveAt: row.effective_at,
  createdAt: row.created_at,
  actor: row.actor,
  reason: row.reason ?? undefined,
});
