import { runNotFound } from '../domain/errors.ts';
import { assertEtag, finish, hasEndedSo, type JsonObject, type Run } from '../domain/run.ts';
import type { RunRepository } from './ports.ts';

/** How a caller ends the run that it drives. */
export interface FinishRunCommand {
  readonly tenantId: string;
  readonly runId: string;
  readonly state: 'COMPLETED' | 'FAILED' | 'CANCELLED';
  readonly error: string | undefined;
  readonly output: JsonObject | undefined;
  readonly etag: string;
}

/** Ends a run and leaves its effects. RUN_NOT_FOUND, RUN_NOT_RUNNING, ETAG_MISMATCH. */
export type FinishRun = (command: FinishRunCommand) => Promise<Run>;

/** Makes FinishRun. */
export const makeFinishRun =
  (runs: RunRepository): FinishRun =>
  async ({ tenantId, runId, state, error, output, etag }) => {
    const finished = await runs.update(tenantId, runId, (run, now) => {
      const end = { state, error, output };
      if (!hasEndedSo(run, end, etag)) assertEtag(run, etag);
      return finish(run, end, now);
    });
    if (!finished) throw runNotFound();
    return finished;
  };
