import type { ServiceImpl } from '@connectrpc/connect';
import { RunSchema, RunStepSchema } from '#gen/lethe/run/v1/run_pb.ts';
import { KnownParticipantSchema, type RunService } from '#gen/lethe/run/v1/run_service_pb.ts';
import { callerOf } from '#libs/grpc/caller.ts';
import { fitPage, fitWholePage } from '#libs/grpc/fit-page.ts';
import {
  parseEnum,
  parseEtag,
  parseFields,
  parseOptionalEnum,
  parseOptionalText,
  parseRequestId,
  parseRequiredReason,
  parseText,
  parseView,
} from '#libs/grpc/parse.ts';
import { parseJsonObject } from '#libs/grpc/parse-json.ts';
import { parseTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import { tenantOf } from '#libs/kernel/caller.ts';
import { fieldInvalid, undefinedIfNotFound } from '#libs/kernel/domain-error.ts';
import { parseId } from '#libs/kernel/id.ts';
import { decodePageToken, KEY, type PageScope, pageOf, parsePageSize } from '#libs/kernel/page.ts';
import type { Run } from '../../domain/run.ts';
import type { RunStep } from '../../domain/step.ts';
import type { CreateRun } from '../../use-cases/create-run.ts';
import type { FinishRun } from '../../use-cases/finish-run.ts';
import type { KeepParticipants, ListedParticipant } from '../../use-cases/keep-participants.ts';
import type { ReadRuns } from '../../use-cases/read-runs.ts';
import type { RecordStep } from '../../use-cases/record-step.ts';
import { RECORDED_STATE_OF, RUN_STATE_OF, toRunMessage, toStepMessage } from './messages.ts';
import { MAX_ERROR, MAX_NAME, parseWorkflow } from './parse.ts';

/** What RunService does for its callers. */
export interface RunUseCases {
  readonly createRun: CreateRun;
  readonly recordStep: RecordStep;
  readonly finishRun: FinishRun;
  readonly readRuns: ReadRuns;
  readonly keepParticipants: KeepParticipants;
}

const STEP = /^[a-z0-9_-]{1,100}$/;
const MAX_PARTICIPANTS = 10;
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
    const after = decodePageToken(scope, request.pageToken, [KEY.int4]);
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
    const { runId, view } = parseFields({
      runId: () => parseId('run_id', request.runId),
      view: () => parseView(request.view, 'FULL'),
    });
    return { run: toRunMessage(await readRuns.get(callerOf(context), runId, request.showDeleted, view)) };
  },

  async listRuns(request, context) {
    const caller = callerOf(context);
    const { limit, view, ...query } = parseFields({
      limit: () => parsePageSize(request.pageSize, request.pageToken),
      view: () => parseView(request.view, 'BASIC'),
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
    const after = decodePageToken(scope, request.pageToken, [KEY.instant, KEY.id]);
    const page = await readRuns.list(caller, { ...query, showDeleted, deletedOnly, limit, after });
    const keyOf = (run: Run) => [String(deletedOnly ? run.tombstone?.at : run.createdAt), run.id];
    const readWhole = ({ id }: Run) => undefinedIfNotFound(readRuns.get(caller, id, showDeleted, view));
    const { messages: runs, nextPageToken } =
      view === 'FULL'
        ? await fitWholePage(scope, RunSchema, page, readWhole, toRunMessage, keyOf)
        : fitPage(scope, RunSchema, page, toRunMessage, keyOf);
    return { runs, nextPageToken };
  },

  async listParticipants(request) {
    const { limit } = parseFields({ limit: () => parsePageSize(request.pageSize, request.pageToken) });
    const scope: PageScope = { rpc: 'ListParticipants', tenantId: '', filter: {} };
    const [after = ''] = decodePageToken(scope, request.pageToken, [KEY.text]) ?? [];
    const rest = (await keepParticipants.list()).filter(({ name }) => name > after);
    const keyOf = ({ name }: ListedParticipant) => [name];
    const page = pageOf(rest, limit, (participant) => participant, keyOf);
    const { messages, nextPageToken } = fitPage(scope, KnownParticipantSchema, page, toParticipantMessage, keyOf);
    return { participants: messages, nextPageToken };
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
