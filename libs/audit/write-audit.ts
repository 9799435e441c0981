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

/** What is written of something that belongs to no tenant. */
export type InstallationAuditEntry = Omit<AuditEntry, 'tenantId' | 'requestId'>;

/** Writes one entry that belongs to no tenant, as `audit` does, in a transaction of `forInstallation`. */
export async function auditInstallation(trx: TenantTransaction, entry: InstallationAuditEntry): Promise<void> {
  await trx('installation_audit').insert(columnsOf(entry));
}

/** An entry that may be written again where nobody knows whether it was committed. */
export interface RepeatableEntry extends InstallationAuditEntry {
  readonly id: string;
  /** The time that an earlier transaction gave it. Undefined: none has, or none that can have been committed. */
  readonly at: Temporal.Instant | undefined;
}

/**
 * Writes entries of one tenant, or with tenantId undefined of the installation, by one statement. Passes over those that
 * are there already, by id and time; the times of all others are returned by id, for the next attempt.
 */
export async function auditOnce(
  trx: TenantTransaction,
  tenantId: string | undefined,
  entries: readonly RepeatableEntry[],
): Promise<ReadonlyMap<string, Temporal.Instant>> {
  const rows = entries.map((entry) => ({
    ...(tenantId === undefined ? {} : { tenant_id: tenantId }),
    id: entry.id,
    ...(entry.at === undefined ? {} : { at: entry.at.toString() }),
    ...columnsOf(entry),
  }));
  const written: readonly { readonly id: string; readonly at: Temporal.Instant }[] = await trx(
    tenantId === undefined ? 'installation_audit' : 'audit_entries',
  )
    .insert(rows)
    .onConflict()
    .ignore()
    .returning(['id', 'at']);
  return new Map(written.map(({ id, at }) => [id, at]));
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
