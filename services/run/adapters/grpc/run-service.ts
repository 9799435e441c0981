import { setTimeout as delay } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import type { HandlerContext, ServiceImpl } from '@connectrpc/connect';
import { DeletionSchema } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import { RunSchema, RunStepSchema } from '#gen/lethe/run/v1/run_pb.ts';
import { type RunService, WatchDeletionResponseSchema } from '#gen/lethe/run/v1/run_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { toCountMessages } from '#libs/grpc/count-messages.ts';
import { fitPage } from '#libs/grpc/fit-page.ts';
import {
  parseEnum,
  parseFields,
  parseOptionalEnum,
  parseOptionalText,
  parseReason,
  parseRequestId,
  parseRequiredReason,
  parseText,
} from '#libs/grpc/parse.ts';
import { parseJsonObject } from '#libs/grpc/parse-json.ts';
import { parseTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { tenantOf } from '#libs/kernel/caller.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { parseId, parseOptionalId } from '#libs/kernel/id.ts';
import { decodePageToken, encodePageToken, type PageScope, parsePageSize } from '#libs/kernel/page.ts';
import { type Deletion, type DeletionMode, isSettled } from '../../domain/deletion.ts';
import type { Run } from '../../domain/run.ts';
import type { RunStep } from '../../domain/step.ts';
import type { CreateRun } from '../../use-cases/create-run.ts';
import type { FinishRun } from '../../use-cases/finish-run.ts';
import type { KeepParticipants, ListedParticipant } from '../../use-cases/keep-participants.ts';
import type { OrderDeletion } from '../../use-cases/order-deletion.ts';
import type { PreviewPurge } from '../../use-cases/preview-purge.ts';
import type { ReadDeletions } from '../../use-cases/read-deletions.ts';
import type { ReadRuns } from '../../use-cases/read-runs.ts';
import type { RecordStep } from '../../use-cases/record-step.ts';
import type { RedriveDeletion } from '../../use-cases/redrive-deletion.ts';
import {
  DELETION_MODE_OF,
  DELETION_STATE_OF,
  RECORDED_STATE_OF,
  RUN_STATE_OF,
  toDeletionMessage,
  toRunMessage,
  toStepMessage,
} from './messages.ts';
import { MAX_ERROR, MAX_NAME, parseEtag, parseWorkflow } from './parse.ts';

/** What RunService does for its callers. */
export interface RunUseCases {
  readonly createRun: CreateRun;
  readonly recordStep: RecordStep;
  readonly finishRun: FinishRun;
  readonly readRuns: ReadRuns;
  readonly orderDeletion: OrderDeletion;
  readonly previewPurge: PreviewPurge;
  readonly readDeletions: ReadDeletions;
  readonly redriveDeletion: RedriveDeletion;
  readonly keepParticipants: KeepParticipants;
}

const STEP = /^[a-z0-9_-]{1,100}$/;
const MAX_PARTICIPANTS = 10;
const FIRST_WATCH_POLL_MS = 50;
const MAX_WATCH_POLL_MS = 1_000;
const CALLERS_ENDS = new Map(
  [...RUN_STATE_OF].flatMap(([value, state]) =>
    state === 'COMPLETED' || state === 'FAILED' || state === 'CANCELLED' ? [[value, state] as const] : [],
  ),
);

/** RunService over gRPC: a request becomes a command, its outcome a message. */
export const runService = ({
  createRun,
  recordStep,
  finishRun,
  readRuns,
  orderDeletion,
  previewPurge,
  readDeletions,
  redriveDeletion,
  keepParticipants,
}: RunUseCases): Partial<ServiceImpl<typeof RunService>> => ({
  async createRun(request, context) {
    const command = parseFields({
      requestId: () => parseRequestId(request.requestId),
      workflow: () => parseWorkflow(request.workflow),
      displayName: () => parseText('display_name', request.displayName, { max: MAX_NAME }),
      input: () => parseJsonObject('input', request.input),
    });
    return { run: toRunMessage(await createRun({ tenantId: tenantOf(callerOf(context)), ...command })) };
  },

  async recordStep(request, context) {
    const command = parseFields({
      runId: () => parseId('run_id', request.runId),
      name: () => {
        if (!STEP.test(request.name)) throw fieldInvalid('name', 'must be 1 to 100 of a-z, 0-9, _ and -');
        return request.name;
      },
      state: () => parseEnum('state', request.state, RECORDED_STATE_OF),
      participants: () => {
        if (request.participants.length > MAX_PARTICIPANTS) throw fieldInvalid('participants', 'must be at most 10');
        return request.participants;
      },
      error: () => {
        if (request.error !== '' && RECORDED_STATE_OF.get(request.state) !== 'FAILED')
          throw fieldInvalid('error', 'goes with FAILED only');
        return parseOptionalText('error', request.error, MAX_ERROR);
      },
    });
    return { step: toStepMessage(await recordStep({ tenantId: tenantOf(callerOf(context)), ...command })) };
  },

  async listRunSteps(request, context) {
    const caller = callerOf(context);
    const { runId, limit } = parseFields({
      runId: () => parseId('run_id', request.runId),
      limit: () => parsePageSize(request.pageSize, request.pageToken),
    });
    const { showDeleted } = request;
    const scope: PageScope = { rpc: 'ListRunSteps', tenantId: tenantOf(caller), filter: { runId, showDeleted } };
    const after = decodePageToken(scope, request.pageToken, 1);
    const page = await readRuns.listSteps(caller, runId, { limit, after, showDeleted });
    const keyOf = ({ position }: RunStep) => [String(position)];
    const { messages: steps, nextPageToken } = fitPage(scope, RunStepSchema, page, toStepMessage, keyOf);
    return { steps, nextPageToken };
  },

  async finishRun(request, context) {
    const command = parseFields({
      runId: () => parseId('run_id', request.runId),
      state: () => parseEnum('state', request.state, CALLERS_ENDS),
      error: () => {
        const failed = CALLERS_ENDS.get(request.state) === 'FAILED';
        if (!failed && request.error !== '') throw fieldInvalid('error', 'goes with FAILED only');
        return failed ? parseText('error', request.error, { min: 1, max: MAX_ERROR }) : undefined;
      },
      output: () => {
        if (request.output && CALLERS_ENDS.get(request.state) !== 'COMPLETED')
          throw fieldInvalid('output', 'goes with COMPLETED only');
        return parseJsonObject('output', request.output);
      },
      etag: () => parseEtag(request.etag),
    });
    return { run: toRunMessage(await finishRun({ tenantId: tenantOf(callerOf(context)), ...command })) };
  },

  async getRun(request, context) {
    const runId = parseId('run_id', request.runId);
    return { run: toRunMessage(await readRuns.get(callerOf(context), runId, request.showDeleted)) };
  },

  async listRuns(request, context) {
    const caller = callerOf(context);
    const { limit, ...query } = parseFields({
      limit: () => parsePageSize(request.pageSize, request.pageToken),
      state: () => parseOptionalEnum('state', request.state, RUN_STATE_OF),
      workflow: () => (request.workflow === '' ? undefined : parseWorkflow(request.workflow)),
      minCreatedAt: () => parseTimestamp('min_create_time', request.minCreateTime),
      maxCreatedAt: () => parseTimestamp('max_create_time', request.maxCreateTime),
    });
    const { deletedOnly } = request;
    const showDeleted = request.showDeleted || deletedOnly;
    const { state, workflow, minCreatedAt, maxCreatedAt } = query;
    const [min, max] = [minCreatedAt?.toString(), maxCreatedAt?.toString()];
    const filter = { state, workflow, min, max, showDeleted, ...(deletedOnly ? { deletedOnly } : {}) };
    const scope: PageScope = { rpc: 'ListRuns', tenantId: tenantOf(caller), filter };
    const after = decodePageToken(scope, request.pageToken, 2);
    const page = await readRuns.list(caller, { ...query, showDeleted, deletedOnly, limit, after });
    const keyOf = (run: Run) => [String(deletedOnly ? run.tombstone?.at : run.createdAt), run.id];
    const { messages: runs, nextPageToken } = fitPage(scope, RunSchema, page, toRunMessage, keyOf);
    return { runs, nextPageToken };
  },

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

  async previewPurgeRun(request, context) {
    const preview = await previewPurge(callerOf(context), parseId('run_id', request.runId));
    const bytes = preview.participants.flatMap(({ counts }) => counts).reduce((sum, count) => sum + count.bytes, 0);
    return {
      participants: preview.participants.map(({ participant, counts, samples }) => ({
        participant,
        resourceCounts: toCountMessages(counts),
        samples: samples.slice(0, 100).map((sample) => ({ ...sample })),
      })),
      blockers: preview.blockers.map((blocker) => ({ ...blocker })),
      ...(preview.purgeableAt ? { purgeableTime: toTimestamp(preview.purgeableAt) } : {}),
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
    const after = decodePageToken(scope, request.pageToken, 2);
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

  async listParticipants(request) {
    const { limit } = parseFields({ limit: () => parsePageSize(request.pageSize, request.pageToken) });
    const scope: PageScope = { rpc: 'ListParticipants', tenantId: '', filter: {} };
    const [after = ''] = decodePageToken(scope, request.pageToken, 1) ?? [];
    const rest = (await keepParticipants.list()).filter(({ name }) => name > after);
    const page = rest.slice(0, limit);
    const last = page.at(-1);
    const nextPageToken = rest.length > limit && last ? encodePageToken(scope, [last.name]) : '';
    return { participants: page.map(toParticipantMessage), nextPageToken };
  },

  async confirmParticipant(request, context) {
    const { name, reason } = parseParticipantOrder(request);
    return { participant: toParticipantMessage(await keepParticipants.confirm(callerOf(context), name, reason)) };
  },

  async retireParticipant(request, context) {
    const { name, reason } = parseParticipantOrder(request);
    return { participant: toParticipantMessage(await keepParticipants.retire(callerOf(context), name, reason)) };
  },
});

function parseParticipantOrder(request: { readonly name: string; readonly reason: string }) {
  return parseFields({
    name: () => parseText('name', request.name, { min: 1, max: 63 }),
    reason: () => parseRequiredReason(request.reason),
  });
}

const toParticipantMessage = ({
  name,
  isConfigured,
  firstConfiguredAt,
  dataId,
  claimedDataId,
  retirement,
}: ListedParticipant) => ({
  name,
  dataId: dataId ?? '',
  claimedDataId: claimedDataId ?? '',
  configured: isConfigured,
  firstConfigureTime: toTimestamp(firstConfiguredAt),
  ...(retirement
    ? { retireTime: toTimestamp(retirement.at), retiredBy: retirement.by, retireReason: retirement.reason ?? '' }
    : {}),
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
  });
  return {
    ...(run ? { run: toRunMessage(run) } : {}),
    ...(deletion ? { deletion: toDeletionMessage(deletion) } : {}),
  };
}
