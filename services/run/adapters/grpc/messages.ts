import type { MessageInitShape, JsonObject as ProtoJsonObject } from '@bufbuild/protobuf';
import {
  DeletionMode as DeletionModeMessage,
  type DeletionSchema,
  DeletionState as DeletionStateMessage,
  Progress,
} from '#gen/lethe/deletion/v1/deletion_pb.ts';
import {
  ReferenceState,
  RunDriver,
  type RunSchema,
  RunState as RunStateMessage,
  type RunStepSchema,
  StepState as StepStateMessage,
} from '#gen/lethe/run/v1/run_pb.ts';
import { toCountMessages } from '#libs/grpc/count-messages.ts';
import { optional } from '#libs/grpc/optional.ts';
import { toOptionalTimestamp, toTimestamp } from '#libs/grpc/timestamp.ts';
import {
  DELETION_MODES,
  DELETION_STATES,
  type Deletion,
  type DeletionMode,
  type DeletionState,
} from '../../domain/deletion.ts';
import { etagOf, RUN_STATES, type Run, type RunState } from '../../domain/run.ts';
import { RECORDED_STATES, type RecordedState, type RunStep } from '../../domain/step.ts';

/** What the numbers of the contract's enums stand for. */
export const RUN_STATE_OF: ReadonlyMap<number, RunState> = new Map(
  RUN_STATES.map((state) => [RunStateMessage[state], state]),
);
/** As RUN_STATE_OF, for what a caller records of a step. */
export const RECORDED_STATE_OF: ReadonlyMap<number, RecordedState> = new Map(
  RECORDED_STATES.map((state) => [StepStateMessage[state], state]),
);
/** As RUN_STATE_OF, for deletions. */
export const DELETION_STATE_OF: ReadonlyMap<number, DeletionState> = new Map(
  DELETION_STATES.map((state) => [DeletionStateMessage[state], state]),
);
/** As RUN_STATE_OF, for what a deletion does. */
export const DELETION_MODE_OF: ReadonlyMap<number, DeletionMode> = new Map(
  DELETION_MODES.map((mode) => [DeletionModeMessage[mode], mode]),
);

/** The run as a message. */
export const toRunMessage = (run: Run): MessageInitShape<typeof RunSchema> => ({
  id: run.id,
  tenantId: run.tenantId,
  workflow: run.workflow,
  displayName: run.displayName,
  driver: RunDriver[run.driver],
  state: RunStateMessage[run.state],
  ...optional('input', run.input as ProtoJsonObject | undefined),
  ...optional('output', run.output as ProtoJsonObject | undefined),
  currentStep: run.currentStep ?? '',
  error: run.error ?? '',
  parkedReason: run.parkedReason ?? '',
  attempts: run.attempts,
  createTime: toTimestamp(run.createdAt),
  ...optional('startTime', toOptionalTimestamp(run.startedAt)),
  updateTime: toTimestamp(run.updatedAt),
  ...optional('finishTime', toOptionalTimestamp(run.finishedAt)),
  ...optional('deleteTime', toOptionalTimestamp(run.tombstone?.at)),
  deletedBy: run.tombstone?.by ?? '',
  deleteReason: run.tombstone?.reason ?? '',
  etag: etagOf(run),
  references: run.references.map(({ state, ...reference }) => ({ ...reference, state: ReferenceState[state] })),
});

/** The step as a message. */
export const toStepMessage = (step: RunStep): MessageInitShape<typeof RunStepSchema> => ({
  runId: step.runId,
  name: step.name,
  position: step.position,
  state: StepStateMessage[step.state],
  participants: [...step.participants],
  attempts: step.attempts,
  error: step.error ?? '',
  ...optional('startTime', toOptionalTimestamp(step.startedAt)),
  ...optional('finishTime', toOptionalTimestamp(step.finishedAt)),
  ...optional('compensateTime', toOptionalTimestamp(step.compensatedAt)),
  ...optional('deleteTime', toOptionalTimestamp(step.tombstone?.at)),
  deletedBy: step.tombstone?.by ?? '',
  deleteReason: step.tombstone?.reason ?? '',
  removed: toCountMessages(step.removed),
});

/** The deletion as a message. */
export const toDeletionMessage = (deletion: Deletion): MessageInitShape<typeof DeletionSchema> => ({
  id: deletion.id,
  tenantId: deletion.tenantId,
  targetType: 'run',
  targetId: deletion.runId,
  mode: DeletionModeMessage[deletion.mode],
  state: DeletionStateMessage[deletion.state],
  actor: deletion.actor,
  reason: deletion.reason ?? '',
  requestId: deletion.requestId ?? '',
  force: deletion.force,
  participants: deletion.steps.map((step) => ({
    participant: step.participant,
    state: DeletionStateMessage[step.state],
    progress: toProgress(step),
    resourceCounts: toCountMessages(step.counts),
    attempts: step.attempts,
    lastError: step.lastError ?? '',
    failedItems: step.failedItems.map((item) => ({ ...item })),
    ...optional('nextAttemptTime', toOptionalTimestamp(step.nextAttemptAt)),
    ...optional('verifyTime', toOptionalTimestamp(step.verifiedAt)),
  })),
  attempts: deletion.attempts,
  lastError: deletion.lastError ?? '',
  createTime: toTimestamp(deletion.createdAt),
  ...optional('startTime', toOptionalTimestamp(deletion.startedAt)),
  updateTime: toTimestamp(deletion.updatedAt),
  ...optional('finishTime', toOptionalTimestamp(deletion.finishedAt)),
  bulkDeletionId: deletion.bulkDeletionId ?? '',
});

/** VERIFYING and COMPLETE come after a participant's COMPLETE; PENDING has no answer yet. */
const toProgress = ({ state, counts, failedItems }: Deletion['steps'][number]): Progress => {
  if (state === 'COMPLETE' || state === 'VERIFYING') return Progress.COMPLETE;
  return counts.length + failedItems.length > 0 ? Progress.PARTIAL : Progress.UNSPECIFIED;
};
