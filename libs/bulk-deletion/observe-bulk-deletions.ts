import type { Logger } from '#libs/telemetry/logger.ts';
import type { Metrics } from '#libs/telemetry/metrics.ts';
import { ITEM_ENDS } from './bulk-deletion.ts';
import type { OnBulkOrdered } from './order-bulk-deletion.ts';
import type { BulkObserver } from './run-bulk-deletions.ts';

/** Logs, as a line of the audit, what was ordered, refused and cancelled of a service's targets. */
export const makeOnOrdered =
  (targetType: string, log: Logger): OnBulkOrdered =>
  ({ tenantId, mode, caller: { actor, subject }, reason, filter }, outcome, why) =>
    log.info(
      { audit: true, action: 'bulk-deletion', tenantId, mode, actor, subject, reason, filter, outcome, why },
      `bulk deletion of ${targetType}s`,
    );

/** Logs how bulk deletions end and what went wrong with their items, and counts the items. */
export function makeBulkObserver(log: Logger, metrics: Metrics): BulkObserver {
  // Prometheus sees no increase in a count that begins with 1.
  for (const outcome of ITEM_ENDS) metrics.bulkItemsEnded(outcome, 0);
  return {
    onEnded({ tenantId, id, mode, state, counts, skips }) {
      log.info({ tenantId, bulkDeletionId: id, mode, outcome: state, counts, skips }, 'bulk deletion ended');
    },
    onItemsEnded: metrics.bulkItemsEnded,
    onItemFailed({ tenantId, id }, targetId, error) {
      log.warn({ err: error, tenantId, bulkDeletionId: id, targetId }, 'an item of a bulk deletion could not be begun');
    },
  };
}
