import type { Caller } from '#libs/kernel/caller.ts';
import type { View } from '#libs/kernel/view.ts';
import { etagOf, isTerminal, type Run } from '../domain/run.ts';
import type { RunStep } from '../domain/step.ts';
import type { ReadRuns } from './read-runs.ts';
import type { RunChanges } from './run-changes.ts';

/** A run as it is at the moment, with the steps that changed since the time before. */
export interface RunSighting {
  readonly run: Run;
  readonly steps: readonly RunStep[];
  /** Whether that is all; otherwise the next sighting goes on with the same change. */
  readonly isWhole: boolean;
}

/** Tells of a run's changes until it is terminal. RUN_NOT_FOUND, also in the middle. */
export type WatchRun = (
  command: { readonly caller: Caller; readonly runId: string; readonly showDeleted: boolean; readonly view?: View },
  signal: AbortSignal,
) => AsyncIterable<RunSighting>;

const STEPS_PER_PAGE = 200;

/** Makes WatchRun. */
export const makeWatchRun = (read: ReadRuns, changes: RunChanges): WatchRun =>
  async function* ({ caller, runId, showDeleted, view }, signal) {
    const seen = new Map<string, string>();
    for (let shown: string | undefined; !signal.aborted; ) {
      // Steps after the run: what they tell may be newer than the run says, never older.
      const run = await read.get(caller, runId, showDeleted, view);
      const etag = etagOf(run);
      if (shown !== etag) {
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
      shown = etag;
      await changes.wait({ tenantId: run.tenantId, id: runId, etag }, signal);
    }
  };

const toKey = (step: RunStep): string => JSON.stringify(step);
