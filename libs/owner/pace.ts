import { DomainError } from '#libs/kernel/domain-error.ts';
import { codeOf } from '#libs/postgres/sql-errors.ts';
import type { Turns } from '#libs/saga/turns.ts';

// A transaction is aimed at a fifth of a second, so that nobody waits for its locks.
const TARGET_MS = 200;
// A piece of fewer rows costs what it costs, whatever it removes.
const MIN_PIECE = 50;
const LOCK_TRIES = 5;
const STATEMENT_CUT_OFF = '57014';

/** How many rows a piece of work takes on, so that it lasts about as long as it should. */
export interface Pace {
  /**
   * Does one piece, in its turn, of at most `most` rows; with fewer where it was cut off, and again where it lost its
   * locks. `work` is told for how long it waited for its turn.
   */
  run<T>(turns: Turns, most: number, work: (rows: number, waitedMs: number) => Promise<T>): Promise<T>;
}

/** Makes a Pace that begins with `first` rows and stays between `min` and `max`. */
export function makePace({ first, min, max }: { first: number; min: number; max: number }): Pace {
  let rows = first;
  return {
    async run(turns, most, work) {
      for (let tries = 1; ; tries += 1) {
        const askedAt = performance.now();
        try {
          return await turns.take(async (share) => {
            const startedAt = performance.now();
            const taken = Math.max(1, Math.min(most, Math.max(MIN_PIECE, Math.ceil(rows * share))));
            const result = await work(taken, startedAt - askedAt);
            const ms = performance.now() - startedAt;
            // A smaller piece than usual says little about how many rows there could be.
            if (share === 1 && (taken >= rows || ms > TARGET_MS)) {
              const factor = Math.min(2, Math.max(0.5, TARGET_MS / Math.max(1, ms)));
              rows = Math.round(Math.min(max, Math.max(min, taken * factor)));
            }
            return result;
          });
        } catch (error) {
          const isCutOff = error instanceof DomainError && codeOf(error.cause) === STATEMENT_CUT_OFF;
          const hasLostLocks = error instanceof DomainError && error.reason === 'CONCURRENT_UPDATE';
          if (!(isCutOff && rows > MIN_PIECE) && !(hasLostLocks && tries < LOCK_TRIES)) throw error;
          if (isCutOff) rows = Math.max(MIN_PIECE, Math.floor(rows / 4));
        }
      }
    },
  };
}
