import { DomainError } from '#libs/kernel/domain-error.ts';

/** How many streams may be open at once. */
export interface StreamLimits {
  readonly perCaller: number;
  readonly perProcess: number;
}

// A stream that was refused is worth trying again once others have ended, which takes a while.
const RETRY_AFTER_MS = 5_000;

/**
 * Counts the streams that are open. The function opens one for a caller, and what it returns ends it, once;
 * TOO_MANY_STREAMS when the caller or the process has as many as allowed.
 */
export function makeStreamLimit({ perCaller, perProcess }: StreamLimits): (caller: string) => () => void {
  const openOf = new Map<string, number>();
  let open = 0;
  return (caller) => {
    const own = openOf.get(caller) ?? 0;
    if (own >= perCaller) throw tooMany(`You have ${own} streams open at this server; end some first.`, perCaller);
    if (open >= perProcess) throw tooMany(`This server has ${open} streams open and takes no more.`, perProcess);
    open += 1;
    openOf.set(caller, own + 1);
    let hasEnded = false;
    return () => {
      if (hasEnded) return;
      hasEnded = true;
      open -= 1;
      const left = (openOf.get(caller) ?? 1) - 1;
      if (left === 0) openOf.delete(caller);
      else openOf.set(caller, left);
    };
  };
}

const tooMany = (message: string, limit: number): DomainError =>
  new DomainError(
    'resource-exhausted',
    'TOO_MANY_STREAMS',
    message,
    { limit: String(limit) },
    { retryAfterMs: RETRY_AFTER_MS },
  );
