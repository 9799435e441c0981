import { setTimeout as delay } from 'node:timers/promises';

const PATIENCE_MS = 3_000;

const flushes: (() => Promise<void>)[] = [];

/** Has `flush` called before the process ends, once it has stopped to work. */
export const flushAtExit = (flush: () => Promise<void>): void => void flushes.push(flush);

/** Sends what is still to be sent, traces for one. Waits three seconds at most, and never fails: nothing depends on it. */
export async function flushAll(): Promise<void> {
  const over = new AbortController();
  const patience = delay(PATIENCE_MS, undefined, { signal: over.signal }).catch(() => undefined);
  await Promise.race([Promise.allSettled(flushes.map((flush) => flush())), patience]);
  over.abort();
}
