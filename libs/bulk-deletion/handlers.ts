import { create, type JsonObject, type MessageInitShape } from '@bufbuild/protobuf';
import type { HandlerContext } from '@connectrpc/connect';
import {
  BulkDeletionItemSchema,
  BulkDeletionItemState,
  type BulkDeletionPreviewSchema,
  BulkDeletionSchema,
  BulkDeletionState,
} from '#gen/lethe/deletion/v1/bulk_deletion_pb.ts';
import { DeletionMode } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { fitPage } from '#libs/grpc/fit-page.ts';
import { optional } from '#libs/grpc/optional.ts';
import { parseFields, parseInteger, parseOptionalEnum, parseReason } from '#libs/grpc/parse.ts';
import { toOptionalTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { tenantOf } from '#libs/kernel/caller.ts';
import { parseId } from '#libs/kernel/id.ts';
import { decodePageToken, KEY, type PageScope, parsePageSize } from '#libs/kernel/page.ts';
import {
  BULK_STATES,
  type BulkDeletion,
  type BulkDeletionItem,
  ITEM_STATES,
  type Matches,
  type ReasonCount,
} from './bulk-deletion.ts';
import type { OrderBulkDeletion } from './order-bulk-deletion.ts';
import type { ReadBulkDeletions } from './read-bulk-deletions.ts';

/** What a service knows of its own bulk deletions. */
export interface BulkMessages<Filter> {
  /** `run` or `job`. */
  readonly targetType: string;
  /** The filter as the JSON of the request's message. */
  toFilterJson(filter: Filter): JsonObject;
}

interface PageRequest {
  readonly pageSize: number;
  readonly pageToken: string;
}

interface Named {
  readonly bulkDeletionId: string;
}

const BULK_STATE_OF = new Map<number, BulkDeletion['state']>(
  BULK_STATES.map((state) => [BulkDeletionState[state], state]),
);
const ITEM_STATE_OF = new Map<number, BulkDeletionItem['state']>(
  ITEM_STATES.map((state) => [BulkDeletionItemState[state], state]),
);

/**
 * The RPCs GetBulkDeletion, ListBulkDeletions, ListBulkDeletionItems, WatchBulkDeletion and CancelBulkDeletion of a
 * service. Spread them into the service's implementation.
 */
export function bulkDeletionHandlers<Filter>(
  orders: Pick<OrderBulkDeletion<Filter>, 'cancel'>,
  reads: ReadBulkDeletions<Filter>,
  messages: BulkMessages<Filter>,
) {
  const toMessage = (bulk: BulkDeletion<Filter>) => toBulkMessage(bulk, messages);
  const idOf = ({ bulkDeletionId }: Named) => parseId('bulk_deletion_id', bulkDeletionId);
  return {
    async getBulkDeletion(request: Named, context: HandlerContext) {
      return { bulkDeletion: toMessage(await reads.get(callerOf(context), idOf(request))) };
    },

    async listBulkDeletions(request: PageRequest & { readonly state: BulkDeletionState }, context: HandlerContext) {
      const caller = callerOf(context);
      const { limit, state } = parseFields({
        limit: () => parsePageSize(request.pageSize, request.pageToken),
        state: () => parseOptionalEnum('state', request.state, BULK_STATE_OF),
      });
      const rpc = `${messages.targetType}.ListBulkDeletions`;
      const scope: PageScope = { rpc, tenantId: tenantOf(caller), filter: { state } };
      const after = decodePageToken(scope, request.pageToken, [KEY.instant, KEY.id]);
      const page = await reads.list(caller, { state, limit, after });
      const keyOf = (bulk: BulkDeletion<Filter>) => [bulk.createdAt.toString(), bulk.id];
      const { messages: found, nextPageToken } = fitPage(scope, BulkDeletionSchema, page, toMessage, keyOf);
      return { bulkDeletions: found, nextPageToken };
    },

    async listBulkDeletionItems(
      request: Named & PageRequest & { readonly state: BulkDeletionItemState },
      context: HandlerContext,
    ) {
      const caller = callerOf(context);
      const { bulkDeletionId, limit, state } = parseFields({
        bulkDeletionId: () => idOf(request),
        limit: () => parsePageSize(request.pageSize, request.pageToken),
        state: () => parseOptionalEnum('state', request.state, ITEM_STATE_OF),
      });
      const rpc = `${messages.targetType}.ListBulkDeletionItems`;
      const scope: PageScope = { rpc, tenantId: tenantOf(caller), filter: { bulkDeletionId, state } };
      const after = decodePageToken(scope, request.pageToken, [KEY.int4]);
      const page = await reads.listItems(caller, bulkDeletionId, { state, limit, after });
      const keyOf = ({ position }: BulkDeletionItem) => [String(position)];
      const { messages: items, nextPageToken } = fitPage(scope, BulkDeletionItemSchema, page, toItemMessage, keyOf);
      return { items, nextPageToken };
    },

    async *watchBulkDeletion(request: Named, context: HandlerContext) {
      for await (const bulk of reads.watch(callerOf(context), idOf(request), context.signal)) {
        yield { bulkDeletion: create(BulkDeletionSchema, toMessage(bulk)) };
      }
    },

    async cancelBulkDeletion(request: Named & { readonly reason: string }, context: HandlerContext) {
      const { bulkDeletionId, reason } = parseFields({
        bulkDeletionId: () => idOf(request),
        reason: () => parseReason(request.reason),
      });
      return { bulkDeletion: toMessage(await orders.cancel(callerOf(context), bulkDeletionId, reason)) };
    },
  };
}

/** How many the caller saw; undefined where that is not said. */
export const parseExpectedCount = (count: bigint | undefined): number | undefined =>
  count === undefined ? undefined : parseInteger('expected_count', count, { min: 0, max: Number.MAX_SAFE_INTEGER });

/** The bulk deletion as a message. */
export const toBulkMessage = <Filter>(
  bulk: BulkDeletion<Filter>,
  { targetType, toFilterJson }: BulkMessages<Filter>,
): MessageInitShape<typeof BulkDeletionSchema> => ({
  id: bulk.id,
  tenantId: bulk.tenantId,
  targetType,
  mode: DeletionMode[bulk.mode],
  state: BulkDeletionState[bulk.state],
  actor: bulk.actor,
  reason: bulk.reason,
  requestId: bulk.requestId ?? '',
  force: bulk.force,
  filter: toFilterJson(bulk.filter),
  counts: {
    matched: BigInt(bulk.counts.matched),
    pending: BigInt(bulk.counts.pending),
    underWay: BigInt(bulk.counts.underWay),
    completed: BigInt(bulk.counts.completed),
    skipped: BigInt(bulk.counts.skipped),
    stuck: BigInt(bulk.counts.stuck),
    cancelled: BigInt(bulk.counts.cancelled),
  },
  skipCounts: bulk.skips.map(toSkipMessage),
  lastError: bulk.lastError ?? '',
  createTime: toTimestamp(bulk.createdAt),
  ...optional('startTime', toOptionalTimestamp(bulk.startedAt)),
  updateTime: toTimestamp(bulk.updatedAt),
  ...optional('finishTime', toOptionalTimestamp(bulk.finishedAt)),
  cancelledBy: bulk.cancelledBy ?? '',
});

type Ordered<Filter> = Parameters<OrderBulkDeletion<Filter>['order']>[0];

/** Tells what an order would delete, or carries it out. */
export async function previewOrOrder<Filter>(
  orders: OrderBulkDeletion<Filter>,
  messages: BulkMessages<Filter>,
  { reason = '', ...order }: Omit<Ordered<Filter>, 'reason'> & { readonly reason: string | undefined },
  validateOnly: boolean,
) {
  if (validateOnly) return { preview: toPreviewMessage(messages.targetType, await orders.preview(order)) };
  return { bulkDeletion: toBulkMessage(await orders.order({ ...order, reason }), messages) };
}

/** What an order would take, as a message. */
const toPreviewMessage = (
  targetType: string,
  { matched, exceedsCeiling, skips, samples }: Matches & { readonly samples: readonly string[] },
): MessageInitShape<typeof BulkDeletionPreviewSchema> => ({
  matched: BigInt(matched),
  exceedsCeiling,
  skipCounts: skips.map(toSkipMessage),
  samples: samples.map((resourceId) => ({ resourceType: targetType, resourceId })),
});

const toItemMessage = (item: BulkDeletionItem): MessageInitShape<typeof BulkDeletionItemSchema> => ({
  targetId: item.targetId,
  deletionId: item.deletionId ?? '',
  state: BulkDeletionItemState[item.state],
  skipReason: item.skipReason ?? '',
  lastError: item.lastError ?? '',
  updateTime: toTimestamp(item.updatedAt),
});

const toSkipMessage = ({ reason, count }: ReasonCount) => ({ reason, count: BigInt(count) });

/** The instant of a filter as a message. */
export const toTime = (instant: string | undefined) =>
  toOptionalTimestamp(instant ? Temporal.Instant.from(instant) : undefined);
