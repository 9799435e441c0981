import type { ParticipantObserver } from '#libs/participant/make-participant.ts';
import type { ServiceFoundation } from '#libs/service/run-service.ts';
import { makeRefusalAudit } from '../postgres/audit.ts';

/** Writes into the log, beside the audit, what IncidentService does as a participant, and counts what has ended. */
export function observeIncidents({
  database,
  log,
  metrics,
}: Pick<ServiceFoundation, 'database' | 'log' | 'metrics'>): ParticipantObserver {
  const refusals = makeRefusalAudit(database);
  return {
    onTouched(action, { tenantId, runId, step }, { operationId, caller: { actor, subject }, reason }, counts) {
      const told = { audit: true, action, tenantId, runId, step, operationId, actor, subject, reason, counts };
      log.info({ ...told, outcome: 'COMPLETE' }, 'incidents of a run touched');
      metrics.deletionFinished(`incident-${action}`, 'COMPLETE');
    },

    async onRefused(action, scope, operation, outcome) {
      const { operationId, caller, reason } = operation;
      log.info({ audit: true, action, ...scope, operationId, actor: caller.actor, reason, outcome }, 'refused');
      metrics.deletionFinished(`incident-${action}`, 'REFUSED');
      await refusals.record({ action, scope, operation, outcome });
    },
  };
}
