/** How a failing operation is tried again. */
export interface RetryPolicy {
  /** After so many attempts the operation is parked where a person sees it. */
  readonly maxAttempts: number;
  readonly baseMs: number;
  readonly maxMs: number;
}

// Soon enough to go on within five seconds of its return, and seldom enough for thousands of operations that all wait.
const WAITING_ATTEMPT = 4;

/**
 * How long to wait before a dependency that cannot be reached is tried again, always the same: how often it was tried
 * says nothing about the operation, so nobody counts it.
 */
export const waitingMs = (policy: RetryPolicy): number => backoffMs(WAITING_ATTEMPT, policy);

/**
 * How long to wait after the `attempt`-th failure (1, 2, …): exponential between `baseMs` and `maxMs`, with full
 * jitter above the half so that those who failed together do not come back together.
 */
export function backoffMs(attempt: number, { baseMs, maxMs }: RetryPolicy, random: () => number = Math.random): number {
  const ceiling = Math.min(maxMs, baseMs * 2 ** Math.min(30, attempt - 1));
  return Math.round(ceiling / 2 + (ceiling / 2) * random());
}
