import type { Knex } from 'knex';
import type { Caller } from '#libs/kernel/caller.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import type { RefusalAudit } from '../../use-cases/ports.ts';

/** What one row of the audit says. */
export interface AuditEntry {
  readonly tenantId: string;
  readonly caller: Pick<Caller, 'actor' | 'subject'>;
  readonly action: string;
  readonly targetType: string;
  readonly targetId: string;
  readonly reason?: string | undefined;
  /** COMPLETE, or the reason of a refusal. */
  readonly outcome?: string;
  readonly counts?: Readonly<Record<string, number>>;
}

/** Writes one row of the audit, in the transaction that commits what it tells of. */
export async function audit(trx: Knex.Transaction, entry: AuditEntry): Promise<void> {
  await trx('audit_entries').insert({
    tenant_id: entry.tenantId,
    actor: entry.caller.actor,
    subject: entry.caller.subject,
    action: entry.action,
    target_type: entry.targetType,
    target_id: entry.targetId,
    reason: entry.reason ?? null,
    outcome: entry.outcome ?? 'COMPLETE',
    counts: JSON.stringify(entry.counts ?? {}),
  });
}

/** The audit of refusals in Postgres. */
export const makeRefusalAudit = (database: Database): RefusalAudit => ({
  record: ({ action, scope: { tenantId, runId }, operation: { caller, reason }, outcome }) =>
    database.forTenant(tenantId, (trx) =>
      audit(trx, { tenantId, caller, action, targetType: 'run', targetId: runId, reason, outcome }),
    ),
});
