import type { HandlerContext, ServiceImpl } from '@connectrpc/connect';
import type { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { optional } from '#libs/grpc/optional.ts';
import { parseEtag, parseFields, parseReason, parseRequestId, parseRequiredReason } from '#libs/grpc/parse.ts';
import { parseId } from '#libs/kernel/id.ts';
import type { DeletionMode } from '../../domain/deletion.ts';
import type { OrderDeletion } from '../../use-cases/order-deletion.ts';
import { toDeletionMessage, toRunMessage } from './messages.ts';

/** The part of RunService that soft-deletes, undeletes and purges runs. */
export const deletionHandlers = (orderDeletion: OrderDeletion): Partial<ServiceImpl<typeof RunService>> => ({
  async deleteRun(request, context) {
    return order(orderDeletion, 'SOFT_DELETE', { force: false, ...request }, context);
  },

  async undeleteRun(request, context) {
    return order(orderDeletion, 'UNDELETE', { force: false, allowMissing: false, ...request }, context);
  },

  async purgeRun(request, context) {
    const { deletion } = await order(orderDeletion, 'PURGE', request, context);
    return deletion ? { deletion } : {};
  },
});

interface EndRunRequest {
  readonly runId: string;
  readonly requestId: string;
  readonly etag: string;
  readonly allowMissing: boolean;
  readonly validateOnly: boolean;
  readonly force: boolean;
  readonly reason: string;
}

async function order(
  orderDeletion: OrderDeletion,
  mode: DeletionMode,
  request: EndRunRequest,
  context: HandlerContext,
) {
  const command = parseFields({
    runId: () => parseId('run_id', request.runId),
    requestId: () => parseRequestId(request.requestId),
    etag: () => parseEtag(request.etag),
    reason: () => (mode === 'PURGE' ? parseRequiredReason(request.reason) : parseReason(request.reason)),
  });
  const { allowMissing, validateOnly, force } = request;
  const { run, deletion } = await orderDeletion({
    ...command,
    caller: callerOf(context),
    mode,
    allowMissing,
    validateOnly,
    force,
    signal: context.signal,
  });
  return {
    ...optional('run', run && toRunMessage(run)),
    ...optional('deletion', deletion && toDeletionMessage(deletion)),
  };
}
