import { tenantOf } from '#libs/kernel/caller.ts';
import { runNotFound } from '../domain/errors.ts';
import { assertEtag, type Run } from '../domain/run.ts';
import { retrySaga } from '../domain/saga.ts';
import type { TurnRunCommand } from './cancel-run.ts';
import type { SagaRepository } from './saga-ports.ts';

/**
 * Goes on compensating a parked run; one that is at it stays as it is. RUN_NOT_FOUND, RUN_NOT_PARKED, ETAG_MISMATCH,
 * OPERATION_IN_PROGRESS while a purge of it is not over.
 */
export type RetryRun = (command: TurnRunCommand) => Promise<Run>;

/** Makes RetryRun. `wake` tells the workers that a run is due. */
export const makeRetryRun =
  (sagas: SagaRepository, wake: () => void): RetryRun =>
  async ({ caller, runId, reason, etag }) => {
    const { actor, subject, trustEntry } = caller;
    const order = { tenantId: tenantOf(caller), runId, action: 'retry', actor, subject, trustEntry, reason } as const;
    const run = await sagas.order(order, (found, saga) => {
      if (saga.state !== 'COMPENSATING') assertEtag(found, etag);
      return retrySaga(saga);
    });
    if (!run) throw runNotFound();
    wake();
    return run;
  };
