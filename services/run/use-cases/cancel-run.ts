import { type Caller, tenantOf } from '#libs/kernel/caller.ts';
import { runNotFound } from '../domain/errors.ts';
import { assertEtag, type Run } from '../domain/run.ts';
import { cancelSaga, isGivenUp } from '../domain/saga.ts';
import type { SagaRepository } from './saga-ports.ts';

/** Which run to end otherwise than it would by itself, and why. */
export interface TurnRunCommand {
  readonly caller: Caller;
  readonly runId: string;
  readonly reason: string | undefined;
  readonly etag: string;
}

/**
 * Stops a RUNNING run and has its effects removed; one that is being cancelled stays as it is. RUN_NOT_FOUND,
 * RUN_NOT_RUNNING, ETAG_MISMATCH.
 */
export type CancelRun = (command: TurnRunCommand) => Promise<Run>;

/** Makes CancelRun. `wake` tells the workers that a run is due. */
export const makeCancelRun =
  (sagas: SagaRepository, wake: () => void): CancelRun =>
  async ({ caller, runId, reason, etag }) => {
    const { actor, subject, trustEntry } = caller;
    const order = { tenantId: tenantOf(caller), runId, action: 'cancel', actor, subject, trustEntry, reason } as const;
    const run = await sagas.order(order, (found, saga) => {
      if (!isGivenUp(saga)) assertEtag(found, etag);
      return cancelSaga(saga);
    });
    if (!run) throw runNotFound();
    wake();
    return run;
  };
