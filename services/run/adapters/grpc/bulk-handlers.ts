import { create, toJson } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import { DeletionMode } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { RunState as RunStateMessage } from '#gen/lethe/run/v1/run_pb.ts';
import {
  type RunFilter as RunFilterMessage,
  RunFilterSchema,
  type RunService,
} from '#gen/lethe/run/v1/run_service_pb.ts';
import { type BulkMode, filterRequired } from '#libs/bulk-deletion/bulk-deletion.ts';
import {
  type BulkMessages,
  bulkDeletionHandlers,
  parseExpectedCount,
  previewOrOrder,
  toTime,
} from '#libs/bulk-deletion/handlers.ts';
import type { OrderBulkDeletion } from '#libs/bulk-deletion/order-bulk-deletion.ts';
import type { ReadBulkDeletions } from '#libs/bulk-deletion/read-bulk-deletions.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { optional } from '#libs/grpc/optional.ts';
import { parseEnum, parseFields, parseReason, parseRequestId, parseRequiredReason } from '#libs/grpc/parse.ts';
import { parseTimestamp } from '#libs/grpc/timestamp.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { hasCondition, type RunFilter } from '../../domain/run-filter.ts';
import { RUN_STATE_OF } from './messages.ts';
import { parseWorkflow } from './parse.ts';

/** What RunService does with everything that a filter matches. */
export interface BulkUseCases {
  readonly orderBulkDeletion: OrderBulkDeletion<RunFilter>;
  readonly readBulkDeletions: ReadBulkDeletions<RunFilter>;
}

const MODE_OF: ReadonlyMap<number, BulkMode> = new Map([
  [DeletionMode.UNSPECIFIED, 'PURGE'],
  [DeletionMode.PURGE, 'PURGE'],
  [DeletionMode.SOFT_DELETE, 'SOFT_DELETE'],
]);

/** The RPCs of RunService about everything that a filter matches. */
export const bulkService = ({ orderBulkDeletion, readBulkDeletions }: BulkUseCases) =>
  ({
    ...bulkDeletionHandlers(orderBulkDeletion, readBulkDeletions, RUN_MESSAGES),

    async purgeRuns(request, context) {
      const { filter, ...command } = parseFields({
        filter: () => request.filter && parseFilter(request.filter),
        mode: () => parseEnum('mode', request.mode, MODE_OF),
        hides: () => {
          if (request.mode !== DeletionMode.SOFT_DELETE) return;
          parseFields({
            force: () => {
              if (request.force) throw fieldInvalid('force', 'goes with PURGE only');
            },
            showDeleted: () => {
              if (request.filter?.showDeleted) throw fieldInvalid('filter.show_deleted', 'goes with PURGE only');
            },
          });
        },
        requestId: () => parseRequestId(request.requestId),
        expectedCount: () => parseExpectedCount(request.expectedCount),
        reason: () => (request.validateOnly ? parseReason(request.reason) : parseRequiredReason(request.reason)),
      });
      if (!filter || !hasCondition(filter)) throw filterRequired();
      const { force, validateOnly } = request;
      const order = { ...command, caller: callerOf(context), filter, force };
      return previewOrOrder(orderBulkDeletion, RUN_MESSAGES, order, validateOnly);
    },
  }) satisfies Partial<ServiceImpl<typeof RunService>>;

function parseFilter(filter: RunFilterMessage): RunFilter {
  const { states, workflow, min, max } = parseFields({
    states: () => [...new Set(filter.states)].map((state) => parseEnum('filter.states', state, RUN_STATE_OF)),
    workflow: () => (filter.workflow === '' ? undefined : parseWorkflow(filter.workflow, 'filter.workflow')),
    min: () => parseTimestamp('filter.min_create_time', filter.minCreateTime),
    max: () => parseTimestamp('filter.max_create_time', filter.maxCreateTime),
  });
  return {
    states: states.toSorted(),
    ...optional('workflow', workflow),
    ...optional('minCreatedAt', min?.toString()),
    ...optional('maxCreatedAt', max?.toString()),
    showDeleted: filter.showDeleted,
  };
}

const RUN_MESSAGES: BulkMessages<RunFilter> = {
  targetType: 'run',
  toFilterJson: ({ states, workflow = '', minCreatedAt, maxCreatedAt, showDeleted }) =>
    toJson(
      RunFilterSchema,
      create(RunFilterSchema, {
        states: states.map((state) => RunStateMessage[state]),
        workflow,
        ...optional('minCreateTime', toTime(minCreatedAt)),
        ...optional('maxCreateTime', toTime(maxCreatedAt)),
        showDeleted,
      }),
    ) as ReturnType<BulkMessages<RunFilter>['toFilterJson']>,
};
