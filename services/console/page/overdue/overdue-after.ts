import { WorkKind } from '#gen/lethe/status/v1/status_service_pb.ts';

const HOUR = 3_600;

/** From which age in seconds work of a kind is overdue: the same as in the alerts of `deploy/alerts`. */
export const OVERDUE_AFTER: Readonly<Record<WorkKind, number>> = {
  [WorkKind.UNSPECIFIED]: Number.POSITIVE_INFINITY,
  [WorkKind.DELETION]: HOUR,
  [WorkKind.BULK_DELETION]: 24 * HOUR,
  [WorkKind.RUN]: HOUR,
  [WorkKind.COMPENSATION]: HOUR,
  [WorkKind.UPLOAD]: 6 * HOUR,
  [WorkKind.PURGE]: 6 * HOUR,
};
