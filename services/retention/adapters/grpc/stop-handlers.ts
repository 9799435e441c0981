import type { MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import type { PurgeStopSchema } from '#gen/lethe/retention/v1/retention_pb.ts';
import type { RetentionService } from '#gen/lethe/retention/v1/retention_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { optional } from '#libs/grpc/optional.ts';
import { parseRequiredReason } from '#libs/grpc/parse.ts';
import { toOptionalTimestamp } from '#libs/grpc/timestamp.ts';
import type { PurgeStop } from '../../domain/purge-stop.ts';
import type { StopPurges } from '../../use-cases/stop-purges.ts';

/** The stop switch. */
export const stopHandlers = (stopPurges: StopPurges): Partial<ServiceImpl<typeof RetentionService>> => ({
  async stopPurges(request, context) {
    const { actor, subject } = callerOf(context);
    const reason = parseRequiredReason(request.reason);
    return { stop: toStopMessage(await stopPurges.stop({ actor, subject, reason })) };
  },

  async resumePurges(request, context) {
    const { actor, subject } = callerOf(context);
    const reason = parseRequiredReason(request.reason);
    return { stop: toStopMessage(await stopPurges.resume({ actor, subject, reason })) };
  },

  async getPurgeStop() {
    return { stop: toStopMessage(await stopPurges.get()) };
  },
});

/** The switch as a message. */
export const toStopMessage = ({ isStopped, version, last }: PurgeStop): MessageInitShape<typeof PurgeStopSchema> => ({
  isStopped,
  version: BigInt(version),
  actor: last?.actor ?? '',
  reason: last?.reason ?? '',
  ...optional('changeTime', toOptionalTimestamp(last?.at)),
});
