// How many objects go before it is known how fast the store is, and how long a batch should take after that: a few
// objects cost as many listings as many do.
const FIRST_BATCH = 100;
const BATCH_MS = 400;

/** How many objects make a batch, at the pace that the store has shown. */
export interface Pace {
  limit(): number;
  /** Tells how long it took to remove what a batch of that limit has found. */
  took(removed: number, ms: number): void;
}

/** Makes Pace: a batch has at most `most` objects, and four times as many as the one before. */
export function makePace(most: number): Pace {
  let limit = Math.min(FIRST_BATCH, most);
  return {
    limit: () => limit,
    took(removed, ms) {
      // A quick batch that found fewer says nothing of how many more it could have taken.
      if (removed < limit && ms < BATCH_MS) return;
      const fitting = Math.round((Math.max(removed, 1) * BATCH_MS) / Math.max(1, ms));
      limit = Math.max(1, Math.min(most, limit * 4, fitting));
    },
  };
}
