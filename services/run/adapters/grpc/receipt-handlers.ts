import { setTimeout as delay } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import { DeletionSchema } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { type RunService, WatchDeletionResponseSchema } from '#gen/lethe/run/v1/run_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { toCountMessages } from '#libs/grpc/count-messages.ts';
import { fitPage } from '#libs/grpc/fit-page.ts';
import { optional } from '#libs/grpc/optional.ts';
import { parseFields, parseOptionalEnum, parseReason } from '#libs/grpc/parse.ts';
import { toOptionalTimestamp } from '#libs/grpc/timestamp.ts';
import { tenantOf } from '#libs/kernel/caller.ts';
import { parseId, parseOptionalId } from '#libs/kernel/id.ts';
import { decodePageToken, KEY, type PageScope, parsePageSize } from '#libs/kernel/page.ts';
import { type Deletion, isSettled } from '../../domain/deletion.ts';
import type { PreviewPurge } from '../../use-cases/preview-purge.ts';
import type { ReadDeletions } from '../../use-cases/read-deletions.ts';
import type { RedriveDeletion } from '../../use-cases/redrive-deletion.ts';
import { DELETION_MODE_OF, DELETION_STATE_OF, toDeletionMessage } from './messages.ts';

/** What RunService shows of the ends of runs. */
export interface ReceiptUseCases {
  readonly previewPurge: PreviewPurge;
  readonly readDeletions: ReadDeletions;
  readonly redriveDeletion: RedriveDeletion;
}

const FIRST_WATCH_POLL_MS = 50;
const MAX_WATCH_POLL_MS = 1_000;

/** The part of RunService that shows what a purge would take and what came of deletions, and redrives them. */
export const receiptHandlers = ({
  previewPurge,
  readDeletions,
  redriveDeletion,
}: ReceiptUseCases): Partial<ServiceImpl<typeof RunService>> => ({
  async previewPurgeRun(request, context) {
    const preview = await previewPurge(callerOf(context), parseId('run_id', request.runId), context.signal);
    const bytes = preview.participants.flatMap(({ counts }) => counts).reduce((sum, count) => sum + count.bytes, 0);
    return {
      participants: preview.participants.map(({ participant, counts, samples }) => ({
        participant,
        resourceCounts: toCountMessages(counts),
        samples: samples.slice(0, 100).map((sample) => ({ ...sample })),
      })),
      blockers: preview.blockers.map((blocker) => ({ ...blocker })),
      ...optional('purgeableTime', toOptionalTimestamp(preview.purgeableAt)),
      totalBytes: BigInt(bytes),
    };
  },

  async getDeletion(request, context) {
    const deletionId = parseId('deletion_id', request.deletionId);
    return { deletion: toDeletionMessage(await readDeletions.get(callerOf(context), deletionId)) };
  },

  async listDeletions(request, context) {
    const caller = callerOf(context);
    const { limit, ...query } = parseFields({
      limit: () => parsePageSize(request.pageSize, request.pageToken),
      state: () => parseOptionalEnum('state', request.state, DELETION_STATE_OF),
      mode: () => parseOptionalEnum('mode', request.mode, DELETION_MODE_OF),
      runId: () => parseOptionalId('run_id', request.runId),
    });
    const scope: PageScope = { rpc: 'run.ListDeletions', tenantId: tenantOf(caller), filter: query };
    const after = decodePageToken(scope, request.pageToken, [KEY.instant, KEY.id]);
    const page = await readDeletions.list(caller, { ...query, limit, after });
    const keyOf = ({ createdAt, id }: Deletion) => [createdAt.toString(), id];
    const { messages: deletions, nextPageToken } = fitPage(scope, DeletionSchema, page, toDeletionMessage, keyOf);
    return { deletions, nextPageToken };
  },

  async *watchDeletion(request, context) {
    const deletionId = parseId('deletion_id', request.deletionId);
    for (let shown = '', pollMs = FIRST_WATCH_POLL_MS; ; pollMs = Math.min(MAX_WATCH_POLL_MS, pollMs * 1.5)) {
      const deletion = await readDeletions.get(callerOf(context), deletionId);
      const state = `${deletion.updatedAt}${deletion.state}`;
      if (state !== shown) {
        yield create(WatchDeletionResponseSchema, { deletion: toDeletionMessage(deletion) });
        pollMs = FIRST_WATCH_POLL_MS;
      }
      if (isSettled(deletion.state)) return;
      shown = state;
      await delay(pollMs, undefined, { signal: context.signal });
    }
  },

  async redriveDeletion(request, context) {
    const { deletionId, reason } = parseFields({
      deletionId: () => parseId('deletion_id', request.deletionId),
      reason: () => parseReason(request.reason),
    });
    return { deletion: toDeletionMessage(await redriveDeletion(callerOf(context), deletionId, reason)) };
  },
});
