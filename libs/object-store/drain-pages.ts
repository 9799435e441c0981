/** What became of the items that were asked to be removed together. */
export interface DrainOutcome {
  /** Why it went no further. */
  readonly error?: unknown;
}

/**
 * Each page once the next one is there. A listing goes on after the last item of the page before, and where that is gone
 * meanwhile, Ceph's gateway leaves out the versions of its key that follow.
 */
export async function* lookingAhead<Page>(pages: AsyncIterable<Page>): AsyncGenerator<Page> {
  let held: Page | undefined;
  for await (const page of pages) {
    if (held !== undefined) yield held;
    held = page;
  }
  if (held !== undefined) yield held;
}

/**
 * Removes page after page, some at a time, while the next one is listed; no more than these few and one more are in
 * memory. What is under way never exceeds what is `left`; a refusal gives its place back, so that those who fail cannot
 * keep the others from their turn. Answers whether everything was tried.
 */
export async function drain<Item, Outcome extends DrainOutcome>(
  pages: AsyncIterable<readonly Item[]>,
  atATime: number,
  left: () => number,
  add: (outcome: Outcome) => void,
  remove: (items: readonly Item[]) => Promise<Outcome>,
): Promise<boolean> {
  const underWay = new Set<Promise<void>>();
  // So that what fits in one page is removed side by side too.
  const share = Math.ceil(left() / atATime);
  let itemsUnderWay = 0;
  const failed: unknown[] = [];
  const begin = (items: readonly Item[]): void => {
    itemsUnderWay += items.length;
    const removal = remove(items)
      .then((outcome) => {
        add(outcome);
        if (outcome.error !== undefined) failed.push(outcome.error);
      })
      .catch((error: unknown) => void failed.push(error))
      .finally(() => {
        itemsUnderWay -= items.length;
        underWay.delete(removal);
      });
    underWay.add(removal);
  };
  const removePage = async (page: readonly Item[]): Promise<boolean> => {
    for (let at = 0; at < page.length; ) {
      const room = left() - itemsUnderWay;
      if (failed.length > 0 || (room <= 0 && underWay.size === 0)) return false;
      if (room <= 0 || underWay.size >= atATime) {
        await Promise.race(underWay);
        continue;
      }
      const end = at + Math.min(room, share);
      begin(page.slice(at, end));
      at = end;
    }
    return true;
  };
  let isDone = true;
  try {
    for await (const page of pages) {
      isDone = await removePage(page);
      if (!isDone) break;
    }
  } finally {
    // Nothing is left running behind the answer, not even behind an error.
    await Promise.all(underWay);
  }
  if (failed.length > 0) throw failed[0];
  return isDone;
}
