import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import { runDrivenByEngine, runNotFound } from '../domain/errors.ts';
import { assertEtag, type Run } from '../domain/run.ts';
import { failSaga, hasFailedSo } from '../domain/saga.ts';
import type { SagaRepository } from './saga-ports.ts';

/** Which run has failed, and why. */
export interface FailRunCommand {
  readonly caller: Caller;
  readonly runId: string;
  readonly error: string;
  readonly etag: string;
}

/**
 * Has the recorded steps of a run that its caller drives removed through their participants; one at which that is
 * under way or done stays as it is. RUN_NOT_FOUND, RUN_NOT_RUNNING, RUN_DRIVEN_BY_ENGINE, ETAG_MISMATCH.
 */
export type FailRun = (command: FailRunCommand) => Promise<Run>;

/** Makes FailRun. `wake` tells the workers that a run is due. */
export const makeFailRun =
  (sagas: SagaRepository, wake: () => void): FailRun =>
  async ({ caller, runId, error, etag }) => {
    const { actor, subject, trustEntry } = caller;
    const order = {
      tenantId: tenantOf(caller),
      runId,
      action: 'fail',
      actor,
      subject,
      trustEntry,
      reason: error,
    } as const;
    const run = await sagas.order(order, (found, saga) => {
      if (found.driver === 'ENGINE') throw runDrivenByEngine();
      if (!hasFailedSo(saga, error)) assertEtag(found, etag);
      return failSaga(saga, error);
    });
    if (!run) throw runNotFound();
    wake();
    return run;
  };
