import { audit } from '#libs/audit/write-audit.ts';
import type { Caller } from '#libs/kernel/caller.ts';
import type { Contents } from '#libs/object-store/object-store.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import type { RefusalAudit, SweepAudit, TenantSweep } from '../../use-cases/ports.ts';

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
