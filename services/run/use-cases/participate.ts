import { crashPoint } from '#libs/durable/crash-point.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import { type Answer, OWN_PARTICIPANT } from '../domain/deletion.ts';
import { runNotTerminal } from '../domain/errors.ts';
import { isTerminal } from '../domain/run.ts';
import type { OwnRows, Participant, ParticipantCall, RemovedBatch } from './ports.ts';

/** The limit of a call that names none, in rows. */
export const DEFAULT_PURGE_LIMIT = 10_000;

const ROWS_PER_BATCH = 1_000;

/** RunService's part in cascades, and what a compensation asks of it. */
export interface OwnParticipant extends Participant {
  /** Removes the effects of the call's step, whatever state its run is in. */
  compensate(call: ParticipantCall, limit?: number): Promise<Answer>;
  /** As Participant's; with a step, of that step's effects alone. */
  verify(call: ParticipantCall, step?: string): Promise<readonly ResourceCount[]>;
}

/** Makes RunService's part: the run's row, its steps and their effects, under the contract that every participant keeps. */
export const makeOwnParticipant = (rows: OwnRows): OwnParticipant => ({
  name: OWN_PARTICIPANT,
  isReachable: async () => true,

  async preview({ tenantId, runId }) {
    const { run, counts, sampleSteps } = await rows.inspect(tenantId, runId);
    if (!run) return { counts: [], blockers: [], samples: [] };
    const { reason, message } = runNotTerminal(run.state);
    return {
      counts,
      blockers: isTerminal(run.state) ? [] : [{ reason, resourceType: 'run', resourceId: runId, message }],
      samples: [
        { resourceType: 'run', resourceId: runId },
        ...sampleSteps.map((resourceId) => ({ resourceType: 'run_step', resourceId })),
      ],
    };
  },

  softDelete: async (call) => complete(await rows.hide(call)),

  restore: async (call, softDeleteId) => complete(await rows.restore(call, softDeleteId)),

  purge: (call, limit = DEFAULT_PURGE_LIMIT) => inBatches(limit, (size) => rows.removeBatch(call, size)),

  compensate: (call, limit = DEFAULT_PURGE_LIMIT) => inBatches(limit, (size) => rows.removeStep(call, size)),

  verify: async ({ tenantId, runId }, step) =>
    step === undefined ? (await rows.inspect(tenantId, runId)).left : rows.countStep(tenantId, runId, step),
});

/** Removes batch after batch, each in its own transaction, until nothing is left or the limit is reached. */
async function inBatches(limit: number, remove: (size: number) => Promise<RemovedBatch>): Promise<Answer> {
  for (let budget = limit; ; ) {
    const { counts, removed, isEmpty } = await remove(Math.min(budget, ROWS_PER_BATCH));
    crashPoint('run.delete.between-own-batches');
    if (isEmpty) return complete(counts);
    budget -= removed;
    if (budget <= 0) return { ...complete(counts), progress: 'PARTIAL' };
  }
}

const complete = (counts: readonly ResourceCount[]): Answer => ({ progress: 'COMPLETE', counts, failedItems: [] });
