import { participantUnknown, runNotFound } from '../domain/errors.ts';
import { type RunStep, recordStep, type StepRecord } from '../domain/step.ts';
import type { RunRepository } from './ports.ts';

/** What a caller says of a step of the run that it drives. */
export interface RecordStepCommand extends StepRecord {
  readonly tenantId: string;
  readonly runId: string;
}

/**
 * Records where a step stands; the same again changes nothing. RUN_NOT_FOUND, RUN_NOT_RUNNING,
 * STEP_TRANSITION_ILLEGAL, PARTICIPANT_UNKNOWN.
 */
export type RecordStep = (command: RecordStepCommand) => Promise<RunStep>;

/** Makes RecordStep. `participants` are those that effects can be recorded with. */
export const makeRecordStep =
  (runs: RunRepository, participants: readonly { readonly name: string }[]): RecordStep =>
  async ({ tenantId, runId, ...record }) => {
    const unknown = record.participants.find((named) => !participants.some(({ name }) => name === named));
    if (unknown !== undefined) throw participantUnknown(unknown);
    const step = await runs.recordStep(tenantId, runId, record.name, (run, known, nextPosition, now) =>
      recordStep(run, known, record, nextPosition, now),
    );
    if (!step) throw runNotFound();
    return step;
  };
