import { backoffMs, type RetryPolicy } from '#libs/durable/backoff.ts';
import { crashPoint } from '#libs/durable/crash-point.ts';
import { giveUpClaim } from '#libs/durable/give-up-claim.ts';
import { makeTakeDue, type TakeDue } from '#libs/durable/take-due.ts';
import type { Caller } from '#libs/kernel/caller.ts';
import { DomainError, hasReason, isUnavailable } from '#libs/kernel/domain-error.ts';
import { assertMatches, type BulkDeletion, type ItemEnd } from './bulk-deletion.ts';
import type { BulkClaim, BulkDeletionRepository, DueItem, OrderItem } from './ports.ts';

/** Drives a due bulk deletion for a while. */
export type RunBulkDeletions = TakeDue;

/** How bulk deletions are driven. */
export interface BulkSettings {
  /** That of the crash points. */
  readonly name: string;
  readonly workerId: string;
  /** Renewed while a worker holds one, in milliseconds. */
  readonly leaseMs: number;
  /** How many items of one bulk deletion may have a deletion under way. */
  readonly maxUnderWay: number;
  /** How many items are written down, or cancelled, in one transaction. */
  readonly chunkSize: number;
  /** After so long another bulk deletion gets its turn, in milliseconds. */
  readonly turnMs: number;
  /** The longest pause between two looks at the deletions under way, in milliseconds. */
  readonly pollMs: number;
  /** Attempts to begin an item, and the pauses between them. */
  readonly retry: RetryPolicy;
}

/** Told when a bulk deletion or items of one have ended, and of what an item's order failed with. */
export interface BulkObserver {
  onEnded(bulk: BulkDeletion): void;
  onItemsEnded(outcome: ItemEnd, count: number): void;
  onItemFailed(bulk: Pick<BulkDeletion, 'id' | 'tenantId'>, targetId: string, error: unknown): void;
}

const CANDIDATES = 16;
// The first pause after items were begun; each further one is twice as long, up to pollMs.
const FIRST_PAUSE_MS = 5;
// How many times `maxUnderWay` items are read at once. What became of them meanwhile is checked when they are begun.
const READ_AHEAD = 8;

type Outcome = 'BEGUN' | 'SKIPPED' | 'DEFERRED';

/**
 * Makes RunBulkDeletions. A worker holds the bulk deletion by a lease, and what it decides is committed only under the
 * lease's fencing token: an item's deletion and the mark on the item in one transaction, so that no item is ordered twice
 * and none after a cancel.
 */
