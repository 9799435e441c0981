import { startWorkerLoop } from './worker-loop.ts';

/** Leased work of one kind, and how one process does it. */
export interface DriveOptions<Item> {
  readonly name: string;
  /** How many items are worked on at a time. */
  readonly concurrency: number;
  /** How long to sleep when nothing was due, in milliseconds; a third of it more or less at random. */
  readonly pollMs: number;
  /** Answers the first items that are due, at most `limit`, in the order in which to claim them. */
  readonly findDue: (limit: number) => Promise<readonly Item[]>;
  /** Claims the item and works on it; false when it was not due any more, as when another process has claimed it. */
  readonly work: (item: Item, signal: AbortSignal) => Promise<boolean>;
  readonly onError: (name: string, error: unknown) => void;
}

/** Workers of one process on one table of leased work. */
export interface Drive {
  /** Looks for due work now: there is some. */
  wake(): void;
  /** As WorkerLoop's. */
  resume(): void;
  /** Aborts the signal of the items that are being worked on, and waits until they are given up. */
  stop(): Promise<void>;
}

// What other processes claim meanwhile costs a try each; looking again costs a statement.
const CANDIDATES_PER_WORKER = 4;

/**
 * Starts workers that share one poll: while any of them is idle, one statement per `pollMs` looks for all of them, and a
 * worker that has done an item looks again at once. Nothing but the rows holds the work, so a process that dies, or loses
 * its connections, leaves items whose lease ends and that any process then finds.
 */
export function startDrive<Item>(options: DriveOptions<Item>): Drive {
  const { name, concurrency, pollMs, findDue, work, onError } = options;
  const stopping = new AbortController();
  const workers = new Set<Promise<void>>();
  let candidates: Item[] = [];

  /** Works until no candidate is left; answers whether it claimed any. */
  const drain = async (): Promise<boolean> => {
    let hasClaimed = false;
    for (let item = candidates.shift(); item !== undefined && !stopping.signal.aborted; item = candidates.shift()) {
      try {
        hasClaimed = (await work(item, stopping.signal)) || hasClaimed;
      } catch (error) {
        onError(name, error);
      }
    }
    return hasClaimed;
  };
  const poll = startWorkerLoop({
    name,
    pollMs,
    onError,
    async work() {
      const idle = concurrency - workers.size;
      if (idle === 0) return 0;
      candidates = [...(await findDue(concurrency * CANDIDATES_PER_WORKER))];
      for (let started = 0; started < Math.min(idle, candidates.length); started += 1) {
        // Not in this turn, or workers would take candidates while they are counted.
        const worker: Promise<void> = Promise.resolve()
          .then(drain)
          .then((hasClaimed) => {
            // In this order: the pass that is woken counts who is idle.
            workers.delete(worker);
            if (hasClaimed) poll.wake();
          });
        workers.add(worker);
      }
      return 0;
    },
  });
  return {
    wake: () => void poll.wake(),
    resume: poll.resume,
    async stop() {
      stopping.abort();
      await poll.stop();
      await Promise.all(workers);
    },
  };
}
