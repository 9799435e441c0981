import type { AuditEntry } from '#libs/postgres/audit.ts';
import type { TenantTransaction } from '#libs/postgres/open-database.ts';

/** Writes one row of the audit of what belongs to no tenant, in the transaction that commits what it tells of. */
export async function auditInstallation(
  trx: TenantTransaction,
  entry: Omit<AuditEntry, 'tenantId' | 'requestId'>,
): Promise<void> {
  await trx('installation_audit').insert({
    actor: entry.actor,
    subject: entry.subject,
    action: entry.action,
    target_type: entry.targetType,
    target_id: entry.targetId,
    reason: entry.reason ?? null,
    outcome: entry.outcome,
    counts: JSON.stringify(entry.counts ?? {}),
  });
}
