/** Work of which processes lease one item at a time. */
export interface DueWork<Item, Claim> {
  /** Answers the first items that are due, more than run side by side: losing the race for one leaves others to take. */
  readonly findDue: () => Promise<readonly Item[]>;
  /** Undefined when the item is not due any more, as when another worker has claimed it. */
  readonly claim: (item: Item) => Promise<Claim | undefined>;
  readonly drive: (claim: Claim, signal: AbortSignal) => Promise<void>;
}

/**
 * Drives one due item as far as it goes; answers how many it took up, 0 or 1. Many run side by side; `callNext` is called
 * when it has taken one and others are due.
 */
export type TakeDue = (signal: AbortSignal, callNext?: () => void) => Promise<number>;

/** Makes TakeDue. */
export const makeTakeDue =
  <Item, Claim>({ findDue, claim, drive }: DueWork<Item, Claim>): TakeDue =>
  async (signal, callNext) => {
    const due = await findDue();
    for (const item of due) {
      const held = await claim(item);
      if (held === undefined) continue;
      if (due.length > 1) callNext?.();
      await drive(held, signal);
      return 1;
    }
    return 0;
  };
