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
export const audit = (trx: TenantTransaction, entry: AuditEntry): Promise<void> => auditAll(trx, [entry]);

/** Writes several entries of one tenant by one statement, as `audit` does. */
export async function auditAll(trx: TenantTransaction, entries: readonly AuditEntry[]): Promise<void> {
  await trx('audit_entries').insert(
    entries.map((entry) => ({
      tenant_id: entry.tenantId,
      request_id: entry.requestId ?? null,
      ...columnsOf(entry),
    })),
  );
}

/** What is written of something that belongs to no tenant. */
export type InstallationAuditEntry = Omit<AuditEntry, 'tenantId' | 'requestId'>;

/** Writes one entry that belongs to no tenant, as `audit` does, in a transaction of `forInstallation`. */
export const auditInstallation = (trx: TenantTransaction, entry: InstallationAuditEntry): Promise<void> =>
  auditAllOfInstallation(trx, [entry]);

/** Writes several entries that belong to no tenant by one statement. */
export async function auditAllOfInstallation(
  trx: TenantTransaction,
  entries: readonly InstallationAuditEntry[],
): Promise<void> {
  await trx('installation_audit').insert(entries.map(columnsOf));
}

const columnsOf = (entry: InstallationAuditEntry) => ({
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
