import { DomainError, hasReason } from '#libs/kernel/domain-error.ts';
import { backoffMs, type RetryPolicy } from '#libs/saga/backoff.ts';
import { crashPoint } from '#libs/saga/crash-point.ts';
import type { Deletion } from '../domain/deletion.ts';
import type { DeletionClaim, DeletionRepository, Participant, ParticipantAnswer, ParticipantCall } from './ports.ts';

/** The persisted points of a cascade, for the tests that kill the process there. */
export const CASCADE_CRASH_POINTS = [
  'run.delete.after-intent',
  'run.delete.after-claim',
  'run.delete.after-call',
  'run.delete.after-step',
  'run.delete.after-verify',
  'run.delete.after-complete',
] as const;

/** Drives one due deletion as far as it goes; answers how many it took up, 0 or 1. Many run side by side. */
export type RunCascades = (signal: AbortSignal) => Promise<number>;

/** How cascades are driven. */
export interface CascadeSettings {
  readonly workerId: string;
  /** Longer than one call to a participant may take, in milliseconds. */
  readonly leaseMs: number;
  /** PARTIAL answers in a row before the others get their turn. */
  readonly callsPerTurn: number;
  readonly retry: RetryPolicy;
}

/** Told when a deletion came to its end, or to a stop. */
export type OnCascadeSettled = (deletion: Deletion, outcome: 'COMPLETE' | 'STUCK' | 'RETRY', error?: unknown) => void;

// More than run side by side, so that losing the race for one claim leaves others to take.
const CANDIDATES = 64;
const PARTIAL_PAUSE_MS = 50;

/** Makes RunCascades. */
export function makeRunCascades(
  deletions: DeletionRepository,
  participants: readonly Participant[],
  settings: CascadeSettings,
  onSettled: OnCascadeSettled,
): RunCascades {
  const { workerId, leaseMs, callsPerTurn, retry } = settings;
  const participantOf = (name: string): Participant => {
    const participant = participants.find((candidate) => candidate.name === name);
    if (participant) return participant;
    throw new DomainError('failed-precondition', 'PARTICIPANT_UNKNOWN', `No participant ${name} is configured.`, {
      name,
    });
  };

  const call = (
    participant: Participant,
    { mode, undoes }: Deletion,
    to: ParticipantCall,
  ): Promise<ParticipantAnswer> => {
    switch (mode) {
      case 'SOFT_DELETE':
        return participant.softDelete(to);
      case 'UNDELETE':
        return participant.restore(to, undoes ?? to.operationId);
      case 'PURGE':
        return participant.purge(to);
    }
  };

  /** True when every step is done; false when the turn is over before. */
  const cascade = async (claim: DeletionClaim, to: ParticipantCall, signal: AbortSignal): Promise<boolean> => {
    let calls = 0;
    for (const step of claim.deletion.steps) {
      if (step.state === 'COMPLETE') continue;
      const participant = participantOf(step.participant);
      for (let isDone = false; !isDone; ) {
        if (signal.aborted || calls >= callsPerTurn) return false;
        calls += 1;
        const answer = await call(participant, claim.deletion, to);
        crashPoint('run.delete.after-call');
        isDone = answer.progress === 'COMPLETE' && answer.failedItems.length === 0;
        const failed = answer.failedItems[0];
        const lastError = failed && `${failed.key} could not be removed: ${failed.code}`;
        const result = {
          participant: step.participant,
          counts: answer.counts,
          failedItems: answer.failedItems,
          lastError,
        };
        const state = isDone ? ('COMPLETE' as const) : ('CASCADING' as const);
        await deletions.saveStep(claim, 'CASCADING', { ...result, state, verified: false }, leaseMs);
        crashPoint('run.delete.after-step');
        if (failed) throw new DomainError('unavailable', 'ITEMS_FAILED', `${step.participant}: ${lastError}`, {});
      }
    }
    return true;
  };

  /** Reads every participant back; throws when anything is left, and its step is to be done again. */
  const verify = async (claim: DeletionClaim, to: ParticipantCall): Promise<void> => {
    const steps = (await deletions.get(to.tenantId, claim.deletion.id))?.steps ?? [];
    for (const step of steps) {
      const left = await participantOf(step.participant).verify(to);
      const sum = left.reduce((total, count) => total + count.left, 0);
      const counts = sum === 0 ? step.counts : left;
      const lastError = sum === 0 ? undefined : `${sum} are left after the purge.`;
      const state = sum === 0 ? ('COMPLETE' as const) : ('CASCADING' as const);
      const result = { participant: step.participant, state, counts, failedItems: [], lastError, verified: sum === 0 };
      await deletions.saveStep(claim, 'VERIFYING', result, leaseMs);
      if (lastError) throw new DomainError('unavailable', 'NOT_EMPTY', `${step.participant}: ${lastError}`, {});
    }
    crashPoint('run.delete.after-verify');
  };

  const drive = async (claim: DeletionClaim, signal: AbortSignal): Promise<void> => {
    const { deletion } = claim;
    const { tenantId, actor, id: operationId, runId, reason, attempts } = deletion;
    const to: ParticipantCall = { tenantId, actor, operationId, runId, reason };
    crashPoint('run.delete.after-claim');
    try {
      if (!(await cascade(claim, to, signal))) {
        await deletions.postpone(claim, 'The cascade goes on.', PARTIAL_PAUSE_MS, false);
        return;
      }
      if (deletion.mode === 'PURGE') await verify(claim, to);
      const complete = await deletions.complete(claim);
      crashPoint('run.delete.after-complete');
      onSettled(complete, 'COMPLETE');
    } catch (error) {
      // Another worker has it: whatever this one knew is stale.
      if (hasReason(error, 'LEASE_LOST')) return;
      const sentence = error instanceof DomainError ? `${error.reason}: ${error.message}` : 'INTERNAL: see the log.';
      const retryMs = attempts >= retry.maxAttempts ? undefined : backoffMs(attempts, retry);
      await deletions.postpone(claim, sentence, retryMs, true);
      onSettled({ ...deletion, lastError: sentence }, retryMs === undefined ? 'STUCK' : 'RETRY', error);
    }
  };

  return async (signal) => {
    for (const { tenantId, deletionId } of await deletions.findDue(CANDIDATES)) {
      const claim = await deletions.claim(tenantId, deletionId, workerId, leaseMs);
      if (!claim) continue;
      await drive(claim, signal);
      return 1;
    }
    return 0;
  };
}
