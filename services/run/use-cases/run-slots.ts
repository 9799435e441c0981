import type { AdvanceRuns } from './advance-runs.ts';
import type { RunSlots } from './start-run.ts';

/** The runs that this process drives because they began here, at most `size` at once. */
export interface OwnRuns extends RunSlots {
  /** Gives up what is under way at its next step, for others to go on with, and waits for it. */
  stop(): Promise<void>;
}

/** Makes OwnRuns. `onError` is told of what no run can be blamed for: its lease runs out, and another takes it up. */
export function makeOwnRuns(
  advance: Pick<AdvanceRuns, 'held'>,
  { owner, leaseMs, size }: { readonly owner: string; readonly leaseMs: number; readonly size: number },
  onError: (error: unknown) => void,
): OwnRuns {
  const stopping = new AbortController();
  const underWay = new Set<Promise<void>>();
  let taken = 0;
  return {
    owner,
    leaseMs,
    take() {
      if (taken >= size || stopping.signal.aborted) return false;
      taken += 1;
      return true;
    },
    giveBack() {
      taken -= 1;
    },
    drive(claim) {
      const driven = advance
        .held(claim, stopping.signal)
        .catch(onError)
        .finally(() => {
          taken -= 1;
          underWay.delete(driven);
        });
      underWay.add(driven);
    },
    async stop() {
      stopping.abort();
      await Promise.all(underWay);
    },
  };
}
