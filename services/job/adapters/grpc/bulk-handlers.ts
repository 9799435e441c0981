import { create, toJson } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import { JobState as JobStateMessage } from '#gen/lethe/job/v1/job_pb.ts';
import {
  type JobFilter as JobFilterMessage,
  JobFilterSchema,
  type JobService,
} from '#gen/lethe/job/v1/job_service_pb.ts';
import { filterRequired } from '#libs/bulk-deletion/bulk-deletion.ts';
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
import { parseOptionalId } from '#libs/kernel/id.ts';
import { hasCondition, type JobFilter } from '../../domain/job-filter.ts';
import { JOB_STATE_OF } from './messages.ts';

/** What JobService does with everything that a filter matches. */
export interface BulkUseCases {
  readonly orderBulkDeletion: OrderBulkDeletion<JobFilter>;
  readonly readBulkDeletions: ReadBulkDeletions<JobFilter>;
}

const PURGE = { mode: 'PURGE', force: false } as const;

/** The RPCs of JobService about everything that a filter matches. */
export const bulkService = ({ orderBulkDeletion, readBulkDeletions }: BulkUseCases) =>
  ({
    ...bulkDeletionHandlers(orderBulkDeletion, readBulkDeletions, JOB_MESSAGES),

    async deleteJobs(request, context) {
      const { filter, ...command } = parseFields({
        filter: () => request.filter && parseFilter(request.filter),
        requestId: () => parseRequestId(request.requestId),
        expectedCount: () => parseExpectedCount(request.expectedCount),
        reason: () => (request.validateOnly ? parseReason(request.reason) : parseRequiredReason(request.reason)),
      });
      if (!filter || !hasCondition(filter)) throw filterRequired();
      const order = { ...PURGE, ...command, caller: callerOf(context), filter };
      return previewOrOrder(orderBulkDeletion, JOB_MESSAGES, order, request.validateOnly);
    },
  }) satisfies Partial<ServiceImpl<typeof JobService>>;

function parseFilter(filter: JobFilterMessage): JobFilter {
  const { states, runId, min, max } = parseFields({
    states: () => [...new Set(filter.states)].map((state) => parseEnum('filter.states', state, JOB_STATE_OF)),
    runId: () => parseOptionalId('filter.run_id', filter.runId),
    min: () => parseTimestamp('filter.min_create_time', filter.minCreateTime),
    max: () => parseTimestamp('filter.max_create_time', filter.maxCreateTime),
  });
  return {
    states: states.toSorted(),
    ...optional('runId', runId),
    ...optional('minCreatedAt', min?.toString()),
    ...optional('maxCreatedAt', max?.toString()),
  };
}

const JOB_MESSAGES: BulkMessages<JobFilter> = {
  targetType: 'job',
  toFilterJson: ({ states, runId = '', minCreatedAt, maxCreatedAt }) =>
    toJson(
      JobFilterSchema,
      create(JobFilterSchema, {
        states: states.map((state) => JobStateMessage[state]),
        runId,
        ...optional('minCreateTime', toTime(minCreatedAt)),
        ...optional('maxCreateTime', toTime(maxCreatedAt)),
      }),
    ) as ReturnType<BulkMessages<JobFilter>['toFilterJson']>,
};
