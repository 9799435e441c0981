import type { DeletionStep } from '../domain/deletion.ts';
import type { ParticipantDirectory } from './ports.ts';

/** Answers the step given up where an operator has retired its participant, which nobody asks any more. */
export type GiveUpRetired = (step: DeletionStep) => Promise<DeletionStep | undefined>;

/** Makes GiveUpRetired: one that is configured is not retired. The receipt keeps what was counted, and who said so. */
export const makeGiveUpRetired =
  (directory: Pick<ParticipantDirectory, 'list'>, configured: readonly { readonly name: string }[]): GiveUpRetired =>
  async (step) => {
    if (configured.some(({ name }) => name === step.participant)) return undefined;
    const { retirement } = (await directory.list()).find(({ name }) => name === step.participant) ?? {};
    if (!retirement) return undefined;
    const { by, reason } = retirement;
    const lastError = `PARTICIPANT_RETIRED: retired by ${by}${reason === undefined ? '' : `: ${reason}`}.`;
    return { ...step, state: 'CANCELLED', lastError };
  };
