import type { MessageInitShape } from '@bufbuild/protobuf';
import {
  type PurgeForecastSchema,
  type RetentionWindowSchema,
  WindowKind,
  WindowSource,
} from '#gen/lethe/retention/v1/retention_pb.ts';
import { toOptionalTimestamp } from '#libs/grpc/timestamp.ts';
import type { ResolvedWindow } from '../../domain/windows.ts';
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
  const changeTime = toOptionalTimestamp(change?.at);
  return {
    subjectName: subject,
    kind: WindowKind[window.kind],
    ...(window.kind === 'DAYS' ? { retentionDays: window.days } : {}),
    source: WindowSource[source],
    ...(from ? { planName: from.plan, planVersion: BigInt(from.version) } : {}),
    ...(windowVersion === undefined ? {} : { windowVersion: BigInt(windowVersion) }),
    ...(changeTime && change ? { changeTime, nextKind: WindowKind[change.to.kind] } : {}),
    ...(change?.to.kind === 'DAYS' ? { nextRetentionDays: change.to.days } : {}),
    ...(minToKeep === undefined ? {} : { minExecutionsToKeep: BigInt(minToKeep) }),
  };
}

/** A forecast as a message. */
export function toForecastMessage(forecast: PurgeForecast): MessageInitShape<typeof PurgeForecastSchema> {
  const effectTime = toOptionalTimestamp(forecast.effectAt);
  return {
    subject: forecast.subject,
    expiredCount: BigInt(forecast.expired),
    currentExpiredCount: BigInt(forecast.currentExpired),
    tenantCount: forecast.tenants,
    uncountedTenantCount: forecast.uncounted,
    ...(effectTime ? { effectTime } : {}),
  };
}
