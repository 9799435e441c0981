import { Progress } from '#gen/lethe/deletion/v1/deletion_pb.ts';
import type {
  CompensateRequest,
  PreviewRequest,
  PurgeRequest,
  RestoreRequest,
  SoftDeleteRequest,
  VerifyRequest,
} from '#gen/lethe/participant/v1/participant_service_pb.ts';
import { toCountMessages } from '#libs/grpc/count-messages.ts';
import {
  parseFields,
  parseInteger,
  parseOptionalText,
  parseReason,
  parseRequiredReason,
  parseText,
} from '#libs/grpc/parse.ts';
import { parseDurationMs } from '#libs/grpc/timestamp.ts';
import { fieldInvalid } from '#libs/kernel/domain-error.ts';
import { parseId } from '#libs/kernel/id.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import type { Inventory, Participation } from './participant.ts';

/** What a call of a participant is repeated under. */
interface ParticipantKey {
  readonly operationId: string;
  readonly step: string;
}

/** The longest name of a step, in characters. */
export const MAX_STEP = 100;
const DEFAULT_LIMIT = 10_000;
const MAX_LIMIT = 100_000;

/**
 * The key of a step's action and of its compensation: the run itself, and the step. FIELD_INVALID, as of all requests
 * to a participant.
 */
export function parseStepKey({ key, runId }: Pick<CompensateRequest, 'key' | 'runId'>): ParticipantKey {
  const parsed = parseFields({ key: () => parseKey(key), runId: () => parseId('run_id', runId) });
  if (parsed.key.operationId !== parsed.runId) throw fieldInvalid('key.operation_id', 'must be the run_id');
  return parsed.key;
}

/** What is to be hidden, and why. */
export const parseSoftDelete = (request: SoftDeleteRequest) =>
  parseFields({
    key: () => parseKey(request.key),
    runId: () => parseId('run_id', request.runId),
    reason: () => parseReason(request.reason),
  });

/** What is to come back, which soft delete hid it, and why. */
export const parseRestore = (request: RestoreRequest) =>
  parseFields({
    key: () => parseKey(request.key),
    runId: () => parseId('run_id', request.runId),
    softDeleteId: () => parseId('soft_delete_operation_id', request.softDeleteOperationId),
    reason: () => parseReason(request.reason),
  });

/** What is to go for good, how many items in this call, and why. */
export const parsePurge = (request: PurgeRequest) =>
  parseFields({
    key: () => parseKey(request.key),
    runId: () => parseId('run_id', request.runId),
    limit: () => parseInteger('limit', request.limit || DEFAULT_LIMIT, { min: 1, max: MAX_LIMIT }),
    reason: () => parseRequiredReason(request.reason),
  });

/** What is to be looked at, and how far in this call. */
export const parsePreview = (request: PreviewRequest) =>
  parseFields({ runId: () => parseId('run_id', request.runId), ...lookFields(request) });

/** What is to be read back: the whole run, or a step of it; and how far in this call. */
export const parseVerify = (request: VerifyRequest) =>
  parseFields({
    runId: () => parseId('run_id', request.runId),
    step: () => parseOptionalText('step', request.step, MAX_STEP),
    ...lookFields(request),
  });

const MAX_BUDGET_MS = 60_000;
const MAX_CURSOR_BYTES = 1_000;

const lookFields = ({ timeBudget, cursor }: Pick<VerifyRequest, 'timeBudget' | 'cursor'>) => ({
  budgetMs: () => {
    const budgetMs = parseDurationMs('time_budget', timeBudget);
    return budgetMs === undefined ? undefined : parseInteger('time_budget', budgetMs, { min: 1, max: MAX_BUDGET_MS });
  },
  cursor: () => {
    if (cursor.length > MAX_CURSOR_BYTES) throw fieldInvalid('cursor', 'is none of an answer');
    return cursor.length === 0 ? undefined : new TextDecoder().decode(cursor);
  },
});

/** An absent step would widen a compensation to the whole run, so there is none. */
const parseKey = (key: ParticipantKey | undefined): ParticipantKey =>
  parseFields({
    operationId: () => parseId('key.operation_id', key?.operationId ?? ''),
    step: () => parseText('key.step', key?.step ?? '', { min: 1, max: MAX_STEP }),
  });

/** What there is, as Preview and Verify answer it. */
export const toInventoryMessage = ({ counts, samples, cursor }: Inventory) => ({
  resourceCounts: toCountMessages(counts),
  samples: samples.map((sample) => ({ ...sample })),
  cursor: new TextEncoder().encode(cursor ?? ''),
});

/** What was hidden or brought back. */
export const toDoneMessage = (counts: readonly ResourceCount[]) => ({
  progress: Progress.COMPLETE,
  resourceCounts: toCountMessages(counts),
});

/** How far a removal has come. */
export const toParticipationMessage = ({ progress, counts, failedItems, isQueued = false }: Participation) => ({
  progress: Progress[progress],
  resourceCounts: toCountMessages(counts),
  failedItems: failedItems.map((item) => ({ ...item })),
  queued: isQueued,
});
