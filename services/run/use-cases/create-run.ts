import { fingerprint } from '#libs/kernel/fingerprint.ts';
import type { Run } from '../domain/run.ts';
import type { NewRun, RunRepository } from './ports.ts';

/** Opens a run that its caller drives, or answers with the one of this request id; REQUEST_ID_REUSED. */
export type CreateRun = (command: Omit<NewRun, 'fingerprint'>) => Promise<Run>;

/** Makes CreateRun. */
export const makeCreateRun =
  (runs: RunRepository): CreateRun =>
  (command) => {
    const { workflow, displayName, input } = command;
    return runs.create({ ...command, fingerprint: fingerprint({ workflow, displayName, input }) });
  };
