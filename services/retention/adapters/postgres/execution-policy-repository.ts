import { DomainError } from '#libs/kernel/domain-error.ts';
import { audit } from '#libs/postgres/audit.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import { firstOf } from '#libs/postgres/rows.ts';
import type { ExecutionPolicy } from '../../domain/execution-policy.ts';
import type { ExecutionPolicyRepository } from '../../use-cases/ports.ts';

interface PolicyRow {
  readonly tenant_id: string;
  readonly retention_days: number;
  readonly is_enabled: boolean;
  readonly min_executions_to_keep: number;
  readonly version: number;
  readonly last_cleanup_at: Temporal.Instant | null;
  readonly last_cleanup_deleted_count: number;
  readonly created_at: Temporal.Instant;
  readonly updated_at: Temporal.Instant;
}

/** The text that changes with every change of the policy. */
export const etagOfPolicy = ({ version }: Pick<ExecutionPolicy, 'version'>): string => `"${version}"`;

/** Execution policies in Postgres. */
export const makeExecutionPolicyRepository = (database: Database): ExecutionPolicyRepository => ({
  upsert: ({ tenantId, retentionDays, isEnabled, minToKeep, actor, subject, etag }) =>
    database.forTenant(tenantId, async (trx) => {
      // Two at once on one tenant take turns; a first policy has no row that could be locked.
      await trx.raw('select pg_advisory_xact_lock(hashtextextended(?, 1))', [tenantId]);
      const known = firstOf<PolicyRow>(
        await trx.raw('select * from execution_retention_policies where tenant_id = ?', [tenantId]),
      );
      if (etag !== '' && etag !== etagOfPolicy({ version: known?.version ?? 0 })) {
        throw new DomainError('aborted', 'ETAG_MISMATCH', 'The policy has changed since; read it again.', { etag });
      }
      const isSame =
        known?.retention_days === retentionDays &&
        known.is_enabled === isEnabled &&
        known.min_executions_to_keep === minToKeep;
      if (known && isSame) return toPolicy(known);
      const row = firstOf<PolicyRow>(
        await trx.raw(
          `insert into execution_retention_policies as p
             (tenant_id, retention_days, is_enabled, min_executions_to_keep)
           values (:tenantId, :retentionDays, :isEnabled, :minToKeep)
           on conflict (tenant_id) do update
             set retention_days = excluded.retention_days, is_enabled = excluded.is_enabled,
                 min_executions_to_keep = excluded.min_executions_to_keep, version = p.version + 1,
                 updated_at = clock_timestamp()
           returning *`,
          { tenantId, retentionDays, isEnabled, minToKeep },
        ),
      );
      if (!row) throw new Error('the policy was not written');
      await audit(trx, {
        tenantId,
        actor,
        subject,
        action: 'set-execution-policy',
        targetType: 'execution_policy',
        targetId: String(row.version),
        outcome: isEnabled ? `${retentionDays} days` : 'KEEP_ALL',
      });
      return toPolicy(row);
    }),

  async get(tenantId) {
    const [row] = await database.readForTenant<PolicyRow>(tenantId, {
      text: 'select * from execution_retention_policies where tenant_id = $1',
      values: [tenantId],
    });
    return row && toPolicy(row);
  },
});

const toPolicy = (row: PolicyRow): ExecutionPolicy => ({
  tenantId: row.tenant_id,
  retentionDays: row.retention_days,
  isEnabled: row.is_enabled,
  minToKeep: row.min_executions_to_keep,
  staleAfterDays: 30,
  version: row.version,
  lastCleanupAt: row.last_cleanup_at ?? undefined,
  lastCleanupDeleted: row.last_cleanup_deleted_count,
  createdAt: row.created_at,
  updatedAt: row.updated_at,
});
