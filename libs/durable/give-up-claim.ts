import { setTimeout as delay } from 'node:timers/promises';
import { isUnavailable } from '#libs/kernel/domain-error.ts';

const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 1_000;

/**
 * Does the write that gives up a claim, and while the database does not answer, does it again for as long as the lease
 * lasts: or else a connection that was lost would keep the item from everybody until then. A process that is asked to stop
 * leaves it to the end of the lease.
 */
export async function giveUpClaim(write: () => Promise<void>, leaseMs: number, stopping?: AbortSignal): Promise<void> {
  const startedAt = performance.now();
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(LONGEST_PAUSE_MS, pauseMs * 2)) {
    try {
      return await write();
    } catch (error) {
      if (!isUnavailable(error) || stopping?.aborted || performance.now() - startedAt + pauseMs > leaseMs) throw error;
    }
    await delay(pauseMs, undefined, { signal: stopping }).catch(() => undefined);
  }
}
