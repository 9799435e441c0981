import type { Turns } from '#libs/durable/turns.ts';
import { DomainError } from '#libs/kernel/domain-error.ts';
import { codeOf } from '#libs/postgres/sql-errors.ts';

// A transaction is aimed at a fifth of a second, so that nobody waits for its locks.
const TARGET_MS = 200;
// A piece of fewer rows costs what it costs, whatever it removes: only one that was cut off is tried with fewer.
const MIN_PIECE = 50;
const LOCK_TRIES = 5;
const STATEMENT_CUT_OFF = '57014';
// Good pieces before more rows are tried than half of what was cut off: a cut-off costs as much as nine pieces.
const PATIENCE = { first: 16, max: 256 };

/** How many rows a piece of work takes on, so that it lasts about as long as it should. */
export interface Pace {
  /**
   * Does one piece, in its turn, of at most `most` rows; with fewer where it was cut off, and again where it lost its
   * locks. `work` is told for how long it waited for its turn.
   */
  run<T>(turns: Turns, most: number, work: (rows: number, waitedMs: number) => Promise<T>): Promise<T>;
}

/** Whether a statement was ended because it took longer than it may. */
export const isCutOff = (error: unknown): boolean =>
  error instanceof DomainError && codeOf(error.cause) === STATEMENT_CUT_OFF;

/**
 * Makes a Pace that begins with `first` rows and stays between `min` and `max`. After a cut-off it goes below `min` if it
 * has to, down to a single row, and grows again step by step, the more slowly the more often that leads to another cut-off.
 */
export function makePace({ first, min, max }: { first: number; min: number; max: number }): Pace {
  let rows = first;
  const wall = makeWall(max);
  return {
    async run(turns, most, work) {
      for (let tries = 1; ; tries += 1) {
        const askedAt = performance.now();
        let taken = rows;
        try {
          return await turns.take(async (share) => {
            const startedAt = performance.now();
            taken = Math.max(1, Math.min(most, Math.max(Math.min(MIN_PIECE, rows), Math.ceil(rows * share))));
            const result = await work(taken, startedAt - askedAt);
            const ms = performance.now() - startedAt;
            // A smaller piece than usual says little about how many rows there could be.
            if (share === 1 && (taken >= rows || ms > TARGET_MS)) {
              const factor = Math.min(2, Math.max(0.5, TARGET_MS / Math.max(1, ms)));
              const least = wall.isKnown() ? wall.least() : min;
              rows = Math.round(Math.min(max, Math.max(least, taken * factor)));
            }
            rows = Math.max(wall.least(), Math.min(rows, wall.afterPiece()));
            return result;
          });
        } catch (error) {
          const hasLostLocks = error instanceof DomainError && error.reason === 'CONCURRENT_UPDATE';
          if (!(isCutOff(error) && taken > 1) && !(hasLostLocks && tries < LOCK_TRIES)) throw error;
          if (isCutOff(error)) {
            wall.cutOff(taken, tries);
            rows = Math.max(wall.least(), Math.floor(Math.min(rows, taken) / 4));
          }
        }
      }
    },
  };
}

/** Remembers how many rows were cut off last, and how many may be tried since. */
function makeWall(max: number) {
  let rows = Number.POSITIVE_INFINITY;
  let patience: number = PATIENCE.first;
  let good = 0;
  return {
    isKnown: () => Number.isFinite(rows),
    /** The fewest rows of a piece. */
    least: () => (rows > MIN_PIECE ? MIN_PIECE : 1),
    /** The first try of a piece is cut off where the piece before was not: then growing was too bold. */
    cutOff(taken: number, tries: number) {
      if (Number.isFinite(rows) && tries === 1) patience = Math.min(PATIENCE.max, 2 * patience);
      rows = taken;
      good = 0;
    },
    /** The most rows of the next piece, after one that went well. */
    afterPiece(): number {
      good += 1;
      if (good >= patience) [rows, good] = [2 * rows, 0];
      if (rows >= 2 * max) [rows, patience] = [Number.POSITIVE_INFINITY, PATIENCE.first];
      return Math.floor(rows / 2);
    },
  };
}
