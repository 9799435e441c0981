import type { MessageInitShape } from '@bufbuild/protobuf';
import {
  type PurgeForecastSchema,
  type RetentionWindowSchema,
  WindowKind,
  WindowSource,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import { optional, toOptionalBigInt } from '#libs/grpc/optional.ts';
import { toOptionalTimestamp } from '#libs/grpc/timestamp.ts';
import type { ResolvedWindow, Window } from '../../domain/windows.ts';
import type { PurgeForecast } from '../../use-cases/forecast-purge.ts';

/** A resolved window as a message. */
export function toWindowMessage({
  subject,
  window,
  source,
  from,
  windowVersion,
  change,
  minToKeep,
}: ResolvedWindow): MessageInitShape<typeof RetentionWindowSchema> {
  return {
    subjectName: subject,
    kind: WindowKind[window.kind],
    ...optional('retentionDays', daysOf(window)),
    source: WindowSource[source],
    ...(from ? { planName: from.plan, planVersion: BigInt(from.version) } : {}),
    ...optional('windowVersion', toOptionalBigInt(windowVersion)),
    ...optional('changeTime', toOptionalTimestamp(change?.at)),
    ...optional('nextKind', change && WindowKind[change.to.kind]),
    ...optional('nextRetentionDays', change && daysOf(change.to)),
    ...optional('minExecutionsToKeep', toOptionalBigInt(minToKeep)),
  };
}

const daysOf = (window: Window): number | undefined => (window.kind === 'DAYS' ? window.days : undefined);

/** A forecast as a message. */
export const toForecastMessage = (forecast: PurgeForecast): MessageInitShape<typeof PurgeForecastSchema> => ({
  subject: forecast.subject,
  expiredCount: BigInt(forecast.expired),
  currentExpiredCount: BigInt(forecast.currentExpired),
  tenantCount: forecast.tenants,
  uncountedTenantCount: forecast.uncounted,
  ...optional('effectTime', toOptionalTimestamp(forecast.effectAt)),
});
