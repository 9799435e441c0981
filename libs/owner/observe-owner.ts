import type { ServiceFoundation } from '#libs/service/run-service.ts';
import type { OnPurged } from './owner.ts';

/** Writes into the log what an owner has purged, and counts it. */
export const observeOwner =
  ({ log, metrics }: Pick<ServiceFoundation, 'log' | 'metrics'>): OnPurged =>
  ({ subject: { name }, tenantId, caller }, { operationId, rule, removed, dependents, waits }) => {
    const kind = name.replaceAll('_', '-');
    const { actor, subject } = caller;
    const told = { audit: true, action: `purge-${kind}`, tenantId, operationId, actor, subject, removed, dependents };
    log.info({ ...told, waits, cutoff: rule?.cutoff.toString(), outcome: 'COMPLETE' }, 'purged by age');
    metrics.deletionFinished(kind, 'COMPLETE');
  };
