import type { TenantTransaction } from './open-database.ts';

/** What one row of a service's audit says. */
export interface AuditEntry {
  readonly tenantId: string;
  readonly actor: string;
  readonly subject: string;
  readonly action: string;
  readonly targetType: string;
  readonly targetId: string;
  readonly reason?: string | null | undefined;
  readonly requestId?: string | null | undefined;
  /** How it ended, or the reason of a refusal. */
  readonly outcome: string;
  readonly counts?: object;
}

/** Writes one row of the audit, in the transaction that commits what it tells of. Every service has `audit_entries`. */
export async function audit(trx: TenantTransaction, entry: AuditEntry): Promise<void> {
  await trx('audit_entries').insert({
    tenant_id: entry.tenantId,
    actor: entry.actor,
    subject: entry.subject,
    action: entry.action,
    target_type: entry.targetType,
    target_id: entry.targetId,
    reason: entry.reason ?? null,
    request_id: entry.requestId ?? null,
    outcome: entry.outcome,
    counts: JSON.stringify(entry.counts ?? {}),
  });
}
