import { audit } from '#libs/audit/write-audit.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { pageOf } from '#libs/kernel/page.ts';
import type { Database, TenantTransaction } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { ExecutionPolicy } from '../../domain/execution-policy.ts';
import type { ExecutionPolicyRepository, NewExecutionPolicy } from '../../use-cases/ports.ts';

interface PolicyRow {
  readonly tenant_id: string;
  readonly retention_days: number;
  readonly is_enabled: boolean;
  readonly min_executions_to_keep: number;
  readonly stale_after_days: number;
  readonly version: number;
  readonly last_cleanup_at: Temporal.Instant | null;
  readonly last_cleanup_deleted_count: number;
  readonly created_at: Temporal.Instant;
  readonly updated_at: Temporal.Instant;
}

/** Changes with every change of the policy; never reused, not even by a policy created after a deletion. */
export const etagOfPolicy = ({ version }: Pick<ExecutionPolicy, 'version'>): string => `"${version}"`;

/** Execution policies in Postgres. */
export function makeExecutionPolicyRepository(database: Database): ExecutionPolicyRepository {
  const get = async (tenantId: string): Promise<ExecutionPolicy | undefined> => {
    const [row] = await database.readForTenant<PolicyRow>(tenantId, {
      text: 'select * from execution_retention_policies where tenant_id = $1',
      values: [tenantId],
    });
    return row && toPolicy(row);
  };

  return {
    upsert: (policy) =>
      database.forTenant(policy.tenantId, async (trx) => {
        for (;;) {
          const known = await find(trx, policy.tenantId, 'for update');
          // First: a call whose answer was lost comes again with the etag of before.
          if (known && isSame(known, policy)) return toPolicy(known);
          assertEtag(policy.etag, known);
          // When two create it at once, the second waits for the first to commit, inserts nothing and starts over.
          const row = known ? await change(trx, policy) : await create(trx, policy);
          if (!row) continue;
          await auditPolicy(
            trx,
            policy,
            row,
            'set-execution-policy',
            policy.isEnabled ? `${policy.retentionDays} days` : 'KEEP_ALL',
          );
          return toPolicy(row);
        }
      }),

    preview: (policy) =>
      database.forTenant(policy.tenantId, async (trx) => {
        const known = await find(trx, policy.tenantId);
        const isKnown = known !== undefined && isSame(known, policy);
        if (!isKnown) assertEtag(policy.etag, known);
        const now = firstOf<{ now: Temporal.Instant }>(await trx.raw('select clock_timestamp() as now'))?.now;
        if (!now) throw new Error('the database returned no time');
        const { tenantId, retentionDays, isEnabled, minToKeep, staleAfterDays } = policy;
        return {
          ...(known
            ? toPolicy(known)
            : { version: 0, lastCleanupAt: undefined, lastCleanupDeleted: 0, createdAt: now }),
          ...{ tenantId, retentionDays, isEnabled, minToKeep, staleAfterDays },
          updatedAt: isKnown ? known.updated_at : now,
        };
      }),

    get,

    remove: (policy) =>
      database.forTenant(policy.tenantId, async (trx) => {
        const known = await find(trx, policy.tenantId, 'for update');
        if (!known) return;
        assertEtag(policy.etag, known);
        await trx.raw('delete from execution_retention_policies where tenant_id = ?', [policy.tenantId]);
        await auditPolicy(trx, policy, known, 'delete-execution-policy', 'DELETED');
      }),

    async list({ limit, after }) {
      const found = await database.acrossTenants<{ tenant_id: string }>({
        text: 'select tenants_with_execution_policies($1, $2) as tenant_id',
        values: [after?.[0] ?? null, limit + 1],
      });
      const page = pageOf(
        found,
        limit,
        ({ tenant_id }) => tenant_id,
        ({ tenant_id }) => [tenant_id],
      );
      // The function returns keys only; the policies are read under each tenant's row-level security.
      const policies = await Promise.all(page.items.map((tenantId) => get(tenantId)));
      return { items: policies.filter((policy) => policy !== undefined), next: page.next };
    },

    async recordCleanup(tenantId, at, deleted) {
      await database.forTenant(tenantId, (trx) =>
        trx.raw(
          `update execution_retention_policies
         set last_cleanup_at = cast(:at as timestamptz), last_cleanup_deleted_count = :deleted
         where tenant_id = :tenantId and (last_cleanup_at is null or last_cleanup_at <= cast(:at as timestamptz))`,
          { tenantId, at: at.toString(), deleted },
        ),
      );
    },
  };
}

const find = async (
  trx: TenantTransaction,
  tenantId: string,
  lock: 'for update' | '' = '',
): Promise<PolicyRow | undefined> =>
  firstOf(await trx.raw(`select * from execution_retention_policies where tenant_id = ? ${lock}`, [tenantId]));

const create = async (trx: TenantTransaction, policy: NewExecutionPolicy): Promise<PolicyRow | undefined> =>
  firstOf(
    await trx.raw(
      `insert into execution_retention_policies
         (tenant_id, retention_days, is_enabled, min_executions_to_keep, stale_after_days)
       values (:tenantId, :retentionDays, :isEnabled, :minToKeep, :staleAfterDays)
       on conflict (tenant_id) do nothing returning *`,
      bindingsOf(policy),
    ),
  );

// The table's trigger sets version and updated_at, for psql as well.
const change = async (trx: TenantTransaction, policy: NewExecutionPolicy): Promise<PolicyRow | undefined> =>
  firstOf(
    await trx.raw(
      `update execution_retention_policies
       set retention_days = :retentionDays, is_enabled = :isEnabled, min_executions_to_keep = :minToKeep,
           stale_after_days = :staleAfterDays
       where tenant_id = :tenantId returning *`,
      bindingsOf(policy),
    ),
  );

const bindingsOf = ({ tenantId, retentionDays, isEnabled, minToKeep, staleAfterDays }: NewExecutionPolicy) => ({
  tenantId,
  retentionDays,
  isEnabled,
  minToKeep,
  staleAfterDays,
});

const isSame = (row: PolicyRow, policy: NewExecutionPolicy): boolean =>
  row.retention_days === policy.retentionDays &&
  row.is_enabled === policy.isEnabled &&
  row.min_executions_to_keep === policy.minToKeep &&
  row.stale_after_days === policy.staleAfterDays;

function assertEtag(etag: string, known: PolicyRow | undefined): void {
  if (etag === '' || (known && etag === etagOfPolicy(known))) return;
  throw new DomainError('aborted', 'ETAG_MISMATCH', 'The policy has changed since; read it again.', { etag });
}

const auditPolicy = (
  trx: TenantTransaction,
  { tenantId, actor, subject }: Pick<NewExecutionPolicy, 'tenantId' | 'actor' | 'subject'>,
  row: PolicyRow,
  action: string,
  outcome: string,
): Promise<void> =>
  audit(trx, {
    tenantId,
    actor,
    subject,
    action,
    targetType: 'execution_policy',
    targetId: String(row.version),
    outcome,
  });

const toPolicy = (row: PolicyRow): ExecutionPolicy => ({
  tenantId: row.tenant_id,
  retentionDays: row.retention_days,
  isEnabled: row.is_enabled,
  minToKeep: row.min_executions_to_keep,
  staleAfterDays: row.stale_after_days,
  version: row.version,
  lastCleanupAt: row.last_cleanup_at ?? undefined,
  lastCleanupDeleted: row.last_cleanup_deleted_count,
  createdAt: row.created_at,
  updatedAt: row.updated_at,
});
