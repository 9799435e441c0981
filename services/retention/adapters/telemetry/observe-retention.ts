import type { ServiceFoundation } from '#libs/service/run-service.ts';
import { countsOf } from '../../domain/purge-subject.ts';
import type { OnCatalogueEvent, OnOwnerSilent } from '../../use-cases/keep-catalogue.ts';
import type { OnPurgeRefused } from '../../use-cases/order-purge.ts';
import type { OnItemError, OnItemFinished } from '../../use-cases/run-purges.ts';
import type { OnStopSwitched } from '../../use-cases/stop-purges.ts';

/** Whom the use cases of RetentionService tell of what they do. */
export interface RetentionObservers {
  readonly onCatalogueEvent: OnCatalogueEvent;
  readonly onOwnerSilent: OnOwnerSilent;
  /** Called when the catalogue was not brought up to date before a purge, which goes by the catalogue that there is. */
  readonly onNotReconciled: (error: unknown) => void;
  readonly onStopSwitched: OnStopSwitched;
  readonly onRefused: OnPurgeRefused;
  readonly onError: OnItemError;
  readonly onFinished: OnItemFinished;
}

/** Writes it into the log, and counts what has ended. */
export const observeRetention = ({ log, metrics }: Pick<ServiceFoundation, 'log' | 'metrics'>): RetentionObservers => ({
  onCatalogueEvent({ subject, event }) {
    const { name, owner, dataId, problem, claim } = subject;
    const told = { audit: true, action: 'subject', subject: name, owner, dataId, claim, event };
    log[problem ? 'error' : 'info'](told, 'the catalogue of subjects changed');
  },

  onOwnerSilent: (owner, error) => log.warn({ err: error, owner }, 'an owner of aging data could not be asked'),

  onNotReconciled: (error) => log.error({ err: error }, 'the catalogue was not brought up to date before a purge'),

  onStopSwitched({ isStopped, last, version }) {
    const told = { audit: true, action: isStopped ? 'stop-purges' : 'resume-purges', version, ...last };
    log.warn({ ...told, at: last?.at.toString() }, isStopped ? 'purges are stopped' : 'purges go on');
  },

  onRefused(tenantId, { actor, reason, trigger }, outcome) {
    log.warn({ audit: true, action: 'retention-purge', tenantId, actor, reason, trigger, outcome }, 'purge refused');
    metrics.deletionFinished('retention', 'REFUSED');
  },

  onError: ({ purgeId, tenantId, attempts }, error) =>
    log.warn({ err: error, purgeId, tenantId, attempts }, 'a tenant could not be purged whole'),

  onFinished({ purgeId, tenantId, actor, validateOnly }, progress) {
    const { state: outcome, plan, planVersion, error } = progress;
    const counts = countsOf(progress.subjects);
    const told = { audit: !validateOnly, action: 'retention-purge', purgeId, tenantId, actor, validateOnly, outcome };
    log[outcome === 'COMPLETE' ? 'info' : 'warn']({ ...told, plan, planVersion, counts, error }, 'tenant purged');
    if (!validateOnly) metrics.deletionFinished('retention', outcome);
  },
});
