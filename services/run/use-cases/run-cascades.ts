import { backoffMs, type RetryPolicy, waitingMs } from '#libs/durable/backoff.ts';
import { crashPoint } from '#libs/durable/crash-point.ts';
import { giveUpClaim } from '#libs/durable/give-up-claim.ts';
import { makeTakeDue, type TakeDue } from '#libs/durable/take-due.ts';
import { DomainError, hasReason, isUnavailable } from '#libs/kernel/domain-error.ts';
import type { ResourceCount } from '#libs/kernel/resource-count.ts';
import { addBounded, hasMoved } from '../domain/counts.ts';
import {
  type Answer,
  afterAnswer,
  afterFailure,
  afterReadBack,
  type Deletion,
  type DeletionStep,
  needsPerson,
  nextMove,
  noProgress,
  stateOf,
  whileAway,
  withStep,
} from '../domain/deletion.ts';
import { assertGoesOn, participantUnknown, workerLost } from '../domain/errors.ts';
import type { Cursor, DeletionClaim, DeletionWork, Participant, ParticipantCall } from './deletion-ports.ts';
import type { GiveUpRetired } from './give-up-retired.ts';
import { isAway } from './reachability.ts';

/** Drives a due deletion of a run. */
export type RunCascades = TakeDue;

/** How cascades are driven. */
export interface CascadeSettings {
  readonly workerId: string;
  /** Longer than one call to a participant may take, in milliseconds. */
  readonly leaseMs: number;
  /** Moves in a row before the others get their turn. */
  readonly movesPerTurn: number;
  /** Rows and objects that one call to a participant may remove. */
  readonly purgeLimit: number;
  readonly retry: RetryPolicy;
}

/** Told when a deletion came to its end, or to a stop. */
export type OnCascadeSettled = (deletion: Deletion, outcome: 'COMPLETE' | 'STUCK' | 'RETRY', error?: unknown) => void;

const CANDIDATES = 64;
// The longest pause before a participant is asked again that only has other work to do first.
const MAX_QUEUED_MS = 2_000;

/**
 * Makes RunCascades. The domain decides what comes next (`nextMove`); this calls the participants, with no transaction
 * open, and saves after every answer, so that the next worker continues from there.
 */
