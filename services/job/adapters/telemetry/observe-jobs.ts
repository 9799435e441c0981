import type { ServiceFoundation } from '#libs/service/run-service.ts';
import type { RefusalAudit, SweepAudit } from '../../use-cases/ports.ts';
import type { OnDiscardFailed } from '../../use-cases/remove-discarded.ts';
import type { OnDeletionSettled } from '../../use-cases/run-deletions.ts';
import type { OnSweepFailed } from '../../use-cases/sweep-orphans.ts';
import { makeRefusalAudit, makeSweepAudit } from '../postgres/audit.ts';

/** Whom the use cases of JobService tell of what they do. */
export interface JobObservers {
  readonly onSettled: OnDeletionSettled;
  readonly onDiscardFailed: OnDiscardFailed;
  readonly onSweepFailed: OnSweepFailed;
  readonly refusals: RefusalAudit;
  readonly sweepAudit: SweepAudit;
}

/** Writes it into the log, beside the audit, and counts what has ended. */
export function observeJobs({
  database,
  log,
  metrics,
}: Pick<ServiceFoundation, 'database' | 'log' | 'metrics'>): JobObservers {
  const refusals = makeRefusalAudit(database);
  const sweeps = makeSweepAudit(database);
  return {
    onSettled({ tenantId, id, jobId, actor, reason, counts, attempts, failedKeys }, outcome, error) {
      const deed = { audit: outcome !== 'RETRY', action: 'delete', tenantId, deletionId: id, jobId };
      const told = { ...deed, actor, reason, counts, outcome };
      if (outcome === 'COMPLETE') log.info(told, 'job deleted');
      else log.warn({ ...told, attempts, failedKeys, err: error }, 'job not deleted yet');
      if (outcome !== 'RETRY') metrics.deletionFinished('job', outcome);
    },

    onDiscardFailed({ tenantId, object, attempt }, error) {
      const told = { err: error, tenantId, jobId: object.jobId, attempt };
      log.warn(told, 'a discarded object could not be removed yet');
    },

    onSweepFailed: (tenantId, error) => log.warn({ err: error, tenantId }, 'orphans not swept to the end'),

    refusals: {
      async record(refusal) {
        const { caller, ...told } = refusal;
        log.info({ audit: true, ...told, actor: caller.actor }, 'refused');
        metrics.deletionFinished(refusal.targetType === 'run' ? 'run' : 'job', 'REFUSED');
        await refusals.record(refusal);
      },
    },

    sweepAudit: {
      begin: sweeps.begin,
      async end(caller, sweep, reason) {
        const { tenantId, deleted, left, error } = sweep;
        const told = { audit: true, action: 'sweep-orphans', tenantId, actor: caller.actor, reason, deleted, left };
        log.info({ ...told, outcome: error ?? 'COMPLETE' }, 'orphans swept');
        await sweeps.end(caller, sweep, reason);
      },
    },
  };
}
