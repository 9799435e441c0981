import { backoffMs } from '#libs/durable/backoff.ts';
import { crashPoint } from '#libs/durable/crash-point.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import type { ObjectStore } from '#libs/object-store/object-store.ts';
import { objectKey } from '../domain/artifact.ts';
import type { CheckStore } from './check-store.ts';
import type { DiscardClaim, DiscardedObjects } from './ports.ts';

/**
 * Removes what no row points at any more: objects that were replaced, what failed uploads left, and the remains of
 * uploads whose process was never heard of again. Answers how many it took up.
 */
export type RemoveDiscarded = (signal: AbortSignal) => Promise<number>;

/** How objects are removed; all in milliseconds. */
export interface DiscardTiming {
  readonly leaseMs: number;
  /**
   * How long a request of a failed upload may still be on its way to the store. After so long the upload's key is
   * looked at once more before it is forgotten.
   */
  readonly graceMs: number;
  /** Between attempts, growing from the first to the second. */
  readonly backoffMs: number;
  readonly backoffMaxMs: number;
}

/** Called when an object could not be removed; it is tried again. */
export type OnDiscardFailed = (claim: DiscardClaim, error: unknown) => void;

type Candidate = Awaited<ReturnType<DiscardedObjects['findDue']>>[number];

const CANDIDATES = 100;
const AT_A_TIME = 4;
const ITEMS_PER_CALL = 1_000;

/** Makes RemoveDiscarded. */
export const makeRemoveDiscarded =
  (
    discarded: DiscardedObjects,
    store: ObjectStore,
    checkStore: CheckStore,
    timing: DiscardTiming,
    onFailed: OnDiscardFailed,
  ): RemoveDiscarded =>
  async (signal) => {
    const { leaseMs, graceMs } = timing;
    let taken = 0;
    const take = async (candidate: Candidate): Promise<void> => {
      const claim = await discarded.claim(candidate, leaseMs);
      if (!claim) return;
      taken += 1;
      crashPoint('discard.after-claim');
      const key = objectKey(claim.tenantId, claim.object);
      try {
        await removeAll(store, key, signal);
        crashPoint('discard.after-removal');
        if (claim.state === 'REPLACED' || claim.isLastLook) await discarded.forget(claim);
        else await discarded.putBack(claim, graceMs, true);
      } catch (error) {
        const pause = { maxAttempts: Number.POSITIVE_INFINITY, baseMs: timing.backoffMs, maxMs: timing.backoffMaxMs };
        await discarded.putBack(claim, signal.aborted ? 0 : backoffMs(claim.attempt, pause), false);
        if (!signal.aborted) onFailed(claim, error);
      }
    };
    const due = await discarded.findDue(CANDIDATES);
    if (due.length > 0) await checkStore();
    const candidates = due.values();
    const takeRest = async (): Promise<void> => {
      for (const candidate of candidates) {
        if (signal.aborted) return;
        await take(candidate);
      }
    };
    await Promise.all(Array.from({ length: AT_A_TIME }, takeRest));
    return taken;
  };

/** Removes everything under the key and reads it back; throws where something is left. */
async function removeAll(store: ObjectStore, key: string, signal: AbortSignal): Promise<void> {
  for (;;) {
    const { progress, objects, markers, uploads, failures } = await store.removeKey(key, {
      limit: ITEMS_PER_CALL,
      signal,
    });
    const [failure] = failures;
    if (failure) throw leftBehind(key, failure.code);
    if (progress === 'COMPLETE') break;
    if (objects + markers + uploads === 0) throw leftBehind(key, 'UNKNOWN');
  }
  const left = await store.countKey(key);
  if (left.versions + left.markers + left.uploads > 0) throw leftBehind(key, 'STILL_LISTED');
}

const leftBehind = (key: string, code: string): DomainError =>
  new DomainError('unavailable', 'OBJECTS_LEFT', `${key} could not be removed (${code}).`, { key, code });
