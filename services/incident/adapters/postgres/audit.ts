import type { Knex } from 'knex';
import type { Caller } from '#libs/kernel/caller.ts';

/** What one row of the audit says. */
export interface AuditEntry {
  readonly tenantId: string;
  readonly caller: Pick<Caller, 'actor' | 'subject'>;
  readonly action: string;
  readonly targetType: string;
  readonly targetId: string;
  readonly reason?: string | undefined;
  readonly counts: Readonly<Record<string, number>>;
}

/** Writes one row of the audit for what is complete, in the transaction that commits it. */
export async function audit(trx: Knex.Transaction, entry: AuditEntry): Promise<void> {
  await trx('audit_entries').insert({
    tenant_id: entry.tenantId,
    actor: entry.caller.actor,
    subject: entry.caller.subject,
    action: entry.action,
    target_type: entry.targetType,
    target_id: entry.targetId,
    reason: entry.reason ?? null,
    outcome: 'COMPLETE',
    counts: JSON.stringify(entry.counts),
  });
}