export function makeRunCascades(
  deletions: DeletionWork,
  giveUpRetired: GiveUpRetired,
  participants: readonly Participant[],
  settings: CascadeSettings,
  onSettled: OnCascadeSettled,
): RunCascades {
  const { workerId, leaseMs, movesPerTurn, purgeLimit, retry } = settings;

  const participantOf = ({ participant: name }: DeletionStep): Participant => {
    const participant = participants.find((candidate) => candidate.name === name);
    if (!participant) throw participantUnknown(name);
    return participant;
  };

  const callOf = (
    { tenantId, actor, id, runId, reason }: Deletion,
    { participant }: DeletionStep,
  ): ParticipantCall => ({
    tenantId,
    actor,
    operationId: id,
    step: participant,
    runId,
    reason,
  });

  const ask = (deletion: Deletion, step: DeletionStep): Promise<Answer> => {
    const participant = participantOf(step);
    const call = callOf(deletion, step);
    switch (deletion.mode) {
      case 'SOFT_DELETE':
        return participant.softDelete(call);
      case 'UNDELETE':
        return participant.restore(call, deletion.undoes ?? deletion.id);
      case 'PURGE':
        return participant.purge(call, purgeLimit);
      case 'COMPENSATION':
        throw new Error('a compensation is stored when it is complete, and no worker claims it');
    }
  };

  /** What becomes of a step whose call failed, and when it is tried again: not by itself when that was the last attempt. */
  const afterError = async (
    step: DeletionStep,
    error: unknown,
  ): Promise<{ readonly step: DeletionStep; readonly retryMs: number | undefined }> => {
    const sentence = toSentence(error);
    if (await isAway(error, participants)) return { step: whileAway(step, sentence), retryMs: waitingMs(retry) };
    const attempts = step.attempts + 1;
    const isRefused = error instanceof StepFailed && needsPerson(step.failedItems);
    const isLast = isRefused || attempts >= retry.maxAttempts;
    return { step: afterFailure(step, sentence, isLast), retryMs: isLast ? undefined : backoffMs(attempts, retry) };
  };

  const drive = async (claim: DeletionClaim, signal: AbortSignal): Promise<void> => {
    let { deletion } = claim;
    let current: DeletionStep | undefined;
    const save = async (step: DeletionStep): Promise<void> => {
      deletion = withStep(deletion, step);
      await deletions.saveStep(claim, stateOf(deletion), step, leaseMs);
      current = step;
    };
    crashPoint('run.delete.after-claim');
    try {
      // Who was configured after the deletion had begun may hold data of the run as well.
      const added = participants.map(({ name }) => name).filter((name) => !deletion.steps.some(isOf(name)));
      if (added.length > 0) deletion = await deletions.addSteps(claim, added);
      for (let moves = 0; ; moves += 1) {
        const move = nextMove(deletion);
        if (move.kind === 'complete') break;
        // What a worker before this one did not live to report counts too.
        const step = moves === 0 ? { ...move.step, attempts: deletion.attempts } : move.step;
        current = step;
        if (step.attempts >= retry.maxAttempts) throw workerLost();
        if (signal.aborted || moves >= movesPerTurn) return await deletions.release(claim, 0);
        const givenUp = await giveUpRetired(step);
        if (givenUp) {
          await save(givenUp);
          continue;
        }
        if (move.kind === 'verify') {
          let left: readonly ResourceCount[] = [];
          const places = new Set<string>();
          for (let cursor: Cursor | undefined, isFirst = true; isFirst || cursor; isFirst = false) {
            const part = await participantOf(step).verify(callOf(deletion, step), cursor);
            left = addBounded(left, part.counts);
            cursor = part.cursor;
            assertGoesOn(step.participant, places, cursor);
            if (cursor && signal.aborted) return await deletions.release(claim, 0);
            // It goes on with the lease renewed, and begins anew in another process.
            if (cursor) await save(step);
          }
          await save(afterReadBack(step, left));
          crashPoint('run.delete.after-verify');
        } else {
          const answer = await ask(deletion, step);
          crashPoint('run.delete.after-call');
          await save(afterAnswer(deletion.mode, step, answer));
          crashPoint('run.delete.after-step');
          const isStalled = answer.progress === 'PARTIAL' && !hasMoved(step.counts, answer.counts);
          if (isStalled && answer.isQueued && !current.lastError)
            return await deletions.release(claim, waitingMs({ ...retry, maxMs: Math.min(retry.maxMs, MAX_QUEUED_MS) }));
          if (isStalled && !current.lastError) throw new StepFailed(noProgress(step.participant));
        }
        if (current.lastError) throw new StepFailed(current.lastError);
      }
      const complete = await deletions.complete(claim);
      crashPoint('run.delete.after-complete');
      onSettled(complete, 'COMPLETE');
    } catch (error) {
      // Another worker has it, or it was cancelled: whatever this one knew is stale.
      if (hasReason(error, 'LEASE_LOST')) return;
      // Without a step it is the database that failed.
      const isLetGo = !current && isUnavailable(error);
      if (isLetGo) await giveUpClaim(() => deletions.release(claim, retry.baseMs), leaseMs, signal);
      if (!current) throw error;
      const { step: failed, retryMs } = await afterError(current, error);
      await giveUpClaim(() => deletions.fail(claim, failed, retryMs), leaseMs, signal);
      const told = { ...withStep(deletion, failed), attempts: failed.attempts, lastError: failed.lastError };
      onSettled(told, retryMs === undefined ? 'STUCK' : 'RETRY', error instanceof StepFailed ? undefined : error);
    }
  };

  return makeTakeDue({
    findDue: () => deletions.findDue(CANDIDATES),
    claim: ({ tenantId, deletionId }) => deletions.claim(tenantId, deletionId, workerId, leaseMs),
    drive,
  });
}

const isOf =
  (name: string) =>
  ({ participant }: DeletionStep): boolean =>
    participant === name;

/** A step whose answer was no success; its sentence stands in the step already. */
class StepFailed extends Error {}

function toSentence(error: unknown): string {
  if (error instanceof StepFailed) return error.message;
  return error instanceof DomainError ? `${error.reason}: ${error.message}` : 'INTERNAL: see the log.';
}
