import type { Caller } from '#libs/kernel/caller.ts';
import { isTerminal, type Run } from '../domain/run.ts';
import type { RunStep } from '../domain/step.ts';
import type { ReadRuns } from './read-runs.ts';

/** A run as it is at the moment, with the steps that changed since the time before. */
export interface RunSighting {
  readonly run: Run;
  readonly steps: readonly RunStep[];
  /** Whether that is all; otherwise the next sighting goes on with the same change. */
  readonly isWhole: boolean;
}

/** Tells of a run's changes until it is terminal. RUN_NOT_FOUND, also in the middle. */
export type WatchRun = (
  command: { readonly caller: Caller; readonly runId: string; readonly showDeleted: boolean },
  signal: AbortSignal,
) => AsyncIterable<RunSighting>;

/** Says when there may be something new to see of a run. */
export interface RunChanges {
  /** Tells those who wait. */
  tell(runId: string): void;
  /** Resolves at the next change that this process made, or after the pause, when another may have made one. */
  wait(runId: string, pauseMs: number, signal: AbortSignal): Promise<void>;
}

const STEPS_PER_PAGE = 200;
const PAUSE_MS = 100;

/** Makes WatchRun. */
export const makeWatchRun = (read: ReadRuns, changes: RunChanges): WatchRun =>
  async function* ({ caller, runId, showDeleted }, signal) {
    const seen = new Map<string, string>();
    for (let version: string | undefined; !signal.aborted; ) {
      // Steps after the run: what they tell may be newer than the run says, never older.
      const run = await read.get(caller, runId, showDeleted);
      if (version !== `${run.version}`) {
        let steps: RunStep[] = [];
        for (let after: readonly string[] | undefined, isFirst = true; isFirst || after; isFirst = false) {
          const page = await read.listSteps(caller, runId, { limit: STEPS_PER_PAGE, after, showDeleted });
          const changed = page.items.filter((step) => seen.get(step.name) !== toKey(step));
          for (const step of changed) seen.set(step.name, toKey(step));
          steps.push(...changed);
          after = page.next;
          if (!after || steps.length < STEPS_PER_PAGE) continue;
          yield { run, steps, isWhole: false };
          steps = [];
        }
        yield { run, steps, isWhole: true };
      }
      if (isTerminal(run.state)) return;
      version = `${run.version}`;
      await changes.wait(runId, PAUSE_MS, signal);
    }
  };

/** Makes RunChanges for one process. */
export function makeRunChanges(sleep: (ms: number, signal: AbortSignal) => Promise<void>): RunChanges {
  const waiting = new Map<string, Set<() => void>>();
  return {
    tell(runId) {
      const told = waiting.get(runId);
      waiting.delete(runId);
      for (const resolve of told ?? []) resolve();
    },
    async wait(runId, pauseMs, signal) {
      const done = new AbortController();
      const told = new Promise<void>((resolve) => {
        const others = waiting.get(runId) ?? new Set();
        others.add(resolve);
        waiting.set(runId, others);
        const forget = (): void => {
          others.delete(resolve);
          if (others.size === 0 && waiting.get(runId) === others) waiting.delete(runId);
          resolve();
        };
        void sleep(pauseMs, AbortSignal.any([signal, done.signal])).then(forget, forget);
      });
      await told;
      done.abort();
    },
  };
}

const toKey = ({ state, attempts, error }: RunStep): string => JSON.stringify([state, attempts, error]);
