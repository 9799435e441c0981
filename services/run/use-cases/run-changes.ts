import type { RunRepository } from './ports.ts';

/** A run as one has seen it, by which a newer one is told. */
export interface SeenRun {
  readonly tenantId: string;
  readonly id: string;
  readonly etag: string;
}

/**
 * Says when there is something new to see of a run. However many callers wait, a process asks the database once per
 * pause for all runs of a tenant that are waited for.
 */
export interface RunChanges {
  /** Tells those who wait, at once, of a change that this process has made. */
  tell(run: Pick<SeenRun, 'tenantId' | 'id'>): void;
  /**
   * Resolves once the run has another etag than the one seen, or is gone. Also when that cannot be found out, since
   * whoever reads the run then learns why; and when the signal is aborted.
   */
  wait(seen: SeenRun, signal: AbortSignal): Promise<void>;
}

interface Waiter {
  readonly etag: string;
  resolve(): void;
}

const RUNS_PER_READ = 1_000;

/** Makes RunChanges for one process. `sleep` must end after the pause between two looks at the database. */
export function makeRunChanges(runs: Pick<RunRepository, 'etags'>, sleep: () => Promise<unknown>): RunChanges {
  const waitersOf = new Map<string, Map<string, Set<Waiter>>>();

  async function look(tenantId: string, waiters: ReadonlyMap<string, ReadonlySet<Waiter>>): Promise<void> {
    for (await sleep(); waiters.size > 0; await sleep()) {
      const runIds = [...waiters.keys()];
      for (let from = 0; from < runIds.length; from += RUNS_PER_READ) {
        const some = runIds.slice(from, from + RUNS_PER_READ);
        const etags = await runs.etags(tenantId, some).catch(() => undefined);
        for (const runId of some) {
          for (const { etag, resolve } of waiters.get(runId) ?? []) if (etags?.get(runId) !== etag) resolve();
        }
      }
    }
    waitersOf.delete(tenantId);
  }

  return {
    tell({ tenantId, id }) {
      for (const { resolve } of waitersOf.get(tenantId)?.get(id) ?? []) resolve();
    },
    wait({ tenantId, id, etag }, signal) {
      return new Promise((done) => {
        if (signal.aborted) return done();
        const known = waitersOf.get(tenantId);
        const waiters = known ?? new Map<string, Set<Waiter>>();
        const ofRun = waiters.get(id) ?? new Set();
        const waiter: Waiter = {
          etag,
          resolve() {
            ofRun.delete(waiter);
            if (ofRun.size === 0 && waiters.get(id) === ofRun) waiters.delete(id);
            signal.removeEventListener('abort', waiter.resolve);
            done();
          },
        };
        ofRun.add(waiter);
        waiters.set(id, ofRun);
        signal.addEventListener('abort', waiter.resolve, { once: true });
        if (known) return;
        waitersOf.set(tenantId, waiters);
        void look(tenantId, waiters);
      });
    },
  };
}
