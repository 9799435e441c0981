import type { Knex } from 'knex';
import type { Caller } from '#libs/kernel/caller.ts';
import type { Contents } from '#libs/object-store/object-store.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import type { RefusalAudit, SweepAudit, TenantSweep } from '../../use-cases/ports.ts';

/** What one row of the audit says. */
export interface AuditEntry {
  readonly tenantId: string;
  readonly actor: string;
  readonly subject: string;
  readonly action: string;
  readonly targetType: string;
  readonly targetId: string;
  readonly reason?: string | null | undefined;
  readonly requestId?: string | null | undefined;
  readonly outcome: string;
  readonly counts?: object;
}

/** Writes one row of the audit, in the transaction that commits what it tells of. */
export async function audit(trx: Knex.Transaction, entry: AuditEntry): Promise<void> {
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

/** The audit of refusals in Postgres. */
export const makeRefusalAudit = (database: Database): RefusalAudit => ({
  record: ({ caller: { actor, subject }, ...refusal }) =>
    database.forTenant(refusal.tenantId, (trx) => audit(trx, { ...refusal, actor, subject })),
});

/** The audit of sweeps in Postgres. */
export function makeSweepAudit(database: Database): SweepAudit {
  const write = (
    { actor, subject }: Caller,
    { tenantId }: TenantSweep,
    reason: string | undefined,
    outcome: string,
    counts: object,
  ) =>
    database.forTenant(tenantId, (trx) => {
      const target = { targetType: 'tenant', targetId: tenantId };
      return audit(trx, { tenantId, actor, subject, action: 'sweep-orphans', ...target, reason, outcome, counts });
    });
  return {
    begin: (caller, sweep, reason) => write(caller, sweep, reason, 'STARTED', { found: shown(sweep.found) }),
    end: (caller, sweep, reason) => {
      const { deleted, left, error } = sweep;
      const isWhole = error === undefined && left.versions + left.markers + left.uploads === 0;
      const counts = { deleted: shown(deleted), left: shown(left) };
      return write(caller, sweep, reason, isWhole ? 'COMPLETE' : 'PARTIAL', counts);
    },
  };
}

const shown = ({ versions, markers, uploads, bytes }: Contents) => ({ objects: versions, markers, uploads, bytes });
