import type { ExecutionMonths, RewrittenMonth } from './execution-ports.ts';

/** One pass of upkeep. Answers how many months it rewrote: 0 when there is nothing left to do for now. */
export type KeepExecutionMonths = () => Promise<number>;

/** Called when the disk of a purged month was handed back. */
export type OnRewritten = (month: RewrittenMonth) => void;

/** Makes KeepExecutionMonths. It may run in every replica: no two work on one month. */
export const makeKeepExecutionMonths =
  (months: ExecutionMonths, onRewritten: OnRewritten): KeepExecutionMonths =>
  async () => {
    await months.makeAhead();
    const rewritten = await months.rewriteOne();
    if (rewritten) {
      onRewritten(rewritten);
      return 1;
    }
    await months.noteEmpty();
    return 0;
  };