export function makeRunBulkDeletions<Filter>(
  repository: BulkDeletionRepository<Filter>,
  orderItem: OrderItem<Filter>,
  settings: BulkSettings,
  sleep: (ms: number, signal: AbortSignal) => Promise<void>,
  observer: BulkObserver,
): RunBulkDeletions {
  const { name, workerId, leaseMs, maxUnderWay, chunkSize, turnMs, pollMs, retry } = settings;

  const skip = async (claim: BulkClaim<Filter>, item: DueItem, reason: string, error: string): Promise<void> => {
    await repository.skipItem(claim, item, reason, error);
    observer.onItemsEnded('SKIPPED', 1);
  };

  const cancelItems = async (claim: BulkClaim<Filter>, signal: AbortSignal): Promise<void> => {
    for (let cancelled = 1; cancelled > 0 && !signal.aborted; ) {
      cancelled = await repository.cancelItems(claim, chunkSize);
      observer.onItemsEnded('CANCELLED', cancelled);
    }
  };

  /** Orders the deletion of one item, and records what came of it. */
  const begin = async (claim: BulkClaim<Filter>, item: DueItem): Promise<{ outcome: Outcome; error?: string }> => {
    const { bulk, token } = claim;
    const ref = { bulkDeletionId: bulk.id, position: item.position, token };
    try {
      if (await orderItem(bulk, item, ref, callerOf(bulk))) {
        crashPoint(`${name}.bulk.after-item`);
        return { outcome: 'BEGUN' };
      }
      await skip(claim, item, 'ALREADY_DELETED', 'ALREADY_DELETED: It had been hidden already.');
      return { outcome: 'SKIPPED' };
    } catch (cause) {
      if (hasReason(cause, 'LEASE_LOST')) throw cause;
      const attempts = item.attempts + 1;
      const error = toSentence(cause);
      if (!mayPass(cause) || attempts >= retry.maxAttempts) {
        if (!(cause instanceof DomainError)) observer.onItemFailed(bulk, item.targetId, cause);
        const reason = cause instanceof DomainError ? cause.reason : 'INTERNAL';
        await skip(claim, item, reason, error);
        return { outcome: 'SKIPPED' };
      }
      observer.onItemFailed(bulk, item.targetId, cause);
      await repository.deferItem(claim, item, error, backoffMs(attempts, retry));
      return { outcome: 'DEFERRED', error };
    }
  };

  /** Writes down the items. Its turn to delete them comes when the tenant's older ones have ended. */
  const select = async (claim: BulkClaim<Filter>, signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      const { state, skipped } = await repository.selectItems(claim, chunkSize, (matches) =>
        assertMatches(matches, claim.expectedCount),
      );
      observer.onItemsEnded('SKIPPED', skipped);
      if (state !== 'SELECTING') {
        crashPoint(`${name}.bulk.after-selection`);
        break;
      }
      crashPoint(`${name}.bulk.between-chunks`);
    }
    await repository.release(claim, 0);
  };

  const drive = async (claim: BulkClaim<Filter>, stopping: AbortSignal): Promise<void> => {
    const lost = new AbortController();
    const heartbeat = setInterval(() => {
      repository.renew(claim, leaseMs).catch((error: unknown) => hasReason(error, 'LEASE_LOST') && lost.abort(error));
    }, leaseMs / 3);
    const signal = AbortSignal.any([stopping, lost.signal]);
    crashPoint(`${name}.bulk.after-claim`);
    try {
      if (claim.bulk.state === 'SELECTING') return await select(claim, signal);
      let waiting: readonly DueItem[] = [];
      let pauseMs = FIRST_PAUSE_MS;
      for (const end = performance.now() + turnMs; ; ) {
        const { state, underWay, ended: settled } = await repository.settleItems(claim);
        for (const [outcome, count] of settled) observer.onItemsEnded(outcome, count);
        if (state === 'CANCELLING') await cancelItems(claim, signal);
        const free = state === 'RUNNING' ? maxUnderWay - underWay : 0;
        if (free > 0 && waiting.length === 0) waiting = await repository.dueItems(claim, maxUnderWay * READ_AHEAD);
        const due = waiting.slice(0, Math.max(0, free));
        waiting = waiting.slice(due.length);
        const begun = await allOf(due.map((item) => begin(claim, item)));
        if (begun.length > 0) crashPoint(`${name}.bulk.after-items`);
        const failed = begun.find(({ outcome }) => outcome === 'DEFERRED');
        if (failed && begun.every(({ outcome }) => outcome === 'DEFERRED')) {
          // What all of them failed with is not the items' fault: trying the rest would only use up their attempts.
          return await repository.release(claim, backoffMs(claim.attempts + 1, retry), failed.error);
        }
        if (underWay === 0 && due.length === 0) {
          crashPoint(`${name}.bulk.before-end`);
          const ended = await repository.finish(claim);
          if (!ended) return await repository.release(claim, retry.baseMs);
          crashPoint(`${name}.bulk.after-end`);
          observer.onEnded(ended);
          return;
        }
        // Due again at once: with a pause, every worker would find nothing and sleep for much longer than that.
        if (signal.aborted || performance.now() >= end) return await repository.release(claim, 0);
        // Skipping is quick: only what is under way is waited for.
        if (begun.some(({ outcome }) => outcome === 'SKIPPED')) continue;
        pauseMs = begun.length > 0 ? FIRST_PAUSE_MS : Math.min(pollMs, pauseMs * 2);
        await sleep(pauseMs, signal).catch(() => undefined);
      }
    } catch (error) {
      // Another worker has it, or it was cancelled, and whoever claims it next will see that.
      const isStale = hasReason(error, 'LEASE_LOST');
      if (!isStale && !isUnavailable(error)) throw error;
      const write = () =>
        isStale
          ? repository.release(claim, 0)
          : repository.release(claim, backoffMs(claim.attempts + 1, retry), toSentence(error));
      await giveUpClaim(write, leaseMs, stopping).catch((cause: unknown) => {
        if (!hasReason(cause, 'LEASE_LOST')) throw cause;
      });
      if (!isStale) throw error;
    } finally {
      clearInterval(heartbeat);
    }
  };

  return makeTakeDue({
    findDue: () => repository.findDue(CANDIDATES),
    claim: ({ tenantId, bulkDeletionId }) => repository.claim(tenantId, bulkDeletionId, workerId, leaseMs),
    drive,
  });
}

/** As Promise.all, but throws no sooner than all of them have ended. */
async function allOf<T>(promises: readonly Promise<T>[]): Promise<readonly T[]> {
  await Promise.allSettled(promises);
  return Promise.all(promises);
}

/** Whether the same order may succeed later, with nobody doing anything about it. */
const mayPass = (error: unknown): boolean =>
  !(error instanceof DomainError) ||
  error.kind === 'unavailable' ||
  error.kind === 'resource-exhausted' ||
  error.reason === 'OPERATION_IN_PROGRESS' ||
  error.reason === 'CONCURRENT_UPDATE';

/** In whose name items are deleted: who ordered the bulk deletion, with the role that the order was checked for. */
const callerOf = ({ tenantId, actor, subject, trustEntry, force }: BulkClaim<unknown>['bulk']): Caller => ({
  tenantId,
  actor,
  subject,
  ...(trustEntry === undefined ? {} : { trustEntry }),
  kind: 'user',
  role: force ? 'owner' : 'admin',
  scopes: new Set(),
});

const toSentence = (error: unknown): string =>
  error instanceof DomainError ? `${error.reason}: ${error.message}` : 'INTERNAL: see the log.';
