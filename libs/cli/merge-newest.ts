import { hasReason } from '#libs/client/lethe.ts';

/**
 * Merges lists that are each newest first into one, by their ids, which begin with the time. A service without an
 * address is left out unless all are; any other failure is thrown, so that a list never misses a service silently.
 */
export async function* mergeNewest<T extends { readonly id: string }>(
  lists: readonly AsyncIterable<T>[],
): AsyncIterable<T> {
  const iterators = lists.map((list) => list[Symbol.asyncIterator]());
  const missing: unknown[] = [];
  const heads = await Promise.all(
    iterators.map((iterator) =>
      iterator.next().catch((error: unknown): IteratorResult<T> => {
        if (!hasReason(error, 'ADDRESS_MISSING')) throw error;
        missing.push(error);
        return { done: true, value: undefined };
      }),
    ),
  );
  if (missing.length === lists.length) throw missing[0];
  for (;;) {
    const newest = heads.reduce<number | undefined>((best, { done, value }, at) => {
      if (done) return best;
      return best === undefined || value.id > heads[best]?.value.id ? at : best;
    }, undefined);
    if (newest === undefined) return;
    yield heads[newest]?.value;
    const next = await iterators[newest]?.next();
    if (next) heads[newest] = next;
  }
}
