import { type AuditEntry, audit as writeAudit } from '#libs/audit/write-audit.ts';
import type { TenantTransaction } from '#libs/postgres/open-database.ts';

/** What one row of the audit says of a run. */
export interface RunAuditEntry extends Omit<AuditEntry, 'targetType' | 'targetId'> {
  readonly runId: string;
}

/** Writes one row of the audit of a run, in the transaction that commits what it tells of. */
export const audit = (trx: TenantTransaction, { runId, ...entry }: RunAuditEntry): Promise<void> =>
  writeAudit(trx, { ...entry, targetType: 'run', targetId: runId });
