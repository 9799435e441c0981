import { useSyncExternalStore } from 'react';

const EVERY_MS = 5_000;
const listeners = new Set<() => void>();
let now = Date.now();
let timer: ReturnType<typeof setInterval> | undefined;

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  timer ??= setInterval(() => {
    now = Date.now();
    for (const told of listeners) told();
  }, EVERY_MS);
  return () => {
    listeners.delete(listener);
    if (listeners.size > 0) return;
    clearInterval(timer);
    timer = undefined;
  };
}

function read(): number {
  // The clock stands still while nothing shows it.
  if (timer === undefined && Date.now() - now > EVERY_MS) now = Date.now();
  return now;
}

/** The time in milliseconds, renewed every five seconds by one timer for the whole page. */
export const useNow = (): number => useSyncExternalStore(subscribe, read);
