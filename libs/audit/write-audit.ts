import { currentTrustEntry } from '#libs/grpc/current-caller.ts';
import type { TenantTransaction } from '#libs/postgres/open-database.ts';

/** One entry of a service's audit before it is written; id and time come from the database. */
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
  /**
   * The entry of the trust file whose key signed the subject's credential. Undefined: that of the call under way, if the
   * subject made it.
   */
  readonly trustEntry?: string | null | undefined;
}

/** Writes one entry, in the transaction that commits what the entry is about. Every service has `audit_entries`. */
export async function audit(trx: TenantTransaction, entry: AuditEntry): Promise<void> {
  await trx('audit_entries').insert({
    tenant_id: entry.tenantId,
    request_id: entry.requestId ?? null,
    ...columnsOf(entry),
  });
}

/** Writes one entry that belongs to no tenant, as `audit` does, in a transaction of `forInstallation`. */
export async function auditInstallation(
  trx: TenantTransaction,
  entry: Omit<AuditEntry, 'tenantId' | 'requestId'>,
): Promise<void> {
  await trx('installation_audit').insert(columnsOf(entry));
}

const columnsOf = (entry: Omit<AuditEntry, 'tenantId' | 'requestId'>) => ({
  actor: entry.actor,
  subject: entry.subject,
  action: entry.action,
  target_type: entry.targetType,
  target_id: entry.targetId,
  reason: entry.reason ?? null,
  outcome: entry.outcome,
  counts: JSON.stringify(entry.counts ?? {}),
  trust_entry: entry.trustEntry ?? currentTrustEntry(entry.subject) ?? null,
});
