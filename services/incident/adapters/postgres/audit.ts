import { audit } from '#libs/audit/write-audit.ts';
import type { Database } from '#libs/postgres/open-database.ts';
import type { RefusalAudit } from '../../use-cases/ports.ts';

/** The audit of refusals in Postgres. */
export const makeRefusalAudit = (database: Database): RefusalAudit => ({
  record: ({
    action,
    scope: { tenantId, runId },
    operation: {
      caller: { actor, subject },
      reason,
    },
    outcome,
  }) =>
    database.forTenant(tenantId, (trx) =>
      audit(trx, { tenantId, actor, subject, action, targetType: 'run', targetId: runId, reason, outcome }),
    ),
});
