import type { ServiceImpl } from '@connectrpc/connect';
import type { RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { parseEtag, parseFields, parseReason, parseRequestId, parseText, parseView } from '#libs/grpc/parse.ts';
import { parseJsonObject } from '#libs/grpc/parse-json.ts';
import { parseId } from '#libs/kernel/id.ts';
import type { CancelRun } from '../../use-cases/cancel-run.ts';
import type { FailRun } from '../../use-cases/fail-run.ts';
import type { RetryRun } from '../../use-cases/retry-run.ts';
import type { StartRun } from '../../use-cases/start-run.ts';
import type { WatchRun } from '../../use-cases/watch-run.ts';
import { toRunMessage } from './messages.ts';
import { MAX_ERROR, MAX_NAME, parseWorkflow } from './parse.ts';
import { toWatchMessages } from './watch-messages.ts';

/** What RunService does with the runs that it drives or compensates. */
export interface SagaUseCases {
  readonly startRun: StartRun;
  readonly watchRun: WatchRun;
  readonly cancelRun: CancelRun;
  readonly retryRun: RetryRun;
  readonly failRun: FailRun;
}

/** The saga's part of RunService over gRPC. */
export const sagaService = ({
  startRun,
  watchRun,
  cancelRun,
  retryRun,
  failRun,
}: SagaUseCases): Partial<ServiceImpl<typeof RunService>> => ({
  async startRun(request, context) {
    const command = parseFields({
      requestId: () => parseRequestId(request.requestId),
      workflow: () => parseWorkflow(request.workflow),
      displayName: () => parseText('display_name', request.displayName, { max: MAX_NAME }),
      input: () => parseJsonObject('input', request.input) ?? {},
    });
    return { run: toRunMessage(await startRun({ caller: callerOf(context), ...command })) };
  },

  async *watchRun(request, context) {
    const command = parseFields({
      runId: () => parseId('run_id', request.runId),
      view: () => parseView(request.view, 'FULL'),
    });
    const { showDeleted } = request;
    for await (const sighting of watchRun({ ...command, caller: callerOf(context), showDeleted }, context.signal))
      yield* toWatchMessages(sighting);
  },

  async cancelRun(request, context) {
    const command = parseFields({
      runId: () => parseId('run_id', request.runId),
      reason: () => parseReason(request.reason),
      etag: () => parseEtag(request.etag),
    });
    return { run: toRunMessage(await cancelRun({ caller: callerOf(context), ...command })) };
  },

  async retryRun(request, context) {
    const command = parseFields({
      runId: () => parseId('run_id', request.runId),
      reason: () => parseReason(request.reason),
      etag: () => parseEtag(request.etag),
    });
    return { run: toRunMessage(await retryRun({ caller: callerOf(context), ...command })) };
  },

  async failRun(request, context) {
    const command = parseFields({
      runId: () => parseId('run_id', request.runId),
      error: () => parseText('error', request.error, { min: 1, max: MAX_ERROR }),
      etag: () => parseEtag(request.etag),
    });
    return { run: toRunMessage(await failRun({ caller: callerOf(context), ...command })) };
  },
});
